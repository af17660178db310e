"""What annotation tools write, read for semantic segmentation as its users mean it: against the truth of the folders.

The truth is in tests/data/exports/README.md.
"""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from hfvision.data import prepare_segmentation
from hfvision.errors import DatasetError
from tests.exports import export, image_of

TRUTH = {
    "a1": {"background": 2488, "cat": 200, "dog": 384},
    "b2": {"background": 2712, "dog": 360},
    "d4": {"background": 2700, "cat": 900},
    "e5": {"background": 2688, "dog": 384},
    "f6": {"background": 1880, "cat": 120},
}
BOXES = {"a1": [("cat", 5, 6, 20, 10), ("dog", 30, 20, 16, 24)], "b2": [("dog", 2, 3, 12, 30)]}
COLORED = {"a1": {"background": 622, "cat": 50, "dog": 96}, "b2": {"background": 678, "dog": 90}}
EMPTY = {"c3": {"background": 72 * 56}}
NAMES = ["background", "cat", "dog"]


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def stem(name):
    return name.split(".")[0].removesuffix("_leftImg8bit")


def pixels(data):
    """Image -> pixels of each class that it holds, over all splits."""
    found = {}
    for part in (data.train, data.evaluation):
        for row in range(len(part)):
            values, counts = np.unique(part.read(row)[1], return_counts=True)
            named = {
                data.names[v] if v != 255 else "ignored": n
                for v, n in zip(values.tolist(), counts.tolist(), strict=True)
            }
            found[stem(part.file_of(row))] = named
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("datumaro_masks/mask_camvid", "datumaro_masks/mask_cityscapes", "datumaro_masks/mask_kitti_segmentation"),
        *("datumaro_masks/mask_voc", "datumaro_masks/poly_coco_instances", "datumaro_masks_and_polygons"),
        *("datumaro_masks/poly_cvat", "datumaro_masks/poly_label_me"),
    ],
)
def test_masks_and_polygons_of_datumaro_have_their_own_classes(tmp_path, name, reports):
    data = prepare_segmentation(export(name, tmp_path))
    assert data.names == NAMES
    assert pixels(data) == TRUTH
    assert data.report.splits[0].images == 3 and data.report.splits[1].images == 2
    assert "1 image without a mask" in reports.text and "c3" in reports.text
    a1 = next(row for row in range(3) if stem(data.train.file_of(row)) == "a1")
    mask = data.train.read(a1)[1]
    for label, left, top, width, height in BOXES["a1"]:
        assert (mask[top : top + height, left : left + width] == data.names.index(label)).all()


@pytest.mark.parametrize("left", ["panoptic", "instances", "stuff"])
def test_coco_of_every_kind_is_drawn(tmp_path, left):
    folder = export("datumaro_masks/mask_coco", tmp_path)
    for path in (folder / "annotations").iterdir():
        if not path.name.startswith(left):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    data = prepare_segmentation(folder)
    assert data.names == NAMES
    assert pixels(data) == TRUTH
    assert data.report.left_out == 1  # c3, of which nothing is said


@pytest.mark.parametrize("layout", ["camvid", "cityscapes", "kitti_segmentation", "voc_segmentation"])
def test_declared_colors_and_one_subset(tmp_path, layout):
    data = prepare_segmentation(export(f"datumaro_colors/{layout}", tmp_path), held_out=0.5)
    assert data.names == NAMES
    assert pixels(data) == COLORED


@pytest.mark.parametrize(
    "name", ["datumaro_masks/mask_voc", "datumaro_masks/mask_camvid", "datumaro_masks/mask_kitti_segmentation"]
)
def test_images_in_which_nothing_is_marked_are_kept_on_demand(tmp_path, name, reports):
    data = prepare_segmentation(export(name, tmp_path), unmarked="keep")
    assert pixels(data) == TRUTH | EMPTY
    assert data.report.splits[0].images_without_objects == 1
    assert data.report.left_out == 0


def test_labelme_ignores_what_is_marked_so_and_names_its_background(tmp_path, reports):
    data = prepare_segmentation(export("labelme/voc_sem", tmp_path), held_out=0.5)
    assert data.names == NAMES
    assert pixels(data) == {
        "a1": {"background": 2416, "cat": 231, "dog": 425},
        "b2": {"background": 2669, "dog": 403},
        "c3": {"background": 4032},
        "d4": {"background": 2443, "cat": 961, "ignored": 196},
    }
    assert "'_background_' is read as the class 'background'" in reports.text
    assert "196 ignored" in reports.text


