"""Folders of images with objects in the layouts of COCO, COCO panoptic, Pascal VOC and YOLO."""

import json
import logging

import numpy as np
import pytest
import yaml
from PIL import Image

from hfvision.data import prepare_detection
from hfvision.errors import DatasetError

HEIGHT, WIDTH = 40, 60
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def picture(path, size=(WIDTH, HEIGHT), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40, 90, 20)).save(path, **options)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def annotation(number, image, bbox=(10, 5, 20, 30), category=7, **others):
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(bbox), **others}


def coco(images=("a", "b"), annotations=(), categories=CATEGORIES, first=1):
    records = [
        {"id": first + place, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        for place, name in enumerate(images)
    ]
    return {"images": records, "annotations": list(annotations), "categories": categories}


def coco_folder(folder, train=None, val=None, images="{split}2017"):
    """A folder laid out as COCO's own."""
    train = train or coco(annotations=[annotation(1, 1), annotation(2, 2, category=3)])
    val = val or coco(("c",), [annotation(3, 1, category=3)])
    for split, content in (("train", train), ("val", val)):
        write(folder / "annotations" / f"instances_{split}2017.json", content)
        for record in content["images"]:
            picture(folder / images.format(split=split) / record["file_name"])
    return folder


# COCO


@pytest.mark.parametrize("images", ["{split}2017", "images/{split}2017", "images", "{split}"])
def test_coco_folder_wherever_its_images_lie(tmp_path, reports, images):
    data = prepare_detection(coco_folder(tmp_path, images=images))
    assert data.names == ["dog", "cat"]
    assert "the ids 7, 3: in that order they are classes 0 to 1" in reports.text
    image, objects = data.train.read(1)
    assert image.size == (WIDTH, HEIGHT)
    assert objects.boxes.tolist() == [[10, 5, 30, 35]]
    assert (objects.labels.tolist(), objects.areas.tolist(), objects.image_id) == ([1], [600.0], 2)
    assert (data.train.file_of(1), data.evaluation.file_of(0)) == ("b.jpg", "c.jpg")
    assert data.train.sizes() == [(HEIGHT, WIDTH)] * 2
    assert data.object_counts.tolist() == [1, 1]


def test_a_folder_for_each_split_and_a_single_file_give_the_same(tmp_path):
    content = coco(annotations=[annotation(1, 2), annotation(2, 1, category=3), annotation(5, 2, area=77, iscrowd=1)])
    for split in ("train", "valid"):
        write(tmp_path / split / "_annotations.coco.json", content)
        for name in ("a", "b"):
            picture(tmp_path / split / f"{name}.jpg")
    data = prepare_detection(tmp_path)
    alone = prepare_detection(tmp_path / "train" / "_annotations.coco.json", held_out=0.5)
    by_name = {part.file_of(row): part.read(row)[1] for part in (alone.train, alone.evaluation) for row in (0,)}
    for row, name in enumerate(("a.jpg", "b.jpg")):
        objects, again = data.train.read(row)[1], by_name[name]
        for field in ("boxes", "labels", "areas", "crowd"):
            np.testing.assert_array_equal(getattr(objects, field), getattr(again, field))
    assert data.train.read(1)[1].areas.tolist() == [600, 77]
    assert data.train.read(1)[1].crowd.tolist() == [False, True]
    assert data.object_counts.tolist() == [1, 1]  # a crowd is nothing to learn


def test_masks_stay_encoded_until_they_are_asked_for(tmp_path):
    polygon = [[10, 5, 30, 5, 30, 35, 10, 35]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)]}
    content = coco(annotations=[annotation(1, 1, segmentation=polygon), annotation(2, 1, segmentation=runs, iscrowd=1)])
    folder = coco_folder(tmp_path, content, coco(("c",), [annotation(1, 1, segmentation=polygon)]))
    data = prepare_detection(folder, masks=True)
    objects = data.train.read(0)[1]
    assert objects.masks.items == [polygon, runs]
    assert objects.areas.tolist() == objects.masks.decoded().sum((1, 2)).tolist() == [600, 80]
    assert prepare_detection(folder).train.read(0)[1].masks is None


