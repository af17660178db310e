"""Fine-tuning classifiers: what comes out, resuming after a kill, heads, cards, refusals, the command."""

import json
import logging

import datasets
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, pipeline
from typer.testing import CliRunner

from hfvision.cli import train as command
from hfvision.data import load_digits, prepare_classification
from hfvision.errors import CheckpointReadError, ConfigError, DatasetError
from hfvision.models.vit import ViTConfig, ViTForImageClassification, ViTModel
from hfvision.processing.classification import ViTImageProcessor
from hfvision.registry import ARCHITECTURES, IMAGE_CLASSIFICATION, load
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import LabelledSamples, train_classification
from hfvision.training.head import class_names, replace_head

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_run.json"}
FAST = VisionTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=16, learning_rate=5e-3
)  # 40 images: 3 steps an epoch, 6 in all
DIGITS = ["zero", "one"]


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.fixture(scope="module")
def zeros_and_ones():
    """40 and 20 images of two digits, with a column more than needed."""
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=DIGITS)})
    splits = {}
    for (split, rows), count in zip(load_digits().items(), (40, 20), strict=True):
        labels = np.asarray(rows["label"])
        chosen = np.flatnonzero(labels < 2)[:count]
        splits[split] = rows.select(chosen).cast(kinds).add_column("writer", list(range(count)))
    return datasets.DatasetDict(splits)


def tiny_config(**changes):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTConfig(**{"image_size": 8, "patch_size": 4, "num_channels": 1, **sizes, **changes})


def tiny_processor():
    return ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return ViTForImageClassification(tiny_config(**changes))


def start(data, to, *, model=None, args=FAST, augment=None, **options):
    return train_classification(
        model or tiny_model(), data, to, processor=tiny_processor(), args=args, augment=augment, **options
    )


def jitter(image, generator):
    """An augmentation that draws from its generator: the image moved by up to a pixel."""
    return np.roll(np.asarray(image), generator.integers(-1, 2, size=2), axis=(0, 1))


class Stop(TrainerCallback):
    """Ends a run as a kill does: without a word to Trainer."""

    def __init__(self, step=None, when="on_step_end"):
        self.step = step
        setattr(self, when, self.stop)

    def stop(self, args, state, control, **_):
        if self.step in (None, state.global_step):
            raise KeyboardInterrupt


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


# What comes out


def test_the_folder_has_a_model_that_scores_what_was_reported(zeros_and_ones, tmp_path, capfd):
    result = start(
        zeros_and_ones,
        tmp_path / "out",
        args=VisionTrainingArguments(num_train_epochs=8, per_device_train_batch_size=8, learning_rate=5e-3),
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    images, labels = zeros_and_ones["test"]["image"][:], torch.tensor(zeros_and_ones["test"]["label"][:])
    with torch.no_grad():
        logits = model(**processor(images, return_tensors="pt")).logits
    assert result.accuracy == (logits.argmax(-1) == labels).double().mean().item()
    assert result.accuracy >= 0.9  # zeros and ones are easy; guessing gives 0.5
    # the mean over one batch of 20 and over batches of 8, 8 and 4 differ by the order of addition
    assert result.metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert (result.samples, result.train_samples, result.steps, result.epochs) == (20, 40, 40, 8)
    assert [entry["step"] for entry in result.history] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert result.history[-1]["accuracy"] == result.accuracy
    shares = [share * (labels == label).sum().item() for label, share in enumerate(result.per_class.values())]
    assert sum(shares) == pytest.approx(result.accuracy * 20)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("held-out accuracy") == 8


def test_the_folder_answers_through_the_pipeline(zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "out")
    answer = pipeline("image-classification", model=str(tmp_path / "out"))(zeros_and_ones["test"][0]["image"])
    assert {row["label"] for row in answer} == set(DIGITS)


def test_the_config_is_as_the_hub_has_it_and_names_no_folder(zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "zero", "1": "one"}
    assert config["label2id"] == {"zero": 0, "one": 1}
    assert config["problem_type"] == "single_label_classification"
    assert "use_cache" not in config
    for name in FILES - {"model.safetensors"}:
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()


def test_the_card_states_the_measured_result_and_the_settings(zeros_and_ones, tmp_path):
    result = start(zeros_and_ones, tmp_path / "out", license="mit", notes=["Made for a test."])
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "license: mit",
        f"{result.accuracy:.6g}",
        "| 20 |",
        "seed",
        "learning rate",
        "zero, one",
        "Made for a test.",
    ):
        assert words in card


