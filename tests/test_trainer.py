"""hfvision.Trainer by itself and its arguments: what they are refused for, and that all of TrainingArguments works."""

import json
import os
from dataclasses import fields

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainerCallback
from transformers.integrations import integration_utils

import hfvision
from hfvision.errors import ConfigError, PublishError, UnknownNameError
from hfvision.registry import IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from hfvision.training.arguments import MEANINGLESS, VisionTrainingArguments
from hfvision.training.run_checkpoints import checkpoints_in
from hfvision.training.settings import TrainingSettings, arguments_of, further_arguments_of, settings_of
from hfvision.training.trainer import Trainer
from tests.hub_stub import hub_stub
from tests.models import DENSE, DETECTORS, ROWS, pixels, tiny_model
from tests.test_training import DIGITS, Stop, assert_same_weights, jitter, start, weights, zeros_and_ones  # noqa: F401
from tests.test_training import tiny_model as tiny_vit

IMAGES = 10


class Labelled(torch.utils.data.Dataset):
    """Images whose noise depends on the epoch that `set_epoch` tells."""

    def __init__(self, count=IMAGES):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(count, 1, 8, 8, generator=generator)
        self.labels = torch.arange(count) % 2
        self.images += self.labels[:, None, None, None]
        self.epoch = 0

    def __len__(self):
        return len(self.images)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, row):
        noise = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(100 * self.epoch + row))
        return {"pixel_values": self.images[row] + 0.1 * noise, "labels": self.labels[row]}


def accuracy(evaluated):
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


def arguments(folder, **given):
    base = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 5e-3}
    return VisionTrainingArguments(str(folder), **base | given)


def trainer_of(folder, model=None, callbacks=(), compute_metrics=accuracy, **given):
    model = tiny_vit(hidden_dropout_prob=0.1) if model is None else model
    return Trainer(
        model,
        arguments(folder, **given),
        train_dataset=Labelled(),
        eval_dataset=Labelled(7),
        compute_metrics=compute_metrics,
        callbacks=list(callbacks),
    )


# Arguments


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("keep_best", "load_best_model_at_end"),
        ("evaluation_strategy", "eval_strategy"),
        ("warmup_ratio", "warmup_steps"),
        ("head_rate_factor", "head_lr_multiplier"),
    ],
)
def test_a_key_that_is_none_is_refused_with_the_nearest_one(given, meant):
    with pytest.raises(UnknownNameError, match=f"{given!r} is none of the fields.*did you mean {meant}"):
        VisionTrainingArguments(**{given: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("neftune_noise_alpha", 5.0), ("length_column_name", "len"), ("include_num_input_tokens_seen", "all"),
     ("use_liger_kernel", True), ("liger_kernel_config", {"rope": True}), ("use_cache", True),
     ("train_sampling_strategy", "group_by_length")],
)  # fmt: skip
def test_what_means_nothing_for_images_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}.* means nothing for images"):
        VisionTrainingArguments(**{name: value})


def test_every_meaningless_key_is_tried_above():
    assert set(MEANINGLESS) < {one.name for one in fields(VisionTrainingArguments)} and len(MEANINGLESS) == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "load_best_model_at_end needs evaluations"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "load_best_model_at_end needs checkpoints"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "early_stopping_patience needs evaluations"),
        ({"save_strategy": "best", "eval_strategy": "no"}, "'best' needs evaluations"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "no"}, "plateau' needs evaluations"),
        ({"eval_steps": 5, "eval_strategy": "epoch"}, "eval_steps is 5 and eval_strategy 'epoch'"),
        ({"save_steps": 5, "save_strategy": "epoch"}, "save_steps is 5 and save_strategy 'epoch'"),
        ({"load_best_model_at_end": True, "eval_steps": 3, "save_steps": 5}, "round multiple"),
        ({"hub_model_id": "me/x"}, "push_to_hub is False"),
        ({"dataloader_persistent_workers": True}, "needs dataloader_num_workers"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_num_workers"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor is a share"),
        ({"optim": "adamm"}, "adamm"),
        ({"hub_strategy": "sometimes"}, "sometimes"),
    ],
)
def test_contradictions_are_one_clear_error(given, message):
    with pytest.raises(ConfigError, match=message):
        VisionTrainingArguments(**given)


