"""What annotation tools write, read for detection as its users mean it: against the truth of the folders.

The truth is in tests/data/exports/README.md.
"""

import logging

import numpy as np
import pytest

from hfvision.data import prepare_detection
from hfvision.errors import DatasetError
from tests.exports import export

TRUTH = {
    "a1": [("cat", [5, 6, 25, 16]), ("dog", [30, 20, 46, 44])],
    "b2": [("dog", [2, 3, 14, 33])],
    "c3": [],
    "d4": [("cat", [10, 10, 40, 40])],
}
VALIDATION = {"e5": [("dog", [8, 8, 32, 24])], "f6": [("cat", [1, 2, 11, 14])]}
TURNED = TRUTH | {"d4": [("cat", [10, 10, 45.98076, 42.32051])]}  # around a box that is turned by 30 degrees
UPRIGHT = TRUTH | {"d4": [("cat", [20, 10, 50, 30])]}  # the same without its turn
LAST_PIXEL = TRUTH | {  # labelme's converter counts the last pixel in
    "a1": [("cat", [5, 6, 26, 17]), ("dog", [30, 20, 47, 45])],
    "b2": [("dog", [2, 3, 15, 34])],
    "d4": [("cat", [10, 10, 41, 41])],
}
THROUGH_PIXELS = TRUTH | {
    "a1": [("cat", [5, 6, 24, 15]), ("dog", [30, 20, 45, 43])],
    "b2": [("dog", [2, 3, 13, 32])],
    "d4": [("cat", [10, 10, 39, 39])],
}
SPLIT = [
    "datumaro/coco_instances",
    "datumaro/cvat",
    "datumaro/datumaro",
    "datumaro/kitti",
    "datumaro/label_me",
    "datumaro/open_images",
    "datumaro/voc_detection",
    "datumaro/yolo",
    "datumaro/yolo_ultralytics",
    "datumaro_masks/poly_coco_instances",
    "datumaro_masks/poly_cvat",
    "datumaro_masks/poly_label_me",
    "datumaro_masks/mask_voc",
    "datumaro_masks/mask_kitti_segmentation",
    "datumaro_grouped/cvat",
]
OUTLINED = [name for name in SPLIT if "poly" in name or "mask_" in name or "grouped" in name]
WHOLE = {
    "datumaro_one_subset/coco_instances": TRUTH | VALIDATION,
    "datumaro_one_subset/voc_detection": TRUTH | VALIDATION,
    "label_studio/COCO_img": TURNED,
    "label_studio/COCO_tasks": TURNED,
    "label_studio/YOLO_OBB_tasks": TURNED,
    "label_studio/YOLO_tasks": UPRIGHT,
    "label_studio/VOC_tasks": UPRIGHT | {"a1": TRUTH["a1"][:1]},
    "labelimg/yolo": TRUTH,
    "labelimg/voc": TRUTH,
    "labelme/in": TRUTH,
    "labelme/inbox": TRUTH,
    "labelme/voc_box": TRUTH,
    "labelme/coco": LAST_PIXEL,
    "supervision/coco": TRUTH,
    "supervision/coco_mask": TRUTH,
    "supervision/voc": TRUTH,
    "supervision/yolo": TRUTH,
    "supervision/yolo_mask": THROUGH_PIXELS,
}


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def contents(data, part):
    """Image -> its objects that are no crowds, by class and place: (class, box)."""
    found = {}
    for row in range(len(part)):
        objects = part.read(row)[1]
        boxes = [(data.names[label], box.tolist()) for label, box in zip(objects.labels, objects.boxes, strict=True)]
        found[part.file_of(row).split(".")[0]] = sorted(b for b, c in zip(boxes, objects.crowd, strict=True) if not c)
    return found


