"""Image processors: transformers' numbers on 8-bit images, any other image besides, nothing guessed, nothing hidden."""

import copy
import json
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hfvision import reporting
from hfvision.errors import (
    ConfigError,
    HfvisionError,
    ImageReadError,
    ImageShapeError,
    ImageValueError,
    UnknownNameError,
)
from hfvision.processing import base, batch
from hfvision.processing.classification import MultispectralImageProcessor, ViTImageProcessor

SMALL = {"size": {"height": 20, "width": 24}}
GOLDEN = Path(__file__).parent / "data" / "processing" / "original_pipelines.npz"


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


def noise(*shape, dtype=np.uint8, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def values(processor, images, **options):
    return processor(images, return_tensors="np", **options)["pixel_values"]


def same(got, wanted):
    """Equal to the last bit, dtype and shape included."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got, wanted)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("hfvision")]


# Equal to transformers

OPTIONS = {
    "default": {},
    "number": {"size": 96},
    "wide": {"size": {"height": 50, "width": 70}, "resample": 3},
    "crop": {"size": {"shortest_edge": 64}, "resample": 3, "do_center_crop": True, "crop_size": 56},
    "odd crop": {"size": {"shortest_edge": 41}, "do_center_crop": True, "crop_size": {"height": 40, "width": 33}},
    "crop larger": {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 64, "width": 30}},
    "pad": {"size": {"shortest_edge": 48, "longest_edge": 60}, "do_pad": True, "pad_size": {"height": 80, "width": 90}},
    "limits": {"size": {"max_height": 50, "max_width": 40}, "resample": 1},
    "nearest": {"size": 64, "resample": 0},
    "box": {"size": 64, "resample": 4},
    "hamming": {"size": 64, "resample": 5},
    "as it is": {"do_resize": False},
    "untouched": {"do_resize": False, "do_rescale": False, "do_normalize": False},
    "resized only": {"do_rescale": False, "do_normalize": False},
    "rescaled only": {"do_normalize": False},
    "raw statistics": {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    "to 0..2": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 0.9, 1.1]},
    "one number": {"image_mean": 0.5, "image_std": 0.25},
    "rgb": {"do_convert_rgb": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(45, 60), (61, 33), (7, 5)])
def test_eight_bit_images_give_transformers_numbers_exactly(options, size):
    ours, theirs = ViTImageProcessor(**options), ViTImageProcessorPil(**options)
    array = noise(*size, 3)
    for image in (
        Image.fromarray(array),
        array,
        array.transpose(2, 0, 1).copy(),
        torch.from_numpy(array),
        np.stack([array, array[::-1]]),
        [Image.fromarray(array), Image.fromarray(array[::-1].copy())],
    ):
        same(values(ours, image), values(theirs, image))


@pytest.mark.parametrize("options", [o for o in OPTIONS.values() if o.get("do_rescale", True)], ids=str)
def test_whole_levels_in_any_dtype_give_the_eight_bit_numbers_exactly(options):
    """And so do 8-bit images that were divided by 255, as other libraries load them."""
    processor, image = ViTImageProcessor(**options), noise(45, 60, 3)
    wanted = values(ViTImageProcessorPil(**options), image)
    for dtype in (np.float16, np.float32, np.float64, np.int16, np.int32, np.int64, np.uint16, np.uint32):
        same(values(processor, image.astype(dtype), input_range=(0, 255)), wanted)
    same(values(processor, image.astype(np.float32)), wanted)
    for dtype in (np.float16, np.float32, np.float64):
        same(values(processor, (image / 255).astype(dtype), input_range=(0, 1)), wanted)
    same(values(processor, image * np.float32(1 / 255), input_range=(0, 1)), wanted)
    same(values(processor, (image / 127.5 - 1).astype(np.float32), input_range=(-1, 1)), wanted)
    same(values(processor, image.astype(np.uint16) * 257), wanted)


def picture(mode):
    if mode == "RGB key":
        mode = "RGB"
    base = Image.fromarray(noise(37, 29, 4))
    if mode == "La":
        return base.convert("LA").convert("La")
    if mode == "PA":
        return base.convert("RGB").convert("P").convert("PA")
    return base.convert("RGB").convert("LAB") if mode == "LAB" else base.convert(mode)


FILES = [  # (mode, format, options of saving)
    *[(mode, "png", {}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA")],
    *[(mode, "jpg", {}) for mode in ("L", "RGB", "YCbCr", "CMYK")],
    *[(mode, "tif", {}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "LAB")],
    ("P", "gif", {}),
    ("RGBA", "webp", {"lossless": True}),
    ("P", "png", {"transparency": 3}),
    ("P", "png", {"transparency": bytes(range(256))}),
    ("L", "png", {"transparency": 7}),
    ("RGB", "png", {"transparency": (1, 2, 3)}),
]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # transformers' reader, like
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the files that it leaves open
@pytest.mark.parametrize(("mode", "kind", "saving"), FILES, ids=str)
def test_files_of_every_mode_give_transformers_numbers_exactly(mode, kind, saving, tmp_path):
    path = str(tmp_path / f"image.{kind}")
    picture(mode).save(path, **saving)
    for options in (SMALL, {**SMALL, "do_convert_rgb": True}, {**SMALL, "do_normalize": False}):
        same(values(ViTImageProcessor(**options), path), values(ViTImageProcessorPil(**options), path))
    with Image.open(path) as opened:
        same(values(ViTImageProcessor(**SMALL), opened), values(ViTImageProcessorPil(**SMALL), load_image(opened)))


MODES = ["1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", MODES)
def test_pil_images_of_every_mode_become_rgb(mode):
    """As their own conversion says; `do_convert_rgb=True` lays them on white as transformers does."""
    image = picture(mode)
    rgb = (image.convert(mode.upper()) if mode in ("La", "RGBa") else image).convert("RGB")
    same(values(ViTImageProcessor(**SMALL), image), values(ViTImageProcessorPil(**SMALL), rgb))
    if mode not in ("La", "RGBa"):  # transformers takes those two for opaque
        options = {**SMALL, "do_convert_rgb": True}
        same(values(ViTImageProcessor(**options), image), values(ViTImageProcessorPil(**options), image))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_do_convert_rgb_means_what_it_means_in_transformers(channels):
    array = noise(40, 100, channels)
    for options in (SMALL, {**SMALL, "do_normalize": False}):
        options = {**options, "do_convert_rgb": True}
        for image in (array, array.transpose(2, 0, 1).copy(), torch.from_numpy(array)):
            same(values(ViTImageProcessor(**options), image), values(ViTImageProcessorPil(**options), image))


def test_the_authors_pipelines_are_reproduced():
    """DeiT's and Swin's own evaluation, recorded: equal, except that theirs cuts the middle out one pixel later where
    an odd number of pixels is left over (they round 11.5 to 12, transformers and we to 11)."""
    golden = np.load(GOLDEN)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
    resized = ViTImageProcessor(size={"shortest_edge": 54}, **imagenet)
    cropped = ViTImageProcessor(size={"shortest_edge": 54}, do_center_crop=True, crop_size=48, **imagenet)
    square = ViTImageProcessor(size=48, **imagenet)
    same(values(cropped, golden["deit_eval.1.image"])[0], golden["deit_eval.1.pixel_values"])
    wide = values(resized, golden["deit_eval.0.image"])[0]
    assert wide.shape == (3, 54, 71)
    same(wide[:, 3:51, 12:60], golden["deit_eval.0.pixel_values"])
    same(values(square, golden["swin_eval_no_crop.0.image"])[0], golden["swin_eval_no_crop.0.pixel_values"])


# Any array


def reference(image, processor, low, high):
    """(C, H, W) of any values -> what the processor has to give, by the definition: Pillow's mode F, then a line."""
    height, width = processor.size["height"], processor.size["width"]
    bands = [Image.fromarray(band.astype(np.float32)).resize((width, height), processor.resample) for band in image]
    scaled = (np.stack(bands).astype(np.float64) - low) / (high - low)
    count = len(image)
    mean, std = (np.broadcast_to(np.asarray(s, np.float64), count) for s in (processor.image_mean, processor.image_std))
    return (scaled - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_any_number_of_channels_of_any_dtype(channels, dtype):
    """Within 2e-6: a value of order one goes through about ten roundings to float32 (6e-8 each) and a division by 0.2.
    8-bit levels are rounded twice while resizing, so up to one level more."""
    processor = ViTImageProcessor(**SMALL, image_mean=[0.4] * channels, image_std=[0.2] * channels)
    high = {np.uint8: 255, np.uint16: 65535, np.int16: 3000}.get(dtype, 1.0)
    image = np.random.default_rng(0).random((channels, 31, 37)) * high
    image = image.astype(dtype)
    given = {} if dtype in (np.uint8, np.uint16) else {"input_range": (0, high)}
    wanted = reference(image, processor, 0, high)
    near = {"rtol": 0, "atol": 2e-6 + (1.01 / 255 / 0.2 if dtype is np.uint8 else 0)}
    for layout in (image, image.transpose(1, 2, 0)):
        got = values(processor, layout, **given)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[0], wanted, **near)
    np.testing.assert_allclose(values(processor, torch.from_numpy(image.copy()), **given)[0], wanted, **near)


def test_sixteen_bit_files_keep_their_depth(tmp_path, caplog):
    """Within 2e-6 of the exact result, which 8 bits would miss by up to 2 / 255."""
    image = noise(31, 37, dtype=np.uint16, high=65536)
    processor = ViTImageProcessor(**SMALL)
    wanted = np.repeat(
        reference(image[None], ViTImageProcessor(**SMALL, image_mean=0.5, image_std=0.5), 0, 65535), 3, 0
    )
    for kind in ("png", "tif"):
        Image.fromarray(image).save(tmp_path / f"deep.{kind}")
        np.testing.assert_allclose(values(processor, tmp_path / f"deep.{kind}")[0], wanted, rtol=0, atol=2e-6)
    for mode in ("I;16", "I;16B"):
        content = image.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        deep = Image.frombytes(mode, (37, 31), content)
        np.testing.assert_allclose(values(processor, deep)[0], wanted, rtol=0, atol=2e-6)
    assert messages(caplog) == [
        "16-bit images were taken as 0 (black) to 65535 (white); input_range= sets others: 1 in this call."
    ]


def test_big_endian_strided_and_read_only_arrays():
    image = noise(31, 37, 3)
    processor = ViTImageProcessor(**SMALL)
    wanted = values(processor, image)
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (image.astype(">u2"), image.astype(">f4"), frozen, np.asfortranarray(image)):
        same(values(processor, other, input_range=(0, 255)), wanted)
    same(values(processor, np.repeat(image, 2, axis=1)[:, ::2]), wanted)
    same(values(processor, image[::-1]), values(processor, image[::-1].copy()))


def test_booleans_are_black_and_white():
    mask = noise(31, 37, high=2).astype(bool)
    processor = ViTImageProcessor(**SMALL)
    same(values(processor, mask), values(processor, mask.astype(np.uint8) * np.uint8(255)))
    same(values(processor, mask), values(processor, Image.fromarray(mask)))


def test_values_without_rescaling_are_as_they_are():
    """Reflectances with statistics in their own units, which is how remote sensing publishes them."""
    image = noise(4, 20, 24, dtype=np.uint16, high=10_000)
    processor = ViTImageProcessor(
        **SMALL, do_rescale=False, image_mean=[1000.0, 2000, 3000, 4000], image_std=[500.0, 600, 700, 800]
    )
    mean, std = (np.array(s)[:, None, None] for s in (processor.image_mean, processor.image_std))
    wanted = ((image - mean) / std).astype(np.float32)
    for dtype in (np.uint16, np.int16, np.int32, np.float32):
        np.testing.assert_allclose(values(processor, image.astype(dtype))[0], wanted, rtol=1e-6)
    own_scale = ViTImageProcessor(**SMALL, rescale_factor=1 / 10_000, do_normalize=False)
    np.testing.assert_allclose(values(own_scale, image)[0], image / 10_000, rtol=1e-6)
    with pytest.raises(ImageValueError, match=r"within 0\.\.1"):
        values(own_scale, image / 10_000)
    same(values(own_scale, (image / 10_000).astype(np.float32), rescale_factor=1)[0], np.float32(image / 10_000))


def test_one_grey_channel_is_repeated_and_that_is_said_once(caplog):
    processor, grey = ViTImageProcessor(**SMALL), noise(31, 37)
    wanted = values(processor, np.repeat(grey[..., None], 3, -1))
    for image in (grey, grey[None], grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)):
        same(values(processor, image), wanted)
    assert messages(caplog) == ["Images of one channel were repeated into 3: 1 in this call."]
    with pytest.raises(ImageShapeError, match="do_convert_rgb=False forbids"):
        values(processor, grey, do_convert_rgb=False)


