"""Training and measuring in several processes: the same figures, one voice, one record."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hfvision
from hfvision.cli.output import emit
from hfvision.processes import ADVICE, launched_alone, rank
from hfvision.registry import ARCHITECTURES, IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION, load
from hfvision.reporting import report, report_once
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.head import set_class_names
from hfvision.training.trainer import share_buffers
from tests import two_processes_side
from tests.models import tiny_model

COUNTS = {"train": 10, "val": 7}  # neither fills the batches of two processes
TASKS = {  # the task: its data set, and the row of a model
    "classification": ("classes", "vit", IMAGE_CLASSIFICATION),
    "segmentation": ("maps", "upernet", SEMANTIC_SEGMENTATION),  # with batch norms
    "detection": ("boxes", "detr", OBJECT_DETECTION),
}
CLASSES = {"classification": ["a", "b"], "segmentation": ["class 0", "class 1", "class 2"], "detection": ["a", "b"]}
SAID = {  # once
    "classification": "classes, read for classification",
    "segmentation": "maps, read for segmentation",
    "detection": "read for detection",
}
MPI = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "PMI_RANK": "0", "PMI_SIZE": "2"}


def picture(generator, row):
    """Of different brightness, so that batch norms see something else in each process."""
    return Image.fromarray(generator.integers(0, 20 + 23 * row, (32, 32, 3), dtype=np.uint8))


def make_data(to):
    """Folders of classes, of maps with ever more ignored pixels, and of boxes, with images without any."""
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        folders = {name: to / name / split for name in ("classes", "boxes")}
        folders |= {name: to / "maps" / name / split for name in ("images", "masks")}
        for folder in (*folders.values(), folders["classes"] / "a", folders["classes"] / "b"):
            folder.mkdir(parents=True, exist_ok=True)
        images, objects = [], []
        for row in range(count):
            picture(generator, row).save(folders["classes"] / "ab"[row % 2] / f"{row}.png")
            picture(generator, row).save(folders["images"] / f"{row}.png")
            mask = generator.integers(0, 3, (32, 32), dtype=np.uint8)
            mask[: 3 * row] = 255
            Image.fromarray(mask).save(folders["masks"] / f"{row}.png")
            picture(generator, row).save(folders["boxes"] / f"{row}.png")
            images.append({"id": row, "file_name": f"{row}.png", "width": 32, "height": 32})
            objects += [
                {"image_id": row, "category_id": 1 + number % 2, "bbox": [2 + number, 3, 10, 12 + number], "iscrowd": 0}
                for number in range(row % 3)
            ]
        objects = [{"id": number, "area": 100, **one} for number, one in enumerate(objects, start=1)]
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        text = json.dumps({"images": images, "annotations": objects, "categories": categories})
        (folders["boxes"] / "_annotations.coco.json").write_text(text, encoding="utf-8")


def make_model(task, to):
    _, model_type, auto_class = TASKS[task]
    model = tiny_model(model_type, auto_class, num_labels=len(CLASSES[task]))  # a new head would answer next to nothing
    set_class_names(model, CLASSES[task])
    model.save_pretrained(to)
    size = {"shortest_edge": 32, "longest_edge": 64} if task == "detection" else {"height": 32, "width": 32}
    load(ARCHITECTURES[model_type].processor)(size=size).save_pretrained(to)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    to = tmp_path_factory.mktemp("processes")
    make_data(to)
    for task in TASKS:
        make_model(task, to / f"{task}-model")
    return to


def in_two_processes(*arguments, cwd, module="hfvision"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = str(Path(hfvision.__file__).parents[1])
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), "-m", module]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_figures_are_those_of_the_model_that_was_saved(place, task, tmp_path):
    data = str(place / TASKS[task][0])
    options = ("--max-steps", "4", "--batch-size", "2", "--gradient-accumulation", "2", "--json")
    out = tmp_path / "out"
    trained = in_two_processes(
        *("train", task, "--model", str(place / f"{task}-model"), "--dataset", data, "--output", str(out), *options),
        cwd=tmp_path,
    )
    result = json.loads(trained.stdout)  # one document
    assert "the head was replaced" not in trained.stderr
    assert trained.stderr.count(SAID[task]) == trained.stderr.count("step 4/4") == 1
    assert result["samples"] == COUNTS["val"] and result["steps"] == 4
    record = json.loads((out / "training_run.json").read_text(encoding="utf-8"))
    assert record["result"]["metrics"] == result["metrics"]
    measured = hfvision.evaluate(out, data, batch_size=3, record=False).metrics
    assert result["metrics"] == pytest.approx(measured, rel=1e-5, abs=1e-6)
    card = (out / "README.md").read_text(encoding="utf-8")
    for name, value in result["metrics"].items():
        assert name == "loss" or f"type: {name}\n      value: {value}" in card
    again = json.loads(in_two_processes("evaluate", str(out), "--dataset", data, "--json", cwd=tmp_path).stdout)
    assert again["metrics"] == pytest.approx(measured, rel=1e-5, abs=1e-6)
    evaluations = json.loads((out / "hfvision_evaluation.json").read_text(encoding="utf-8"))["evaluations"]
    assert len(evaluations) == 1 and evaluations[0]["metrics"] == again["metrics"]


@pytest.mark.slow
def test_a_step_is_the_same_dealt_out_over_processes(tmp_path):
    in_two_processes(str(tmp_path / "found.pt"), cwd=tmp_path, module="tests.two_processes_side")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    evaluated = torch.load(tmp_path / "found.pt.evaluated", weights_only=True)
    assert evaluated == pytest.approx(two_processes_side.evaluations(batch_size=3), rel=1e-5)
    for name, (loss, gradients) in two_processes_side.results(processes=1, batches=1).items():
        assert found[name][0] == pytest.approx(loss, rel=1e-4), name
        scale = max(values.abs().max() for values in gradients.values())
        assert found[name][1].keys() == gradients.keys()
        for parameter, values in gradients.items():
            got = found[name][1][parameter]
            torch.testing.assert_close(got / scale, values / scale, rtol=2e-4, atol=2e-5, msg=f"{name} {parameter}")


@pytest.mark.parametrize("task", TASKS)
def test_the_held_out_loss_does_not_depend_on_batches(place, task):
    data = str(place / TASKS[task][0])
    found = [
        hfvision.evaluate(
            place / f"{task}-model", data, batch_size=size, record=False
        ).metrics["loss"]
        for size in (1, 3, 7)
    ]  # fmt: skip
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-4)


def test_what_a_run_learns_by_is_not_what_its_held_out_loss_is(place, tmp_path):
    """Detection sums over decoder layers, segmentation may have other terms: `evaluate` knows of neither."""
    args = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=2)
    runs = {
        "detection": (hfvision.train_detection, {"loss": {"eos_coefficient": 0.5, "weights": {"loss_giou": 7}}}),
        "segmentation": (hfvision.train_segmentation, {"loss": "dice+2*focal", "augment": None}),
    }
    for task, (train, options) in runs.items():
        out, data = tmp_path / task, place / TASKS[task][0]
        result = train(place / f"{task}-model", data, out, args=args, **options)
        assert result.metrics == pytest.approx(hfvision.evaluate(out, data, record=False).metrics, rel=1e-4)


@pytest.mark.parametrize("name", ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"])
def test_the_first_process_talks(name, monkeypatch, caplog, capsys):
    monkeypatch.setenv(name, "1")
    assert rank() == 1
    report("said by the second")
    report_once("said once by the second")
    emit({"a": 1}, "text", as_json=True)
    monkeypatch.setenv(name, "0")
    report("said by the first")
    emit({"a": 1}, "text", as_json=True)
    assert [record.getMessage() for record in caplog.records] == ["said by the first"]
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_a_single_process_is_the_first():
    assert rank({}) == 0 and rank({"RANK": ""}) == 0
    model = torch.nn.BatchNorm2d(2)
    share_buffers(model)  # nobody to share with


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}, False),  # one process was asked for
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"MASTER_PORT": "29500"}, False),
        (MPI, False),
    ],
)
def test_a_launcher_that_starts_fewer_processes_than_it_was_asked_for_is_noticed(
    environment, alone, monkeypatch, caplog, tmp_path
):
    assert launched_alone(environment) is alone
    if "RANK" in environment or "PMI_RANK" in environment:
        return  # accelerate would wait for the others
    report_once.cache_clear()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    VisionTrainingArguments(str(tmp_path))
    assert (ADVICE in caplog.text) is alone