def test_all_contradictions_are_listed_at_once():
    with pytest.raises(ConfigError, match="3 problems"):
        VisionTrainingArguments(
            load_best_model_at_end=True, early_stopping_patience=3, eval_strategy="no", hub_model_id="me/x",
            save_strategy="epoch",
        )  # fmt: skip


def test_when_is_saved_and_evaluated_follows_from_the_steps():
    def when(**given):
        args = VisionTrainingArguments(**given)
        return args.eval_strategy.value, args.eval_steps, args.save_strategy.value, args.save_steps

    assert when() == ("epoch", None, "epoch", None)
    assert when(save_steps=20) == ("steps", 20, "steps", 20)
    assert when(eval_steps=20) == ("steps", 20, "steps", 20)
    assert when(eval_steps=20, save_steps=40) == ("steps", 20, "steps", 40)
    assert when(eval_strategy="no", save_steps=7) == ("no", None, "steps", 7)
    assert when(eval_strategy="steps", save_strategy="no", eval_steps=3)[:3] == ("steps", 3, "no")


def test_a_command_line_of_ones_own_parses_them():
    args = HfArgumentParser(VisionTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", "out", "--num_train_epochs", "5", "--drop_path_rate", "0.1", "--early_stopping_patience", "3"]
    )[0]
    assert (args.num_train_epochs, args.drop_path_rate, args.early_stopping_patience) == (5, 0.1, 3)
    assert args.lr_scheduler_type == "cosine"


def test_they_are_saved_and_read_again_as_those_of_transformers(tmp_path):
    args = arguments(tmp_path, head_lr_multiplier=3.0)
    written = json.loads(args.to_json_string())
    assert (written["head_lr_multiplier"], written["lr_scheduler_type"]) == (3.0, "cosine")
    assert "hf_secret" not in arguments(tmp_path, hub_token="hf_secret").to_json_string()


@pytest.mark.parametrize("model", ["x", "new:x"])
def test_the_settings_of_0_4_become_the_same_arguments(model):
    for task, old in (("image-classification", "for_model"), ("object-detection", "for_detector")):
        settings = getattr(TrainingSettings, old)(model, seed=3, drop_path=0.1, save_every=7)
        args = VisionTrainingArguments.for_task(task, model, seed=3, drop_path_rate=0.1, save_steps=7)
        assert settings.arguments().to_dict() == args.to_dict()
        assert arguments_of(settings_of(args))["learning_rate"] == args.learning_rate


def test_every_field_of_the_arguments_is_recorded_or_known_to_change_no_weight():
    args = VisionTrainingArguments(optim="sgd", adam_beta1=0.8, lr_scheduler_kwargs={"num_cycles": 1}, report_to="none")
    assert further_arguments_of(args) == {"optim": "sgd", "adam_beta1": 0.8, "lr_scheduler_kwargs": {"num_cycles": 1}}
    assert further_arguments_of(VisionTrainingArguments(run_name="x", logging_steps=1, save_total_limit=3)) == {}
    assert further_arguments_of(VisionTrainingArguments(eval_steps=2, save_steps=4))["eval_steps"] == 2


# Training by itself


def test_it_takes_what_transformers_trainer_takes(tmp_path, capfd):
    trainer = trainer_of(tmp_path)
    found = trainer.train()
    assert (found.global_step, trainer.evaluate()["eval_accuracy"] > 0.5) == (6, True)
    assert capfd.readouterr().out == ""
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-6"]
    plain = Trainer(
        tiny_vit(),
        transformers.TrainingArguments(str(tmp_path), report_to="none", dataloader_pin_memory=False),
        eval_dataset=Labelled(),
    )
    assert plain.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, killed_at):
    trainer_of(tmp_path / "whole", save_steps=2).train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "cut", callbacks=[Stop(killed_at)], save_steps=2).train()
    (tmp_path / "cut" / "checkpoint-9").mkdir()  # left incomplete
    trainer_of(tmp_path / "cut", tiny_vit(seed=1, hidden_dropout_prob=0.1), save_steps=2).train(True)
    last = "checkpoint-6"
    assert_same_weights(weights(tmp_path / "whole" / last), weights(tmp_path / "cut" / last))