def test_faults_of_coco_files_are_told_at_once(tmp_path):
    train = coco(
        ("a", "b", "a", "gone"),
        [
            annotation(1, 1),
            annotation(1, 2),
            annotation(2, 99),
            annotation(3, 2, bbox=(float("nan"), 0, 5, 5)),
            annotation(4, 2, bbox=(1, 2, 3)),
            annotation(5, 2, category=11),
            annotation(6, 1, bbox=(50, 30, 30, 5)),
            annotation(7, 1, bbox=(5, 5, 4, 4)),
        ]
        + [annotation(10 + n, 1) for n in range(30)],
    )
    folder = coco_folder(tmp_path, train)
    (folder / "train2017" / "gone.jpg").unlink()
    with pytest.raises(DatasetError) as caught:
        prepare_detection(folder)
    text = str(caught.value)
    for part in (
        "8 problems",
        "images listed twice in instances_train2017.json (1):\n        image 3 (a.jpg): image 1",
        "image 4: gone.jpg",
        "annotation ids that stand twice in instances_train2017.json (1):\n        1, again in image 2",
        "annotations of images that are not listed in instances_train2017.json (1):\n        annotation 2 of image 99",
        "annotation 4 of image 2: [1, 2, 3]",
        "b.jpg: annotation 3: [nan, 0, 5, 5]",
        "boxes outside their image",
        "a.jpg: annotation 6: [50, 30, 30, 5] in 40x60 pixels (height x width)",
        "11 (1 object, the first annotation 5 of b.jpg)",
        "The classes are 7: dog, 3: cat",
    ):
        assert part in text, part


def test_masks_of_another_size_are_found_without_decoding_them(tmp_path):
    runs = {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}
    folder = coco_folder(tmp_path, coco(annotations=[annotation(1, 1, segmentation=runs), annotation(2, 2)]))
    with pytest.raises(
        DatasetError, match=r"(?s)annotation 1 of image 1 has 60x40, the image 40x60.*without a segmentat"
    ):
        prepare_detection(folder, masks=True, check_images=0)


def test_splits_must_agree_on_their_categories(tmp_path):
    val = coco(
        ("c",),
        [annotation(1, 1, category=3)],
        [{"id": 3, "name": "dog"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "x"}],
    )
    with pytest.raises(DatasetError, match=r"(?s)others in the training split.*3: dog, there cat.*not in.*9: x"):
        prepare_detection(coco_folder(tmp_path, val=val))


def test_categories_of_one_name_are_one_class_and_unlisted_images_are_counted(tmp_path, reports):
    categories = [{"id": 0, "name": "fish"}, {"id": 1, "name": "fish"}, {"id": 2, "name": "crab"}]
    train = coco(annotations=[annotation(1, 1, category=1)], categories=categories)
    folder = coco_folder(tmp_path, train, coco(("c",), [annotation(1, 1, category=2)], categories))
    picture(folder / "train2017" / "more.jpg")
    data = prepare_detection(folder)
    assert data.names == ["fish", "crab"]
    for part in (
        "share a name are one class: fish",
        f"left out: 1 images in {folder / 'train2017'} that no annotation file lists (more.jpg)",
        "train: 2 images, 1 of them without objects (kept); 1 object: fish 1; none of crab",
    ):
        assert part in reports.text, part


def test_names_number_the_classes_of_coco_files_anew(tmp_path):
    data = prepare_detection(coco_folder(tmp_path), names=["cat", "dog", "cow"])
    assert data.names == ["cat", "dog", "cow"]
    assert [data.train.read(row)[1].labels.tolist() for row in (0, 1)] == [[1], [0]]
    merged = prepare_detection(tmp_path, names={7: "animal", 3: "animal"})
    assert (merged.names, merged.object_counts.tolist()) == (["animal"], [2])


