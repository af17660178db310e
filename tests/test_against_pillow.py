"""Pictures against Pillow itself, over thousands of small random cases: resizing with every filter, cut-outs of it,
nearest neighbours, turns by EXIF, modes and palettes, polygons.

Where hfvision repeats Pillow's arithmetic the numbers are equal; the few definitions that differ are named by a test.
"""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

import hfvision
from hfvision import reporting
from hfvision.geometry import nearest_places, polygons_to_mask
from hfvision.processing.channels import alpha_onto_white
from hfvision.processing.label_reading import read_labels
from hfvision.processing.reading import image_size, read_image
from hfvision.processing.resizing import WITH_ALPHA, Resampling, centre_window, planes, resize, resize_tensor
from tests.outlines import near_edges

FILTERS = [
    Resampling.NEAREST,
    Resampling.BOX,
    Resampling.BILINEAR,
    Resampling.HAMMING,
    Resampling.BICUBIC,
    Resampling.LANCZOS,
]
BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4, "YCbCr": 3, "HSV": 3}  # 8-bit modes


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


def sides(generator, most=40):
    """Two sizes (H, W): up, down, or one of each; odd, even and of one pixel."""
    old, new = generator.integers(1, most, (2, 2))
    kept = generator.random(2) < 0.1
    return tuple(map(int, old)), tuple(map(int, np.where(kept, old, new)))


def bytes_of(generator, shape):
    """Noise, or black and white, where filters overshoot and clip."""
    if generator.random() < 0.5:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)


def picture(pixels, mode):
    """(H, W, C) as a PIL image of a mode."""
    return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())


@pytest.mark.parametrize("resample", FILTERS, ids=lambda one: one.name)
def test_resized_bytes_are_pillows_in_every_mode(resample):
    """Modes with alpha band by band: Pillow itself would multiply by the last band, which need not be alpha."""
    generator = np.random.default_rng(int(resample))
    for mode, _ in itertools.product(BANDS, range(40)):
        old, new = sides(generator)
        pixels = bytes_of(generator, (*old, BANDS[mode]))
        if mode in WITH_ALPHA:
            bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1)]
            expected = np.stack([np.asarray(band.resize(new[::-1], resample)) for band in bands])
        else:
            expected = planes(picture(pixels, mode).resize(new[::-1], resample))
        np.testing.assert_array_equal(resize(picture(pixels, mode), new, resample), expected)
        np.testing.assert_array_equal(resize(pixels.transpose(2, 0, 1), new, resample), expected)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        np.testing.assert_array_equal(resize_tensor(tensor, new, resample).numpy(), expected)


@pytest.mark.parametrize("resample", FILTERS, ids=lambda one: one.name)
def test_resized_floats_are_pillows(resample):
    """Tensors to 3e-7 of the largest value (see test_resizing); arrays exactly."""
    generator = np.random.default_rng(10 + int(resample))
    for _ in range(150):
        old, new = sides(generator)
        values = (generator.normal(0, 1, old) * generator.choice([1e-3, 1, 1e6])).astype(np.float32)
        expected = np.asarray(Image.fromarray(values).resize(new[::-1], resample))
        np.testing.assert_array_equal(resize(values[None], new, resample)[0], expected)
        got = resize_tensor(torch.from_numpy(values), new, resample).numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-7 * np.abs(values).max())


@pytest.mark.parametrize("resample", FILTERS, ids=lambda one: one.name)
def test_sixteen_bits_are_resized_as_floats_and_pillow_rounds_them(resample):
    """Pictures of 16 bits keep what lies between two numbers: what a processor makes of them is mode F's. Pillow's own
    mode I;16 rounds after each pass and clips: it is within 1 of 65,535 grey levels where nothing overshoots."""
    generator = np.random.default_rng(20 + int(resample))
    process = hfvision.ViTImageProcessor(do_normalize=False, resample=int(resample), image_mean=[0.0], image_std=[1.0])
    for _ in range(12):
        old, new = sides(generator)
        deep = generator.integers(0, 1 << 16, old, dtype=np.uint16)
        size = {"height": new[0], "width": new[1]}
        own = process(images=Image.fromarray(deep), size=size, return_tensors="np")["pixel_values"][0, 0]
        levels = np.asarray(
            Image.fromarray(deep.astype(np.float32) * np.float32(255 / 65535)).resize(new[::-1], resample)
        )
        np.testing.assert_allclose(own, levels / 255, rtol=0, atol=2e-6)
        rounded = np.asarray(Image.fromarray(deep).resize(new[::-1], resample)).astype(float) / 65535
        if resample in (Resampling.BOX, Resampling.BILINEAR, Resampling.HAMMING):  # the others overshoot
            np.testing.assert_allclose(own, rounded, rtol=0, atol=1.1 / 65535)