def test_what_is_dropped_is_said_with_counts(caplog):
    processor = ViTImageProcessor(**SMALL)
    opaque = Image.fromarray(noise(9, 9, 3)).convert("RGBA")
    values(processor, [opaque, Image.fromarray(noise(9, 9, 3))])
    assert messages(caplog) == []
    values(processor, [Image.fromarray(noise(9, 9, 4)), Image.fromarray(noise(9, 9, 4)), opaque])
    values(ViTImageProcessor(**SMALL, image_mean=[0.5], image_std=[0.5]), [Image.fromarray(noise(9, 9, 3))])
    assert messages(caplog) == [
        "Alpha channels were dropped (do_convert_rgb=True lays PIL images on white): 2 in this call.",
        "Colour images were converted to grey, as this processor takes one channel: 1 in this call.",
    ]


def test_grey_processors_take_pictures_of_any_mode():
    processor = ViTImageProcessor(**SMALL, image_mean=[0.5], image_std=[0.5])
    for mode in MODES:
        image = picture(mode)
        known = image.convert(mode.upper()) if mode in ("La", "RGBa") else image
        grey = known if mode in ("1", "L") else known.convert("RGB")
        same(values(processor, image), values(processor, np.asarray(grey.convert("L"))))


def test_pictures_of_four_bands():
    processor = ViTImageProcessor(**SMALL, do_resize=False, image_mean=[0.5] * 4, image_std=[0.5] * 4)
    array = noise(9, 9, 4)
    same(values(processor, Image.fromarray(array)), values(processor, array))
    with pytest.raises(ImageShapeError, match="mode RGB has 3 channels; 4 are wanted, because image_mean has 4 values"):
        values(processor, Image.fromarray(array[..., :3]))
    with pytest.raises(ImageShapeError, match="CMYK"):
        values(processor, picture("CMYK"))


