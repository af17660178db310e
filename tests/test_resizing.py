"""Resizing is Pillow's, bit for bit in 8 bits, on tensors too; sizes are transformers'."""

import math

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import SizeDict, get_image_size_for_max_height_width

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.processing.resizing import Resampling, centre_window, output_size, planes, resize, resize_tensor

FILTERS = [Resampling.NEAREST, *[f for f in list(Resampling)[:6] if f != Resampling.NEAREST]]
# (H, W) -> (h, w): down, up, one axis each way, one pixel, unchanged axes, rows reduced much more than columns
SIZES = [
    ((57, 83), (24, 31)),
    ((19, 13), (64, 57)),
    ((40, 23), (17, 61)),
    ((23, 40), (61, 17)),
    ((5, 7), (1, 1)),
    ((1, 1), (6, 9)),
    ((31, 47), (31, 20)),
    ((47, 31), (20, 31)),
    ((90, 40), (21, 33)),
    ((200, 51), (40, 49)),
    ((33, 34), (33, 34)),
]


def pixels(kind, channels, height, width, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "edges":  # black and white: the filters overshoot, every clip and the order of the passes show
        return rng.integers(0, 2, (channels, height, width), dtype=np.uint8) * np.uint8(255)
    return rng.integers(0, 256, (channels, height, width), dtype=np.uint8)


def pillows(band, size, resample):
    return np.asarray(Image.fromarray(np.ascontiguousarray(band)).resize(size[::-1], resample))


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_eight_bits_equal_pillow_bit_for_bit_whatever_holds_them(old, new, resample):
    for kind in ("noise", "edges"):
        image = pixels(kind, 3, *old)
        wanted = np.stack([pillows(band, new, resample) for band in image])
        np.testing.assert_array_equal(resize(image, new, resample), wanted)
        np.testing.assert_array_equal(resize(image.transpose(1, 2, 0).copy().transpose(2, 0, 1), new, resample), wanted)
        np.testing.assert_array_equal(resize(Image.fromarray(image.transpose(1, 2, 0)), new, resample), wanted)
        np.testing.assert_array_equal(resize(torch.from_numpy(image), new, resample).numpy(), wanted)
        batch = torch.from_numpy(image).expand(2, 3, *old)
        np.testing.assert_array_equal(resize_tensor(batch, new, resample)[1].numpy(), wanted)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_any_number_of_bands_is_resized_band_by_band(channels):
    image = pixels("noise", channels, 30, 41)
    wanted = np.stack([pillows(band, (16, 52), Resampling.BICUBIC) for band in image])
    np.testing.assert_array_equal(resize(image, (16, 52), Resampling.BICUBIC), wanted)
    np.testing.assert_array_equal(resize(torch.from_numpy(image), (16, 52), Resampling.BICUBIC).numpy(), wanted)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_floats_equal_pillows_mode_f(old, new, resample):
    """Arrays exactly; tensors to 3e-7 of the largest value: both add in float64, in another order, and round each of
    two passes to float32 (2**-24 relative, doubled where the two roundings meet)."""
    image = np.random.default_rng(1).normal(0, 100, (2, *old)).astype(np.float32)
    wanted = np.stack([pillows(band, new, resample) for band in image])
    np.testing.assert_array_equal(resize(image, new, resample), wanted)
    got = resize(torch.from_numpy(image), new, resample)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=3e-7 * np.abs(image).max())


def test_larger_images_equal_pillow_as_well():
    rng = np.random.default_rng(2)
    for resample in FILTERS[1:]:
        old, new = rng.integers(300, 500, 2), tuple(int(n) for n in rng.integers(100, 400, 2))
        image = pixels("edges", 1, *old, seed=3)
        np.testing.assert_array_equal(
            resize(torch.from_numpy(image), new, resample).numpy(), resize(image, new, resample)
        )


def test_the_order_of_the_passes_matters_in_eight_bits():
    """So the tests above check it: where Pillow 13 takes columns first, rows first gives another picture."""
    image = torch.from_numpy(pixels("edges", 1, 90, 40))
    rows_first = resize_tensor(resize_tensor(image, (90, 33), Resampling.BICUBIC), (21, 33), Resampling.BICUBIC)
    got = resize_tensor(image, (21, 33), Resampling.BICUBIC)
    assert torch.equal(rows_first, got) == (int(PIL.__version__.split(".")[0]) < 13)


def test_results_are_never_the_input_changed_in_place():
    image = pixels("noise", 3, 20, 20)
    before = image.copy()
    resize(image, (7, 9), Resampling.BILINEAR)
    resize(torch.from_numpy(image), (7, 9), Resampling.BILINEAR)
    np.testing.assert_array_equal(image, before)


def test_planes_are_channels_first():
    image = pixels("noise", 3, 5, 8)
    np.testing.assert_array_equal(planes(Image.fromarray(image.transpose(1, 2, 0))), image)
    assert planes(Image.new("L", (8, 5))).shape == (1, 5, 8)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (333, 333), (7, 500), (500, 7), (224, 100)])
@pytest.mark.parametrize("edge", [7, 100, 224, 333])
def test_sizes_are_transformers(height, width, edge):
    photo = np.zeros((3, height, width), np.uint8)
    wanted = get_resize_output_image_size(photo, edge, default_to_square=False, input_data_format="channels_first")
    assert output_size(height, width, SizeDict(shortest_edge=edge)) == wanted
    for longest in (edge, edge + 13, 4 * edge):
        wanted = get_size_with_aspect_ratio((height, width), edge, longest)
        if min(wanted) > 0:
            assert output_size(height, width, SizeDict(shortest_edge=edge, longest_edge=longest)) == wanted
    wanted = get_image_size_for_max_height_width((height, width), edge, 2 * edge)
    if min(wanted) > 0:
        assert output_size(height, width, SizeDict(max_height=edge, max_width=2 * edge)) == wanted
    assert output_size(height, width, SizeDict(height=edge, width=9)) == (edge, 9)


def test_sizes_that_cannot_be():
    with pytest.raises(ImageShapeError, match=r"leaves 0x5 pixels of an image of 1x500"):
        output_size(1, 500, SizeDict(max_height=5, max_width=5))
    with pytest.raises(ConfigError, match="size must be"):
        output_size(10, 10, SizeDict(longest_edge=5))


@pytest.mark.parametrize(("length", "wanted"), [(10, 4), (10, 5), (11, 4), (4, 10), (5, 10), (4, 11), (6, 6)])
def test_a_centre_window_takes_the_middle(length, wanted):
    taken, placed = centre_window(length, wanted)
    row = np.zeros(wanted)
    row[placed] = np.arange(1, length + 1)[taken]
    kept = row[row > 0]
    assert len(kept) == min(length, wanted)
    before, after = (kept[0] - 1, length - kept[-1]) if length >= wanted else (np.argmax(row > 0), 0)
    assert before == (math.floor if length >= wanted else math.ceil)(abs(length - wanted) / 2)
    assert length < wanted or after == length - wanted - before
