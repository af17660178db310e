"""`hfvision train` and `evaluate` have what the dataclasses declare, and what the command line of 0.4.0 had."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import typer
from transformers import HfArgumentParser
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.cli.predict import PredictionOptions
from hfvision.cli.train import ROWS, command_of
from hfvision.cli.train_arguments import REFUSED, RENAMED, options_of_arguments
from hfvision.options import flag_of
from hfvision.pipelines.predict import KINDS
from hfvision.reading_options import options_of
from hfvision.training import train as training
from hfvision.training.arguments import MEANINGLESS, OTHER_NAMES, VisionTrainingArguments
from hfvision.training.classification_augmentation import ClassificationAugmentation
from hfvision.training.detection_augmentation import DetectionAugmentation
from hfvision.training.settings import SAME
from tests.strictness import WARNINGS_ARE_ERRORS

# Every option of 0.4.0, whose commands were written by hand.
OF_ALL = (
    "--activation-checkpointing --batch-size --check-images --dataset --dataset-config --epochs --eval-split "
    "--gradient-accumulation --held-out --image-column --json --learning-rate --license --max-steps --model "
    "--no-resume --output --precision --resume --save-every --seed --train-split --warmup --weight-decay --workers "
    "--keep-best"
)
OF_DETECTORS = (
    "--augment --colour --crop --eos --flip --head-rate-factor --keep-last --loss-weights --max-grad-norm --names "
    "--no-augment --no-colour --no-flip --objects-column --patience --queries --scale --trunk --trunk-rate-factor"
)
OF_0_4 = {
    "train classification": f"{OF_ALL} --drop-empty-classes --drop-path --label-column --no-drop-empty-classes",
    "train segmentation": f"{OF_ALL} --augment --class-weights --colour --crop --drop-path --flip --head-rate-factor "
    "--ignore-index --label-map --loss --mask-column --names --no-augment --no-colour --no-flip --scale",
    "train detection": f"{OF_ALL} {OF_DETECTORS} --box-form --empty --overfit --pixels --relative",
    "train panoptic": f"{OF_ALL} {OF_DETECTORS} --threshold",
    "evaluate": "--batch-size --by-number --check-images --dataset --dataset-config --image-column --json --label-map "
    "--names --no-record --precision --record --split --threshold --workers",
    "predict": "--batch-size --blend --device --json --model --optimize --output --overlap --subtask --threshold "
    "--tile --top-k",
}
VALUES = {"--scale": ["0.5", "1"], "--loss-weights": ["loss_bbox=5"], "--empty": ["drop"], "--box-form": ["xyxy"]}
SWITCHES = "augment colour drop-empty-classes flip json keep-best keep-last pixels relative resume no-record by-number"


@pytest.fixture
def calls(monkeypatch):
    """What the command gives `hfvision.train`, which ends there."""
    made = []

    def train(*args, **options):
        made.append((args, options))
        raise typer.Exit(3)

    monkeypatch.setattr(training, "train", train)
    return made


def run(*words):
    return CliRunner().invoke(build_app(), list(words), env={"COLUMNS": "200", "TERM": "dumb"})


def trained(calls, task, *words):
    """(arguments, options) that a command line becomes."""
    done = run("train", task, "--model", "m", "--dataset", "d", "--output", "o", *words)
    assert done.exit_code == 3, done.output
    args, options = calls.pop()
    return args[4], options


def flags_of(task):
    return {flag for one in command_of(task).params for flag in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("task", ROWS)
def test_every_argument_of_training_is_an_option_or_refused_with_a_reason(task, calls):
    spelled = [one.name for one in fields(VisionTrainingArguments) if one.name not in {*REFUSED, *MEANINGLESS}]
    spelled.remove("output_dir")  # --output
    params = {one.name: one for one in command_of(task).params}
    words = []
    for name in spelled:
        now = name.replace("gradient", "activation") if name in RENAMED else name
        words += [f"--{name.replace('_', '-')}", *([] if params[now].is_flag else ["7"])]
    args, _ = trained(calls, task, *words)
    assert {*spelled} - {*RENAMED} == args.keys() and len(spelled) > 80
    known = {one.name for one in fields(VisionTrainingArguments)}
    assert set(REFUSED) <= known and all(reason for reason in REFUSED.values())
    shown = flags_of(task)
    assert not {"--" + name.replace("_", "-") for name in (*REFUSED, *MEANINGLESS)} & shown


def test_values_of_arguments_are_what_the_class_takes(calls):
    words = (
        "--report-to tensorboard,trackio --push-to-hub --hub-model-id me/x --hub-strategy end --optim adamw_torch "
        '--lr-scheduler-kwargs {"num_cycles":2} --save-total-limit 3 --load-best-model-at-end --torch-compile --bf16 '
        "--save-every 5 --warmup 100 --no-dataloader-pin-memory --eval_steps 5"
    )
    args, _ = trained(calls, "classification", *words.split())
    assert args == {
        "report_to": ["tensorboard", "trackio"],
        "push_to_hub": True,
        "hub_model_id": "me/x",
        "hub_strategy": "end",
        "optim": "adamw_torch",
        "lr_scheduler_kwargs": '{"num_cycles":2}',
        "save_total_limit": 3,
        "load_best_model_at_end": True,
        "torch_compile": True,
        "bf16": True,
        "save_steps": 5,
        "warmup_steps": 100,
        "dataloader_pin_memory": False,
        "eval_steps": 5,
    }
    assert isinstance(args["save_steps"], int)
    made = VisionTrainingArguments(**{name: args[name] for name in args if name not in ("bf16", "report_to")})
    assert made.lr_scheduler_kwargs == {"num_cycles": 2} and made.save_total_limit == 3


@pytest.mark.parametrize("command", OF_0_4)
def test_every_option_of_0_4_is_understood(command):
    refused = []
    for flag in OF_0_4[command].split():
        needs_value = flag.removeprefix("--").removeprefix("no-") not in SWITCHES.split()
        words = [*command.split(), flag, *(VALUES.get(flag, ["1"]) if needs_value else []), "--help"]
        if flag == "--activation-checkpointing":
            words = [*command.split(), flag, "--help"]
        done = run(*words)
        refused += [] if done.exit_code == 0 and "No such option" not in done.output else [(flag, done.output[-300:])]
    assert refused == []


def test_options_of_0_4_mean_what_they_meant(calls):
    words = (
        "--epochs 2 --keep-last --patience 3 --trunk-rate-factor 0.5 --head-rate-factor 2 --queries 7 --eos 0.2 "
        "--loss-weights loss_giou=4 --no-flip --scale 0.5 1 --precision bf16 --trunk t --box-form xywh"
    )
    args, options = trained(calls, "detection", *words.split())
    assert args == {
        "num_train_epochs": 2.0,
        "load_best_model_at_end": False,
        "early_stopping_patience": 3,
        "backbone_lr_multiplier": 0.5,
        "head_lr_multiplier": 2.0,
        "bf16": True,
    }
    assert options["num_queries"] == 7 and options["trunk"] == "t" and options["data_options"] == {"box_form": "xywh"}
    assert options["loss"] == {"eos_coefficient": 0.2, "weights": {"loss_giou": 4.0}}
    assert options["augment"] == DetectionAugmentation(scale=(0.5, 1.0), flip=0.0)
    _, options = trained(calls, "classification", "--no-augment", "--class-weights", "cat=2,dog=0.5")
    assert options["augment"] is None and options["class_weights"] == {"cat": 2.0, "dog": 0.5}
    _, options = trained(calls, "classification", "--no-colour", "--no-drop-empty-classes")
    assert options["augment"] == ClassificationAugmentation(colour=False)
    assert options["data_options"] == {"drop_empty_classes": False}


@pytest.mark.parametrize("task", ROWS)
def test_what_is_not_said_is_left_to_the_defaults_of_python(task, calls):
    args, options = trained(calls, task)
    given = {"kind": ROWS[task].kind, "data_options": {}, "resume": False, "license": None}
    assert args == {} and options == given


def test_options_are_the_same_after_transformers_own_parser():
    """HfArgumentParser changes the types of the class's fields."""

    def options():
        return [(one.name, one.type) for group in options_of_arguments("image-classification") for one in group]

    before = options()
    HfArgumentParser(VisionTrainingArguments)
    assert options() == before and dict(before)["report_to"] == None | str | list[str]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("image-classification", None), ("object-detection", None), ("image-segmentation", "semantic")],
)
def test_tasks_have_the_hubs_names_too(name, kind, calls):
    done = run("train", name, "--model", "m", "--dataset", "d", "--output", "o")
    assert done.exit_code == 3, done.output
    ((args, options),) = calls
    assert (args[0], options["kind"]) == (name, kind)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("train detection --epoch 3", "--epochs"),
        ("train detection --reprot-to none", "--report-to"),
        ("train classification --zzz", "--"),
        ("evaluate m --datset d", "--dataset"),
        ("predict i --treshold 1", "--threshold"),
        ("check d --lay-out coco", "--layout"),
    ],
)
def test_an_unknown_option_names_the_nearest_one(words, nearest):
    done = run(*words.split())
    assert done.exit_code == 2 and "No such option" in done.output
    assert f"Possible options: {nearest}" in done.output


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_is_refused_says_why(name):
    spelled = "--" + name.replace("_", "-")
    done = run("train", "classification", spelled, "1")
    assert done.exit_code == 2
    assert REFUSED[name] in " ".join(done.output.replace("│", " ").split())