def test_bands_of_arrays_do_not_influence_each_other():
    """PIL resizes RGBA with its colours multiplied by alpha; a fourth band of an array is not alpha."""
    processor = ViTImageProcessor(**SMALL, image_mean=[0.5] * 4, image_std=[0.5] * 4)
    array = noise(31, 37, 4)
    other = array.copy()
    other[..., 3] = 0
    same(values(processor, array)[:, :3], values(processor, other)[:, :3])


# Layout


@pytest.mark.parametrize(
    ("shape", "mean", "options"),
    [
        ((3, 20, 3), 3, {}),
        ((1, 20, 3), 3, {}),
        ((1, 1, 3), 3, {}),
        ((4, 20, 3), 3, {"do_convert_rgb": True}),
        ((12, 12, 12), 12, {}),
        ((3, 20, 4), None, {}),
    ],
)
def test_an_ambiguous_layout_is_refused_until_it_is_named(shape, mean, options):
    statistics = {"image_mean": 0.5, "image_std": 0.5} if mean is None else {"image_mean": [0.5] * mean}
    processor = ViTImageProcessor(**SMALL, **{"image_std": [0.5] * (mean or 3), **statistics}, **options)
    for image in (noise(*shape), torch.from_numpy(noise(*shape))):
        with pytest.raises(ImageShapeError, match=r'input_data_format="channels_first"') as raised:
            values(processor, image)
        assert str(shape) in str(raised.value)
        last = values(processor, image, input_data_format="channels_last")
        moved = values(
            processor,
            image.transpose(2, 0, 1) if isinstance(image, np.ndarray) else image.permute(2, 0, 1),
            input_data_format="channels_first",
        )
        same(last, moved)


