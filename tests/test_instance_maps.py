"""Maps of objects of Cityscapes and KITTI, as published and as tools write them, read for detection."""

import logging

import numpy as np
import pytest
from PIL import Image

from hfvision import prepare_segmentation
from hfvision.data import prepare_detection
from hfvision.errors import DatasetError
from tests.exports import export, image_of
from tests.test_exports_objects import TRUTH, VALIDATION, contents

SIZE = (24, 40)  # H, W
ROAD, SKY, PERSON, CAR, CARAVAN, BICYCLE = 7, 23, 24, 26, 29, 33
THINGS = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
BOXES = {  # class, number (None: not counted) -> left, top, right, bottom
    (PERSON, 0): (2, 3, 5, 12),
    (PERSON, 1): (6, 3, 9, 12),
    (CAR, 0): (10, 8, 22, 15),
    (CAR, None): (24, 8, 38, 12),
    (CARAVAN, 0): (24, 14, 30, 20),
    (BICYCLE, 7): (31, 14, 35, 17),
}
FOUND = [
    ("person", [2, 3, 5, 12]),
    ("person", [6, 3, 9, 12]),
    ("car", [10, 8, 22, 15]),
    ("bicycle", [31, 14, 35, 17]),
]


def maps_of(per_class):
    """Raw classes and numbers of objects (H, W)."""
    classes = np.full(SIZE, ROAD)
    classes[:2] = SKY
    ids = classes * (1 if per_class == 1000 else per_class)
    for (label, number), (left, top, right, bottom) in BOXES.items():
        classes[top:bottom, left:right] = label
        whole = label if per_class == 1000 else label * per_class
        ids[top:bottom, left:right] = whole if number is None else label * per_class + number + (per_class == 256)
    return classes, ids


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def cityscapes(folder, ending):
    classes, ids = maps_of(1000)
    for number, split in enumerate(("train", "val")):
        name = f"ulm/ulm_00000{number}_000019"
        image_path = folder / "leftImg8bit" / split / f"{name}_leftImg8bit.png"
        image_path.parent.mkdir(parents=True)
        image_of(SIZE[1], SIZE[0]).save(image_path)
        truth = folder / "gtFine" / split
        write(truth / f"{name}_gtFine_labelIds.png", classes.astype(np.uint8))
        write(truth / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16))
        if ending == "labelTrainIds":
            train_ids = np.full(SIZE, 255)
            for raw, train in {ROAD: 0, SKY: 10, PERSON: 11, CAR: 13, BICYCLE: 18}.items():
                train_ids[classes == raw] = train
            write(truth / f"{name}_gtFine_labelTrainIds.png", train_ids.astype(np.uint8))
    return folder


def kitti(folder):
    classes, ids = maps_of(256)
    for number in range(2):
        path = folder / "training" / "image_2" / f"00000{number}_10.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image_of(SIZE[1], SIZE[0]).save(path)
        write(folder / "training" / "semantic" / path.name, classes.astype(np.uint8))
        write(folder / "training" / "instance" / path.name, ids.astype(np.uint16))
    return folder


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.mark.parametrize("layout", ["labelIds", "labelTrainIds", "kitti"])
def test_published_maps_hold_the_objects_that_are_counted(tmp_path, layout, reports):
    folder = kitti(tmp_path) if layout == "kitti" else cityscapes(tmp_path, layout)
    data = prepare_detection(folder, masks=True, held_out=0.5)
    assert data.names == THINGS
    objects = data.train.read(0)[1]
    crowd = objects.crowd
    boxes = [(data.names[label], box.tolist()) for label, box in zip(objects.labels, objects.boxes, strict=True)]
    assert sorted(box for box, many in zip(boxes, crowd, strict=True) if not many) == sorted(FOUND)
    assert [box for box, many in zip(boxes, crowd, strict=True) if many] == [("car", [24, 8, 38, 12])]
    np.testing.assert_array_equal(objects.masks.areas(), [(b[2] - b[0]) * (b[3] - b[1]) for _, b in boxes])
    assert "objects of the background or of no class" in reports.text  # the caravan
    assert "its files are named so" in reports.text
    assert "label_map" not in reports.text  # which detection does not have


@pytest.mark.parametrize("layout", ["labelIds", "kitti"])
def test_the_same_folders_are_read_for_semantic_segmentation(tmp_path, layout):
    folder = kitti(tmp_path) if layout == "kitti" else cityscapes(tmp_path, layout)
    data = prepare_segmentation(folder, held_out=0.5)
    assert len(data.names) == 19
    assert np.unique(data.train.read(0)[1]).tolist() == [0, 10, 11, 13, 18, 255]


def test_own_classes_in_the_layout_of_cityscapes(tmp_path):
    """A class without a single object anywhere is stuff; one that has some is a crowd where it is not counted."""
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n255 0 0 cat\n0 255 0 grass\n0 0 255 dog\n")
    for number, split in enumerate(("train", "val")):
        path = tmp_path / "leftImg8bit" / split / f"{number}_leftImg8bit.png"
        path.parent.mkdir(parents=True)
        image_of(8, 8).save(path)
        classes, ids = np.zeros((2, 8, 8), int)
        for label, mark, rows, columns in (
            (1, 1002, 2, 3),
            (1, 1001, 3, 2),
            (2, 2, 5, 8),
            (3, 3, 7, 2),
            (3, 3001, 8, 4),
        ):
            place = (slice(rows - 1, rows), slice(0, columns))
            classes[place], ids[place] = label, mark
        write(tmp_path / "gtFine" / split / f"{number}_gtFine_labelIds.png", classes.astype(np.uint8))
        write(tmp_path / "gtFine" / split / f"{number}_gtFine_instanceIds.png", ids.astype(np.uint16))
    data = prepare_detection(tmp_path)
    assert data.names == ["cat", "dog"]
    objects = data.train.read(0)[1]
    found = zip(objects.labels.tolist(), objects.boxes.tolist(), objects.crowd.tolist(), strict=True)
    assert sorted(found) == [
        (0, [0, 1, 3, 2], False),
        (0, [0, 2, 2, 3], False),
        (1, [0, 6, 2, 7], True),
        (1, [0, 7, 4, 8], False),
    ]


def test_datumaros_maps_of_cityscapes_count_no_objects(tmp_path, reports):
    folder = export("datumaro_masks/mask_cityscapes", tmp_path)
    with pytest.raises(DatasetError, match="crowd"):
        prepare_detection(folder)
    data = prepare_detection(folder, crowd="object")
    assert data.names == ["cat", "dog"]
    for part, truth in ((data.train, TRUTH), (data.evaluation, VALIDATION)):  # one object of a class in an image
        found = {name.removesuffix("_leftImg8bit"): objects for name, objects in contents(data, part).items()}
        assert found == truth
    assert "number no object, but only classes" in reports.text


def test_a_missing_map_of_objects_is_a_fault(tmp_path):
    folder = cityscapes(tmp_path, "labelIds")
    (folder / "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png").unlink()
    with pytest.raises(DatasetError, match=r"there is no gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds\.png"):
        prepare_detection(folder)