def test_a_file_that_is_no_coco_file(tmp_path):
    write(tmp_path / "x.json", {"images": []})
    with pytest.raises(DatasetError, match="no list 'annotations' and 'categories'"):
        prepare_detection(tmp_path / "x.json")
    write(tmp_path / "x.json", "{")
    with pytest.raises(DatasetError, match=r"x.json cannot be read"):
        prepare_detection(tmp_path / "x.json")


def test_an_image_of_another_size_than_its_annotation(tmp_path):
    folder = coco_folder(tmp_path)
    picture(folder / "train2017" / "b.jpg", (HEIGHT, WIDTH))
    with pytest.raises(DatasetError, match=r"b.jpg: .* 40x60 pixels \(height x width\), the file has 60x40: turned"):
        prepare_detection(folder)
    (folder / "train2017" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"(?s)unreadable images.*b.jpg"):
        prepare_detection(folder)


# COCO panoptic


def panoptic_folder(folder, segments=None, maps=None):
    """Two splits of one image: a sky above a road, and a car in the middle whose id needs two channels."""
    ids = np.full((HEIGHT, WIDTH), 5)
    ids[20:] = 6
    ids[15:25, 10:20] = 300
    categories = [
        {"id": 11, "name": "sky", "isthing": 0},
        {"id": 4, "name": "car", "isthing": 1},
        {"id": 2, "name": "road", "isthing": 0},
    ]
    segments = segments or [
        {"id": 5, "category_id": 11, "bbox": [0, 0, WIDTH, 20], "area": 1150, "iscrowd": 0},
        {"id": 300, "category_id": 4, "bbox": [10, 15, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 6, "category_id": 2, "bbox": [0, 20, WIDTH, 20], "area": 1150, "iscrowd": 0},
    ]
    for split in ("train", "val"):
        content = coco(("a",), [{"image_id": 1, "file_name": "a.png", "segments_info": segments}], categories)
        write(folder / "annotations" / f"panoptic_{split}.json", content)
        picture(folder / split / "a.jpg")
        colours = np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)
        target = folder / "annotations" / f"panoptic_{split}" / "a.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours if maps is None else maps).save(target)
    return folder


def test_every_segment_of_a_panoptic_folder_is_an_object(tmp_path):
    data = prepare_detection(panoptic_folder(tmp_path), panoptic=True)
    assert (data.names, data.things) == (["sky", "car", "road"], (1,))
    objects = data.evaluation.read(0)[1]
    assert objects.labels.tolist() == [0, 1, 2]
    masks = objects.masks.decoded()
    assert masks.sum((1, 2)).tolist() == objects.areas.tolist() == [1150, 100, 1150]
    assert masks[1, 15:25, 10:20].all()
    assert objects.boxes[1].tolist() == [10, 15, 20, 25]


def test_detection_learns_only_what_is_countable_in_a_panoptic_folder(tmp_path, reports):
    data = prepare_detection(panoptic_folder(tmp_path), masks=True)
    assert data.names == ["car"]
    assert "left out: 2 segments of stuff (detection learns countable objects)" in reports.text
    objects = data.train.read(0)[1]
    assert (objects.labels.tolist(), objects.masks.areas().tolist()) == ([0], [100])


def test_pixels_of_segments_that_are_not_listed_are_counted(tmp_path, reports):
    folder = panoptic_folder(tmp_path, [{"id": 5, "category_id": 11, "bbox": [0, 0, WIDTH, 20]}])
    assert prepare_detection(folder, panoptic=True).train.read(0)[1].areas.tolist() == [1150]
    assert "1,250 pixels of split 'train' are of segments that no list names" in reports.text


