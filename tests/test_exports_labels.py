"""Labels of images as tools and people write them: lists, tables, class folders; against the truth of the folders.

The truth of the exports is in tests/data/exports/README.md.
"""

import json
import logging
import re
from pathlib import Path

import pytest

from hfvision.data import load_image_dataset, prepare_classification
from hfvision.data.detection_sources import FORMATS
from hfvision.data.labelled_sources import NAMES as LABEL_LAYOUTS
from hfvision.data.mask_folder import LAYOUTS as MASK_LAYOUTS
from hfvision.errors import DatasetError
from tests.exports import export, image_of

TRUTH = {"a1": "cat", "b2": "dog", "d4": "cat", "e5": "dog", "f6": "cat"}
ONE_SUBSET = {"a1": "cat", "b2": "dog", "e5": "dog", "f6": "cat"}
ROWS = {"a": "cat", "b": "dog", "c": "cat", "d": "dog"}


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def labels(data):
    """Image -> class, over both splits."""
    return {
        path.rpartition("/")[2].partition(".")[0]: data.names[label]
        for part in (data.train, data.evaluation)
        for path, label in zip((cell["path"] for cell in part.images["image"][:]), part.labels, strict=True)
    }


def paint(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image_of(6, 4).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("label_coco_labels", "label_imagenet", "label_imagenet_txt"),
        *("label_imagenet_with_subset_dirs", "label_voc_classification"),
    ],
)
def test_labels_of_datumaro(tmp_path, name, reports):
    data = prepare_classification(export(f"datumaro_masks/{name}", tmp_path), held_out=0.4)
    assert data.names == ["cat", "dog"]
    assert labels(data) == TRUTH
    assert (data.evaluation.split == "validation") == (name != "label_imagenet")
    assert "left out: 1 image without a label (c3.png)" in reports.text
    assert data.report.left_out == 1


@pytest.mark.parametrize("name", ["coco", "datumaro"])
def test_labels_of_one_subset(tmp_path, name):
    data = prepare_classification(export(f"datumaro_labels/{name}", tmp_path), held_out=0.5)
    expected = {key.replace("a1", "x_a1") if name == "datumaro" else key: value for key, value in ONE_SUBSET.items()}
    assert labels(data) == expected


def test_images_of_several_classes_are_an_error_or_left_out(tmp_path, reports):
    folder = export("datumaro_labels/imagenet_txt_multi", tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 5 images in split 'train' are of several classes.*g7\.jpg"):
        prepare_classification(folder, held_out=0.5)
    with pytest.raises(DatasetError, match="--several-classes drop"):
        load_image_dataset(folder)
    assert labels(prepare_classification(folder, held_out=0.5, several_classes="drop")) == ONE_SUBSET
    assert "left out: 1 image of several classes (g7.jpg)" in reports.text


def test_no_label_alone_is_said_to_be_that(tmp_path):
    paint(tmp_path, "no_label/a.png", "no_label/b.png")
    with pytest.raises(DatasetError, match="where Datumaro puts images of which nobody said the class"):
        prepare_classification(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.png", "masks/a.png"),
        ("train/images/a.png", "train/labels/a.png"),
        ("JPEGImages/a.png", "SegmentationClass/a.png"),
        ("train/a.png", "trainannot/a.png"),
        ("Images/a.png", "Annotations/a.png"),
    ],
)
def test_parts_of_other_data_sets_are_no_classes(tmp_path, names):
    paint(tmp_path, *names)
    with pytest.raises(DatasetError, match=r"has no class folders: .*--layout class-folders"):
        load_image_dataset(tmp_path)
    assert len(load_image_dataset(tmp_path, layout="class-folders", split="train").features["label"].names) == 2


def test_a_class_of_that_name_beside_others_is_a_class(tmp_path):
    paint(tmp_path, "masks/a.png", "hats/b.png")
    assert load_image_dataset(tmp_path, split="train").features["label"].names == ["hats", "masks"]


def test_class_folders_in_class_folders_are_said_and_chosen(tmp_path, reports):
    paint(tmp_path, "dog/pug/a.png", "dog/husky/b.png", "cat/c.png")
    outer = prepare_classification(paint(tmp_path, "cat/d.png", "dog/pug/e.png"), held_out=0.5)
    assert outer.names == ["cat", "dog"]
    assert "3 of 5 images lie in folders of class folders, such as dog/" in reports.text
    assert "--class-level innermost" in reports.text
    inner = load_image_dataset(tmp_path, class_level="innermost", split="train")
    assert inner.features["label"].names == ["cat", "husky", "pug"]
    reports.clear()
    assert prepare_classification(tmp_path, class_level="outermost", held_out=0.5).names == ["cat", "dog"]
    assert "`datasets` takes" not in reports.text


def test_innermost_classes_are_those_of_datasets(tmp_path):
    import datasets

    folder = paint(tmp_path / "pets", "dog/pug/a.png", "dog/husky/b.png", "cat/siam/c.png")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    ours = load_image_dataset(folder, class_level="innermost", split="train")
    assert ours.features["label"].names == theirs.features["label"].names


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n",
        "id;species\na;cat\nb;dog\nc;cat\nd;dog\n",
        "label\timage_path\ncat\tC:\\me\\pictures\\a.png\ndog\t/home/me/b.png\ncat\tpictures/c.png\ndog\td.png\n",
    ],
)
def test_a_table_names_files_in_any_way(tmp_path, text):
    paint(tmp_path, *(f"pictures/{name}.png" for name in ROWS))
    (tmp_path / "labels.csv").write_text(text)
    for source in (tmp_path, tmp_path / "labels.csv"):
        assert labels(prepare_classification(source, held_out=0.5)) == ROWS


