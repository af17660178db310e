"""Forms of annotation files that no tool here writes, made from their published descriptions; and their faults."""

import base64
import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from hfvision.data import prepare_detection
from hfvision.data.shapes import ellipse_shape, turned_box
from hfvision.errors import DatasetError
from tests.exports import image_of

WIDTH, HEIGHT = 60, 40


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image_of(WIDTH, HEIGHT).save(folder / name)
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(folder, **options):
    """(data, image -> [(class, box)]) of a folder of one split."""
    data = prepare_detection(folder, evaluate_only=True, **options)
    found = {}
    for row in range(len(data.evaluation)):
        objects = data.evaluation.read(row)[1]
        found[data.evaluation.file_of(row)] = [
            (data.names[label], box) for label, box in zip(objects.labels, objects.boxes.round(3).tolist(), strict=True)
        ]
    return data, found


def coco(names, annotations, categories=None, **image):
    return {
        "images": [
            {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} | image for n, name in enumerate(names)
        ],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": 1, "bbox": [10, 5, 20, 30]} | one
            for n, one in enumerate(annotations)
        ],
        "categories": categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


# COCO


@pytest.mark.parametrize("mark", ["0", "1", 2, 0.5, [1]])
def test_marks_of_crowds_are_strict(tmp_path, mark):
    write(pictures(tmp_path, "a.jpg") / "annotations.json", coco(["a.jpg"], [{"iscrowd": mark}]))
    with pytest.raises(DatasetError, match="iscrowd that is neither 0 nor 1"):
        read(tmp_path)


@pytest.mark.parametrize("mark", [0, False, None])
def test_no_crowd_can_be_said_in_several_ways(tmp_path, mark):
    write(pictures(tmp_path, "a.jpg") / "annotations.json", coco(["a.jpg"], [{"iscrowd": mark}]))
    assert read(tmp_path)[0].report.splits[0].crowds == 0


def test_coco_boxes_within_0_to_1_are_asked_about_and_read_as_told(tmp_path):
    content = coco(["a.jpg"], [{"bbox": [0.1, 0.25, 0.5, 0.5]}, {"bbox": [0.0, 0.0, 1.0, 1.0]}])
    write(pictures(tmp_path, "a.jpg") / "annotations.json", content)
    with pytest.raises(DatasetError, match=r"within 0 to 1.*relative=True \(--relative\)"):
        read(tmp_path)
    assert read(tmp_path, relative=True)[1]["a.jpg"][0] == ("cat", [6, 10, 36, 30])


def test_a_category_that_is_only_a_supercategory_is_no_class(tmp_path, reports):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    write(pictures(tmp_path, "a.jpg") / "_annotations.coco.json", coco(["a.jpg"], [{}], categories))
    assert read(tmp_path)[0].names == ["cat", "dog"]
    assert "are no classes: 'animals'" in reports.text
    write(tmp_path / "_annotations.coco.json", coco(["a.jpg"], [{"category_id": 0}], categories))
    assert read(tmp_path)[0].names == ["animals", "cat", "dog"]


def test_a_json_file_for_each_split_lies_beside_the_images(tmp_path):
    for split in ("train", "val"):
        write(pictures(tmp_path, f"{split}.jpg") / f"{split}.json", coco([f"{split}.jpg"], [{}]))
    data = prepare_detection(tmp_path)
    assert (data.train.file_of(0), data.evaluation.file_of(0)) == ("train.jpg", "val.jpg")


@pytest.mark.parametrize("name", ["C:\\data\\set\\a.jpg", "/home/me/set/a.jpg", "set\\a.jpg", "https://x.org/d/a.jpg"])
def test_file_names_of_other_machines(tmp_path, name, reports):
    write(pictures(tmp_path, "images/a.jpg") / "annotations.json", coco([name], [{}]))
    assert list(read(tmp_path)[1]) == ["a.jpg"]
    assert "1 file names were found by their last part" in reports.text


def test_a_last_part_that_several_files_have_decides_nothing(tmp_path):
    folder = pictures(tmp_path, "images/x/a.jpg", "images/y/a.jpg")
    write(folder / "annotations.json", coco(["/data/a.jpg"], [{}]))
    with pytest.raises(DatasetError, match=r"(?s)listed but not in.*/data/a.jpg"):
        read(tmp_path)
    write(folder / "annotations.json", coco(["/data/y/a.jpg"], [{}]))
    data, _ = read(tmp_path)
    assert data.evaluation.data[0]["image"]["path"].endswith("y/a.jpg")


