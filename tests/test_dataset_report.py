"""The report of a data set: its text and its JSON hold the same numbers."""

import json

from hfvision.data.dataset_report import ClassCounts, DatasetReport, LeftOut, SplitReport

BOXES = SplitReport(
    "train",
    12,
    (ClassCounts("cat", 4, 9), ClassCounts("dog", 2, 3), ClassCounts("fox", 0, 0)),
    crowds=2,
    difficult=1,
    images_without_objects=5,
    left_out=(LeftOut(7, "boxes without area", 'empty="keep" keeps them'), LeftOut(2, "keypoints")),
)
MASKS = SplitReport(
    "validation",
    2_000,
    (ClassCounts("road", 1900, pixels=123_456), ClassCounts("car", 300, pixels=789)),
    ignored_pixels=55,
    decoded_images=500,
)


def test_text_names_every_number_and_everything_left_out():
    report = DatasetReport("street", "detection", "COCO", (BOXES,), ("boxes are counted from 0; voc_edges=...",))
    assert report.text().splitlines() == [
        "street, read for detection as COCO: 3 classes",
        "    boxes are counted from 0; voc_edges=...",
        "    train: 12 images, 5 of them without objects (kept); 12 objects: cat 9, dog 3; none of fox",
        "        crowds, neither learned nor measured: 2",
        "        marked as difficult: 1",
        '        left out: 7 boxes without area (empty="keep" keeps them)',
        "        left out: 2 keypoints",
    ]
    assert report.left_out == 9


def test_pixels_say_of_how_many_images_they_are():
    assert DatasetReport("street", "segmentation", "images and masks", (MASKS,)).text().splitlines()[1:] == [
        "    validation: 2,000 images: road 1,900, car 300",
        "        pixels of the 500 images decoded: road 123,456, car 789; 55 ignored",
    ]


def test_many_classes_are_cut_in_the_text_but_whole_in_the_json():
    classes = tuple(ClassCounts(f"c{number}", 1, 1) for number in range(1200))
    report = DatasetReport("lvis", "detection", "LVIS", (SplitReport("train", 1200, classes, crowds=0),))
    assert "c19 1 and 1,180 more" in report.text()
    stored = json.loads(json.dumps(report.to_dict()))
    assert len(stored["splits"]["train"]["classes"]) == 1200
    assert stored["splits"]["train"]["classes"]["c7"] == {"images": 1, "objects": 1, "pixels": None}
    assert stored["splits"]["train"]["objects"] == 1200


def test_json_holds_what_was_left_out():
    stored = json.loads(json.dumps(DatasetReport("street", "detection", "COCO", (BOXES,)).to_dict()))
    assert stored["splits"]["train"]["left_out"][0] == {
        "count": 7,
        "what": "boxes without area",
        "reason": 'empty="keep" keeps them',
    }
    assert stored["splits"]["train"]["crowds"] == 2
