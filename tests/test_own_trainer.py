"""Collators and metrics for a Trainer of one's own, and the examples that use them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import EvalPrediction

import hfvision
from hfvision.data import load_digit_scenes, prepare_detection
from hfvision.errors import ConfigError, DatasetError
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.training.parameter_groups import mask_parameters
from tests import test_train_detection as objects
from tests import test_training as classes
from tests import test_training_segmentation as pixels
from tests.test_training import zeros_and_ones  # noqa: F401

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(train=8, validation=6, size=32, digits=(1, 1), digit_size=(16, 24))


def rows_of(part):
    return [dict(zip(("image", "segments"), part.read(row), strict=True)) for row in range(len(part))]


def trained(model, processor, collator, metrics, train, test, folder, trainer_class=transformers.Trainer, **given):
    """What plain Trainer measures after a few steps; the model is in `folder` then."""
    args = transformers.TrainingArguments(
        str(folder), max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        per_device_eval_batch_size=4, remove_unused_columns=False, disable_tqdm=True, save_strategy="no",
        **{"batch_eval_metrics": True, **given},
    )  # fmt: skip
    trainer = trainer_class(
        model, args, data_collator=collator, train_dataset=train, eval_dataset=test, compute_metrics=metrics,
        processing_class=processor,
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    assert _without_times(trainer.evaluate()) == pytest.approx(_without_times(found)), "the metric begins anew"
    trainer.save_model()
    return found


def _without_times(found):
    return {name: value for name, value in found.items() if not name.endswith(("runtime", "per_second", "_time"))}


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("trainer_class", [transformers.Trainer, hfvision.Trainer])
def test_a_classifier(trainer_class, batches, zeros_and_ones, tmp_path):  # noqa: F811
    model, processor = classes.tiny_model(), classes.tiny_processor()
    model.config.id2label, model.config.label2id = {0: "zero", 1: "one"}, {"zero": 0, "one": 1}
    found = trained(
        model, processor, hfvision.ClassificationCollator(processor), hfvision.ComputeClassificationMetrics(),
        zeros_and_ones["train"], zeros_and_ones["test"], tmp_path, trainer_class, batch_eval_metrics=batches,
    )  # fmt: skip
    wanted = hfvision.evaluate(tmp_path, zeros_and_ones, record=False).metrics
    assert {name: found[f"eval_{name}"] for name in wanted} == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("trainer_class", [transformers.Trainer, hfvision.Trainer])
def test_a_segmenter(trainer_class, batches, scenes, tmp_path):
    model, processor = pixels.tiny_model(num_labels=11), pixels.tiny_processor()
    found = trained(
        model, processor, hfvision.SegmentationCollator(processor), hfvision.ComputeSegmentationMetrics(),
        scenes["train"], scenes["validation"], tmp_path, trainer_class, batch_eval_metrics=batches,
    )  # fmt: skip
    wanted = hfvision.evaluate(tmp_path, scenes, by_number=True, record=False).metrics
    assert found["eval_mean_iou"] == pytest.approx(wanted["mean_iou"], abs=2e-3)
    assert found["eval_pixel_accuracy"] == pytest.approx(wanted["pixel_accuracy"], abs=2e-3)


@pytest.mark.parametrize("given", [{}, {"batch_eval_metrics": False, "eval_do_concat_batches": False}])
@pytest.mark.parametrize("trainer_class", [transformers.Trainer, hfvision.Trainer])
def test_a_detector(trainer_class, given, scenes, tmp_path):
    model, processor = objects.tiny_model(num_labels=10), objects.tiny_processor()
    found = trained(
        model, processor, hfvision.DetectionCollator(processor), hfvision.ComputeDetectionMetrics(),
        scenes["train"], scenes["validation"], tmp_path, trainer_class, **given,
    )  # fmt: skip
    wanted = hfvision.evaluate(tmp_path, scenes, by_number=True, record=False).metrics
    for name in ("AP", "AP50", "AP75", "AR100"):
        assert found[f"eval_{name}"] == pytest.approx(wanted[name], abs=1e-4)


@pytest.mark.parametrize("given", [{}, {"batch_eval_metrics": False, "eval_do_concat_batches": False}])
def test_a_panoptic_model(given, scenes, tmp_path):
    data = prepare_detection(scenes, panoptic=True)
    model = objects.tiny_model(model_class=DetrForSegmentation, num_labels=len(data.names))
    processor = objects.tiny_processor()
    found = trained(
        model, processor, hfvision.PanopticCollator(processor), hfvision.ComputePanopticMetrics(0.0, data.things),
        rows_of(data.train), rows_of(data.evaluation), tmp_path, **given,
    )  # fmt: skip
    wanted = hfvision.evaluate(tmp_path, scenes, by_number=True, record=False, threshold=0.0).metrics
    for name in ("PQ", "SQ", "RQ"):
        if f"eval_{name}" in found:
            assert found[f"eval_{name}"] == pytest.approx(wanted[name], abs=1e-3)
    assert "eval_PQ" in found


class Norms(transformers.TrainerCallback):
    """The norms of the gradients of masks and of everything else, as the optimizer gets them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        masks = {id(parameter) for parameter in mask_parameters(model)}
        grads = [(id(p) in masks, p.grad.norm()) for p in model.parameters() if p.grad is not None]
        self.found = [torch.stack([norm for is_mask, norm in grads if is_mask is one]).norm() for one in (True, False)]