def test_labelmes_coco_has_one_background(tmp_path):
    data = prepare_segmentation(export("labelme/coco", tmp_path), held_out=0.4)
    assert data.names == NAMES
    assert pixels(data) == {name: TRUTH[name] for name in ("a1", "b2", "d4")}


def test_names_that_are_given_take_the_places_of_those_declared(tmp_path):
    folder = export("datumaro_masks/mask_voc", tmp_path)
    data = prepare_segmentation(folder, names=["nothing", "Katze", "Hund"])
    assert data.names == ["nothing", "Katze", "Hund"]
    assert pixels(data)["a1"] == {"nothing": 2488, "Katze": 200, "Hund": 384}
    (folder / "labelmap.txt").unlink()
    assert pixels(prepare_segmentation(folder, names=["cat", "dog"])) == TRUTH  # colors in the order of Pascal VOC
    labels = tmp_path / "labels.txt"  # as labelme takes it
    labels.write_text("__ignore__\n_background_\ncat\ndog\n")
    assert prepare_segmentation(folder, names=labels).names == NAMES


def test_kittis_objects_may_be_numbered_beyond_256(tmp_path, reports):
    folder = export("datumaro_masks/mask_kitti_segmentation", tmp_path)
    for path in folder.glob("*/instance/*.png"):
        stored = np.asarray(Image.open(path)).astype(np.int64)
        Image.fromarray(np.where(stored, stored + 1000, 0).astype(np.uint16)).save(path)
    assert pixels(prepare_segmentation(folder)) == TRUTH
    assert "instance/ tells which" in reports.text


def test_a_layout_alone_brings_no_classes_of_a_benchmark(tmp_path, reports):
    folder = export("labelme/voc_sem", tmp_path)
    (folder / "class_names.txt").unlink()
    data = prepare_segmentation(folder, held_out=0.5)
    assert data.names == ["class 0", "class 1", "class 2"]
    assert "label_map='pascal-voc-21' says that they are" in reports.text
    assert prepare_segmentation(folder, held_out=0.5, label_map="pascal-voc-21").names[1] == "aeroplane"
    city = export("datumaro_masks/mask_cityscapes", tmp_path)
    (city / "label_colors.txt").unlink()
    assert prepare_segmentation(city).names == ["class 0", "class 1", "class 2"]


def test_dates_in_the_names_of_files_are_no_benchmark(tmp_path):
    folder = export("labelme/voc_sem", tmp_path)
    (folder / "class_names.txt").unlink()
    for kind in ("JPEGImages", "SegmentationClass"):
        for path in (folder / kind).iterdir():
            path.rename(path.with_name(f"2023_{path.name}"))
    assert prepare_segmentation(folder, held_out=0.5).names[1] == "class 1"


def test_the_ids_of_a_benchmark_bring_its_classes(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / "JPEGImages").mkdir(exist_ok=True)
        image_of(21, 2).save(tmp_path / "JPEGImages" / f"{name}.png")
    (tmp_path / "SegmentationClass").mkdir()
    for name in ("one", "two", "three"):
        mask = np.resize(np.arange(21, dtype=np.uint8), (2, 21))
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / f"{name}.png")
    assert prepare_segmentation(tmp_path).names[20] == "tvmonitor"


def test_polygons_that_a_tool_left_out_of_its_masks_are_said(tmp_path):
    with pytest.raises(DatasetError, match=r"no SegmentationClass/: the tool that wrote it left the masks out"):
        prepare_segmentation(export("datumaro_masks/poly_voc_segmentation", tmp_path))


def test_boxes_without_outlines_are_no_masks(tmp_path):
    with pytest.raises(DatasetError, match="boxes"):
        prepare_segmentation(export("labelme/voc_box", tmp_path))