def test_values_that_cannot_be_read_are_wrong_usage():
    for words in (
        "train detection --model m --dataset d --output o --loss-weights loss_bbox",
        "train classification --model m --dataset d --output o --image-size 0",
        "predict image.png --model m --batch-size 0",
        "evaluate m --dataset d --threshold 2",
    ):
        done = run(*words.split())
        assert done.exit_code == 2 and "Invalid value for" in done.output, done.output


@pytest.mark.parametrize("words", ["--help", "train --help", "evaluate --help", "check --help", "predict --help"])
def test_help_brings_neither_torch_nor_transformers(words):
    code = (
        "import sys; from hfvision.cli import main; sys.argv[1:] = sys.argv[1].split()\n"
        "try: main()\n"
        "except SystemExit: print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, *WARNINGS_ARE_ERRORS, "-c", code, words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]" and "Usage" in done.stdout


def test_the_help_of_a_task_has_common_options_first_and_all_others_last():
    panels = list(dict.fromkeys(one.rich_help_panel for one in command_of("detection").params))
    assert panels == [
        None,
        "Training",
        "Model and loss",
        "Augmentation",
        "How the data is read",
        "Further arguments of transformers' Trainer",
    ]
    of_panel = {
        panel: [one.name for one in command_of("detection").params if one.rich_help_panel == panel] for panel in panels
    }
    assert len(of_panel["Training"]) < 25 < len(of_panel[panels[-1]])


def test_options_of_predict_are_those_of_the_pipelines():
    known = {name for kind in KINDS.values() for name in kind.options} | {"batch_size", "device", "optimize"}
    assert {one.name for one in fields(PredictionOptions)} <= known


def test_no_option_is_declared_twice():
    for task in ROWS:
        names = [one.name for one in command_of(task).params]
        assert len(names) == len(set(names))
        assert {flag_of(one) for one in options_of(task)} <= flags_of(task)
    assert set(SAME) - set(SAME.values()) <= set(OTHER_NAMES)


def test_the_answer_of_a_training_is_one_json_document(tmp_path):
    out = tmp_path / "out"
    words = ["--model", "new:vit-digits", "--dataset", "digits", "--output", str(out), "--max-steps", "1", "--json"]
    done = run("train", "classification", *words, "--save-strategy", "no", "--use-cpu")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 1
