"""Folders of runs begun with 0.4.0, whose records its own code wrote: they are resumed, or it is said why not.

The checkpoints beside the records are those of today: their files have not changed.
"""

import json
import shutil
from pathlib import Path

import pytest

from hfvision.errors import ConfigError, UnknownNameError
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.panoptic import train_panoptic
from hfvision.training.settings import TrainingSettings
from tests import test_train_detection, test_training, test_training_segmentation
from tests.test_train_detection import scenes  # noqa: F401
from tests.test_training import Stop, jitter, zeros_and_ones  # noqa: F401

RECORDS = Path(__file__).parent / "data" / "runs_of_0_4_0"
ARGS = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_steps": 2}


def detection(data, to, **options):
    return test_train_detection.start(data["scenes"], to, **options)


def panoptic(data, to, **options):
    model = test_train_detection.tiny_model(model_class=DetrForSegmentation)
    return test_train_detection.start(data["scenes"], to, train=train_panoptic, model=model, **options)


def segmentation(data, to, **options):
    return test_training_segmentation.start(data["scenes"], to, **options)


def classification(data, to, **options):
    return test_training.start(data["digits"], to, **options)


RUNS = {  # with the arguments that 0.4.0's run had, under their names of now
    "classification": (classification, {}, {"augment": jitter}),
    "segmentation": (segmentation, {}, {}),
    "detection": (detection, {"early_stopping_patience": 2, "backbone_lr_multiplier": 0.5}, {}),
    "detection_plain": (detection, {}, {"augment": "standard"}),
    "panoptic": (panoptic, {}, {}),
}


@pytest.fixture
def data(scenes, zeros_and_ones):  # noqa: F811
    return {"scenes": scenes, "digits": zeros_and_ones}


def begun(name, data, to):
    """A run that was killed after its third step, with the record of 0.4.0's; its function, arguments and options."""
    start, further, options = RUNS[name]
    args = VisionTrainingArguments(**ARGS, **further)
    with pytest.raises(KeyboardInterrupt):
        start(data, to, args=args, callbacks=[Stop(3)], **options)
    shutil.copyfile(RECORDS / f"{name}.json", to / "training_run.json")
    return start, args, options


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_resumed_under_todays_names(name, data, tmp_path):
    start, args, options = begun(name, data, tmp_path / "out")
    result = start(data, tmp_path / "out", args=args, resume=True, **options)
    assert (result.resumed_from, result.steps) == (2, 4)
    record = json.loads((tmp_path / "out" / "training_run.json").read_text())
    assert record["plan"]["settings"] == json.loads((RECORDS / f"{name}.json").read_text())["plan"]["settings"]


def test_a_run_is_resumed_by_the_call_that_began_it(data, tmp_path):
    begun("detection", data, tmp_path / "out")
    old = {"settings": TrainingSettings(max_steps=4, batch_size=8, learning_rate=1e-3, save_every=2), "args": None}
    with pytest.warns(DeprecationWarning) as caught:
        result = detection(data, tmp_path / "out", resume=True, patience=2, trunk_rate_factor=0.5, **old)
    assert result.resumed_from == 2
    said = " ".join(str(warning.message) for warning in caught)
    assert "early_stopping_patience, backbone_lr_multiplier" in said and "VisionTrainingArguments" in said


@pytest.mark.parametrize(
    ("name", "args", "options", "said"),
    [
        ("detection", {}, {}, r"patience: it has 2, this call 12"),
        ("detection", {"early_stopping_patience": 2}, {}, r"trunk_rate_factor: it has 0\.5, this call 1\.0"),
        ("detection_plain", {}, {}, r"augment\.flip: it has 0\.5, this call None"),
        ("segmentation", {"seed": 1}, {}, r"settings\.seed: it has 0, this call 1"),
        (
            "classification",
            {"optim": "adafactor"},
            {"augment": jitter},
            r"arguments\.optim: it has None, .*'adafactor'",
        ),
        ("classification", {}, {"augment": "standard"}, r"augment: it has 'jitter', this call None"),
    ],
)
def test_a_run_that_is_another_says_every_difference(name, args, options, said, data, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copyfile(RECORDS / f"{name}.json", tmp_path / "out" / "training_run.json")
    with pytest.raises(ConfigError, match=said):
        RUNS[name][0](data, tmp_path / "out", args=VisionTrainingArguments(**ARGS, **args), resume=True, **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training_run.json"]


def test_a_finished_run_gives_its_result_and_can_be_lengthened(data, tmp_path):
    start = {"args": VisionTrainingArguments(**{**ARGS, "max_steps": 2}), "augment": None}
    classification(data, tmp_path / "out", **start)
    record = json.loads((RECORDS / "classification_done.json").read_text())
    (tmp_path / "out" / "training_run.json").write_text(json.dumps(record))
    found = classification(data, tmp_path / "out", resume=True, **start)
    assert (found.steps, found.accuracy) == (2, record["result"]["accuracy"])
    longer = {**start, "args": VisionTrainingArguments(**ARGS)}
    result = classification(data, tmp_path / "out", resume=True, **longer)
    assert (result.steps, result.lengthened) == (4, [{"step": 2, "schedule": "restarted"}])


def test_names_of_0_4_in_arguments_are_refused_with_todays():
    old = {"epochs": 3, "batch_size": 8, "keep_best": True, "trunk_rate_factor": 0.1, "save_every": 5, "patience": 3}
    with pytest.raises(UnknownNameError) as raised:
        VisionTrainingArguments(**old)
    for name in ("num_train_epochs", "per_device_train_batch_size", "load_best_model_at_end", "save_steps"):
        assert f"did you mean {name}?" in str(raised.value)
    assert "6 unknown keys" in str(raised.value) and "early_stopping_patience" in str(raised.value)


def test_an_old_and_a_new_name_that_disagree_are_one_error(data, tmp_path):
    args = VisionTrainingArguments(**ARGS, early_stopping_patience=3)
    with pytest.raises(ConfigError, match="early_stopping_patience: args and an older name say different things"):
        detection(data, tmp_path / "out", args=args, patience=2)
    assert not (tmp_path / "out").exists()


def test_arguments_that_contradict_each_other_are_one_error():
    with pytest.raises(ConfigError) as raised:
        VisionTrainingArguments(
            **{"bf16": True, "fp16": True, "eval_strategy": "no", "load_best_model_at_end": True, "eval_steps": 3},
            **{"hub_model_id": "me/x", "dataloader_persistent_workers": True, "neftune_noise_alpha": 5.0},
            **{"lr_scheduler_type": "cosin", "save_total_limit": 0},
        )
    said = str(raised.value)
    assert said.count("\n") >= 8 and "fp16 and bf16 are both asked for" in said
    for name in ("load_best_model_at_end", "eval_steps", "hub_model_id", "neftune", "lr_scheduler_type", "save_total"):
        assert name in said