def test_crowds_lie_below_and_later_objects_above(tmp_path):
    square = {"size": [4, 6], "counts": [0, 24]}  # the whole image
    left, middle = [0, 0, 3, 0, 3, 4, 0, 4], [2, 0, 4, 0, 4, 4, 2, 4]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 4, "width": 6} for n in range(3)],
        "categories": [{"id": 7, "name": "low"}, {"id": 3, "name": "high"}, {"id": 5, "name": "crowd"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 0,
                "category_id": 7,
                "bbox": [0, 0, 3, 4],
                "segmentation": [left],
            },
            {
                "id": 2,
                "image_id": 0,
                "category_id": 3,
                "bbox": [2, 0, 2, 4],
                "segmentation": [middle],
            },
            {"id": 3, "image_id": 0, "category_id": 5, "bbox": [0, 0, 6, 4], "segmentation": square, "iscrowd": 1},
            {"id": 4, "image_id": 1, "category_id": 7, "bbox": [0, 0, 6, 4], "segmentation": square, "iscrowd": 0},
        ],
    }
    for annotation in content["annotations"]:
        annotation |= {"area": 1.0, "iscrowd": annotation.get("iscrowd", 0)}
    (tmp_path / "images").mkdir()
    for n in range(3):
        image_of(6, 4).save(tmp_path / "images" / f"{n}.png")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    data = prepare_segmentation(tmp_path, unmarked="keep", held_out=0.3)
    assert data.names == ["background", "low", "high", "crowd"]
    rows = {
        part.file_of(row): part.read(row)[1][0].tolist()
        for part in (data.train, data.evaluation)
        for row in range(len(part))
    }
    assert rows == {"0.png": [1, 1, 2, 2, 3, 3], "1.png": [1] * 6, "2.png": [0] * 6}


def test_names_for_drawn_masks_are_of_all_classes_or_all_but_the_background(tmp_path):
    folder = export("datumaro_masks/poly_coco_instances", tmp_path)
    assert prepare_segmentation(folder, names=["Katze", "Hund"]).names == ["background", "Katze", "Hund"]
    assert prepare_segmentation(folder, names=["nichts", "Katze", "Hund"]).names == ["nichts", "Katze", "Hund"]
    with pytest.raises(DatasetError, match=r"1 names are given for the 3 classes background, cat, dog"):
        prepare_segmentation(folder, names=["Katze"])


def test_outlines_that_a_tool_dropped_are_no_training_on_background(tmp_path):
    labels = tmp_path / "labels"
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for n in range(3):
        image_of(6, 4).save(tmp_path / "images" / f"{n}.png")
        (labels / f"{n}.txt").write_text("")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DatasetError, match="nothing but background is marked: were outlines left out"):
        prepare_segmentation(tmp_path, held_out=0.4)


def test_a_format_of_objects_may_be_named(tmp_path):
    folder = export("datumaro_masks/mask_coco", tmp_path)
    outlines, segments = (prepare_segmentation(folder, layout=layout) for layout in ("coco", "coco-panoptic"))
    assert pixels(outlines) == pixels(segments) == TRUTH
    assert outlines.report.layout != segments.report.layout


def test_a_label_map_has_nothing_to_say_of_drawn_masks(tmp_path):
    with pytest.raises(DatasetError, match=r"label_map=.*drawn from COCO"):
        prepare_segmentation(export("datumaro_masks/poly_coco_instances", tmp_path), label_map={0: 0, 1: 1})


def test_a_folder_that_fits_two_layouts_names_the_option(tmp_path):
    folder = export("datumaro_masks/mask_voc", tmp_path)
    shutil.copytree(export("datumaro_masks/mask_camvid", tmp_path), folder, dirs_exist_ok=True)
    with pytest.raises(DatasetError, match=r"fits 2 layouts: Pascal VOC segmentation, CamVid.*layout='voc'"):
        prepare_segmentation(folder)
    for layout in ("voc", "camvid"):
        assert pixels(prepare_segmentation(folder, layout=layout)) == TRUTH
    with pytest.raises(DatasetError, match=r"layout is one of voc, cityscapes, .*got 'vok'"):
        prepare_segmentation(folder, layout="vok")


