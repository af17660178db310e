"""Training classifiers: the standard augmentation, another image size, weights of classes, smoothed labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hfvision.errors import ConfigError
from hfvision.processing.classification import ViTImageProcessor
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.class_weights import class_weights_of
from hfvision.training.classification import train_classification
from hfvision.training.classification_augmentation import (
    ClassificationAugmentation,
    StandardImagePreparation,
    standard_or_given,
)
from hfvision.training.classification_loss import LabelLoss
from hfvision.training.evaluation import evaluate
from tests import test_color_jitter, test_training

zeros_and_ones = test_training.zeros_and_ones  # a fixture
NOTHING = {"area": (1, 1), "ratio": (1, 1), "flip": 0, "colour": False}
ONE_STEP = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=8)


def photo():
    return test_color_jitter.photo()[0]


def prepared(recipe, seed=0, image=None, **options):
    options = {"size": {"height": 24, "width": 24}, **options}
    image = Image.fromarray(photo()) if image is None else image
    return StandardImagePreparation(ViTImageProcessor(**options), recipe)(image, np.random.default_rng(seed))


# Augmentation


def test_without_any_part_the_recipe_is_the_processor():
    alone = ViTImageProcessor(size={"height": 24, "width": 24})(Image.fromarray(photo()), return_tensors="pt")
    torch.testing.assert_close(
        prepared(ClassificationAugmentation(**NOTHING)), alone["pixel_values"][0], rtol=0, atol=0
    )


def test_windows_have_the_areas_and_ratios_that_are_asked_for():
    """Red is the row and green the column, so the corners say what was cut out; nearest pixels are exact."""
    rows, columns = np.mgrid[0:200, 0:200]
    image = Image.fromarray(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8))
    recipe = ClassificationAugmentation(area=(0.25, 0.5), ratio=(0.5, 2), flip=0, colour=False)
    areas, ratios = [], []
    for seed in range(60):
        pixels = prepared(recipe, seed, image, do_normalize=False, resample=0) * 255
        height, width = ((pixels[channel].max() - pixels[channel].min()).item() for channel in (0, 1))
        areas.append(height * width / 200**2)
        ratios.append(width / height)
    assert 0.2 < min(areas) < 0.3  # nearest pixels of the edges lie inside of the window
    assert 0.42 < max(areas) < 0.51
    assert 0.45 < min(ratios) < 0.7
    assert 1.4 < max(ratios) < 2.1


def test_half_of_the_images_are_mirrored_and_none_without_flips():
    plain = prepared(ClassificationAugmentation(**NOTHING))
    for flip, least, most in ((0.5, 10, 30), (0, 0, 0)):
        recipe = ClassificationAugmentation(**NOTHING | {"flip": flip})
        mirrored = sum(torch.equal(prepared(recipe, seed), plain.flip(-1)) for seed in range(40))
        assert least <= mirrored <= most


@pytest.mark.parametrize("scale", test_color_jitter.SCALES)
def test_samples_of_every_scale_are_those_of_8_bits_after_normalization(scale):
    options, store, tolerance = test_color_jitter.SCALES[scale]
    size = {"size": {"height": 24, "width": 36}}
    for seed in range(10):
        images = (test_color_jitter.stored(photo(), kind) for kind in (None, store))
        own = {**test_color_jitter.times(1), **size}
        reference, result = (
            prepared(ClassificationAugmentation(), seed, image, **given)
            for image, given in zip(images, (own, {**own, **options}), strict=True)
        )
        assert reference.std() > 0.2
        torch.testing.assert_close(result, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"do_center_crop": True, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 28}}, (32, 28)),
        ({"size": {"shortest_edge": 20}}, (20, 30)),
        ({"do_resize": False}, (40, 60)),
    ],
)
def test_images_get_the_size_of_the_evaluation(options, size):
    processor = test_color_jitter.SegformerImageProcessor if "do_center_crop" in options else ViTImageProcessor
    prepare = StandardImagePreparation(processor(**options), ClassificationAugmentation())
    assert tuple(prepare(Image.fromarray(photo()), np.random.default_rng(0)).shape[1:]) == size


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="3 problems"):
        ClassificationAugmentation(area=(0, 2), ratio=(2, 1), flip=2)
    with pytest.raises(ConfigError, match="augment is"):
        standard_or_given("strong")


def test_training_is_augmented_by_default_and_says_how(zeros_and_ones, tmp_path):
    for name in ("one", "two"):
        train_classification(
            test_training.tiny_model(),
            zeros_and_ones,
            tmp_path / name,
            processor=test_training.tiny_processor(),
            args=ONE_STEP,
        )
    test_training.assert_same_weights(*(test_training.weights(tmp_path / name) for name in ("one", "two")))
    plan = json.loads((tmp_path / "one" / "training_run.json").read_text())["plan"]
    assert plan["augment"] == {"area": [0.35, 1.0], "ratio": [3 / 4, 4 / 3], "flip": 0.5, "colour": True}
    assert "flip 0.5" in (tmp_path / "one" / "README.md").read_text()


# Image size


def test_model_and_processor_get_another_size(zeros_and_ones, tmp_path):
    test_training.start(zeros_and_ones, tmp_path / "out", args=ONE_STEP, image_size=16)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert model.config.image_size == 16
    assert dict(processor.size) == {"height": 16, "width": 16}
    assert model.vit.embeddings.position_embeddings.shape[1] == 17
    with pytest.raises(ConfigError, match="image_size is"):
        test_training.start(zeros_and_ones, tmp_path / "none", image_size=0)


def test_a_processor_that_crops_keeps_its_margin(zeros_and_ones, tmp_path):
    from hfvision.training.base import load_base, set_image_size

    processor = test_color_jitter.SegformerImageProcessor(
        do_center_crop=True, size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    )
    base = load_base(test_training.tiny_model(), processor, AutoModelForImageClassification, "a classifier")
    changed = set_image_size(base, 112).processor
    assert (dict(changed.size), dict(changed.crop_size)) == ({"shortest_edge": 128}, {"height": 112, "width": 112})


# Weights and smoothing


def test_weights_of_classes_are_given_in_three_ways():
    names = ["cat", "dog", "eel"]
    assert class_weights_of([1, 2, 0.5], names, None) == (1.0, 2.0, 0.5)
    assert class_weights_of({"dog": 3}, names, None) == (1.0, 3.0, 1.0)
    assert class_weights_of("balanced", names, np.array([10, 20, 40])) == (2.0, 1.0, 0.5)
    assert class_weights_of(None, names, None) is None
    for wrong, words in (
        ([1, 2], "2 values for 3 classes"),
        ({"dgo": 2}, "did you mean 'dog'"),
        ([1, -1, 1], "numbers from 0"),
        ("even", '"balanced"'),
    ):
        with pytest.raises(ConfigError, match=words):
            class_weights_of(wrong, names, np.ones(3))


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_the_loss_is_a_weighted_mean_over_the_images_of_a_step(batches):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 1, -100, 0, 2, 2])
    loss = LabelLoss((1.0, 2.0, 0.5), 0.1)
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=0.1) / 7
    found = sum(
        loss({"logits": part}, own, num_items_in_batch=7)
        for part, own in zip(logits.chunk(batches), labels.chunk(batches), strict=True)
    )
    torch.testing.assert_close(found, expected)


def test_what_a_class_weighs_decides_what_is_learned(zeros_and_ones, tmp_path):
    args = VisionTrainingArguments(
        num_train_epochs=4, per_device_train_batch_size=8, learning_rate=5e-3, label_smoothing_factor=0.1
    )
    names = test_training.DIGITS
    result = test_training.start(zeros_and_ones, tmp_path / "out", args=args, class_weights={names[0]: 0.0})
    assert result.per_class[names[1]] == 1.0
    assert result.per_class[names[0]] == 0.0  # it was never told that there are any
    plain = evaluate(tmp_path / "out", zeros_and_ones["test"], record=False).metrics["loss"]
    assert result.metrics["loss"] == pytest.approx(plain, abs=1e-6)  # every class counts alike where it is measured
    record = json.loads((tmp_path / "out" / "training_run.json").read_text())
    assert record["plan"]["loss"] == {"class_weights": [0.0, 1.0], "label_smoothing": 0.1}
    assert "label smoothing 0.1" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match="another run"):
        test_training.start(zeros_and_ones, tmp_path / "out", args=args, resume=True)


def test_accumulated_batches_learn_what_one_batch_does(zeros_and_ones, tmp_path):
    for name, batch, steps in (("one", 8, 1), ("two", 4, 2)):
        batches = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        args = replace(ONE_STEP, **batches, label_smoothing_factor=0.2)
        test_training.start(zeros_and_ones, tmp_path / name, args=args, class_weights=[1, 3])
    one, two = (test_training.weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-6)


def test_a_teacher_has_its_own_smoothing(zeros_and_ones, tmp_path):
    from hfvision.training.distillation import Distillation

    teacher = Distillation(test_training.tiny_model())
    with pytest.raises(ConfigError, match="Distillation's own"):
        args = replace(ONE_STEP, label_smoothing_factor=0.1)
        test_training.start(zeros_and_ones, tmp_path / "out", distillation=teacher, args=args)


def test_the_command_takes_all_of_it(zeros_and_ones, tmp_path):
    from typer.testing import CliRunner

    from hfvision.cli import train as command

    test_training.start(zeros_and_ones, tmp_path / "base", args=ONE_STEP)
    zeros_and_ones.save_to_disk(tmp_path / "data")
    words = ["classification", "--model", tmp_path / "base", "--dataset", tmp_path / "data"]
    words += ["--output", tmp_path / "out", "--max-steps", 1, "--label-column", "label"]
    words += ["--image-size", 16, "--area", 0.5, 1, "--no-flip", "--class-weights", "balanced"]
    words += ["--label-smoothing", 0.1]
    done = CliRunner().invoke(command.app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    plan = json.loads((tmp_path / "out" / "training_run.json").read_text())["plan"]
    assert plan["augment"]["flip"] == 0
    assert plan["image_size"] == [16, 16]
    assert plan["loss"]["label_smoothing"] == 0.1