@pytest.mark.parametrize("resample", FILTERS[1:], ids=lambda one: one.name)
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "F"])
def test_a_part_of_a_picture_is_resized_as_pillow_does(mode, resample):
    """Boxes with fractions of pixels, as drafts of JPEGs have them; what lies outside a box is no neighbour."""
    generator = np.random.default_rng(30)
    for _ in range(25):
        old, new = sides(generator)
        across, down = (np.sort(generator.uniform(0, side, 2)) for side in old[::-1])
        if min(across[1] - across[0], down[1] - down[0]) < 0.5:
            continue
        box = (across[0], down[0], across[1], down[1])
        pixels = bytes_of(generator, (*old, BANDS.get(mode, 1)))
        if mode == "F":
            pixels = pixels.astype(np.float32)
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1)]
        expected = np.stack([np.asarray(band.resize(new[::-1], resample, box)) for band in bands])
        np.testing.assert_array_equal(resize(pixels.transpose(2, 0, 1), new, resample, box), expected)
        if mode != "F":
            np.testing.assert_array_equal(resize(picture(pixels, mode), new, resample, box), expected)


def test_nearest_neighbours_are_pillows_at_every_size():
    for length, wanted in itertools.product(range(1, 60), repeat=2):
        row = Image.fromarray(np.arange(length, dtype=np.uint8)[None])
        expected = np.asarray(row.resize((wanted, 1), Resampling.NEAREST))[0]
        np.testing.assert_array_equal(nearest_places(length, wanted), expected)
    generator = np.random.default_rng(3)
    for length, wanted in generator.integers(1, 5000, (200, 2)).tolist():
        row = Image.fromarray(np.arange(length, dtype=np.int32)[None])
        expected = np.asarray(row.resize((wanted, 1), Resampling.NEAREST))[0]
        np.testing.assert_array_equal(nearest_places(length, wanted), expected)


def test_nearest_neighbours_do_not_depend_on_the_dtype():
    """In mode I;16 alone, Pillow multiplies where it adds up steps in all others, so that its neighbours differ where a
    centre falls on the border of two pixels, or so near to it that only rounding decides."""
    for length, wanted in itertools.product(range(1, 60), repeat=2):
        row = Image.fromarray(np.arange(length, dtype=np.uint16)[None])
        theirs = np.asarray(row.resize((wanted, 1), Resampling.NEAREST))[0].astype(int)
        centres = (np.arange(wanted) + 0.5) * length / wanted
        is_clear = np.abs(centres - np.rint(centres)) > 1e-9
        np.testing.assert_array_equal(nearest_places(length, wanted)[is_clear], theirs[is_clear])
        assert np.abs(nearest_places(length, wanted) - theirs).max() <= 1