@pytest.mark.slow
def test_training_again_gives_the_same_weights(zeros_and_ones, tmp_path):
    for name in ("a", "b"):
        start(zeros_and_ones, tmp_path / name, model=tiny_model(hidden_dropout_prob=0.1), augment=jitter)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    start(zeros_and_ones, tmp_path / "c", model=tiny_model(hidden_dropout_prob=0.1), args=FAST)
    assert not torch.equal(weights(tmp_path / "c")["classifier.weight"], weights(tmp_path / "a")["classifier.weight"])


def test_accumulated_batches_equal_one_large_batch(zeros_and_ones, tmp_path):
    for batch, accumulation in ((16, 1), (8, 2)):
        args = VisionTrainingArguments(
            max_steps=3, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, learning_rate=1e-3
        )
        start(zeros_and_ones, tmp_path / str(batch), args=args)
    large, small = weights(tmp_path / "16"), weights(tmp_path / "8")
    for name, tensor in large.items():
        # gradients differ in the order of addition only, but Adam divides small ones by their own size: a fraction of
        # the three steps of 1e-3
        torch.testing.assert_close(tensor, small[name], rtol=0, atol=1e-4)


def test_bf16_trains(zeros_and_ones, tmp_path):
    args = VisionTrainingArguments(num_train_epochs=8, per_device_train_batch_size=8, learning_rate=5e-3, bf16=True)
    assert start(zeros_and_ones, tmp_path / "out", args=args).accuracy >= 0.9
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}


def test_a_half_precision_model_is_trained_in_float32(zeros_and_ones, tmp_path, reports):
    start(zeros_and_ones, tmp_path / "out", model=tiny_model().to(torch.bfloat16))
    assert "converted from torch.bfloat16 to float32" in reports.text
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}


def test_keep_best_ends_with_the_best_evaluation(zeros_and_ones, tmp_path):
    args = VisionTrainingArguments(
        num_train_epochs=6,
        per_device_train_batch_size=8,
        learning_rate=3e-2,
        load_best_model_at_end=True,
        lr_scheduler_type="constant",
    )
    result = start(zeros_and_ones, tmp_path / "out", args=args)
    assert result.accuracy == max(entry["accuracy"] for entry in result.history)
    assert "chosen by the accuracy on the same" in (tmp_path / "out" / "README.md").read_text()


# Resuming


@pytest.mark.parametrize(
    ("save_every", "killed_at"),
    [(2, 3), *(pytest.param(*at, marks=pytest.mark.slow) for at in [(None, 4), (2, 5), (2, 4)])],
)
def test_interrupted_and_resumed_equals_uninterrupted(zeros_and_ones, tmp_path, save_every, killed_at):
    args = VisionTrainingArguments(
        num_train_epochs=2,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        drop_path_rate=0.2,
        save_steps=save_every,
    )
    run = {"args": args, "augment": jitter}
    whole = start(zeros_and_ones, tmp_path / "whole", model=tiny_model(hidden_dropout_prob=0.1), **run)
    with pytest.raises(KeyboardInterrupt):
        model = tiny_model(hidden_dropout_prob=0.1)
        start(zeros_and_ones, tmp_path / "cut", model=model, callbacks=[Stop(killed_at)], **run)
    assert not (tmp_path / "cut" / "config.json").exists()
    model = tiny_model(seed=1, hidden_dropout_prob=0.1)  # what it held is replaced by the checkpoint
    resumed = start(zeros_and_ones, tmp_path / "cut", model=model, resume=True, **run)
    # not one bit differs: batches, augmentation and dropout follow from the seed and the saved state
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert resumed.resumed_from in range(1, killed_at + 1)
    assert (resumed.history, resumed.metrics, resumed.steps) == (whole.history, whole.metrics, whole.steps)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FILES