def test_faults_of_panoptic_maps(tmp_path):
    folder = panoptic_folder(tmp_path, [{"id": 8, "category_id": 4, "bbox": [0, 0, 5, 5]}])
    with pytest.raises(DatasetError, match=r"(?s)no pixel in split 'train'.*a.jpg: 1, the first annotation 8"):
        prepare_detection(folder, panoptic=True)
    folder = panoptic_folder(tmp_path, maps=np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"(?s)do not fit.*a.jpg: .*size of its image, 40x60"):
        prepare_detection(folder, panoptic=True)
    (folder / "annotations" / "panoptic_val" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"(?s)listed but not in .*image 1: a.png"):
        prepare_detection(folder, panoptic=True)
    with pytest.raises(DatasetError, match="panoptic training needs maps"):
        prepare_detection(coco_folder(tmp_path / "other"), panoptic=True)


# Pascal VOC


def voc_xml(objects, size=True):
    rows = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}"
        f"</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, box, difficult in objects
    )
    recorded = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{recorded}{rows}</annotation>"


def voc_folder(folder):
    annotations = {
        "a": voc_xml([("dog", (1, 1, 60, 40), False), ("cat", (11, 6, 30, 35), True)]),
        "b": voc_xml([("cat", (11, 6, 30, 35), False)], size=False),
        "c": voc_xml([("dog", (2, 2, 2, 2), False)]),
    }
    for name, text in annotations.items():
        write(folder / "Annotations" / f"{name}.xml", text)
        picture(folder / "JPEGImages" / f"{name}.jpg")
    write(folder / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    write(folder / "ImageSets" / "Main" / "val.txt", "c\n")
    write(folder / "ImageSets" / "Main" / "dog_train.txt", "a 1\nb -1\n")
    return folder


def test_voc_boxes_count_pixels_from_one_and_include_the_last(tmp_path, reports):
    data = prepare_detection(voc_folder(tmp_path))
    assert data.names == ["cat", "dog"]
    objects = data.train.read(0)[1]
    assert objects.boxes.tolist() == [[0, 0, WIDTH, HEIGHT], [10, 5, 30, 35]]
    assert (objects.labels.tolist(), objects.crowd.tolist()) == ([1, 0], [False, True])
    assert "1 of 3 objects of split 'train' are marked as difficult and count as crowds" in reports.text
    assert data.evaluation.read(0)[1].areas.tolist() == [1]
    kept = prepare_detection(tmp_path, difficult="object")
    assert not kept.train.read(0)[1].crowd.any()
    assert kept.train.sizes() == [(HEIGHT, WIDTH)] * 2


def test_voc_files_beside_their_images(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path / split / "a.xml", voc_xml([("dog", (1, 1, 6, 4), False)]))
        picture(tmp_path / split / "a.png")
    data = prepare_detection(tmp_path)
    assert data.evaluation.split == "validation"
    assert data.train.read(0)[1].boxes.tolist() == [[0, 0, 6, 4]]


def test_faults_of_voc_folders(tmp_path):
    folder = voc_folder(tmp_path)
    write(folder / "Annotations" / "a.xml", "<annotation><object></annotation>")
    write(folder / "Annotations" / "b.xml", "<annotation><object><name>cat</name></object></annotation>")
    write(folder / "ImageSets" / "Main" / "val.txt", "c\nd\n")
    with pytest.raises(DatasetError) as caught:
        prepare_detection(folder)
    for part in ("a.xml: mismatched tag", "b.xml: object 0 has no bndbox", "annotations without an image", "d.xml"):
        assert part in str(caught.value), part
    with pytest.raises(DatasetError, match="hold boxes, no masks"):
        prepare_detection(folder, masks=True)


# YOLO


def yolo_folder(folder, labels=None, **changes):
    labels = labels or {
        "train/a": "0 0.5 0.5 0.5 0.5\n",
        "train/b": "1 0.25 0.25 0.75 0.25 0.75 0.75\n\n",
        "val/c": "1 .5 .5 1 1",
    }
    for name, text in labels.items():
        write(folder / "labels" / f"{name}.txt", text)
        picture(folder / "images" / f"{name}.jpg")
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "dog", 1: "cat"}, **changes}
    write(folder / "data.yaml", yaml.safe_dump(content))
    return folder