def test_a_crop_to_the_middle_is_pillows_crop():
    """`ImageOps.fit`'s and torchvision's middle: where a pixel is left over, it is cut off at the end."""
    for length, wanted in itertools.product(range(1, 30), repeat=2):
        row = Image.fromarray(np.arange(1, length + 1, dtype=np.uint8)[None])
        taken, placed = centre_window(length, wanted)
        cropped = np.zeros(wanted, np.uint8)
        cropped[placed] = np.asarray(row)[0, taken]
        start = (length - wanted) // 2  # below 0, Pillow fills with black
        np.testing.assert_array_equal(cropped, np.asarray(row.crop((start, 0, start + wanted, 1)))[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_pictures_are_turned_upright_as_pillow_does(kind, orientation):
    generator = np.random.default_rng(orientation)
    for mode in ("RGB",) if kind == "WEBP" else ("RGB", "L"):
        stored, exif, file = bytes_of(generator, (5, 9, BANDS[mode])), Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        lossless = {"lossless": True} if kind == "WEBP" else {}
        picture(stored, mode).save(file, kind, exif=exif, **lossless)
        upright = ImageOps.exif_transpose(Image.open(file))
        np.testing.assert_array_equal(np.asarray(read_image(file.getvalue())), np.asarray(upright))
        assert image_size(file.getvalue()) == (upright.height, upright.width)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_numbers_of_label_maps_are_the_indices_of_palettes(kind):
    """Whatever the palette shows, and however few bits a pixel has."""
    generator = np.random.default_rng(5)
    for _ in range(30):
        colors = int(generator.choice([2, 3, 4, 15, 16, 17, 256]))
        labels = generator.integers(0, colors, generator.integers(1, 20, 2), dtype=np.uint8)
        image = Image.fromarray(labels).convert("L")
        image.putpalette(generator.integers(0, 256, 3 * colors, dtype=np.uint8).tobytes())
        options = {"optimize": False} if kind == "GIF" else {}
        content = saved(image, kind, **options)
        with Image.open(io.BytesIO(content)) as read:
            assert read.mode == "P"
            np.testing.assert_array_equal(np.asarray(read), labels)
        np.testing.assert_array_equal(read_labels(content), labels)


def test_palettes_are_their_colors_where_colors_are_wanted():
    generator = np.random.default_rng(6)
    process = hfvision.ViTImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    for see_through in (None, 3, bytes(range(0, 256, 16))):
        for _ in range(20):
            image = Image.fromarray(generator.integers(0, 16, generator.integers(1, 12, 2), dtype=np.uint8))
            image.putpalette(generator.integers(0, 256, 48, dtype=np.uint8).tobytes())
            content = saved(image, "PNG", **({} if see_through is None else {"transparency": see_through}))
            expected = planes(Image.open(io.BytesIO(content)).convert("RGBA").convert("RGB"))
            got = process(images=content, return_tensors="np")["pixel_values"][0]
            np.testing.assert_array_equal(got, expected)


def test_grey_is_pillows():
    """The processor's own where colors meet a model of one channel, and that of arrays from files within rounding."""
    generator = np.random.default_rng(7)
    process = hfvision.ViTImageProcessor(do_resize=False, do_rescale=False, image_mean=[0.0], image_std=[1.0])
    for mode in ("RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        for _ in range(20):
            image = picture(bytes_of(generator, (*generator.integers(1, 12, 2), BANDS[mode])), mode)
            expected = np.asarray(image.convert("RGB").convert("L"))
            got = process(images=image, return_tensors="np")["pixel_values"][0, 0]
            np.testing.assert_array_equal(got, expected)


def test_alpha_on_white_is_pillows_within_a_level():
    """Here mixed in float64 and rounded once, as transformers does it; Pillow works in 8 bits."""
    generator = np.random.default_rng(8)
    for _ in range(200):
        pixels = generator.integers(0, 256, (*generator.integers(1, 12, 2), 4), dtype=np.uint8)
        image = Image.fromarray(pixels)
        laid = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        own = alpha_onto_white(pixels.transpose(2, 0, 1)).astype(int)
        assert np.abs(own - planes(laid)).max() <= 1


def test_polygons_are_pillows_but_for_the_pixels_of_the_outline():
    """Pillow's corners are pixels, and it paints all of the outline; COCO's, and ours, are points between pixels.
    With that shift of half a pixel only pixels differ that the outline passes through or touches with a corner."""
    generator = np.random.default_rng(9)
    for _ in range(400):
        size = tuple(generator.integers(8, 40, 2).tolist())
        corners = generator.uniform(0, 1, (generator.integers(3, 8), 2)) * size[::-1]
        canvas = Image.new("1", size[::-1])
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners - 0.5], fill=1)
        differ = polygons_to_mask([corners], size) != np.asarray(canvas)
        assert not (differ & ~near_edges(corners, size, 1.75)).any()