def test_a_run_killed_after_its_last_step_trains_no_further(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, callbacks=[Stop(6, when="on_save")]).train()
    trainer = trainer_of(tmp_path, tiny_vit(seed=1))
    assert trainer.train(True).global_step == 6
    assert_same_weights(trainer.model.state_dict(), weights(tmp_path / "checkpoint-6"))
    assert trainer_of(tmp_path, num_train_epochs=3).train(True).global_step == 9  # a longer one goes on


def test_what_cannot_be_resumed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        trainer_of(tmp_path).train(True)
    trainer_of(tmp_path, save_only_model=True).train()
    with pytest.raises(ConfigError, match="save_only_model"):
        trainer_of(tmp_path, save_only_model=True).train(True)


def test_old_checkpoints_go_by_their_steps_and_not_by_the_times_of_files(tmp_path):
    class Clock(TrainerCallback):
        """Every new checkpoint is older than those before."""

        def on_save(self, args, state, control, **_):
            for path in checkpoints_in(tmp_path):
                os.utime(path, (0, 10_000 - state.global_step))

    trainer_of(tmp_path, save_steps=1, save_total_limit=3, callbacks=[Clock()]).train()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


def test_the_best_is_kept_and_loaded_by_any_metric(tmp_path):
    figures = iter([0.2, 0.9, 0.1, 0.3])
    trainer = trainer_of(
        tmp_path, compute_metrics=lambda _: {"figure": next(figures)}, num_train_epochs=4,
        load_best_model_at_end=True, metric_for_best_model="figure",
    )  # fmt: skip
    trainer.train()
    assert_same_weights(trainer.model.state_dict(), weights(tmp_path / "checkpoint-6"))
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-6", "checkpoint-12"]


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"metric_for_best_model is one of accuracy, .*got 'acuracy'"):
        trainer_of(tmp_path, load_best_model_at_end=True, metric_for_best_model="acuracy").train()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("metric", "figures"), [("figure", [0.5, 0.6, 0.4, 0.5]), ("loss_like_loss", [5, 4, 6, 5])])
def test_training_ends_without_progress(tmp_path, own, metric, figures):
    told = iter([*figures, 0, 0, 0, 0])
    stop = {"early_stopping_patience": 2} if own else {}
    trainer = trainer_of(
        tmp_path, compute_metrics=lambda _: {metric: float(next(told))}, num_train_epochs=8,
        metric_for_best_model=metric, load_best_model_at_end=True,
        callbacks=[] if own else [EarlyStoppingCallback(2)], **stop,
    )  # fmt: skip
    assert trainer.train().global_step == 4 * 3


# Rates


WITH_A_HEAD = [row for row in ROWS if row[1] in (IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION, OBJECT_DETECTION)]


