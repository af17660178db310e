"""Colors of training images vary in the values of their processor, whatever its scale is."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hfvision.data import load_digit_scenes
from hfvision.objects import ImageObjects
from hfvision.processing.detection import DetrImageProcessor
from hfvision.processing.options import make_plan
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.augmentation import StandardAugmentation, StandardPreparation
from hfvision.training.color_jitter import color_channels, value_range, varied_colours
from hfvision.training.detection_augmentation import DetectionAugmentation, object_preparation
from hfvision.training.segmentation import train_segmentation

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def times(factor):
    return {"image_mean": [factor * value for value in MEAN], "image_std": [factor * value for value in STD]}


# name: options of the processor, what an array of 8 bits is stored as, how far results may differ (standard deviations)
SCALES = {
    "8 bits, divided by 255": ({}, None, 1e-5),
    "8 bits, not rescaled": ({"do_rescale": False, **times(255)}, None, 1e-4),
    "8 bits, to 0..2": ({"rescale_factor": 1 / 127.5, **times(2)}, None, 1e-5),
    "8 bits, a factor of their own": ({"rescale_factor": 1e-3, **times(0.255)}, None, 1e-4),
    "floats of 0..1, with a range": ({"input_range": (0, 1)}, lambda image: image.astype(np.float32) / 255, 1e-5),
    "12 bits, with a range": ({"input_range": (0, 4080)}, lambda image: image.astype(np.uint16) * 16, 1e-5),
    "16 bits": ({}, lambda image: image.astype(np.uint16) * 257, 1e-5),
    # Resizing rounds 8-bit levels in both of its passes, and floats not: a level is 1 / (255 * 0.22).
    "floats of 0..1, as they are": (
        {"do_rescale": False, **times(1)},
        lambda image: image.astype(np.float32) / 255,
        0.04,
    ),
    "floats of 0..255, as they are": (
        {"do_rescale": False, **times(255)},
        lambda image: image.astype(np.float32),
        0.04,
    ),
}
EVERYTHING_BUT_THE_SCALE = {"size": {"height": 24, "width": 36}}


def photo():
    """An image of 8 bits from black to white with smooth colors, and two classes."""
    rows, columns = np.mgrid[0:40, 0:60]
    image = np.stack([rows * 255 / 39, columns * 255 / 59, (rows + columns) * 255 / 98], -1).round().astype(np.uint8)
    return image, (columns > 30).astype(np.uint8)


def stored(image, store):
    return Image.fromarray(image) if store is None else store(image)


def prepared_for_segmentation(image, mask, options, generator):
    processor = SegformerImageProcessor(**EVERYTHING_BUT_THE_SCALE, **options)
    return StandardPreparation(processor, StandardAugmentation(scale=(1, 1)), 255)(image, mask, generator)[0]


def prepared_for_detection(image, mask, options, generator):
    processor = DetrImageProcessor(**EVERYTHING_BUT_THE_SCALE, **options)
    return object_preparation(processor, DetectionAugmentation())(image, ImageObjects.none(mask.shape), generator)[0]


TASKS = {"segmentation": prepared_for_segmentation, "detection": prepared_for_detection}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scale", SCALES)
def test_samples_of_every_scale_are_those_of_8_bits_after_normalization(scale, task):
    options, store, tolerance = SCALES[scale]
    image, mask = photo()
    for seed in range(12):
        reference = TASKS[task](stored(image, None), mask, {}, np.random.default_rng(seed))
        result = TASKS[task](stored(image, store), mask, options, np.random.default_rng(seed))
        assert reference.std() > 0.2  # no constant image
        torch.testing.assert_close(result, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", ["8 bits, not rescaled", "8 bits, to 0..2", "floats of 0..1, with a range"])
def test_training_in_every_scale_gives_the_model_of_8_bits(scale, tmp_path):
    from tests.test_training_segmentation import tiny_model  # the same model for both

    options, store, _ = SCALES[scale]
    scenes = load_digit_scenes(train=8, validation=4, size=32, digits=(1, 1), digit_size=(16, 24))
    results = {}
    for name, (own, store_as) in {"8 bits": ({}, None), scale: (options, store)}.items():
        results[name] = train_segmentation(
            tiny_model(),
            {split: _stored_as(data, store_as) for split, data in scenes.items()},
            tmp_path / name,
            processor=SegformerImageProcessor(size={"height": 32, "width": 32}, **own),
            args=VisionTrainingArguments(num_train_epochs=2, per_device_train_batch_size=4, learning_rate=2e-3),
            data_options={"names": [str(number) for number in range(11)], "image_column": "image"},
        )
    reference, result = results["8 bits"], results[scale]
    assert result.metrics["loss"] == pytest.approx(reference.metrics["loss"], rel=1e-3)
    assert result.mean_iou == pytest.approx(reference.mean_iou, abs=0.01)


def _stored_as(data, store):
    if store is None:
        return data.select_columns(["image", "mask"])
    images = np.stack([store(np.asarray(row["image"])) for row in data])
    features = datasets.Features(
        {"image": datasets.Array3D(images.shape[1:], "float32"), "mask": data.features["mask"]}
    )
    return datasets.Dataset.from_dict({"image": images, "mask": list(data["mask"])}, features=features)


def plan_of(**options):
    return make_plan(SegformerImageProcessor(**options).to_dict(), {})


def test_bands_in_units_of_their_own_vary_around_their_statistics():
    """Radar backscatter in decibels, all below zero, and heights in meters: neither 1 nor 255 is white there."""
    plan = plan_of(
        do_rescale=False, image_mean=[-12.0, -18.0, 350.0], image_std=[3.0, 4.0, 80.0], bands=["vv", "vh", "height"]
    )
    rng = np.random.default_rng(0)
    mean, std = (torch.tensor(value)[:, None, None] for value in (plan.mean, plan.std))
    pixels = torch.from_numpy(rng.normal(size=(3, 20, 30)).astype(np.float32))
    image = (pixels * std + mean).numpy()
    black, white = value_range(pixels * std + mean, plan, image)
    assert black.flatten().tolist() == [-18, -26, 190]
    assert white.flatten().tolist() == [-6, -10, 510]
    changed = 0
    for seed in range(10):
        varied = varied_colours(pixels, plan, np.random.default_rng(seed), image)
        slopes = [
            np.polyfit(before.flatten(), after.flatten(), 1)[0] for before, after in zip(pixels, varied, strict=True)
        ]
        assert min(slopes) > 0.4
        assert max(slopes) - min(slopes) < 0.25  # one contrast for all; what it makes larger than before is cut off
        changed += not torch.equal(pixels, varied)
    assert changed > 5


def test_values_beyond_white_stay():
    plan = plan_of(input_range=(0, 1000), do_normalize=False)
    pixels = torch.tensor([0.1, 0.5, 4.0]).reshape(1, 1, 3).expand(3, 2, 3)
    for seed in range(20):
        varied = varied_colours(pixels, plan, np.random.default_rng(seed), np.zeros((3, 2, 3), np.float32))
        assert varied[:, :, 2].min() >= 1.5  # 4 times the least contrast, less the darkest step
        assert varied.max() <= 4.0
        assert varied.min() >= 0.0


@pytest.mark.parametrize(
    ("bands", "count", "places"),
    [
        (None, 3, [0, 1, 2]),
        (["blue", "green", "red"], 3, [2, 1, 0]),
        (["nir", "red", "green"], 3, None),
        (["B4", "B3", "B2"], 3, None),
        (["red", "green", "blue", "nir"], 4, None),
        (None, 4, None),
        (None, 1, None),
    ],
)
def test_hue_and_saturation_are_of_red_green_and_blue_only(bands, count, places):
    plan = plan_of(do_normalize=False, bands=bands)
    assert color_channels(plan, count) == places
    if places is None:
        pixels = torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(0))
        alone = [pixels.clone() for _ in range(count)]
        for channel, values in enumerate(alone):  # another channel's values do not change this one's
            values[[other for other in range(count) if other != channel]] = 0.5
        for seed in range(10):
            varied = varied_colours(pixels, plan, np.random.default_rng(seed), None)
            for channel, values in enumerate(alone):
                again = varied_colours(values, plan, np.random.default_rng(seed), None)
                torch.testing.assert_close(again[channel], varied[channel])


def test_bands_in_another_order_are_turned_alike():
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(10):
        rgb = varied_colours(pixels, plan_of(do_normalize=False), np.random.default_rng(seed), None)
        bgr_plan = plan_of(do_normalize=False, bands=["blue", "green", "red"])
        bgr = varied_colours(pixels.flip(0), bgr_plan, np.random.default_rng(seed), None)
        torch.testing.assert_close(bgr.flip(0), rgb)


def test_whole_numbers_stay_whole_numbers():
    plan = plan_of(do_rescale=False, do_normalize=False)
    image = photo()[0]
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    varied = [varied_colours(pixels, plan, np.random.default_rng(seed), image) for seed in range(8)]
    assert {one.dtype for one in varied} == {torch.uint8}
    assert min(float(one.float().std()) for one in varied) > 20