def test_yolo_boxes_and_outlines(tmp_path, reports):
    folder = yolo_folder(tmp_path)
    picture(folder / "images" / "train" / "nothing.jpg")
    data = prepare_detection(folder)
    assert (data.names, len(data.train)) == (["dog", "cat"], 3)
    assert data.train.read(0)[1].boxes.tolist() == [[15, 10, 45, 30]]
    assert data.train.read(1)[1].boxes.tolist() == [[15, 10, 45, 30]]
    assert "1 of 3 images of split 'train' have no label file" in reports.text
    assert len(data.train.read(2)[1]) == 0


@pytest.mark.parametrize("layout", ["yaml", "export", "list", "plain"])
def test_yolo_layouts(tmp_path, layout):
    folder = yolo_folder(tmp_path / "set")
    source = folder
    if layout == "yaml":
        source = folder / "data.yaml"
    elif layout == "export":  # as if run from a folder beside it
        yolo_folder(folder, train="../images/train", val="../images/val", path=None)
    elif layout == "list":
        write(folder / "train.txt", "./images/train/a.jpg\nimages/train/b.jpg\n")
        yolo_folder(folder, train="train.txt")
    else:
        (folder / "data.yaml").unlink()
        write(folder / "classes.txt", "dog\ncat\n")
    data = prepare_detection(source)
    assert (data.names, len(data.train), len(data.evaluation)) == (["dog", "cat"], 2, 1)
    assert data.train.read(1)[1].labels.tolist() == [1]


def test_yolo_outlines_are_masks(tmp_path):
    outline = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"
    data = prepare_detection(yolo_folder(tmp_path, {"train/a": outline, "val/b": outline}), masks=True)
    objects = data.train.read(0)[1]
    assert objects.masks.decoded()[0, 10:30, 15:45].all()
    assert objects.masks.areas().tolist() == objects.areas.tolist() == [600]
    with pytest.raises(DatasetError, match=r"(?s)objects without an outline.*a.txt, line 1"):
        prepare_detection(yolo_folder(tmp_path / "boxes", {"train/a": "0 .5 .5 .1 .1", "val/b": outline}), masks=True)


def test_faults_of_yolo_folders(tmp_path):
    lines = "cat 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5 0.9\n0.5 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.5 0.5"
    folder = yolo_folder(tmp_path, {"train/a": lines, "val/b": "0 .5 .5 1 1"})
    write(folder / "labels" / "train" / "lost.txt", "0 .5 .5 1 1")
    with pytest.raises(DatasetError) as caught:
        prepare_detection(folder)
    for part in (
        "a.txt, line 1: 'cat 0.5 0.5 0.5 0.5' are not numbers",
        "line 2: 3 numbers",
        "line 3: a box and its score?",
        "line 4: the class 0.5",
        "lost.txt",
        "7 (1 object, the first object 0 of a.jpg)",
    ):
        assert part in str(caught.value), part
    with pytest.raises(DatasetError, match="'nowhere', which is nowhere"):
        prepare_detection(yolo_folder(tmp_path, train="nowhere"))
    with pytest.raises(DatasetError, match="2 names of classes, but nc: 3"):
        prepare_detection(yolo_folder(tmp_path, nc=3))


def test_yolo_boxes_in_pixels(tmp_path):
    folder = yolo_folder(tmp_path, {"train/a": "0 30 20 30 20", "val/b": "0 .5 .5 1 1"})
    with pytest.raises(DatasetError, match="read as shares, 0 to 1, but go up to 30: they are in pixels"):
        prepare_detection(folder)


def test_folders_that_say_nothing_or_too_much(tmp_path):
    picture(tmp_path / "pictures" / "a.jpg")
    with pytest.raises(DatasetError, match=r"no annotations of objects. Lay it out as COCO"):
        prepare_detection(tmp_path / "pictures")
    yolo_folder(coco_folder(tmp_path / "both"))
    with pytest.raises(DatasetError, match=r"several formats: COCO \(.*\) as layout='coco', YOLO \(data.yaml\) as"):
        prepare_detection(tmp_path / "both")
