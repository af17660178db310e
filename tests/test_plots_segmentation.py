"""Overlays and sheets of label maps: which pixel gets which colour, what the legend names, and bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfvision.errors import ConfigError
from hfvision.plots import segmentation_overlay, segmentation_sheet
from hfvision.plots.colours import INK
from hfvision.plots.painting import NAMED, STRIPES
from hfvision.processing.palette import class_palette

RED, GREEN = (255, 0, 0), (0, 128, 0)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture
def classes() -> np.ndarray:
    """Class 0 to the left, 2 to the right, a strip of ignored pixels at the bottom."""
    classes = np.zeros((40, 60), np.uint8)
    classes[:, 30:] = 2
    classes[36:] = 255
    return classes


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_classes_are_mixed_with_the_grey_image_and_outlined(image, classes) -> None:
    drawn = pixels(segmentation_overlay(image, classes, ["red", None, "#008000"], opacity=0.25, legend=False))
    grey = pixels(image.convert("L"))[..., None]
    for columns, colour in ((slice(0, 29), RED), (slice(31, 60), GREEN)):
        expected = 0.75 * grey[:35, columns] + 0.25 * np.array(colour)
        assert np.abs(drawn[:35, columns] - expected).max() <= 1  # Pillow's eighth bit, of a mask of 64 / 255
    assert (drawn[:35, 29] == RED).all()
    assert (drawn[:35, 30] == GREEN).all()
    plain = pixels(
        segmentation_overlay(image, classes, ["red", None, "#008000"], opacity=1.0, legend=False, outlines=False)
    )
    assert (plain[:36, :30] == RED).all()


def test_ignored_pixels_are_striped_and_unpainted_classes_leave_the_grey(image, classes) -> None:
    drawn = pixels(segmentation_overlay(image, classes, {0: None, 2: GREEN}, opacity=1.0, legend=False))
    assert {tuple(colour) for colour in drawn[36:].reshape(-1, 3)} == set(STRIPES)
    assert (drawn[:36, :30] == pixels(image.convert("L"))[:36, :30, None]).all()
    none = pixels(segmentation_overlay(image, classes, opacity=0, legend=False, outlines=False))
    assert (none == pixels(image.convert("L"))[..., None]).all()


def test_a_class_has_the_same_colour_in_every_picture(image, classes) -> None:
    for other in (classes, np.full_like(classes, 2), np.arange(2400).reshape(40, 60) // 1200 * 2):
        drawn = pixels(segmentation_overlay(image, other, opacity=1.0, legend=False))
        assert (drawn[30, 45] == class_palette(3)[2]).all()


def test_the_legend_shows_what_is_there(image, classes) -> None:
    plain = segmentation_overlay(image, classes, ["red", "yellow", "green"], legend=False)
    assert plain.size == (60, 40)
    picture = segmentation_overlay(image, classes, ["red", "yellow", "green"], ["left", "nowhere", "right"])
    below = pixels(picture)[40:]
    for colour, shown in ((RED, True), (GREEN, True), ((255, 255, 0), False), (STRIPES[0], True), (INK, True)):
        assert (below == colour).all(axis=-1).any() == shown
    many = np.arange(2400).reshape(40, 60) // 20  # 120 classes
    heights = [segmentation_overlay(image, many % limit).height for limit in (NAMED, 2 * NAMED, 120)]
    assert heights[0] < heights[1] == heights[2]  # the rest are one line


def test_every_form_of_an_image_and_a_map_is_the_same_picture(image, classes, tmp_path) -> None:
    expected = pixels(segmentation_overlay(image, classes))
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    for form in (tmp_path / "image.png", array, array.transpose(2, 0, 1), torch.tensor(array).permute(2, 0, 1)):
        assert (pixels(segmentation_overlay(form, classes)) == expected).all()
    for form in (torch.tensor(classes), Image.fromarray(classes), classes.astype(np.int64), classes.tolist()):
        assert (pixels(segmentation_overlay(image, form)) == expected).all()


def test_small_images_grow_by_squares(image, classes) -> None:
    drawn = pixels(segmentation_overlay(image, classes, opacity=0.5, legend=False, outlines=False))
    grown = pixels(segmentation_overlay(image, classes, opacity=0.5, legend=False, outlines=False, size=(180, 120)))
    inside = (slice(0, 36), slice(0, 60))
    assert (grown[::3, ::3][inside] == drawn[inside]).all()
    assert (grown[1::3, 2::3][inside] == drawn[inside]).all()


def test_a_sheet_shows_image_truth_and_prediction(image, classes) -> None:
    answers = classes.copy()
    answers[:18, :30] = 2  # half of the left side is wrong
    one = segmentation_sheet([image], [answers], [classes], ["red", None, "green"], opacity=1.0, tile=60)
    found = pixels(one)
    red, green = ((found == colour).all(axis=-1) for colour in (RED, GREEN))
    assert abs(red.sum() - 1.5 * 30 * 36) < 200  # all of it in the truth, half in the prediction, and a patch below
    assert abs(green.sum() - 2.5 * 30 * 36) < 200
    assert (found == pixels(image)[10, 10]).all(axis=-1).any()
    without = segmentation_sheet([image], [answers], colours=["red", None, "green"], tile=60)
    assert without.width < one.width
    assert without.height < one.height
    titled = segmentation_sheet([image] * 3, [answers] * 3, [classes] * 3, title="A title", columns=2, tile=60)
    assert titled.width > one.width
    assert titled.height > one.height + 60


def test_every_fault_is_named(image, classes) -> None:
    with pytest.raises(ConfigError, match=r"3 problems:\n.*is 2x60 and the image 40x60\n.*got -3\n.*opacity"):
        segmentation_overlay(image, np.full((2, 60), -3), opacity=2)
    with pytest.raises(ConfigError, match=r"2 problems:\n.*none for class 2;.*\n.*colour of class 0 .* got 'reddish'"):
        segmentation_overlay(image, classes, ["reddish"])
    for wrong in (np.zeros((40, 60, 1), int), np.zeros((40, 60))):
        with pytest.raises(ConfigError, match=r"\(H, W\) whole numbers; got"):
            segmentation_overlay(image, wrong)
    with pytest.raises(ConfigError, match=r"4 problems:\n.*1 truths for 2 images\n.*3 predictions for 2 .*\n.*\n.*"):
        segmentation_sheet([image] * 2, [classes] * 3, [classes], columns=0, tile=1)
    with pytest.raises(ConfigError, match="there are no images"):
        segmentation_sheet([], [])