def test_what_fits_one_layout_only_is_taken_so():
    processor = ViTImageProcessor(**SMALL)
    image = noise(4, 5, 3)  # 4 rows of 5 pixels: four channels are not wanted here
    same(values(processor, image), values(processor, Image.fromarray(image)))


def test_unusual_counts_without_statistics_need_the_layout():
    processor = ViTImageProcessor(**SMALL, image_mean=0.5, image_std=0.5)
    with pytest.raises(ImageShapeError, match="which axis"):
        values(processor, noise(12, 31, 37))
    assert values(processor, noise(12, 31, 37), input_data_format="channels_first").shape == (1, 12, 20, 24)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise(31, 37, 4), "has 4 or 31 channels; 3 are wanted"),
        (noise(31, 37, 4), "do_convert_rgb=True lays the image on white; if it is a band"),
        (noise(12, 31, 37), "has 12 or 37 channels; 3 are wanted, because image_mean has 3 values"),
        (noise(31, 37, 2), "image_mean and image_std with a value for each"),
        (noise(7), r"an image has 2 axes \(H, W\) or 3, a batch 4; got shape \(7,\)"),
        (noise(2, 2, 3, 4, 3), r"got shape \(2, 2, 3, 4, 3\)"),
        (noise(0, 5, 3), r"of shape \(0, 5, 3\) has no pixels"),
        (Image.new("RGB", (0, 5)), "of 5x0 has no pixels"),
    ],
)
def test_shapes_that_cannot_be_taken(image, message):
    with pytest.raises(ImageShapeError, match=message):
        values(ViTImageProcessor(**SMALL), image)


def test_a_named_layout_with_the_wrong_count_is_refused():
    with pytest.raises(ImageShapeError, match="has 37 channels; 3 are wanted"):
        values(ViTImageProcessor(**SMALL), noise(3, 31, 37), input_data_format="channels_last")


# Values


def test_not_a_number_is_refused_with_count_and_place():
    image = np.random.default_rng(0).random((31, 37, 3)).astype(np.float32) * 255
    image[5, 6, 1] = np.nan
    image[7, 8, 2] = np.inf
    for bad in (image, torch.from_numpy(image)):
        with pytest.raises(
            ImageValueError,
            match=r"2 of 3,441 values are NaN or infinite, the first in channel 1, row 5, column 6 \(nan",
        ):
            values(ViTImageProcessor(**SMALL), bad)
    with pytest.raises(ImageValueError, match="NaN"):
        values(ViTImageProcessor(**SMALL, do_rescale=False), image)


def test_floats_that_were_rescaled_already_are_refused_with_the_way_out():
    image = np.random.default_rng(0).random((31, 37, 3)).astype(np.float32)
    processor = ViTImageProcessor(**SMALL)
    for bad in (image, torch.from_numpy(image), image.astype(np.float16), np.ones((31, 37, 3))):
        with pytest.raises(ImageValueError, match=r"input_range=\(0, 1\)"):
            values(processor, bad)
    wanted = reference(image.transpose(2, 0, 1), processor, 0, 1)
    np.testing.assert_allclose(values(processor, image, input_range=(0, 1))[0], wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(values(processor, image, do_rescale=False)[0], wanted, rtol=0, atol=2e-6)


def test_black_is_black_on_any_scale():
    black = np.zeros((31, 37, 3), np.float32)
    same(values(ViTImageProcessor(**SMALL), black), values(ViTImageProcessor(**SMALL), black.astype(np.uint8)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            noise(9, 9, 3, dtype=np.int16, high=3000),
            "int16 does not say which values are black and white; these go from",
        ),
        (noise(9, 9, 3, dtype=np.uint32), "uint32 does not say"),
        (Image.fromarray(noise(9, 9, dtype=np.int32)), "int32 does not say"),
        (noise(9, 9, 3).astype(np.float32) * 40, "float32 values are taken as 0"),
        (noise(9, 9, 3) / 127.5 - 1, "float64 values are taken as 0"),
        (noise(9, 9, 3).astype(np.complex64), "dtype complex64"),
        (noise(9, 9, 3).astype(object), "dtype object"),
    ],
)
def test_values_of_unknown_range_are_refused(image, message):
    with pytest.raises(ImageValueError, match=message):
        values(ViTImageProcessor(**SMALL), image)


def test_values_outside_the_range_are_scaled_not_clipped_and_said(caplog):
    image = np.full((1, 20, 24), 5000, np.uint16)
    image[0, 3, :4] = 12_000
    processor = ViTImageProcessor(**SMALL, do_normalize=False)
    got = values(processor, image, input_range=(0, 10_000))
    np.testing.assert_allclose(got[0], image / 10_000, rtol=1e-6)
    assert messages(caplog) == [
        "Values outside input_range=(0.0, 10000.0) were scaled too, not clipped: 4 in 1 images."
    ]


