"""Bands are bands and alpha is alpha: one result for the same numbers, whatever holds them.

An image whose statistics have a value for each of its bands has those bands, though a PIL image calls the last of two
or four alpha; resizing mixes each band with itself. Alpha is alpha where an image is laid on a background.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import hfvision
from hfvision.processing.resizing import resize, resize_tensor
from hfvision.registry import ARCHITECTURES, OWN_PROCESSORS, load

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 37, 53
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "YCbCr": 3, "HSV": 3, "RGBX": 4}  # mode -> bands
FILES = {"L": "PNG", "LA": "PNG", "RGB": "PNG", "RGBA": "PNG"}  # the modes that a file keeps
FILTERS = list(range(6))
PROCESSORS = sorted({row.processor for row in ARCHITECTURES.values() if row.processor} | set(OWN_PROCESSORS))


def pixels(bands):
    """(H, W, C) whose last band is low where the others vary, so that to multiply by it would show."""
    array = RNG.integers(0, 256, (HEIGHT, WIDTH, bands), dtype=np.uint8)
    array[::2, :, -1] = 3
    return array


def as_mode(array, mode):
    if mode in ("RGB", "RGBA", "L", "LA"):
        return Image.fromarray(array.squeeze(2) if mode == "L" else array)
    return Image.frombytes(mode, (WIDTH, HEIGHT), array.tobytes())


def routes(array, mode):
    """The same numbers as a PIL image, file, bytes, array and tensor, channels first and last."""
    found = {
        "PIL": as_mode(array, mode),
        "array, last": array,
        "array, first": np.moveaxis(array, 2, 0),
        "tensor, last": torch.from_numpy(array),
        "tensor, first": torch.from_numpy(array).permute(2, 0, 1),
        "floats": array.astype(np.float64),
    }
    if mode in FILES:
        file = io.BytesIO()
        as_mode(array, mode).save(file, FILES[mode])
        found["file"] = file.getvalue()
    return found


def statistics(bands):
    return {
        "image_mean": [0.1 + 0.2 * band for band in range(bands)],
        "image_std": [0.5 - 0.1 * b for b in range(bands)],
    }


def processor(name, bands, **options):
    size = {"height": 16, "width": 24}
    crop = {"do_center_crop": False} if "do_center_crop" in load(name)._class_defaults() else {}
    return load(name)(**{"size": size, "do_convert_rgb": False, **crop, **statistics(bands), **options})


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_bands_give_the_same_result_on_every_route(mode, resample):
    array = pixels(MODES[mode])
    process = processor(PROCESSORS[0], MODES[mode], resample=resample)
    results = {
        name: process(images=image, return_tensors="np")["pixel_values"][0]
        for name, image in routes(array, mode).items()
    }
    for name, result in results.items():
        np.testing.assert_array_equal(result, results["array, last"], err_msg=name)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_processor_takes_the_last_band_for_a_band(name, mode):
    array = pixels(MODES[mode])
    results = {}
    for layout, image in routes(array, mode).items():
        options = {"input_data_format": "channels_first"} if layout.endswith("first") else {}
        process = processor(name, MODES[mode], resample=2)
        results[layout] = process(images=image, return_tensors="np", **options)["pixel_values"][0]
    alone = [
        processor(name, 1, resample=2, image_mean=[mean], image_std=[std])(
            images=array[..., band], return_tensors="np"
        )["pixel_values"][0, 0]
        for band, (mean, std) in enumerate(zip(*statistics(MODES[mode]).values(), strict=True))
    ]
    for layout, result in results.items():
        np.testing.assert_array_equal(result, np.stack(alone), err_msg=layout)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_named_bands_are_bands(mode):
    names = ["red", "green", "blue", "near infrared"][-MODES[mode] :]
    array = pixels(MODES[mode])
    process = hfvision.MultispectralImageProcessor(
        size={"height": 16, "width": 24}, bands=names[::-1], **statistics(MODES[mode])
    )
    results = [
        process(images=image, bands=names, return_tensors="np")["pixel_values"]
        for image in routes(array, mode).values()
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_without_statistics_a_picture_of_the_callers_keeps_its_bands(mode):
    array = pixels(MODES[mode])
    process = hfvision.ViTImageProcessor(size={"height": 16, "width": 24}, do_normalize=False)
    options = {"input_data_format": "channels_last"}
    got = process(images=as_mode(array, mode), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(got, process(images=array, return_tensors="np", **options)["pixel_values"])


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_resizing_mixes_no_band_with_another(mode, resample):
    array = pixels(MODES[mode])
    got = resize(as_mode(array, mode), (16, 24), resample)
    for band, one in enumerate(got):
        np.testing.assert_array_equal(one, resize(Image.fromarray(array[..., band]), (16, 24), resample)[0])
    np.testing.assert_array_equal(resize_tensor(torch.from_numpy(array).permute(2, 0, 1), (16, 24), resample), got)


@pytest.mark.parametrize("name", PROCESSORS)
def test_alpha_is_alpha_where_an_image_is_laid_on_white(name):
    array = pixels(4)
    process = processor(name, 3, do_convert_rgb=True)
    white = Image.new("RGBA", (WIDTH, HEIGHT), "white")
    laid = Image.alpha_composite(white, Image.fromarray(array)).convert("RGB")
    wanted = process(images=laid, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(process(images=Image.fromarray(array), return_tensors="np")["pixel_values"], wanted)
    near = process(images=array, return_tensors="np")["pixel_values"]  # laid in float64 there, in 8 bits by Pillow
    assert np.abs(near - wanted).max() < 2 / 255 / 0.3


def test_every_task_sees_the_same_bands():
    """Semantic maps of one picture, as a file and as an array, through the pipeline, as a whole and in windows."""
    from tests.models import tiny_model

    array = pixels(4)
    process = hfvision.SegmentationImageProcessor(size={"height": 32, "width": 32}, **statistics(4))
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation", num_channels=4)
    from transformers import pipeline

    segment = pipeline("image-segmentation", model=model, image_processor=process)
    for options in ({}, {"tile": 32}):
        maps = [
            segment(image, output="map", **options)["classes"]
            for name, image in routes(array, "RGBA").items()
            if not isinstance(image, bytes) and name != "floats"
        ]
        for one in maps:
            np.testing.assert_array_equal(one, maps[0])