@pytest.mark.parametrize(("model_type", "auto_class"), WITH_A_HEAD)
def test_head_and_backbone_learn_at_rates_of_their_own(model_type, auto_class, tmp_path):
    model = tiny_model(model_type, auto_class)
    args = arguments(tmp_path, head_lr_multiplier=10.0, backbone_lr_multiplier=0.1, learning_rate=1e-3)
    optimizer = Trainer(model, args).create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    learns = {name: rate[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    rates = {round(value, 9) for value in learns.values()}
    assert {1e-2, 1e-4} <= rates <= {1e-2, 1e-3, 1e-4}
    assert len(rate) == len(learns)


# The loss of an evaluation


@pytest.mark.parametrize(
    ("model_type", "auto_class"),
    [
        ("vit", IMAGE_CLASSIFICATION),
        ("segformer", SEMANTIC_SEGMENTATION),
        ("upernet", SEMANTIC_SEGMENTATION),
        ("detr", OBJECT_DETECTION),
    ],
)
def test_the_loss_of_an_evaluation_is_the_mean_over_images_whatever_the_batches(model_type, auto_class, tmp_path):
    model = tiny_model(model_type, auto_class).eval()
    x = pixels(model.config, 5)
    if auto_class == IMAGE_CLASSIFICATION:
        labels = [torch.tensor(n) for n in (0, 1, 2, -100, 3)]
        model.config.problem_type = "single_label_classification"
    elif auto_class == SEMANTIC_SEGMENTATION:
        labels = list(torch.randint(0, 5, (5, *x.shape[-2:])))
        labels[1][: labels[1].shape[0] // 2] = 255
    else:
        boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.1, 0.2]])
        labels = [{"class_labels": torch.arange(n), "boxes": boxes[:n]} for n in (1, 2, 2, 1, 2)]

    def collate(samples):
        found = [sample["labels"] for sample in samples]
        is_tensor = isinstance(found[0], torch.Tensor)
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "labels": torch.stack(found) if is_tensor else found,
        }

    samples = [{"pixel_values": one, "labels": label} for one, label in zip(x, labels, strict=True)]
    losses = []
    for size in (1, 2, 5):
        args = arguments(tmp_path, per_device_eval_batch_size=size, prediction_loss_only=True)
        losses.append(Trainer(model, args, collate, eval_dataset=samples).evaluate()["eval_loss"])
    counted = [n for n, label in enumerate(labels) if not (auto_class == IMAGE_CLASSIFICATION and label < 0)]
    with torch.no_grad():
        batches = [collate([samples[n]]) for n in counted]
        wanted = torch.stack([model(**batch).loss for batch in batches]).mean().item()
    if model_type == "upernet":  # without its auxiliary head, which learns and does not answer
        assert losses[0] < wanted
        wanted = losses[0]
    assert losses == pytest.approx([wanted] * 3, rel=1e-5)


def test_smoothed_labels_are_a_mean_over_the_step(tmp_path):
    found = []
    for batch, steps in ((8, 1), (2, 4)):
        trainer = trainer_of(
            tmp_path / str(batch), tiny_vit(), max_steps=1, label_smoothing_factor=0.2, logging_steps=1,
            per_device_train_batch_size=batch, gradient_accumulation_steps=steps, save_strategy="no",
            eval_strategy="no",
        )  # fmt: skip
        trainer.train()
        found.append(trainer.state.log_history[0]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("model_type", "auto_class"), [*[(m, SEMANTIC_SEGMENTATION) for m in DENSE], *DETECTORS])
def test_labels_are_smoothed_for_classifiers_alone(model_type, auto_class, tmp_path):
    with pytest.raises(ConfigError, match="label_smoothing_factor is for classifiers"):
        Trainer(tiny_model(model_type, auto_class), arguments(tmp_path, label_smoothing_factor=0.1))


# Everything of TrainingArguments, in a run of `hfvision.train`