def test_lvis_names_its_images_by_address(tmp_path, reports):
    content = coco(["-"], [{}], neg_category_ids=[2], not_exhaustive_category_ids=[2])
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/7.jpg"
    write(pictures(tmp_path, "val2017/7.jpg") / "lvis_v1_train.json", content)
    assert read(tmp_path)[1] == {"7.jpg": [("cat", [10, 5, 30, 35])]}
    assert "read for detection as LVIS" in reports.text
    assert "left out: 1 lists of categories that are not annotated exhaustively" in reports.text


# Pascal VOC


def voc(*boxes, more=""):
    objects = "".join(
        f"<object><name>cat</name>{more}<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox></object>"
        for b in boxes
    )
    return f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{objects}</annotation>"


def test_voc_boxes_that_begin_at_0_are_edges_in_all_files(tmp_path, reports):
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "a.xml", voc((0, 5, 20, 30)))
    write(tmp_path / "b.xml", voc((10, 5, 20, 30)))
    assert read(tmp_path)[1] == {"a.jpg": [("cat", [0, 5, 20, 30])], "b.jpg": [("cat", [10, 5, 20, 30])]}
    assert "1 of 2 boxes begin at 0" in reports.text
    write(tmp_path / "a.xml", voc((1, 5, 20, 30)))
    assert read(tmp_path)[1]["b.jpg"] == [("cat", [9, 4, 20, 30])]
    assert read(tmp_path, voc_boxes="edges")[1]["b.jpg"] == [("cat", [10, 5, 20, 30])]


def test_voc_boxes_within_0_to_1_are_asked_about_and_read_as_told(tmp_path):
    write(pictures(tmp_path, "a.jpg") / "a.xml", voc((0.25, 0.25, 0.5, 0.75)))
    with pytest.raises(DatasetError, match=r"within 0 to 1.*--relative"):
        read(tmp_path)
    assert read(tmp_path, relative=True)[1] == {"a.jpg": [("cat", [15, 10, 30, 30])]}


def test_voc_images_without_a_file_or_without_objects_are_kept(tmp_path, reports):
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "a.xml", voc((1, 1, 20, 30)))
    write(tmp_path / "b.xml", voc())
    data, found = read(tmp_path)
    assert found == {"a.jpg": [("cat", [0, 0, 20, 30])], "b.jpg": [], "c.jpg": []}
    assert data.report.splits[0].images_without_objects == 2
    assert "1 of 3 images of split 'train' have no annotation file: they have no objects" in reports.text


def test_marks_of_difficult_objects_are_strict_and_parts_are_counted(tmp_path, reports):
    part = "<part><name>head</name></part>"
    write(pictures(tmp_path, "a.jpg") / "a.xml", voc((1, 1, 20, 30), more=f"<difficult>0</difficult>{part}"))
    read(tmp_path)
    assert "left out: 1 parts of objects" in reports.text
    write(tmp_path / "a.xml", voc((1, 1, 20, 30), more="<difficult>yes</difficult>"))
    with pytest.raises(DatasetError, match="difficult that is neither 0 nor 1"):
        read(tmp_path)
    write(tmp_path / "a.xml", voc((1, 1, 20, 30), more="<difficult>1</difficult>"))
    with pytest.raises(DatasetError, match=r"all 1 objects.*marked as difficult.*--difficult object"):
        read(tmp_path)