def assert_holds(data, part, truth):
    found = contents(data, part)
    assert found.keys() == truth.keys()
    for name, objects in truth.items():
        assert [label for label, _ in found[name]] == [label for label, _ in objects], name
        boxes = np.array([box for _, box in found[name]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, np.array([box for _, box in objects]).reshape(-1, 4), atol=2e-3)


@pytest.mark.parametrize("name", SPLIT)
def test_exports_with_splits_hold_the_boxes_that_were_drawn(tmp_path, name):
    data = prepare_detection(export(name, tmp_path))
    assert data.names == ["cat", "dog"]
    assert_holds(data, data.train, TRUTH)
    assert_holds(data, data.evaluation, VALIDATION)
    assert data.report.splits[0].images_without_objects == 1
    assert [one.objects for one in data.report.splits[0].classes] == [2, 2]


@pytest.mark.parametrize("name", WHOLE)
def test_exports_of_one_split_hold_the_boxes_that_were_drawn(tmp_path, name):
    data = prepare_detection(export(name, tmp_path), evaluate_only=True)
    assert data.names == ["cat", "dog"]
    assert_holds(data, data.evaluation, WHOLE[name])


@pytest.mark.parametrize("name", OUTLINED)
def test_outlines_and_masks_cover_the_pixels_of_their_boxes(tmp_path, name):
    data = prepare_detection(export(name, tmp_path), masks=True)
    by_name = {data.train.file_of(row)[:2]: data.train.read(row)[1] for row in range(len(data.train))}
    assert sorted(by_name["a1"].masks.areas().tolist()) == [200, 384]
    mask = by_name["d4"].masks.decoded()[0]
    assert mask[10:40, 10:40].all() and mask.sum() == 900
    assert {one.name: one.pixels for one in data.report.splits[0].classes} == {"cat": 1100, "dog": 744}


@pytest.mark.parametrize("name", ["datumaro_grouped/datumaro", "datumaro_grouped/label_me"])
def test_a_mask_and_its_box_are_one_object_and_crowds_stay_crowds(tmp_path, name, reports):
    data = prepare_detection(export(name, tmp_path), masks=True)
    assert_holds(data, data.train, TRUTH | {"a1": TRUTH["a1"][:1], "d4": []})
    assert data.report.splits[0].crowds == 2
    assert "8 shapes of split 'train' are grouped: they make up 4 objects" in reports.text
    learned = prepare_detection(tmp_path / name, masks=True, crowd="object")
    assert_holds(learned, learned.train, TRUTH)
    assert learned.report.splits[0].crowds == 0


def test_brush_masks_of_cvat_are_all_crowds_which_is_an_error_that_says_what_to_do(tmp_path, reports):
    folder = export("datumaro_masks/mask_coco", tmp_path)
    with pytest.raises(DatasetError, match=r"all 4 objects of split 'train' are marked as crowds.*--crowd object"):
        prepare_detection(folder)
    data = prepare_detection(folder, crowd="object", masks=True)
    assert_holds(data, data.train, TRUTH)
    assert "4 of 4 objects of split 'train' are marked as crowds and are learned as any other" in reports.text


def test_crowds_among_objects_are_counted_and_can_be_learned(tmp_path, reports):
    folder = export("datumaro_masks_and_polygons", tmp_path)
    data = prepare_detection(folder)
    assert (data.report.splits[0].crowds, data.report.splits[0].objects) == (2, 2)
    assert "crowds, neither learned nor measured: 2" in reports.text
    assert prepare_detection(folder, crowd="object").object_counts.tolist() == [2, 2]


@pytest.mark.parametrize(
    "name", ["datumaro/voc_detection", "label_studio/VOC_tasks", "labelme/voc_box", "labelimg/voc"]
)
def test_edges_of_voc_boxes_are_concluded_said_and_can_be_overruled(tmp_path, name, reports):
    folder = export(name, tmp_path)
    data = prepare_detection(folder, evaluate_only=True)
    assert "wrote these files: boxes are edges counted from 0, not numbers of pixels" in reports.text
    pixels = prepare_detection(folder, evaluate_only=True, voc_boxes="pixels")
    boxes, shifted = data.evaluation.read(0)[1].boxes, pixels.evaluation.read(0)[1].boxes
    assert (boxes - shifted).tolist() == [[1, 1, 0, 0]] * len(boxes)


def test_what_the_label_studio_brush_converter_writes(tmp_path):
    data = prepare_detection(export("label_studio/BRUSH", tmp_path), evaluate_only=True)
    assert data.names == ["dog", "cat"]
    assert contents(data, data.evaluation) == {"g7": [("cat", [5, 6, 25, 16]), ("dog", [30, 20, 46, 44])]}


def test_names_that_stand_for_no_object_are_no_classes_and_that_is_said(tmp_path, reports):
    prepare_detection(export("labelme/coco", tmp_path), evaluate_only=True)
    assert "only a supercategory or the background are no classes: '_background_'" in reports.text
    prepare_detection(export("labelme/voc_box", tmp_path), evaluate_only=True)
    assert "names in class_names.txt that stand for no object are no classes: '_background_'" in reports.text
    prepare_detection(export("labelme/in", tmp_path), evaluate_only=True)
    assert "left out: 1 shapes named '__ignore__' (they mark what is to be ignored)" in reports.text


def test_file_names_of_another_machine_are_found_by_their_last_part_and_counted(tmp_path, reports):
    prepare_detection(export("label_studio/COCO_tasks", tmp_path), evaluate_only=True)
    assert "4 file names were found by their last part, such as '/data/upload/1/a1.png': a1.png" in reports.text


@pytest.mark.parametrize("name", ["labelme/voc_box", "supervision/yolo", "datumaro_one_subset/voc_detection"])
def test_names_may_be_given_for_folders_with_own_classes(tmp_path, name):
    data = prepare_detection(export(name, tmp_path), evaluate_only=True, names=["dog", "cat"])
    assert data.names == ["dog", "cat"]


def test_panoptic_maps_are_read_and_images_without_one_are_counted(tmp_path, reports):
    folder = export("datumaro_masks/mask_coco", tmp_path)
    data = prepare_detection(folder, panoptic=True)
    assert (len(data.train), data.names, data.things) == (3, ["cat", "dog"], ())
    assert "left out: 1 images without a map of segments (c3.png)" in reports.text
    with pytest.raises(DatasetError, match=r'every category says "isthing": 0'):
        prepare_detection(folder, layout="coco-panoptic")