@pytest.mark.parametrize(
    "given",
    [
        # Options that have nothing to do with each other share a run: a resumed one equals it bit for bit, or one of
        # them is at fault.
        {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "reduce_lr_on_plateau", "eval_on_start": True},
        {
            "optim": "adafactor",
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "save_total_limit": 2,
            "save_steps": 1,
        },
        {"save_strategy": "no", "eval_strategy": "no", "train_sampling_strategy": "sequential"},
        {"save_strategy": "best", "eval_strategy": "epoch", "label_smoothing_factor": 0.1},
        {"eval_steps": 2, "save_steps": 4, "dataloader_drop_last": True, "data_seed": 5, "logging_first_step": True},
        pytest.param(
            {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
            marks=pytest.mark.slow,  # workers take seconds to end
            id="dataloader_num_workers",
        ),
        {"auto_find_batch_size": True, "activation_checkpointing": True},
        {"metric_for_best_model": "loss", "load_best_model_at_end": True},
        {"early_stopping_patience": 1, "num_train_epochs": 3},
    ],
    ids=lambda given: "-".join(given),
)
def test_a_run_takes_it_is_resumed_with_it_and_records_it(given, zeros_and_ones, tmp_path):  # noqa: F811
    args = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3, **given}
    result = start(
        zeros_and_ones, tmp_path / "whole", model=tiny_vit(hidden_dropout_prob=0.1), args=args, augment=jitter
    )
    assert result.steps >= 2
    record = json.loads((tmp_path / "whole" / "training_run.json").read_text())["plan"]
    said = {**record.get("arguments", {}), **record["settings"]}
    assert all(said[name] == value for name, value in given.items() if name in ("optim", "lr_scheduler_kwargs"))
    with pytest.raises(KeyboardInterrupt):
        start(
            zeros_and_ones, tmp_path / "cut", model=tiny_vit(hidden_dropout_prob=0.1), args=args, augment=jitter,
            callbacks=[Stop(result.steps - 1)],
        )  # fmt: skip
    start(
        zeros_and_ones,
        tmp_path / "cut",
        model=tiny_vit(hidden_dropout_prob=0.1),
        args=args,
        augment=jitter,
        resume=True,
    )
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_another_optimizer_is_another_run(zeros_and_ones, tmp_path):  # noqa: F811
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
    start(zeros_and_ones, tmp_path / "out", args=args)
    with pytest.raises(ConfigError, match=r"arguments\.optim: it has None, this call 'sgd'"):
        start(zeros_and_ones, tmp_path / "out", args={**args, "optim": "sgd"}, resume=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_dir": "elsewhere"}, "output_dir is 'elsewhere' in args"),
        ({"remove_unused_columns": True}, "would drop the images"),
        ({"resume_from_checkpoint": "x"}, "say resume=True"),
        ({"prediction_loss_only": True}, "nothing to measure"),
    ],
)
def test_what_a_run_cannot_use_is_refused_before_anything_is_written(given, message, zeros_and_ones, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        start(zeros_and_ones, tmp_path / "out", args=given)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch compiles with parts of its own that it calls old
def test_a_compiled_model_trains_as_the_plain_one(zeros_and_ones, tmp_path):  # noqa: F811
    args = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    start(zeros_and_ones, tmp_path / "plain", args=args)
    start(zeros_and_ones, tmp_path / "compiled", args={**args, "torch_compile": True})
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, compiled[name], rtol=0, atol=1e-4)


class Told(TrainerCallback):
    """A service that is told of a run."""

    logs: list = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(logs)


def test_a_service_that_is_reported_to_is_told_losses_and_figures(zeros_and_ones, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Told)
    Told.logs = []
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "report_to": ["mlflow"], "logging_steps": 1}
    start(zeros_and_ones, tmp_path / "out", args=args)
    named = set().union(*Told.logs)
    assert {"loss", "learning_rate", "grad_norm", "eval_accuracy", "eval_loss"} <= named


def test_a_service_that_is_not_installed_or_not_known_is_an_error(zeros_and_ones, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="nosuch"):
        start(zeros_and_ones, tmp_path / "out", args={"report_to": "nosuch"})
    assert not (tmp_path / "out").exists()


def test_tensorboard_reads_what_a_run_writes(zeros_and_ones, tmp_path):  # noqa: F811
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is part of the extra dev"
    )
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "report_to": "tensorboard", "logging_steps": 1}
    start(zeros_and_ones, tmp_path / "out", args=args)
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    events = accumulators.EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "eval/accuracy"} <= set(events.Tags()["scalars"])
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, tmp_path / "cut", args=args, callbacks=[Stop(1)])
    assert not (tmp_path / "cut").exists()


def test_trackio_keeps_what_a_run_tells_it(zeros_and_ones, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    pytest.importorskip("trackio", reason="trackio holds Pillow below its newest release: no part of the extras")
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "report_to": "trackio", "project": "zeros"}
    start(zeros_and_ones, tmp_path / "out", args=args)
    assert b"eval/accuracy" in (tmp_path / "kept" / "zeros.db").read_bytes()


