"""Every way an image can be odd x every image processor: the pixels that the model gets and its answer, or one clear
error.

The table INPUTS says what each kind of image amounts to: grey levels (H, W, 3), written out by hand, or an error.
Images are as large as the models want them, so that no resizing blurs the comparison; sizes have their own table.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hfvision import reporting
from hfvision.errors import (
    ConfigError,
    HfvisionError,
    ImageReadError,
    ImageShapeError,
    ImageValueError,
)
from hfvision.registry import ARCHITECTURES, load
from tests.models import CLASSIFIERS, tiny_model

RNG = np.random.default_rng(0)
SIDE = 32
RGB = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
OTHER = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
SEEN = RNG.integers(0, 2, (SIDE, SIDE), dtype=np.uint8) * 255  # alpha: a pixel is there or not
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
FINE = RNG.uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
FORMATS = ("PNG", "JPEG", "GIF", "WebP", "TIFF", "BMP")


def grey(levels):
    return np.repeat(np.asarray(levels, np.float64)[..., None], 3, axis=2)


def on_white(levels):
    return np.where(SEEN[..., None] == 255, levels, 255)


def indexed(transparency=None):
    image = Image.fromarray(GREY)
    image.putpalette(PALETTE.tobytes())  # makes it mode P
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def with_alpha(levels):
    return np.dstack([levels, SEEN])


def file(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def turned():
    """As a camera held sideways stores it; orientation 6 says: turn by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(Image.fromarray(np.rot90(RGB)), exif=exif)