def test_a_range_may_be_inverted_and_holds_for_eight_bits_too():
    image = noise(20, 24)
    processor = ViTImageProcessor(**SMALL, do_normalize=False)
    np.testing.assert_allclose(values(processor, image, input_range=(255, 0))[0, 0], 1 - image / 255, atol=1e-6)
    picture = values(processor, Image.fromarray(image), input_range=(0, 100))
    np.testing.assert_allclose(picture[0, 0], image / 100, rtol=1e-6)


@pytest.mark.parametrize("value", [(0, 0), (0, float("nan")), (1,), (0, 1, 2), 255.0])
def test_a_range_is_two_different_numbers(value):
    with pytest.raises(ConfigError, match="input_range"):
        ViTImageProcessor(input_range=value)
    with pytest.raises(ConfigError, match="input_range"):
        values(ViTImageProcessor(), noise(9, 9, 3), input_range=value)


def test_a_range_without_rescaling_is_refused():
    with pytest.raises(ConfigError, match="do_rescale is off"):
        ViTImageProcessor(input_range=(0, 1), do_rescale=False)
    with pytest.raises(ConfigError, match="do_rescale is off"):
        values(ViTImageProcessor(do_rescale=False), noise(9, 9, 3), input_range=(0, 1))


def test_alpha_of_unknown_white_is_refused():
    image = np.random.default_rng(0).random((9, 9, 4))
    with pytest.raises(ImageValueError, match="which value is white"):
        values(ViTImageProcessor(**SMALL, do_rescale=False), image, do_convert_rgb=True)
    levels = noise(9, 9, 4)
    got = values(ViTImageProcessor(**SMALL), levels / 255, do_convert_rgb=True, input_range=(0, 1))
    same(got, values(ViTImageProcessor(**SMALL), levels, do_convert_rgb=True))


# Lists, batches, tensors


def test_all_kinds_of_collections_are_batches():
    images = [noise(31 + i, 37, 3, seed=i) for i in range(3)]
    pictures = [Image.fromarray(image) for image in images]
    processor = ViTImageProcessor(**SMALL)
    wanted = np.concatenate([values(processor, image) for image in images])
    column = datasets.Dataset.from_dict({"image": pictures}).cast_column("image", datasets.Image())["image"]
    for many in (images, tuple(pictures), iter(pictures), column, [[pictures[0], images[1]], [pictures[2]]]):
        same(values(processor, many), wanted)
    equal = np.stack([images[0]] * 2)
    same(values(processor, [equal, torch.from_numpy(equal)]), np.concatenate([wanted[:1]] * 4))


def test_every_form_of_result():
    image = noise(31, 37, 3)
    processor = ViTImageProcessor(**SMALL)
    wanted = values(processor, image)
    tensor = processor(image, return_tensors="pt").pixel_values
    assert isinstance(tensor, torch.Tensor)
    same(tensor.numpy(), wanted)
    (plain,) = processor(image)["pixel_values"]
    same(plain, wanted[0])
    (own,) = processor(torch.from_numpy(image))["pixel_values"]
    assert isinstance(own, torch.Tensor)
    same(values(processor, image, data_format="channels_last"), np.moveaxis(wanted, 1, -1))
    assert processor(image, return_tensors="pt").to(torch.float16).pixel_values.dtype == torch.float16
    assert processor(image, return_tensors="pt", device="meta").pixel_values.device.type == "meta"


def test_different_shapes_make_a_list_or_an_error():
    images = [noise(9, 9, 3), noise(12, 8, 3)]
    processor = ViTImageProcessor(do_resize=False)
    assert [image.shape for image in processor(images)["pixel_values"]] == [(3, 9, 9), (3, 12, 8)]
    with pytest.raises(ImageShapeError, match="3 channels of 9x9, 3 channels of 12x8"):
        values(processor, images)
    padded = values(processor, images, do_pad=True)
    assert padded.shape == (2, 3, 12, 9)
    same(padded[0, :, :9], values(processor, images[0])[0])
    assert not padded[0, :, 9:].any()
    with pytest.raises(ImageShapeError, match=r"pad_size 10x10 is smaller than 1 of the 2 images \(12x8\)"):
        values(processor, images, do_pad=True, pad_size=10)


def test_an_empty_list_is_one_clear_error():
    for nothing in ([], (), [[]], np.zeros((0, 9, 9, 3), np.uint8)):
        with pytest.raises(ImageShapeError, match="no images were given"):
            values(ViTImageProcessor(), nothing)


def test_all_faulty_images_of_a_list_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    good, processor = noise(9, 9, 3), ViTImageProcessor(**SMALL)
    with pytest.raises(ImageReadError) as raised:
        values(processor, [good, tmp_path / "empty.png", good, noise(9, 9, 7), str(tmp_path / "gone.png")])
    assert str(raised.value).startswith("3 faulty images:")
    for line in ("image 1: ", "empty.png is not a picture: it is empty", "image 3: ", "image 4: there is no file"):
        assert line in str(raised.value)
    with pytest.raises(ImageReadError, match=r"^image 1: .*empty\.png is not a picture"):
        values(processor, [good, tmp_path / "empty.png"])
    Image.fromarray(noise(9, 9)).convert("I").save(tmp_path / "deep.tif")
    with pytest.raises(ImageValueError, match=r"^image 1 \(.*deep\.tif\): int32 does not say"):
        values(processor, [good, tmp_path / "deep.tif"])