def test_tables_by_split_or_with_a_column_of_splits(tmp_path, reports):
    paint(tmp_path, *(f"{name}.png" for name in ROWS), "unlisted.png")
    lines = [f"{name}.png,{label},{'train' if name in 'ab' else 'val'}" for name, label in ROWS.items()]
    (tmp_path / "all.csv").write_text("\n".join(["file,class,split", *lines]))
    data = prepare_classification(tmp_path)
    assert (len(data.train), data.evaluation.split, labels(data)) == (2, "validation", ROWS)
    assert "images that no table lists are left out (1): unlisted.png" in reports.text
    (tmp_path / "all.csv").unlink()
    (tmp_path / "train.csv").write_text("file,class\na.png,cat\nb.png,dog\n")
    (tmp_path / "test.csv").write_text("file,class\nc.png,cat\nd.png,dog\n")
    assert prepare_classification(tmp_path).evaluation.split == "test"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.png,cat\nz.png,dog\n", r"lists 1 images that are not there: z\.png"),
        ("file,label\na.png,cat\na.png,dog\n", r"stands in several rows:\s+a\.png"),
        ("file,label\na.png\n", "has 2 columns, but not in line 2"),
        ("x,y\n1,2\n", "needs one of files and one of labels"),
        ("filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n", "none of boxes"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, text, words):
    paint(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=words):
        prepare_classification(tmp_path / "labels.csv", held_out=0.5)


def test_roboflows_table_of_classes(tmp_path, reports):
    for split in ("train", "valid"):
        paint(tmp_path / split, "a.jpg", "b.jpg", "c.jpg")
        (tmp_path / split / "_classes.csv").write_text("filename, cat, dog\na.jpg, 1, 0\nb.jpg, 0, 1\nc.jpg, 0, 0\n")
    data = prepare_classification(tmp_path)
    assert (data.names, data.train.labels.tolist(), data.evaluation.split) == (["cat", "dog"], [0, 1], "validation")
    assert "1 image without a label (c.jpg)" in reports.text
    (tmp_path / "train" / "_classes.csv").write_text("filename, cat, dog\na.jpg, 1, 1\nb.jpg, 0, 1\nc.jpg, 0, 2\n")
    with pytest.raises(DatasetError, match=r"(?s)other values than 0 and 1:\s+c\.jpg.*several classes"):
        prepare_classification(tmp_path)


def test_a_folder_with_two_lists_asks(tmp_path):
    folder = export("datumaro_masks/label_imagenet_txt", tmp_path)
    (folder / "labels.csv").write_text("file,label\na1.png,dog\nb2.png,cat\nd4.png,dog\ne5.png,cat\n")
    with pytest.raises(DatasetError, match=r"labels in 2 layouts: .*layout='imagenet-txt'"):
        prepare_classification(folder)
    assert labels(prepare_classification(folder, layout="imagenet-txt")) == TRUTH
    csv = {"a1": "dog", "b2": "cat", "d4": "dog", "e5": "cat"}
    assert labels(prepare_classification(folder, layout="csv", held_out=0.5)) == csv
    with pytest.raises(DatasetError, match="layout is one of imagenet-txt"):
        prepare_classification(folder, layout="imagenet")


def test_lists_that_do_not_fit_say_what_is_missing(tmp_path):
    folder = export("datumaro_masks/label_imagenet_txt", tmp_path)
    (folder / "train.txt").write_text("a1.png 0\nb2.png 7\nnowhere.png 1\n")
    with pytest.raises(DatasetError, match=r"(?s)class beyond 0 to 1:\s+b2\.png 7.*not there: nowhere\.png"):
        prepare_classification(folder)
    folder = export("datumaro_masks/label_voc_classification", tmp_path)
    (folder / "ImageSets" / "Main" / "cat_train.txt").write_text("a1 yes\n")
    with pytest.raises(DatasetError, match=r"cat_train.txt: .*NAME and 1, 0 or -1.*:\s+a1 yes"):
        prepare_classification(folder)


def test_the_report_is_plain_data(tmp_path):
    data = prepare_classification(export("datumaro_masks/label_imagenet_txt", tmp_path))
    content = json.loads(json.dumps(data.report.to_dict()))
    assert content["splits"]["train"]["classes"]["cat"]["images"] == 2
    assert content["splits"]["train"]["left_out"][0]["count"] == 1


def test_the_report_counts_unreadable_and_repeated_images(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(3):
                folder = tmp_path / split / name
                folder.mkdir(parents=True, exist_ok=True)
                image_of(6 + number, 4 + (split == "val") + 2 * (name == "dog")).save(folder / f"{number}.png")
    (tmp_path / "train" / "cat" / "2.png").write_bytes(b"broken")
    (tmp_path / "train" / "dog" / "2.png").write_bytes((tmp_path / "val" / "dog" / "0.png").read_bytes())
    data = prepare_classification(tmp_path, skip_unreadable=True, overlap="drop")
    left_out = data.report.to_dict()["splits"]["train"]["left_out"]
    assert [(kind["count"], kind["what"]) for kind in left_out] == [(1, "unreadable image"), (1, "repeated image")]


def test_the_docs_name_every_layout_and_the_tool_of_each_format():
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    objects = "Detection, instance and panoptic segmentation"
    for part, names in (("Semantic segmentation", MASK_LAYOUTS), ("Classification", LABEL_LAYOUTS), (objects, FORMATS)):
        section = text.partition(f"## {part}\n")[2].partition("\n## ")[0]
        assert [name for name in names if f"`{name}`" not in section] == []
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|") and "---" not in line]
    tools = [row[1] for row in rows if row[0] not in ("format", "form")]
    assert len(tools) > 30
    known = r"\d+\.\d+|published form|by hand|by their specifications"
    assert [tool for tool in tools if not re.search(known, tool)] == []