# The Hub


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # which the stub does not speak
    with hub_stub() as stub:
        api = huggingface_hub.HfApi(endpoint=stub.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", api)
        yield stub


PUSHES = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
MODEL = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_run.json"}


@PUSHES
@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_a_run_is_pushed_by_every_strategy(strategy, hub, zeros_and_ones, tmp_path):  # noqa: F811
    args = {
        **{"num_train_epochs": 2, "per_device_train_batch_size": 16, "push_to_hub": True, "hub_token": "hf_me"},
        **{"hub_model_id": "me/zeros", "hub_strategy": strategy, "hub_always_push": True},
    }
    start(zeros_and_ones, tmp_path / "out", args=args, license="mit")
    found = hub.files("me/zeros")
    assert MODEL - {"training_run.json"} <= set(found)
    assert found["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert b"accuracy" in found["README.md"]
    kept = {name.split("/")[0] for name in found if "/" in name}
    assert kept == {
        "end": set(), "every_save": set(), "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-3", "checkpoint-6"},
    }[strategy]  # fmt: skip
    assert not any(name.endswith("training_args.bin") for name in found)
    assert len(hub.repositories["me/zeros"].commits) >= {"end": 1, "every_save": 3}.get(strategy, 5)


@PUSHES
def test_a_trainer_by_itself_is_pushed(hub, tmp_path):
    trainer = trainer_of(
        tmp_path / "mine", push_to_hub=True, hub_token="hf_me", hub_strategy="every_save", hub_always_push=True
    )
    trainer.train()
    assert (
        hub.files("me/mine")["model.safetensors"]
        == (tmp_path / "mine" / "checkpoint-6" / "model.safetensors").read_bytes()
    )
    assert not (tmp_path / "mine" / "model.safetensors").exists()
    trainer.push_to_hub()
    assert (
        load_file(tmp_path / "mine" / "model.safetensors").keys() == weights(tmp_path / "mine" / "checkpoint-6").keys()
    )


@PUSHES
def test_a_hub_that_refuses_says_so_before_training(hub, zeros_and_ones, tmp_path):  # noqa: F811
    args = {"max_steps": 1, "push_to_hub": True, "hub_token": "hf_reader", "hub_model_id": "me/zeros"}
    with pytest.raises(PublishError, match="may not write"):
        start(zeros_and_ones, tmp_path / "out", args=args)
    assert not (tmp_path / "out").exists()


# Names of 0.4


def test_settings_still_work_with_a_warning(zeros_and_ones, tmp_path):  # noqa: F811
    with pytest.warns(DeprecationWarning, match="args=VisionTrainingArguments"):
        old = start(zeros_and_ones, tmp_path / "old", args=None, settings=TrainingSettings(max_steps=2, batch_size=8))
    new = start(zeros_and_ones, tmp_path / "new", args={"max_steps": 2, "per_device_train_batch_size": 8})
    assert old.metrics == new.metrics
    assert_same_weights(weights(tmp_path / "old"), weights(tmp_path / "new"))
    with pytest.raises(ConfigError, match="say the same"):
        start(zeros_and_ones, tmp_path / "both", args={}, settings=TrainingSettings())


# One function


def test_a_task_or_option_that_is_none_is_refused_with_the_nearest(zeros_and_ones, tmp_path):  # noqa: F811
    with pytest.raises(UnknownNameError, match="Did you mean 'object-detection'"):
        hfvision.train("object-detecton", tiny_vit(), zeros_and_ones, tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"kinds semantic, panoptic, instance; got 'semantics'.*'semantic'"):
        hfvision.train("image-segmentation", tiny_vit(), zeros_and_ones, tmp_path / "out", kind="semantics")
    with pytest.raises(UnknownNameError, match="has no kinds"):
        hfvision.train("object-detection", tiny_vit(), zeros_and_ones, tmp_path / "out", kind="semantic")
    with pytest.raises(UnknownNameError, match=r"'agument' .*did you mean augment"):
        hfvision.train("image-classification", tiny_vit(), zeros_and_ones, tmp_path / "out", agument=None)
    with pytest.raises(ConfigError, match=r"VisionTrainingArguments, or a dict.*got TrainingArguments"):
        hfvision.train("image-classification", "x", "y", tmp_path / "out", transformers.TrainingArguments("x"))
    assert not (tmp_path / "out").exists()
    assert DIGITS == ["zero", "one"]