@pytest.fixture
def on_a_device(monkeypatch):
    """Tensors take the way of those on a GPU, which any device with float64 can go."""
    monkeypatch.setattr(batch, "WITH_PILLOW", ())


CASES = {
    "uint8": (noise(31, 37, 3), {}),
    "channels first": (noise(3, 31, 37), {}),
    "grey": (noise(31, 37), {}),
    "alpha": (noise(31, 37, 4), {"do_convert_rgb": True}),
    "crop": (noise(31, 37, 3), {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": 25}),
    "pad": (noise(31, 37, 3), {"do_pad": True, "pad_size": 40}),
    "untouched": (noise(31, 37, 3), {"do_rescale": False, "do_normalize": False}),
    "last": (noise(31, 37, 3), {"data_format": "channels_last"}),
    "bool": (noise(31, 37, high=2).astype(bool), {}),
    "uint16": (noise(31, 37, 3, dtype=np.uint16, high=65536), {}),
    "int16": (noise(31, 37, 3, dtype=np.int16, high=3000), {"input_range": (0, 2500)}),
    "float": (np.random.default_rng(0).random((31, 37, 3), np.float32), {"input_range": (0, 1)}),
    "whole floats": (noise(31, 37, 3, dtype=np.float32), {}),
    "raw": (np.random.default_rng(0).random((31, 37, 3), np.float32), {"do_rescale": False}),
    "alpha floats": (
        np.random.default_rng(0).random((31, 37, 4), np.float32),
        {"do_convert_rgb": True, "input_range": (0, 1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tensors_on_devices_give_the_same_numbers(case, on_a_device):
    """8 bits exactly; others to 2e-6, float32 rounding of values of order one in another order (see resizing)."""
    image, options = CASES[case]
    processor = ViTImageProcessor(**SMALL)
    wanted = values(processor, image, **options)
    got = processor(torch.from_numpy(image), return_tensors="pt", **options).pixel_values
    assert isinstance(got, torch.Tensor)
    if image.dtype in (np.uint8, bool) or case == "whole floats":
        same(got.numpy(), wanted)
    else:
        np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=2e-6)


def test_bfloat16_and_gradients(on_a_device, monkeypatch):
    image = torch.rand(3, 31, 37, requires_grad=True)
    processor = ViTImageProcessor(**SMALL)
    wanted = processor(image.detach(), return_tensors="pt", input_range=(0, 1)).pixel_values
    assert torch.equal(processor(image, return_tensors="pt", input_range=(0, 1)).pixel_values, wanted)
    half = image.detach().to(torch.bfloat16)
    got = processor(half, return_tensors="pt", input_range=(0, 1)).pixel_values
    # bfloat16 holds 8 bits: half a step of 2**-8 near one, over the standard deviation of 0.5
    torch.testing.assert_close(got, wanted, rtol=0, atol=2**-8)
    monkeypatch.undo()
    torch.testing.assert_close(
        processor(half, return_tensors="pt", input_range=(0, 1)).pixel_values, got, rtol=0, atol=2e-6
    )


def test_images_of_two_devices_need_a_device():
    images = [torch.zeros(3, 9, 9, dtype=torch.uint8), torch.zeros(3, 9, 9, dtype=torch.uint8, device="meta")]
    with pytest.raises(ConfigError, match="the images are on cpu and meta: say where to with device="):
        ViTImageProcessor(**SMALL)(images, return_tensors="pt")


# Options


def test_misspelt_options_are_refused_with_a_suggestion(tmp_path):
    for wrong in (
        lambda: ViTImageProcessor(do_resise=True),
        lambda: values(ViTImageProcessor(), noise(9, 9, 3), do_resise=True),
        lambda: ViTImageProcessor.from_pretrained(tmp_path, do_resise=False),
    ):
        ViTImageProcessor().save_pretrained(tmp_path)
        with pytest.raises(UnknownNameError, match="'do_resise' is no option; did you mean 'do_resize'"):
            wrong()
    with pytest.raises(UnknownNameError, match="2 faults:"):
        ViTImageProcessor(do_resise=True, image_maen=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_resize": "yes"}, "do_resize='yes'"),
        ({"image_mean": "grey"}, "image_mean='grey'"),
        ({"size": {"side": 3}}, "size"),
        ({"size": {"height": 3}}, "size"),
        ({"crop_size": {"shortest_edge": 3}}, "crop_size must be"),
        ({"resample": 9}, "resample"),
        ({"input_data_format": "HWC"}, 'input_data_format must be "channels_first" or "channels_last"'),
        ({"image_mean": [0.5, 0.5]}, "one value per channel: image_mean has 2, image_std has 3"),
        ({"image_std": [0.5, 0.0, 0.5]}, "must not be 0"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean must be finite"),
        ({"image_mean": [0.5], "image_std": [0.5], "do_convert_rgb": True}, "makes 3 channels, but 1 are wanted"),
        ({"bands": ["a", "a", "b"]}, "a name twice"),
        ({"return_tensors": "tf"}, "return_tensors"),
    ],
)
def test_values_that_cannot_work_are_refused_when_made_and_when_called(options, message):
    with pytest.raises(ConfigError, match=message):
        ViTImageProcessor(**options)
    if "bands" not in options:  # which say something else in a call
        with pytest.raises(ConfigError, match=message):
            ViTImageProcessor()(noise(9, 9, 3), **options)


def test_every_fault_of_a_call_is_listed_at_once():
    with pytest.raises(ConfigError) as raised:
        values(ViTImageProcessor(image_mean=[0.5] * 3), noise(9, 9, 3), size={"longest_edge": 4}, do_center_crop=True)
    assert str(raised.value).startswith("2 faults:")
    assert "do_center_crop=True needs crop_size" in str(raised.value)
    assert "size must be {height, width}" in str(raised.value)


def test_numpy_numbers_and_whole_numbers_are_numbers():
    image = noise(31, 37, 3)
    got = ViTImageProcessor(
        size=(np.int64(20), 24), image_mean=np.array([0, 0, 0]), image_std=(1, np.float32(1), 1), rescale_factor=1
    )
    wanted = ViTImageProcessor(**SMALL, image_mean=[0.0] * 3, image_std=[1.0] * 3, rescale_factor=1.0)
    same(values(got, image), values(wanted, image))
    assert json.loads(got.to_json_string()) == json.loads(wanted.to_json_string())


def test_options_of_a_call_and_of_an_attribute_hold():
    image, processor = noise(31, 37, 3), ViTImageProcessor()
    assert values(processor, image, size=30).shape == (1, 3, 30, 30)
    processor.size = {"height": 8, "width": 9}  # as notebooks do
    processor.image_mean = np.array([0.1, 0.2, 0.3])
    wanted = ViTImageProcessor(size={"height": 8, "width": 9}, image_mean=[0.1, 0.2, 0.3])
    same(values(processor, image), values(wanted, image))


def test_copies_are_independent_and_survive_pickling():
    processor = ViTImageProcessor(**SMALL)
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert other.to_dict() == processor.to_dict()
        other.size["height"] = 3
    assert processor.size["height"] == 20
    assert ViTImageProcessor().size["height"] == 224


# Files


def test_what_is_saved_is_what_transformers_saves(tmp_path):
    for options in (o for o in OPTIONS.values() if not {"do_center_crop", "do_pad"} & o.keys()):
        ViTImageProcessor(**options).save_pretrained(tmp_path)
        ours = json.loads((tmp_path / "preprocessor_config.json").read_text())
        ViTImageProcessorPil(**options).save_pretrained(tmp_path)
        assert ours == json.loads((tmp_path / "preprocessor_config.json").read_text())
        again = ViTImageProcessor.from_pretrained(tmp_path)
        assert again.to_dict() == ViTImageProcessor(**options).to_dict()


def test_files_of_other_versions_load_and_keep_what_they_say(tmp_path):
    contents = {  # as version 4 wrote them, and before
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_processor_type": "ViTFeatureExtractor",
        "_valid_processor_keys": ["images"],
        "processor_class": "TrOCRProcessor",
        "do_convert_rgb": None,
        "do_normalize": True,
        "image_mean": [0, 0.5, 1],
        "size": 32,
        "crop_pct": 0.9,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(contents))
    processor = ViTImageProcessor.from_pretrained(tmp_path, image_std=[1.0, 1.0, 1.0])
    assert dict(processor.size) == {"height": 32, "width": 32}
    assert tuple(processor.image_mean) == (0.0, 0.5, 1.0)
    saved = processor.to_dict()
    assert saved["crop_pct"] == 0.9
    assert saved["image_processor_type"] == "ViTImageProcessor"
    assert not {"_valid_processor_keys", "processor_class", "feature_extractor_type", "do_convert_rgb"} & saved.keys()
    loaded, unused = ViTImageProcessor.from_pretrained(tmp_path, do_resize=False, colour=3, return_unused_kwargs=True)
    assert (loaded.do_resize, unused) == (False, {"colour": 3})


def test_own_options_never_travel_under_a_shared_name(tmp_path):
    image = noise(2, 31, 37, dtype=np.uint16, high=10_000)
    options = {"bands": ["red", "nir"], "input_range": (0, 10_000), "image_mean": [0.1, 0.3], "image_std": [0.1, 0.2]}
    for kind in (ViTImageProcessor, MultispectralImageProcessor):
        processor = kind(**SMALL, **options)
        processor.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert saved["image_processor_type"] == "MultispectralImageProcessor"
        assert (saved["bands"], saved["input_range"]) == (["red", "nir"], [0.0, 10_000.0])
        loaded = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(loaded) is MultispectralImageProcessor
        same(values(loaded, image), values(processor, image))
    processor = ViTImageProcessor(**SMALL)
    values(processor, noise(9, 9, 3) / 255, input_range=(0, 1))  # of the call alone
    assert processor.to_dict() == ViTImageProcessorPil(**SMALL).to_dict()


def test_what_transformers_would_read_and_not_do_is_refused_or_said(tmp_path, caplog):
    with pytest.raises(ConfigError, match="ignores a stored data_format"):
        ViTImageProcessor(data_format="channels_last").save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    ViTImageProcessor(do_center_crop=True, crop_size=20).save_pretrained(tmp_path)
    assert messages(caplog) == [
        "do_center_crop is saved: transformers 5 reads it, version 4 ignores it in a ViTImageProcessor."
    ]


@pytest.mark.parametrize("backend", [None, "pil"])
def test_models_of_others_get_transformers_own_processor(backend, tmp_path, caplog, capfd):
    """The class name is shared by many families; the config beside the file tells whose it is."""
    from hfvision.models.vit import ViTConfig

    encoder = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    decoder = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    configs = {
        "vit": ViTConfig(),
        "vit_mae": transformers.ViTMAEConfig(),
        "composite": transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder),
        "none": None,
    }
    chosen = {} if backend is None else {"backend": backend}
    with caplog.at_level(logging.WARNING):
        for name, config in configs.items():
            folder = tmp_path / name / "sub"
            ViTImageProcessor(**SMALL).save_pretrained(folder)
            if config is not None:
                config.save_pretrained(folder)
            for place, more in (
                (folder, {}),
                (folder / "preprocessor_config.json", {}),
                (tmp_path / name, {"subfolder": "sub"}),
            ):
                loaded, unused = AutoImageProcessor.from_pretrained(
                    place, resample=3, spare=1, return_unused_kwargs=True, **more, **chosen
                )
                assert type(loaded) is (ViTImageProcessor if name in ("vit", "none") else ViTImageProcessorPil), name
                assert (loaded.resample, dict(loaded.size), unused["spare"]) == (3, SMALL["size"], 1)
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))
    assert type(ViTImageProcessor.from_pretrained(tmp_path / "vit_mae" / "sub")) is ViTImageProcessor


def test_the_backend_that_is_asked_for_decides_which_class_of_transformers_it_is(monkeypatch):
    """AutoImageProcessor takes its class from here by backend; without torchvision there is but one choice."""
    named = SimpleNamespace(ViTImageProcessor="with torchvision", ViTImageProcessorPil="with Pillow")
    monkeypatch.setattr(base, "transformers", named)
    classes = ViTImageProcessor.auto_classes()
    for there, wanted in {True: ("with torchvision", "with Pillow"), False: ("with Pillow", "with Pillow")}.items():
        monkeypatch.setattr(base, "is_torchvision_available", lambda there=there: there)
        assert tuple(classes[name]._transformers_class() for name in ("torchvision", "pil")) == wanted
    assert MultispectralImageProcessor._transformers_class() is None


def test_a_config_on_the_hub_is_read_from_the_cache_and_missing_ones_are_not_an_error(tmp_path):
    """Offline, with a repository in the cache: what snapshot_download leaves."""
    for name, config in {"theirs": {"model_type": "vit_mae"}, "bare": None}.items():
        snapshot = tmp_path / f"models--someone--{name}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
        ViTImageProcessor(**SMALL).to_json_file(snapshot / "preprocessor_config.json")
        if config is not None:
            (snapshot / "config.json").write_text(json.dumps(config))
        loaded = AutoImageProcessor.from_pretrained(f"someone/{name}", cache_dir=tmp_path, local_files_only=True)
        assert type(loaded) is (ViTImageProcessorPil if name == "theirs" else ViTImageProcessor)


# Bands


def test_bands_are_picked_and_ordered_by_name(caplog):
    processor = MultispectralImageProcessor(
        **SMALL, bands=["B04", "B03", "B02"], image_mean=[0.3, 0.2, 0.1], image_std=0.5, input_range=(0, 10_000)
    )
    image = noise(5, 31, 37, dtype=np.uint16, high=10_000)
    names = ["B01", "B02", "B03", "B04", "B08"]
    wanted = values(processor, image[[3, 2, 1]])
    for given in (image, image.transpose(1, 2, 0), torch.from_numpy(image)):
        same(values(processor, given, bands=names), wanted)
    same(values(processor, image[[3, 2, 1]], bands=["B04", "B03", "B02"]), wanted)
    assert messages(caplog) == [
        "Images have more bands than this processor takes; only its own were kept: 1 in this call."
    ]
    rgb = noise(31, 37, 3)
    same(
        values(processor, Image.fromarray(rgb), bands=["B02", "B03", "B04"], input_range=(0, 255)),
        values(processor, rgb[..., ::-1], input_range=(0, 255)),
    )


def test_bands_that_are_missing_or_not_named_are_refused():
    processor = MultispectralImageProcessor(**SMALL, bands=["B04", "B08"], image_mean=0.5, image_std=0.5)
    image = noise(2, 31, 37)
    assert values(processor, image).shape == (1, 2, 20, 24)
    with pytest.raises(ImageShapeError, match="the images lack B04: this processor takes B04, B08, they have B02, B08"):
        values(processor, image, bands=["B02", "B08"])
    with pytest.raises(ImageShapeError, match=r"has 2 or 37 channels; bands=\['B04', 'B08', 'B11'\] names 3"):
        values(processor, image, bands=["B04", "B08", "B11"])
    with pytest.raises(ImageShapeError, match="3 or 37 channels; 2 are wanted, because bands names 2"):
        values(processor, noise(3, 31, 37))
    with pytest.raises(ConfigError, match="no bands of its own"):
        values(ViTImageProcessor(), noise(9, 9, 3), bands=["r", "g", "b"])
    with pytest.raises(ConfigError, match="image_mean has 3, image_std has 3, bands has 2"):
        ViTImageProcessor(bands=["a", "b"])
    with pytest.raises(ConfigError, match="do_normalize=True needs image_mean"):
        values(MultispectralImageProcessor(**SMALL, bands=["a", "b"]), image)


def test_every_refusal_is_of_one_family_and_a_value_error_where_transformers_raises_one():
    with pytest.raises(HfvisionError):
        ViTImageProcessor()([])
    for raise_it in (lambda: ViTImageProcessor()([]), lambda: ViTImageProcessor(resample=9)):
        with pytest.raises(ValueError):
            raise_it()