def test_xml_that_declares_entities_is_refused(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    write(pictures(tmp_path, "a.jpg") / "a.xml", bomb + voc((1, 1, 20, 30)).replace("cat", "&b;"))
    with pytest.raises(DatasetError, match="declares the entity 'a'"):
        read(tmp_path)


# YOLO


def test_the_box_of_a_pose_is_its_first_four_numbers(tmp_path, reports):
    pictures(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    for name in ("train/a", "val/b"):
        write(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.2 1\n")
    yaml = "train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: [2, 3]\n"
    write(tmp_path / "data.yaml", yaml)
    data = prepare_detection(tmp_path)
    assert data.train.read(0)[1].boxes.tolist() == [[15, 10, 45, 30]]
    assert "left out: 1 sets of keypoints" in reports.text
    write(tmp_path / "data.yaml", yaml.replace("[2, 3]", "[3, 3]"))
    with pytest.raises(DatasetError, match=r"10 numbers; with kpt_shape: \[3, 3\] there are 13"):
        prepare_detection(tmp_path)
    write(tmp_path / "data.yaml", yaml.replace("[2, 3]", "17"))
    with pytest.raises(DatasetError, match="kpt_shape is"):
        prepare_detection(tmp_path)


def test_darknet_lists_that_are_nowhere(tmp_path):
    write(tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")
    with pytest.raises(DatasetError, match=r"names the classes in 'data/obj.names', which is nowhere"):
        read(tmp_path)
    write(tmp_path / "obj.names", "cat\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/gone.jpg\n")
    write(pictures(tmp_path, "obj_train_data/a.jpg") / "obj_train_data" / "a.txt", "0 .5 .5 .5 .5\n")
    with pytest.raises(DatasetError, match=r"gone.jpg"):
        read(tmp_path)


# CVAT, labelme, KITTI, tables


def cvat(shapes, subset=""):
    return (
        "<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label><label><name>dog</name>"
        f'</label></labels></task></meta><image id="0" name="a.jpg" {subset} width="{WIDTH}" height="{HEIGHT}">{shapes}'
        "</image></annotations>"
    )


def test_shapes_of_cvat(tmp_path, reports):
    shapes = (
        '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<ellipse label="dog" cx="30" cy="20" rx="10" ry="5"/>'
        '<mask label="cat" rle="1,2,1,2" left="4" top="6" width="3" height="2"/>'
        '<polyline label="cat" points="1,1;2,2"/><points label="dog" points="1,1"/><tag label="cat"/>'
    )
    write(pictures(tmp_path, "images/a.jpg") / "annotations.xml", cvat(shapes))
    data, found = read(tmp_path, masks=True)
    assert found == {"a.jpg": [("cat", [15, 5, 25, 25]), ("dog", [20, 15, 40, 25]), ("cat", [5, 6, 7, 8])]}
    masks = data.evaluation.read(0)[1].masks.decoded()
    assert [masks[2, 6, 4:7].tolist(), masks[2, 7, 4:7].tolist()] == [[False, True, True], [False, True, True]]
    assert masks[1].sum() == pytest.approx(np.pi * 50, rel=0.05)
    for kind in ("polyline", "points", "tag"):
        assert f"left out: 1 shapes of the kind '{kind}'" in reports.text


def test_subsets_of_a_cvat_project_are_its_splits(tmp_path):
    one = cvat('<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>', 'subset="Validation"')
    other = one.replace("Validation", "Train").replace("a.jpg", "b.jpg")
    image = other[other.index("<image") : other.index("</annotations>")]
    write(tmp_path / "annotations.xml", one.replace("</annotations>", f"{image}</annotations>"))
    pictures(tmp_path, "images/Validation/a.jpg", "images/Train/b.jpg")
    data = prepare_detection(tmp_path)
    assert (data.train.file_of(0), data.evaluation.file_of(0)) == ("b.jpg", "a.jpg")


def test_faults_of_cvat_files_are_told_at_once(tmp_path):
    shapes = (
        '<box label="cat" xtl="1"/><polygon label="cat" points="1,1;2"/><mask label="cat" rle="1" left="0"/><star/>'
    )
    write(pictures(tmp_path, "a.jpg") / "annotations.xml", cvat(shapes))
    with pytest.raises(DatasetError, match=r"(?s)shapes that cannot be read.*\(3\).*shapes of an unknown kind.*star 3"):
        read(tmp_path)
    write(tmp_path / "annotations.xml", cvat("").replace("</annotations>", "<track/></annotations>"))
    with pytest.raises(DatasetError, match=r"CVAT for images 1\.1"):
        read(tmp_path)


def labelme(shapes, image="a.jpg"):
    return {"version": "5.4.1", "shapes": shapes, "imagePath": image, "imageHeight": HEIGHT, "imageWidth": WIDTH}


def test_shapes_of_labelme(tmp_path, reports):
    content = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(content, "PNG")
    shapes = [
        {"label": "cat", "points": [[30, 20], [30, 10]], "shape_type": "circle"},
        {
            "label": "dog",
            "points": [[5, 6], [6, 7]],
            "shape_type": "mask",
            "mask": base64.b64encode(content.getvalue()).decode(),
        },
        {"label": "dog", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "group_id": 4},
        {"label": "dog", "points": [[20, 1], [29, 1], [29, 9]], "group_id": 4},
        {"label": "cat", "points": [[9, 9], [1, 1]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[9, 9]], "shape_type": "point"},
    ]
    write(pictures(tmp_path, "a.jpg") / "a.json", labelme(shapes, "..\\elsewhere\\a.jpg"))
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncat\n")
    data, found = read(tmp_path, masks=True)
    assert data.names == ["dog", "cat"]
    assert found["a.jpg"] == [
        ("cat", [20, 10, 40, 30]),
        ("dog", [5, 6, 7, 8]),
        ("dog", [1, 1, 29, 9]),
        ("cat", [1, 1, 9, 9]),
    ]
    assert "left out: 1 shapes of the kind 'point'" in reports.text
    assert "2 shapes of split 'train' are grouped: they make up 1 objects" in reports.text


def test_kitti_keeps_its_types_and_counts_what_is_not_annotated(tmp_path, reports):
    pictures(tmp_path, "training/image_2/000000.png", "training/image_2/000001.png")
    rest = "-1 -1 -1 -1000 -1000 -1000 -10"
    lines = f"Car 0.00 0 1.85 10.0 5.0 30.5 20.0 1.5 1.6 3.7 1 2 3 0.1\nDontCare -1 -1 -10 1 1 9 9 {rest}\n"
    write(tmp_path / "training" / "label_2" / "000000.txt", lines)
    assert read(tmp_path)[1] == {"000000.png": [("Car", [10, 5, 30.5, 20])], "000001.png": []}
    assert "left out: 1 regions of the type DontCare (nothing is annotated in them)" in reports.text
    write(tmp_path / "training" / "label_2" / "000000.txt", "Car 0 0 0 1 2 3\n")
    with pytest.raises(DatasetError, match="a line is a type, 14 numbers, and a score or none"):
        read(tmp_path)


def test_open_images_marks_groups_as_crowds_and_names_labels(tmp_path, reports):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    rows = "a,x,/m/1,1,0.25,0.5,0.25,0.75,0,0,0\na,x,/m/2,1,0,1,0,1,0,0,1\ngone,x,/m/1,1,0,1,0,1,0,0,0\n"
    write(tmp_path / "annotations" / "train-annotations-bbox.csv", header + rows)
    write(tmp_path / "annotations" / "class-descriptions-boxable.csv", "/m/2,Dog\n/m/3,Fox\n/m/1,Cat\n")
    data, found = read(pictures(tmp_path, "train/a.jpg", "train/b.jpg"))
    assert found == {"a.jpg": [("Cat", [15, 10, 30, 30]), ("Dog", [0, 0, 60, 40])], "b.jpg": []}
    assert (data.names, data.report.splits[0].crowds) == (["Dog", "Cat"], 1)
    assert "2 of 3 described labels have boxes" in reports.text
    assert "left out: 1 boxes of images that are not there (1 images, such as gone)" in reports.text


def test_tables_of_tensorflow(tmp_path):
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for split in ("train", "valid"):
        write(tmp_path / split / "_annotations.csv", f"{header}a.jpg,{WIDTH},{HEIGHT},cat,10,5,30,35\n")
    data = prepare_detection(pictures(tmp_path, "train/a.jpg", "train/b.jpg", "valid/a.jpg"))
    assert [len(data.train), len(data.evaluation)] == [2, 1]
    assert data.evaluation.read(0)[1].boxes.tolist() == [[10, 5, 30, 35]]


def test_a_folder_of_two_formats_is_asked_about_and_read_as_told(tmp_path):
    write(pictures(tmp_path, "a.jpg") / "a.xml", voc((1, 1, 20, 30)))
    write(tmp_path / "a.json", labelme([{"label": "dog", "points": [[1, 1], [9, 1], [9, 9]]}]))
    with pytest.raises(DatasetError, match=r"labelme \(\*.json\) as layout='labelme', Pascal VOC .* as layout='voc'"):
        read(tmp_path)
    assert read(tmp_path, layout="voc")[0].names == ["cat"]
    assert read(tmp_path, layout="labelme")[0].names == ["dog"]
    with pytest.raises(DatasetError, match=r"nothing of the layout 'kitti'.*it has labelme, voc"):
        read(tmp_path, layout="kitti")
    with pytest.raises(DatasetError, match="layout is one of coco-panoptic, coco, "):
        read(tmp_path, layout="coca")


# Shapes


def test_turned_boxes_turn_clockwise_and_ellipses_touch_their_boxes():
    turned = turned_box("x", (0, 0, 20, 10), 90)
    np.testing.assert_allclose(turned.box, [5, -5, 15, 15], atol=1e-9)
    np.testing.assert_allclose(turned.outline[:2], [15, -5], atol=1e-9)  # the upper left corner is the upper right one
    ellipse = ellipse_shape("x", (0, 0), (10, 5), 30)
    corners = np.array(ellipse.outline).reshape(-1, 2)
    np.testing.assert_allclose([*corners.min(0), *corners.max(0)], ellipse.box, atol=0.02)