def test_a_run_killed_after_its_last_step_trains_no_further(zeros_and_ones, tmp_path):
    args = VisionTrainingArguments(max_steps=4, per_device_train_batch_size=16, learning_rate=5e-3, save_steps=2)
    start(zeros_and_ones, tmp_path / "whole", args=args)
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, tmp_path / "cut", args=args, callbacks=[Stop(4, when="on_save")])
    result = start(zeros_and_ones, tmp_path / "cut", args=args, resume=True)
    assert (result.steps, result.resumed_from) == (4, 4)
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_how_often_is_saved_and_evaluated_does_not_change_the_weights(zeros_and_ones, tmp_path):
    for save_every in (1, 5):
        args = VisionTrainingArguments(
            max_steps=5, per_device_train_batch_size=16, learning_rate=5e-3, save_steps=save_every
        )
        start(zeros_and_ones, tmp_path / str(save_every), model=tiny_model(hidden_dropout_prob=0.1), args=args)
    assert_same_weights(weights(tmp_path / "1"), weights(tmp_path / "5"))


def test_a_half_written_checkpoint_is_passed_over(zeros_and_ones, tmp_path, reports):
    args = VisionTrainingArguments(num_train_epochs=2, per_device_train_batch_size=16, learning_rate=5e-3, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, tmp_path / "out", args=args, callbacks=[Stop(3)])
    (tmp_path / "out" / "checkpoint-4").mkdir()
    (tmp_path / "out" / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert start(zeros_and_ones, tmp_path / "out", args=args, resume=True).resumed_from == 2
    assert "checkpoint-4 was left incomplete" in reports.text


def test_resume_starts_a_run_that_does_not_exist_and_returns_a_finished_one(zeros_and_ones, tmp_path, reports):
    first = start(zeros_and_ones, tmp_path / "out", resume=True)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = start(zeros_and_ones, tmp_path / "out", resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert (again.metrics, again.history, again.per_class) == (first.metrics, first.history, first.per_class)
    assert "nothing was trained" in reports.text


def test_resuming_with_other_settings_names_every_difference(zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "out")
    other = VisionTrainingArguments(num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-3)
    with pytest.raises(ConfigError, match="2 differences") as caught:
        start(zeros_and_ones, tmp_path / "out", args=other, resume=True)
    assert "settings.epochs: it has 2, this call 3" in str(caught.value)
    assert "settings.learning_rate: it has 0.005, this call 0.001" in str(caught.value)
    fewer = datasets.DatasetDict(train=zeros_and_ones["train"].select(range(30)), test=zeros_and_ones["test"])
    with pytest.raises(ConfigError, match=r"data\.fingerprint"):
        start(fewer, tmp_path / "out", resume=True)


def test_resuming_from_another_base_of_the_same_name_is_refused(zeros_and_ones, tmp_path):
    for seed, words in ((0, None), (1, r"1 difference:\n    model\.weights")):
        tiny_model(seed).save_pretrained(tmp_path / "base")
        run = (tmp_path / "base", zeros_and_ones, tmp_path / "out")
        if words is None:
            train_classification(*run, processor=tiny_processor(), args=FAST)
        else:
            with pytest.raises(ConfigError, match=words):
                train_classification(*run, processor=tiny_processor(), args=FAST, resume=True)


def test_an_output_folder_with_other_content_is_refused_untouched(zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a training run, finished"):
        start(zeros_and_ones, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("done")
    (tmp_path / "file").write_text("")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"not empty \(1 entries, 'thesis.txt' for one\)"):
            start(zeros_and_ones, tmp_path / "mine", resume=resume)
        with pytest.raises(ConfigError, match="is a file"):
            start(zeros_and_ones, tmp_path / "file", resume=resume)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


# Failures leave nothing half done


def test_a_failure_before_the_first_checkpoint_leaves_nothing(zeros_and_ones, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, tmp_path / "out", callbacks=[Stop(1)])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_saving_leaves_the_checkpoint_to_resume_from(zeros_and_ones, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("hfvision.training.run.write_card", full)
    with pytest.raises(OSError, match="no space"):
        start(zeros_and_ones, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint-6", "training_run.json"}
    monkeypatch.undo()
    assert start(zeros_and_ones, tmp_path / "out", resume=True).resumed_from == 6


def test_faults_of_the_data_are_found_before_anything_is_written(zeros_and_ones, tmp_path):
    one_class = zeros_and_ones.filter(lambda row: row["label"] == 0)
    with pytest.raises(DatasetError, match="at least 2 classes"):
        start(one_class, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_turns_out_broken_during_training_names_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("hfvision.training.base.MODES_LOOKED_AT", 1)
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (tmp_path / "pets" / split / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / "pets" / split / name / f"{i}.png")
    (tmp_path / "pets" / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"image 4 of split 'train'.*dog/1\.png"):
        start(tmp_path / "pets", tmp_path / "out", data_options={"check_images": 0})
    assert not (tmp_path / "out").exists()


def test_a_wrong_channel_count_is_explained_before_training(zeros_and_ones, tmp_path):
    model = tiny_model(num_channels=4)
    with pytest.raises((ConfigError, DatasetError), match="channel"):
        start(zeros_and_ones, tmp_path / "out", model=model)
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_an_error_with_advice(zeros_and_ones, tmp_path):
    args = VisionTrainingArguments(
        max_steps=40, per_device_train_batch_size=16, learning_rate=1e20, max_grad_norm=0, warmup_steps=0
    )
    with pytest.raises(ConfigError, match=r"diverged. Lower the learning rate \(now 1e\+20\)"):
        start(zeros_and_ones, tmp_path / "out", args=args)


def test_settings_that_cannot_work_are_all_named():
    with pytest.raises(ConfigError, match="4 problems") as caught:
        VisionTrainingArguments(
            num_train_epochs=0, per_device_train_batch_size=0, drop_path_rate=1.0, lr_scheduler_type="cosin"
        )
    for name in ("epochs is above 0; got 0", "batch_size", "drop_path", "'cosin'"):
        assert name in str(caught.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 is right where there is a GPU")
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="needs a GPU"):
        VisionTrainingArguments(fp16=True)


def test_an_unknown_model_is_one_clear_error(zeros_and_ones, tmp_path):
    with pytest.raises(CheckpointReadError, match="no-such-model"):
        train_classification(str(tmp_path / "no-such-model"), zeros_and_ones, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Heads


@pytest.fixture(params=[name for name, row in ARCHITECTURES.items() if IMAGE_CLASSIFICATION in row.models])
def classifier(request):
    row = ARCHITECTURES[request.param]
    return load(row.models[IMAGE_CLASSIFICATION])(load(row.config)(**row.tiny, num_labels=3))


def test_a_new_head_leaves_the_trunk_alone(classifier):
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    changed = replace_head(classifier, ["a", "b", "c", "d", "e"])
    after = classifier.state_dict()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name].shape != before[name].shape} == set(changed)
    for name in set(after) - set(changed):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert class_names(classifier) == ["a", "b", "c", "d", "e"]
    assert classifier.num_labels == classifier.config.num_labels == 5
    assert not any(name.startswith(f"{classifier.base_model_prefix}.") for name in changed)
    assert any(after[name].std() > 0 for name in changed)  # initialised, not left as it lay in memory
    assert all(after[name].isfinite().all() for name in changed)


def test_equal_classes_keep_the_head_and_others_do_not(zeros_and_ones, tmp_path, reports):
    nothing = VisionTrainingArguments(max_steps=1, learning_rate=1e-30)
    labels = {"id2label": {0: "zero", 1: "one"}, "label2id": {"zero": 0, "one": 1}}
    model = tiny_model(**labels)
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = start(zeros_and_ones, tmp_path / "kept", model=model, args=nothing)
    assert kept.new_head == []
    assert_same_weights(trained, weights(tmp_path / "kept"))
    assert "head was replaced" not in reports.text
    swapped = {"id2label": {0: "one", 1: "zero"}, "label2id": {"one": 0, "zero": 1}}
    result = start(zeros_and_ones, tmp_path / "new", model=tiny_model(**swapped), args=nothing)
    assert result.new_head == ["classifier.weight", "classifier.bias"]
    changed = {name for name, tensor in weights(tmp_path / "new").items() if not torch.equal(tensor, trained[name])}
    assert changed == {"classifier.weight"}  # biases begin at zero
    assert "2 classes became 2 (classifier.weight, classifier.bias start anew" in reports.text


def test_a_trunk_without_head_gets_one_and_keeps_its_weights(zeros_and_ones, tmp_path):
    torch.manual_seed(0)
    trunk = ViTModel(tiny_config(num_labels=2), add_pooling_layer=False)
    trunk.save_pretrained(tmp_path / "trunk")
    tiny_processor().save_pretrained(tmp_path / "trunk")
    args = VisionTrainingArguments(max_steps=1, learning_rate=1e-30)
    result = train_classification(tmp_path / "trunk", zeros_and_ones, tmp_path / "out", args=args)
    assert result.new_head == ["classifier.weight", "classifier.bias"]
    after = weights(tmp_path / "out")
    for name, tensor in trunk.state_dict().items():
        torch.testing.assert_close(after[f"vit.{name}"], tensor, rtol=0, atol=0)


def test_a_fine_tuned_folder_is_fine_tuned_again_and_its_licence_inherited(zeros_and_ones, tmp_path):
    first = start(zeros_and_ones, tmp_path / "first", license="cc-by-4.0")
    named = zeros_and_ones.cast_column("label", datasets.ClassLabel(names=["round", "straight"]))
    second = train_classification(tmp_path / "first", named, tmp_path / "second", args=FAST)
    assert (first.split, second.new_head) == ("test", ["classifier.weight", "classifier.bias"])
    card = (tmp_path / "second" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "Fine-tuned from `first`" in card
    start(zeros_and_ones, tmp_path / "third")
    assert "license: unknown" in (tmp_path / "third" / "README.md").read_text()
    assert "No licence was stated" in (tmp_path / "third" / "README.md").read_text()


def test_a_model_without_processor_gets_its_familys(zeros_and_ones, tmp_path, reports):
    model = tiny_model(num_channels=3)
    model.save_pretrained(tmp_path / "bare")
    rgb = zeros_and_ones.cast_column("image", datasets.Image(mode="RGB"))
    train_classification(tmp_path / "bare", rgb, tmp_path / "out", args=FAST)
    assert "ViTImageProcessor at 8x8 is used" in reports.text
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (processor.size["height"], processor.size["width"]) == (8, 8)


# Samples


def test_augmentation_depends_on_seed_epoch_and_row_only(zeros_and_ones):
    part = prepare_classification(zeros_and_ones).train
    drawn = []

    def record(image, generator):
        drawn.append(generator.integers(1 << 30))
        return image

    for seed, epoch, row in [(0, 0, 3), (0, 0, 4), (0, 1, 3), (1, 0, 3), (0, 0, 3)]:
        samples = LabelledSamples(part, record, seed)
        samples.set_epoch(epoch)
        samples[row]
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) == 4


def test_every_epoch_is_augmented_anew(zeros_and_ones, tmp_path):
    drawn = []

    def record(image, generator):
        drawn.append(int(generator.integers(1 << 30)))
        return image

    start(zeros_and_ones, tmp_path / "out", augment=record)
    assert len(drawn) == len(set(drawn)) == 80  # 40 images, two epochs


# The command


def test_the_command_trains_and_prints_one_json_document(zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "base")
    zeros_and_ones.save_to_disk(tmp_path / "data")
    app = typer.Typer()
    app.add_typer(command.app, name="train")
    arguments = ["train", "classification", "--model", str(tmp_path / "base"), "--dataset", str(tmp_path / "data")]
    arguments += ["--output", str(tmp_path / "out"), "--max-steps", "2", "--batch-size", "16", "--json"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    result = json.loads(ran.stdout)
    assert (result["steps"], result["samples"], result["new_head"]) == (2, 20, [])
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    with pytest.raises(ConfigError, match="finished"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    again = CliRunner().invoke(app, [*arguments, "--resume"], catch_exceptions=False)
    assert json.loads(again.stdout)["accuracy"] == result["accuracy"]
    plain = CliRunner().invoke(app, [*arguments[:-1], "--resume"], catch_exceptions=False)
    assert plain.stdout.startswith(f"accuracy {result['accuracy']:.2%} on 20 held-out images (test)")