def test_roboflows_masks_have_the_values_of_their_table(tmp_path):
    for split, count in {"train": 3, "valid": 2}.items():
        folder = tmp_path / split
        folder.mkdir()
        (folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n4, dog\n")
        for n in range(count):
            image_of(6, 4).save(folder / f"{n}_jpg.rf.abc.jpg")
            Image.fromarray(np.full((4, 6), [0, 0, 1, 1, 4, 4], np.uint8)).save(folder / f"{n}_jpg.rf.abc_mask.png")
    data = prepare_segmentation(tmp_path)
    assert data.names == NAMES and data.evaluation.split == "validation"
    assert data.train.read(0)[1][0].tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, dog\n4, cat\n")
    with pytest.raises(DatasetError, match="declare different classes"):
        prepare_segmentation(tmp_path)


def test_camvid_as_published_on_kaggle_has_colors_and_a_void(tmp_path):
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nSky,128,128,128\nRoad,128,64,128\nVoid,0,0,0\n")
    row = [[128, 128, 128]] * 2 + [[128, 64, 128]] * 2 + [[0, 0, 0]] * 2
    for split in ("train", "val"):
        for n in range(2):
            for kind in ("images", "masks"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            image_of(6, 4).save(tmp_path / "images" / split / f"{n}.png")
            Image.fromarray(np.array([row] * 4, np.uint8)).save(tmp_path / "masks" / split / f"{n}.png")
    data = prepare_segmentation(tmp_path)
    assert data.names == ["Sky", "Road"]
    assert data.train.read(0)[1][0].tolist() == [0, 0, 1, 1, 255, 255]


def test_lists_of_voc_may_hold_blanks_and_need_not_hold_every_image(tmp_path, reports):
    folder = export("datumaro_masks/mask_voc", tmp_path)
    for kind in ("JPEGImages", "SegmentationClass"):
        (folder / kind / "b2.png").rename(folder / kind / "my b2.png")
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("a1\nmy b2\n")
    assert set(pixels(prepare_segmentation(folder))) == {"a1", "my b2", "e5", "f6"}
    assert "that no list of ImageSets/Segmentation names are left out: 2" in reports.text


def test_numbers_in_three_equal_channels_are_numbers(tmp_path, reports):
    for n in range(4):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        image_of(6, 4).save(tmp_path / "images" / f"{n}.png")
        mask = np.resize(np.array([0, 1, 2], np.uint8), (4, 6))
        Image.fromarray(np.stack([mask] * 3, 2)).save(tmp_path / "masks" / f"{n}.png")
    for options in ({}, {"names": ["sky", "road", "cow"]}, {"label_map": {0: 2, 1: 1, 2: 0}}):
        data = prepare_segmentation(tmp_path, held_out=0.5, **options)
        assert data.train.read(0)[1][0, :3].tolist() == ([2, 1, 0] if "label_map" in options else [0, 1, 2])
    (tmp_path / "classes.txt").write_text("sky\nroad\ncow\n")
    assert prepare_segmentation(tmp_path, held_out=0.5).names == ["sky", "road", "cow"]


def test_lists_name_files_as_other_machines_call_them(tmp_path):
    folder = export("datumaro_masks/mask_camvid", tmp_path)
    (folder / "train.txt").write_text(
        "C:\\data\\train\\a1.png C:\\data\\trainannot\\a1.png\n/home/me/train/b2.png /home/me/trainannot/b2.png\n"
    )
    data = prepare_segmentation(folder)
    assert set(pixels(data)) == {"a1", "b2", "e5", "f6"}
    assert "images in train/ that train.txt does not name are left out: 2" in data.report.text()
    (folder / "val.txt").write_text("/val/e5.png valannot/e5.png\n/val/nowhere.png valannot/nowhere.png\n")
    with pytest.raises(DatasetError, match=r"val.txt lists 1 images that are not in val/: .*nowhere.png"):
        prepare_segmentation(folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("label_colors.txt", "0 0 300 sky\n1 1 1 cow", "numbers of a color are 0 to 255"),
        ("label_colors.txt", "cat\ncat", "stand twice: cat"),
        ("labelmap.txt", "cat:1,2:\n", "a color is three whole numbers"),
        ("class_dict.csv", "name,red\nsky,1", "needs the columns name, r, g, b"),
        ("_classes.csv", "Pixel Value,Class\nzero,sky", "rows are a pixel value and a class"),
    ],
)
def test_files_of_classes_that_cannot_be_read_say_why(tmp_path, file, text, words):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for n in range(3):
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / kind / f"{n}.png")
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=words):
        prepare_segmentation(tmp_path)