def test_gradients_of_masks_are_clipped_apart_from_those_of_boxes(scenes, tmp_path):
    data = prepare_detection(scenes, panoptic=True)
    model = objects.tiny_model(model_class=DetrForSegmentation, num_labels=len(data.names))
    norms = Norms()
    args = hfvision.VisionTrainingArguments(str(tmp_path), max_steps=1, max_grad_norm=1e-3, save_strategy="no")
    collator = hfvision.PanopticCollator(objects.tiny_processor())
    hfvision.Trainer(model, args, collator, rows_of(data.train)[:2], callbacks=[norms]).train()
    assert [float(norm) for norm in norms.found] == pytest.approx([1e-3, 1e-3], rel=1e-2)


def test_images_of_other_shapes_are_padded_and_their_boxes_measured_where_they_were(tmp_path):
    """Boxes found where they are, in images of several sizes, are an AP of 1."""
    processor = objects.tiny_processor()
    rng = np.random.default_rng(0)
    rows = []
    for width in (40, 48, 64):
        image = rng.integers(0, 255, (32, width, 3), dtype=np.uint8)
        rows.append({"image": image, "objects": {"bbox": [[4.0, 2.0, 20.0, 16.0]], "category": [0], "area": [320.0]}})
    batch = hfvision.DetectionCollator(processor)(rows)
    assert batch["pixel_mask"].sum(dim=(1, 2)).tolist() == [32 * 40, 32 * 48, 32 * 64]
    logits = torch.tensor([[[9.0, 0.0]]] * 3)
    boxes = torch.stack([label["boxes"] for label in batch["labels"]])
    compute = hfvision.ComputeDetectionMetrics()
    assert compute(EvalPrediction((logits, boxes), batch["labels"]))["AP"] == 1
    halves = boxes * torch.tensor([1, 1, 0.4, 0.4])
    assert compute(EvalPrediction(({"loss_ce": 1.0}, logits, halves), batch["labels"]))["AP"] == 0


def test_columns_of_other_names_and_transformed_rows_are_taken(zeros_and_ones):  # noqa: F811
    processor = classes.tiny_processor()
    rows = [zeros_and_ones["train"][row] for row in range(3)]
    wanted = hfvision.ClassificationCollator(processor)(rows)
    renamed = [{"photo": row["image"], "kind": row["label"]} for row in rows]
    found = hfvision.ClassificationCollator(processor, image="photo", target="kind")(renamed)
    ready = [{"pixel_values": x, "label": y} for x, y in zip(wanted["pixel_values"], wanted["labels"], strict=True)]
    for batch in (found, hfvision.ClassificationCollator(processor)(ready)):
        assert torch.equal(batch["pixel_values"], wanted["pixel_values"])
        assert torch.equal(batch["labels"], wanted["labels"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 1}, "an image in column 'image'.*got label.*remove_unused_columns=False"),
        ({"image": np.zeros((8, 8), np.uint8)}, "'label' or 'labels' beside its image; got image"),
        ({"image": "no-such-file.png", "label": 1}, "cannot be prepared|no-such-file"),
    ],
)
def test_rows_that_lack_something_are_one_clear_error(row, message):
    with pytest.raises((DatasetError, OSError), match=message):
        hfvision.ClassificationCollator(classes.tiny_processor())([row])


def test_predictions_of_another_task_and_joined_batches_are_refused():
    with pytest.raises(ConfigError, match=r"a classifier predicts logits \(B, K\)"):
        hfvision.ComputeClassificationMetrics()(EvalPrediction(np.zeros((1, 2, 3)), np.zeros(1)))
    with pytest.raises(ConfigError, match=r"a segmenter predicts logits"):
        hfvision.ComputeSegmentationMetrics()(EvalPrediction(np.zeros((1, 2)), np.zeros(1)))
    with pytest.raises(ConfigError, match=r"a detector predicts logits"):
        hfvision.ComputeDetectionMetrics()(EvalPrediction(np.zeros((1, 2)), [{}]))
    with pytest.raises(ConfigError, match="batch_eval_metrics=True, or eval_do_concat_batches=False"):
        hfvision.ComputeDetectionMetrics()(EvalPrediction((np.zeros((4, 2, 3)), np.zeros((4, 2, 4))), [{}]))


def test_labels_that_do_not_count_are_left_out():
    found = hfvision.ComputeClassificationMetrics()(
        EvalPrediction(np.array([[2.0, 1.0], [0.0, 3.0], [9.0, 0.0]]), np.array([0, -100, 1]))
    )
    assert found["accuracy"] == 0.5


def test_each_task_has_the_same_kinds_of_names():
    for task in ("Classification", "Segmentation", "Detection", "Panoptic"):
        for name in (f"{task}Collator", f"Compute{task}Metrics"):
            assert getattr(hfvision, name).__doc__
        assert callable(getattr(hfvision, f"train_{task.lower()}"))


# The examples


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", sorted((Path(__file__).parents[1] / "examples").glob("*.py")), ids=lambda one: one.stem
)
def test_an_example_runs_as_it_stands(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script), "--steps", "2", "--output", str(tmp_path / "out")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert any(name in done.stdout for name in ("accuracy", "mean_iou", "AP50", "PQ"))


def test_every_task_has_an_example_of_both_ways():
    found = {path.stem for path in SCRIPTS}
    tasks = ("classification", "segmentation", "detection", "panoptic")
    assert found == {f"{task}_{way}" for task in tasks for way in ("transformers", "hfvision")}
