"""The images held out of a split hold its classes as far as they can, and copies of an image stay together."""

import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from hfvision.data.classification import prepare_classification
from hfvision.data.detection import prepare_detection
from hfvision.data.held_out import Contents, hold_out
from hfvision.data.segmentation import prepare_segmentation
from hfvision.errors import DatasetError


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def held(classes_of_images, share, names=None):
    """The rows held out of images that hold these classes."""
    pairs = [(row, one) for row, classes in enumerate(classes_of_images) for one in classes]
    count = 1 + max((one for _, one in pairs), default=-1)
    names = names or [f"class {label}" for label in range(count)]
    contents = Contents.of_pairs(*np.array(pairs, np.int64).reshape(-1, 2).T, names)
    rows, out = hold_out("train", [np.arange(len(classes_of_images))], share, contents=contents)
    assert sorted([*rows.tolist(), *out.tolist()]) == list(range(len(classes_of_images)))
    return out.tolist()


def test_a_small_hold_out_holds_objects():
    for place in range(9):
        images = [[] for _ in range(10)]
        images[place] = images[place + 1] = [0]
        (row,) = held(images, 0.1)
        assert row in (place, place + 1)


def test_every_class_that_two_images_have_is_held_out_and_trained_on():
    rng = np.random.default_rng(0)
    for _ in range(200):
        images = [sorted(set(rng.integers(0, 12, rng.integers(0, 4)).tolist())) for _ in range(40)]
        images[0], images[1] = [12], [12, 0]
        out = held(images, 0.3)
        assert len(out) == 12
        for label in range(13):
            having = {row for row, classes in enumerate(images) if label in classes}
            if len(having) >= 2:
                assert having & set(out)
            assert not having or having - set(out)


def test_a_choice_that_holds_all_classes_stays_random():
    images = [[row % 2] for row in range(50)]
    plain = hold_out("train", [np.arange(50)], 0.2)[1].tolist()
    assert held(images, 0.2) == plain


def test_a_share_that_is_too_small_is_reported_with_one_that_would_do(reports):
    images = [[row // 2] for row in range(10)]  # five classes of two images each
    names = ["ant", "bee", "cow", "dog", "elk"]
    assert len(held(images, 0.1, names)) == 1
    assert "hold nothing of 4 classes" in reports.text
    assert "held_out=0.5 would hold them" in reports.text
    reports.clear()
    assert {images[row][0] for row in held(images, 0.5, names)} == set(range(5))
    assert "hold nothing" not in reports.text


def test_the_share_that_is_named_holds_all_classes(reports):
    rng = np.random.default_rng(1)
    for _ in range(50):
        images = [sorted(set(rng.integers(0, 9, 2).tolist())) for _ in range(30)]
        reports.clear()
        held(images, 0.04)
        named = [word for word in reports.text.split() if word.startswith("held_out=")]
        if named:
            reports.clear()
            held(images, float(named[0].removeprefix("held_out=")))
            assert "hold nothing" not in reports.text


def test_one_image_with_objects_cannot_be_held_out():
    with pytest.raises(DatasetError, match="1 of 10 images of 'train' has objects"):
        held([[0], *[[] for _ in range(9)]], 0.1)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8))


def test_detection_holds_out_objects_of_each_class(reports):
    """A fifth of twenty images: two have objects of the one class, two of the other, none is a crowd."""
    objects = [{"bbox": [], "category": []} for _ in range(20)]
    for row, category in ((3, 0), (4, 0), (11, 1), (12, 1)):
        objects[row] = {"bbox": [[1.0, 1.0, 8.0, 8.0]], "category": [category]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
            },
        }
    )
    data = datasets.Dataset.from_dict({"image": [picture(row) for row in range(20)], "objects": objects}, features)
    prepared = prepare_detection(data)
    assert sorted(prepared.evaluation.objects.classes.tolist()) == [0, 1]
    assert sorted(prepared.train.objects.classes.tolist()) == [0, 1]


def test_segmentation_holds_out_pixels_of_each_class():
    masks = np.zeros((20, 16, 16), np.uint8)
    for row, label in ((3, 1), (4, 1), (11, 2), (12, 2)):
        masks[row, :4] = label
    rows = {"image": [picture(row) for row in range(20)], "mask": [Image.fromarray(mask) for mask in masks]}
    prepared = prepare_segmentation(datasets.Dataset.from_dict(rows), names=["none", "a", "b"])
    for part in (prepared.train, prepared.evaluation):
        assert {int(value) for row in range(len(part)) for value in np.unique(part.read(row)[1])} == {0, 1, 2}
    assert len(prepared.evaluation) == 2
    train = prepared.train
    seen = sum(np.bincount(train.read(row)[1].ravel(), minlength=3) for row in range(len(train)))
    np.testing.assert_array_equal(prepared.pixel_counts, seen)


def test_classes_that_are_not_measured_are_named(reports):
    rows = {"image": [picture(row) for row in range(11)], "label": [row % 2 for row in range(10)] + [2]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "rare"])})
    prepared = prepare_classification(datasets.Dataset.from_dict(rows, features))
    assert sorted(prepared.evaluation.labels.tolist()) == [0, 1]
    assert "hold none of 1 classes that have too few: rare" in reports.text