def film(kind):
    frames = [Image.fromarray(array) for array in (RGB, OTHER)]
    if kind == "GIF":
        frames = [indexed(), Image.fromarray(OTHER).quantize()]
    options = {"lossless": True} if kind == "WebP" else {}
    return file(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@dataclass
class Kind:
    """`image` amounts to `levels`, or to `white` for processors that lay alpha on white; or raises."""

    image: Any
    levels: Any = None
    white: Any = None
    error: type[HfvisionError] | None = None
    said: str = ""
    white_too: bool = True  # False: processors that lay alpha on white take it
    options: dict[str, Any] = field(default_factory=dict)  # of the processor


def broken(value):
    image = FINE.copy()
    image[3, 4, 1] = value
    return Kind(image, error=ImageValueError, said=f"1 of 3,072 values are NaN or infinite, .*row 3, column 4 .{value}")


def refused(image, error, said, **more):
    return Kind(image, error=error, said=said, **more)


def of_bands(count):
    return RNG.integers(0, 256, (SIDE, SIDE, count), dtype=np.uint8)


INPUTS = {
    # PIL images by mode
    "PIL RGB": Kind(Image.fromarray(RGB), RGB),
    "PIL 1": Kind(Image.fromarray(GREY > 127), grey(255 * (GREY > 127))),
    "PIL L": Kind(Image.fromarray(GREY), grey(GREY)),
    "PIL P": Kind(indexed(), PALETTE[GREY]),
    "PIL P, one index transparent": Kind(indexed(7), PALETTE[GREY], np.where(GREY[..., None] == 7, 255, PALETTE[GREY])),
    "PIL P, an alpha for each index": Kind(
        indexed(bytes([0, 255] * 128)), PALETTE[GREY], np.where(GREY[..., None] % 2 == 0, 255, PALETTE[GREY])
    ),
    "PIL LA": Kind(Image.fromarray(np.dstack([GREY, SEEN])), grey(GREY), on_white(grey(GREY))),
    "PIL RGBA": Kind(Image.fromarray(with_alpha(RGB)), RGB, on_white(RGB)),
    "PIL CMYK": Kind(Image.fromarray(np.dstack([255 - RGB, 0 * GREY]), mode="CMYK"), RGB),
    "PIL I;16": Kind(Image.fromarray(DEEP), grey(DEEP / 257)),
    "PIL I": refused(Image.fromarray(DEEP.astype(np.int32)), ImageValueError, r"int32 does not say .*input_range="),
    "PIL F": Kind(Image.fromarray(FINE[..., 0]), grey(FINE[..., 0])),
    # files
    "file, EXIF orientation": Kind(turned(), RGB),
    "file, animated GIF": Kind(film("GIF"), PALETTE[GREY]),
    "file, animated WebP": Kind(film("WebP"), RGB),
    "file, 16 bits": Kind(file(Image.fromarray(DEEP)), grey(DEEP / 257)),
    **{f"file, {kind}": Kind(file(Image.fromarray(RGB), kind), RGB) for kind in ("PNG", "TIFF", "BMP")},
    # arrays
    "uint8 HWC": Kind(RGB, RGB),
    "uint8 CHW": Kind(RGB.transpose(2, 0, 1), RGB),
    "uint8 HW": Kind(GREY, grey(GREY)),
    "uint8 HW1": Kind(GREY[..., None], grey(GREY)),
    "uint8 1HW": Kind(GREY[None], grey(GREY)),
    "uint8 batch of one": Kind(RGB[None], RGB),
    "bool HW": Kind(GREY > 127, grey(255 * (GREY > 127))),
    "uint16 HWC": Kind(RGB.astype(np.uint16) * 257, RGB),
    "uint16 HW": Kind(DEEP, grey(DEEP / 257)),
    "int16": refused(RGB.astype(np.int16), ImageValueError, r"int16 does not say which values are black and white"),
    "int16, range said": Kind(RGB.astype(np.int16) * 4 - 20, RGB, options={"input_range": (-20, 1000)}),
    "int64": refused(RGB.astype(np.int64), ImageValueError, "int64 does not say"),
    "float32, 0 to 255": Kind(FINE, FINE),
    "float16, 0 to 255": Kind(FINE.astype(np.float16), FINE.astype(np.float16).astype(np.float64)),
    "float64, 0 to 255": Kind(FINE.astype(np.float64), FINE),
    "float32, 0 to 1": refused(FINE / 255, ImageValueError, r"all values are within 0..1 .*\n.*input_range=\(0, 1\)"),
    "float32, 0 to 1, range said": Kind(FINE / 255, FINE, options={"input_range": (0, 1)}),
    "float32, outside": refused(FINE * 9, ImageValueError, r"these go from .*\n.*input_range="),
    "complex": refused(FINE.astype(np.complex64), ImageValueError, "dtype complex64 are not numbers of a kind"),
    "NaN": broken(np.nan),
    "infinite": broken(np.inf),
    "minus infinite": broken(-np.inf),
    # tensors
    "tensor uint8 CHW": Kind(torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    "tensor uint8 HWC": Kind(torch.from_numpy(RGB), RGB),
    "tensor uint8 HW": Kind(torch.from_numpy(GREY), grey(GREY)),
    "tensor float32": Kind(torch.from_numpy(FINE), FINE),
    "tensor uint16": Kind(torch.from_numpy(DEEP), grey(DEEP / 257)),
    # channels
    "2 channels": refused(of_bands(2), ImageShapeError, "has 2 or 32 channels; 3 are wanted, because image_mean"),
    "4 channels": refused(of_bands(4), ImageShapeError, "If the fourth is alpha, do_convert_rgb=True", white_too=False),
    "4 channels, the fourth alpha": Kind(with_alpha(RGB), on_white(RGB), options={"do_convert_rgb": True}),
    "12 channels": refused(of_bands(12), ImageShapeError, r"12 or 32 channels; 3 are wanted"),
    "layout open": refused(RGB[:3], ImageShapeError, r"can be 3 channels of 32x3 pixels, or 3 of 3x32"),
    "no pixels": refused(RGB[:0], ImageShapeError, "has no pixels"),
    "one axis": refused(GREY[0], ImageShapeError, r"an image has 2 axes \(H, W\) or 3"),
    # no images
    "None": refused(None, ImageReadError, "NoneType is not an image"),
    "a number": refused(3, ImageReadError, "int is not an image"),
    "a missing file": refused("nowhere/image.png", ImageReadError, "there is no file nowhere/image.png"),
}


@dataclass
class Row:
    """A classifier with the image processor of its family."""

    model: Any
    processor: Any

    def processor_with(self, **options):
        return type(self.processor)(**{**self.processor.to_dict(), **options})

    def pixels(self, levels):
        """What the processor is to make of grey levels (H, W, C): (1, C, H, W)."""
        scaled = np.asarray(levels, np.float64) / 255
        mean, std = (np.asarray(getattr(self.processor, name)) for name in ("image_mean", "image_std"))
        return torch.from_numpy((scaled - mean) / std).float().permute(2, 0, 1)[None]


def row_of(model_type):
    processor_class = load(ARCHITECTURES[model_type].processor)
    square, size = {"height": SIDE, "width": SIDE}, processor_class.size
    options = {"size": {"shortest_edge": SIDE} if "shortest_edge" in size else square}
    if getattr(processor_class, "crop_size", None):
        options["crop_size"] = square
    return Row(tiny_model(model_type), processor_class(**options))


# One classifier of each class of processors: what an image amounts to is settled before a model sees it, and all models
# check pixels alike (test_models_common).
BY_PROCESSOR = {ARCHITECTURES[model_type].processor: model_type for model_type in reversed(CLASSIFIERS)}


@pytest.fixture(scope="module", params=sorted(BY_PROCESSOR.values()))
def row(request):
    return row_of(request.param)


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


@torch.no_grad()
def assert_answers(row, processor, image, wanted):
    """The processor makes the pixels that are wanted, and the pipeline answers as the model does to them."""
    got = processor(image, return_tensors="pt")["pixel_values"]
    # float32 roundings of values of order one
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
    scores = row.model(wanted).logits.softmax(-1)[0]
    classify = pipeline("image-classification", model=row.model, image_processor=processor)
    answers = classify(image, top_k=5)
    while isinstance(answers[0], list):  # of a batch of one
        (answers,) = answers
    named = {answer["label"]: answer["score"] for answer in answers}
    for index, score in enumerate(scores.tolist()):
        assert named[f"LABEL_{index}"] == pytest.approx(score, abs=1e-4)  # of logits of order ten


@pytest.mark.parametrize("name", INPUTS)
def test_an_image_amounts_to_what_the_table_says(row, name):
    kind = INPUTS[name]
    processor = row.processor_with(**kind.options)
    lays_on_white = bool(processor.do_convert_rgb)
    if kind.error is None:
        levels = kind.white if lays_on_white and kind.white is not None else kind.levels
        assert_answers(row, processor, kind.image, row.pixels(levels))
    elif lays_on_white and not kind.white_too:
        assert processor(kind.image, return_tensors="pt")["pixel_values"].isfinite().all()
    else:
        with pytest.raises(kind.error, match=f"(?s:{kind.said})"):
            processor(kind.image, return_tensors="pt")
        classify = pipeline("image-classification", model=row.model, image_processor=processor)
        with pytest.raises(HfvisionError if kind.image is not None else Exception):
            classify(kind.image)


@pytest.mark.parametrize("model_type", sorted({*CLASSIFIERS} - {*BY_PROCESSOR.values()}))
def test_every_classifier_answers_through_the_processor_of_its_row(model_type):
    row = row_of(model_type)
    assert_answers(row, row.processor, Image.fromarray(RGB), row.pixels(RGB))
    with pytest.raises(ImageReadError, match=r"there is no file nowhere/image\.png"):
        row.processor("nowhere/image.png", return_tensors="pt")


# --- files ----------------------------------------------------------------------------------------

FAULTS = {  # how a file of any format is spoilt, and what is said
    "zero bytes": (lambda content: b"", r"is empty \(zero bytes\)"),
    "one byte": (lambda content: content[:1], "is not a picture|damaged header"),
    "header alone": (lambda content: content[:30], "damaged|truncated|is not a picture"),
    "half": (lambda content: content[: len(content) // 2], "damaged|truncated"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_file_is_one_error_with_its_name(row, kind, fault, tmp_path):
    spoil, said = FAULTS[fault]
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(spoil(file(Image.fromarray(RGB), kind)))
    classify = pipeline("image-classification", model=row.model, image_processor=row.processor)
    for take in (classify, lambda source: row.processor(source, return_tensors="pt")):
        with pytest.raises(ImageReadError, match=said) as raised:
            take(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_whose_extension_lies_is_read_as_what_it_is(row, kind, tmp_path):
    content = file(Image.fromarray(RGB), kind)
    path = tmp_path / ("image.jpg" if kind != "JPEG" else "image.png")
    path.write_bytes(content)
    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))  # JPEG, WebP and GIF are lossy
    assert_answers(row, row.processor, path, row.pixels(decoded))


def test_a_text_that_is_called_a_picture_is_named_as_text(row, tmp_path):
    path = tmp_path / "image.png"
    path.write_text("<html>please log in</html>")
    with pytest.raises(ImageReadError, match="is not a picture: it is text, beginning with '<html>"):
        row.processor(path)


# --- columns of datasets --------------------------------------------------------------------------

COLUMNS = ("PIL RGB", "PIL 1", "PIL L", "PIL P", "PIL LA", "PIL RGBA", "PIL CMYK", "PIL I;16", "PIL F")


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_cell_of_an_image_column_is_what_was_put_in(row, name, decode):
    kind = INPUTS[name]
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [kind.image]}, features=features)
    cell = rows.cast_column("image", datasets.Image(decode=decode))[0]["image"]
    assert isinstance(cell, Image.Image if decode else dict)
    # what transformers reads from a file loses its alpha before it could be laid on white; decoded cells keep it
    keeps_alpha = decode and bool(row.processor.do_convert_rgb) and kind.white is not None
    wanted = row.pixels(kind.white if keeps_alpha else kind.levels)
    got = row.processor(cell, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)  # float32 roundings of values of order one


# --- sizes ----------------------------------------------------------------------------------------

SIZES = {  # height, width
    "1x1": (1, 1),
    "1x5000": (1, 5000),
    "5000x1": (5000, 1),
    "2x3": (2, 3),
    "odd": (37, 61),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SIZES)
def test_an_image_of_any_size_is_brought_to_the_models(row, name):
    image = Image.new("RGB", SIZES[name][::-1], (10, 200, 30))
    wanted = row.pixels(np.broadcast_to([10, 200, 30], (SIDE, SIDE, 3)))  # one colour stays one colour
    assert_answers(row, row.processor, image, wanted)


@torch.no_grad()
def test_images_of_mixed_sizes_and_kinds_make_one_batch(row):
    images = [Image.fromarray(RGB), GREY, Image.new("L", (90, 41), 7), torch.from_numpy(OTHER).permute(2, 0, 1)]
    wanted = torch.cat([row.pixels(levels) for levels in (RGB, grey(GREY), np.full((SIDE, SIDE, 3), 7), OTHER)])
    got = row.processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
    assert row.model(got).logits.shape == (4, 5)
    with pytest.raises(ImageReadError, match=r"image 1: there is no file missing\.png"):
        row.processor([images[0], "missing.png"], return_tensors="pt")
    with pytest.raises(ImageShapeError, match=r"2 faulty images:(?s:.)*image 0: (?s:.)*image 2: "):
        row.processor([of_bands(5), GREY, of_bands(12)], return_tensors="pt")


@pytest.mark.parametrize("shape", [(1, 5000, 3), (1, 1, 3), (3, 40, 3), (3, 5000, 1)])
def test_an_array_whose_layout_is_open_is_refused_until_it_is_said(row, shape):
    array = np.zeros(shape, np.uint8)
    with pytest.raises(ImageShapeError, match='Say which: input_data_format="channels_first" or "channels_last"'):
        row.processor(array, return_tensors="pt")
    layout = "channels_last" if shape[2] == 3 else "channels_first"
    got = row.processor(array, input_data_format=layout, return_tensors="pt")["pixel_values"]
    assert got.shape == (1, 3, SIDE, SIDE)


# --- models of other channel counts ---------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 4, 12])
def test_a_model_for_n_channels_takes_arrays_of_n_channels(row, count):
    model = tiny_model(row.model.config.model_type)
    model.resize_input(num_channels=count)
    processor = row.processor_with(image_mean=[0.5] * count, image_std=[0.5] * count, do_convert_rgb=None)
    array = of_bands(count)
    pixel_values = processor(array, return_tensors="pt")["pixel_values"]
    wanted = torch.from_numpy(array / 127.5 - 1).float().permute(2, 0, 1)[None]
    torch.testing.assert_close(pixel_values, wanted, rtol=0, atol=2e-6)
    assert model(pixel_values).logits.isfinite().all()
    again = processor(array.transpose(2, 0, 1), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(again, pixel_values, rtol=0, atol=0)
    with pytest.raises(ImageShapeError, match=rf"of shape \(B, {count}, H, W\); got \(1, 3, 32, 32\)"):
        model(row.pixels(RGB))


@pytest.mark.parametrize("count", [2, 4, 12])
def test_three_value_statistics_do_not_serve_n_channels(row, count):
    processor = row.processor_with(do_convert_rgb=None)
    with pytest.raises(ImageShapeError, match="3 are wanted, because image_mean has 3 values"):
        processor(of_bands(count), return_tensors="pt")
    with pytest.raises(ConfigError, match=f"image_mean has 3, image_std has {count}"):
        row.processor_with(image_std=[0.5] * count)
    with pytest.raises(ConfigError, match=f"do_convert_rgb=True makes 3 channels, but {count} are wanted"):
        row.processor_with(image_mean=[0.5] * count, image_std=[0.5] * count, do_convert_rgb=True)


def test_what_is_assumed_of_an_image_is_said(row, caplog):
    with caplog.at_level("WARNING", logger="hfvision"):
        row.processor([film("GIF"), DEEP], return_tensors="pt")
    assert "has several frames or pages: the first is taken." in caplog.text
    assert "16-bit images were taken as 0 (black) to 65535 (white)" in caplog.text
    assert "1 in this call" in caplog.text
