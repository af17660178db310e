"""Images with masks: the readers, the classes, and what is checked before training."""

import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from hfvision.data import load_digit_scenes, prepare_segmentation
from hfvision.errors import DatasetError, UnknownNameError
from hfvision.labels import label_set

SIZE = (6, 4)  # width, height
NAMES = ["sky", "grass", "cow"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where `datasets` may write: nowhere that outlives the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def mask_of(*values, dtype=np.uint8):
    """A mask of SIZE, its pixels the values in turn."""
    return np.resize(np.array(values, dtype=dtype), SIZE[::-1])


def write(path, values=(0, 1, 2), mode=None, size=SIZE):
    """A mask with these values, or an image where `values` is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", size, (40, 90, 20)).save(path)
        return
    mask = Image.fromarray(np.resize(np.array(values, np.uint16 if mode == "I;16" else np.uint8), size[::-1]))
    if mode == "P":
        mask.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    (mask.convert("LA") if mode == "LA" else mask).save(path)


def write_pairs(images, masks, names=("a", "b", "c"), ending="", **options):
    for name in names:
        write(images / f"{name}.jpg", None)
        write(masks / f"{name}{ending}.png", **options)


def in_memory(masks, images=None, split="train", feature=None, **columns):
    images = images or [Image.new("RGB", SIZE)] * len(masks)
    features = {"image": datasets.Image(), "mask": feature or datasets.Image()}
    masks = [Image.fromarray(mask) if isinstance(mask, np.ndarray) and feature is None else mask for mask in masks]
    return datasets.Dataset.from_dict(
        {"image": images, "mask": masks}, datasets.Features(features), split=datasets.NamedSplit(split)
    )


def two_splits(train, test, **options):
    return datasets.DatasetDict(train=in_memory(train), test=in_memory(test, split="test"))


def read_all(part):
    return [part.read(row)[1] for row in range(len(part))]


# Sources


def test_the_digit_scenes_by_name():
    data = prepare_segmentation("digit-scenes", check_images=20)
    assert (len(data.train), len(data.evaluation)) == (2000, 200)
    image, mask = data.train.read(3)
    assert (image.mode, image.size, mask.shape, mask.dtype) == ("RGB", (96, 96), (96, 96), np.uint8)
    assert data.pixel_counts.sum() == 20 * 96 * 96
    assert data.license == "cc-by-4.0"


@pytest.mark.parametrize(
    ("images", "masks"), [("images/{}", "masks/{}"), ("{}/images", "{}/masks"), ("img_dir/{}", "ann_dir/{}")]
)
def test_folders_with_splits(tmp_path, images, masks):
    for split, names in {"training": ("a", "b"), "val": ("c",)}.items():
        write_pairs(tmp_path / images.format(split), tmp_path / masks.format(split), names)
    data = prepare_segmentation(tmp_path, names=NAMES)
    assert {part.split: len(part) for part in (data.train, data.evaluation)} == {"train": 2, "validation": 1}
    image, mask = data.evaluation.read(0)
    assert (image.size, mask.tolist()) == (SIZE, mask_of(0, 1, 2).tolist())


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_a_folder_without_splits_is_divided(tmp_path, reports, ending):
    names = [f"town/{number}" for number in range(10)]
    write_pairs(tmp_path / "images", tmp_path / "annotations", names, ending)
    (tmp_path / "images" / "town" / "notes.txt").write_text("read me")
    data = prepare_segmentation(tmp_path, held_out=0.2, names=NAMES)
    assert (len(data.train), len(data.evaluation)) == (8, 2)
    files = [{part.file_of(row) for row in range(len(part))} for part in (data.train, data.evaluation)]
    assert files[0] & files[1] == set()
    assert "2 of 10 images were held out of 'train' (20%, seed 0)" in reports.text
    assert "no images and were left out (1): notes.txt" in reports.text
    assert prepare_segmentation(tmp_path, held_out=0.2, names=NAMES).fingerprint == data.fingerprint


@pytest.mark.parametrize("mode", ["P", "I;16", "L", "LA"])
def test_masks_of_every_mode_hold_their_stored_numbers(tmp_path, mode):
    write_pairs(tmp_path / "images", tmp_path / "masks", mode=mode, values=(0, 2, 255))
    masks = read_all(prepare_segmentation(tmp_path, names=NAMES, held_out=0.5).train)
    assert all(mask.tolist() == mask_of(0, 2, 255).tolist() and mask.dtype == np.uint8 for mask in masks)


@pytest.mark.parametrize("ending", ["labelTrainIds", "labelIds"])
def test_cityscapes_as_it_is_unpacked(tmp_path, reports, ending):
    for split in ("train", "val"):
        image = tmp_path / "leftImg8bit" / split / "ulm" / "ulm_000000_000001_leftImg8bit.png"
        write(image, None)
        labels = tmp_path / "gtFine" / split / "ulm"
        write(labels / "ulm_000000_000001_gtFine_labelIds.png", (7, 33, 0))  # road, bicycle, unlabelled
        write(labels / "ulm_000000_000001_gtFine_color.png", None)
        if ending == "labelTrainIds":
            write(labels / "ulm_000000_000001_gtFine_labelTrainIds.png", (0, 18, 255))
    data = prepare_segmentation(tmp_path)
    assert (data.evaluation.split, len(data.names), data.names[0], data.names[18]) == (
        "validation",
        19,
        "road",
        "bicycle",
    )
    assert data.train.read(0)[1].tolist() == mask_of(0, 18, 255).tolist()
    assert f"_gtFine_{ending}.png" in reports.text
    assert data.pixel_counts.tolist() == [8, *[0] * 17, 8]


def test_pascal_voc_as_it_is_unpacked(tmp_path):
    for name in ("2007_000001", "2007_000002", "2007_000003"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", None)
    write(tmp_path / "SegmentationClass" / "2007_000001.png", (0, 15, 255), "P")
    write(tmp_path / "SegmentationClass" / "2007_000002.png", (0, 20, 255), "P")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, text in {
        "train": "2007_000001\n",
        "val": "2007_000002\n",
        "trainval": "2007_000001\n2007_000002\n",
    }.items():
        (lists / f"{name}.txt").write_text(text)
    data = prepare_segmentation(tmp_path)
    assert data.names == list(label_set("pascal-voc-21").names)
    assert [part.file_of(0) for part in (data.train, data.evaluation)] == ["2007_000001.jpg", "2007_000002.jpg"]
    assert data.evaluation.read(0)[1].tolist() == mask_of(0, 20, 255).tolist()
    (lists / "val.txt").write_text("2007_000002\n2007_000009\n")
    with pytest.raises(DatasetError, match=r"1 images that are not in JPEGImages: 2007_000009"):
        prepare_segmentation(tmp_path)


def test_ade20k_brings_its_label_map(tmp_path):
    for split in ("training", "validation"):
        write_pairs(tmp_path / "images" / split, tmp_path / "annotations" / split, values=(0, 1, 150))
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\n")
    data = prepare_segmentation(tmp_path)
    assert (len(data.names), data.names[0]) == (150, "wall")
    assert data.train.read(0)[1].tolist() == mask_of(255, 0, 149).tolist()


def test_parquet_with_and_without_the_types_of_datasets(tmp_path):
    for split in ("train", "test"):
        in_memory([mask_of(0, 1)] * 2).to_parquet(tmp_path / f"{split}-0.parquet")
    assert len(prepare_segmentation(tmp_path).evaluation) == 2
    import pyarrow.parquet as pq

    plain = pq.read_table(tmp_path / "train-0.parquet").replace_schema_metadata(None)
    pq.write_table(plain, tmp_path / "plain.parquet")
    data = prepare_segmentation(tmp_path / "plain.parquet", held_out=0.5)
    assert data.train.read(0)[1].tolist() == mask_of(0, 1).tolist()


def test_saved_scenes_and_a_folder_with_metadata(tmp_path):
    load_digit_scenes(4, 2).save_to_disk(tmp_path / "saved")
    assert len(prepare_segmentation(tmp_path / "saved").evaluation) == 2
    write_pairs(tmp_path / "meta" / "train", tmp_path / "meta" / "train" / "truth", names=("a", "b", "c", "d"))
    rows = [{"file_name": f"{name}.jpg", "mask_file_name": f"truth/{name}.png"} for name in "abcd"]
    (tmp_path / "meta" / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(prepare_segmentation(tmp_path / "meta").train) == 3


def test_columns_are_found_by_name_or_named(tmp_path):
    image, mask = Image.new("RGB", SIZE), Image.fromarray(mask_of(0, 1))
    rows = {"label": [mask] * 4, "pixel_values": [image] * 4, "depth": [image] * 4, "id": [1, 2, 3, 4]}
    kinds = {name: datasets.Value("int64") if name == "id" else datasets.Image() for name in rows}
    data = datasets.Dataset.from_dict(rows, datasets.Features(kinds))
    assert prepare_segmentation(data).train.read(0)[0].mode == "RGB"
    data = data.rename_column("label", "truth")
    with pytest.raises(DatasetError, match=r"truth, depth.*mask_column="):
        prepare_segmentation(data)
    assert len(prepare_segmentation(data, mask_column="truth").train) == 3
    with pytest.raises(DatasetError, match="mask_column='nothing'"):
        prepare_segmentation(data, mask_column="nothing")
    crosswise = in_memory([mask_of(0, 1)] * 4).rename_columns({"image": "mask", "mask": "image"})
    assert len(prepare_segmentation(crosswise, image_column="mask", mask_column="image").train) == 3


def test_arrays_are_masks_and_images(reports):
    features = datasets.Features(
        {"bands": datasets.Array3D((9, 4, 6), "float32"), "mask": datasets.Array2D((4, 6), "int32")}
    )
    rows = {"bands": [np.zeros((9, 4, 6), np.float32)] * 4, "mask": [mask_of(0, 300, -1, dtype=np.int32)] * 4}
    data = prepare_segmentation(datasets.Dataset.from_dict(rows, features), ignore_index=-1)
    image, mask = data.train.read(0)
    assert (image.shape, mask.dtype, mask.tolist()) == ((9, 4, 6), np.int64, mask_of(0, 300, -1, dtype=int).tolist())
    assert len(data.names) == 301


def test_a_test_split_without_masks_is_passed_over(reports):
    data = two_splits([mask_of(0, 1)] * 4, [None, None])
    assert "held out of train" in prepare_segmentation(data).evaluation.split
    assert "'test' has no masks" in reports.text
    with pytest.raises(DatasetError, match=r"images without a mask in split 'test' \(2\): row 0, row 1"):
        prepare_segmentation(data, eval_split="test")


def test_a_folder_of_images_only_is_told_the_layouts(tmp_path):
    write(tmp_path / "pets" / "a.png", None)
    with pytest.raises(DatasetError, match="images/ beside masks/"):
        prepare_segmentation(tmp_path / "pets")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["images/a.png", "masks/a.png", "labels/a.png"], "several folders of masks: labels, masks"),
        (["images/train/a.png", "images/b.png", "masks/train/a.png"], r"mixes split folders \(train\).*: b\.png"),
        (["images/a.png", "images/a.jpg", "masks/a.png"], r"files of one name:\s+a\.jpg and a\.png"),
        (["images/a.png", "masks/a.png", "masks/a_gt.png"], r"two masks:\s+a\.png has a\.png and a_gt\.png"),
    ],
)
def test_a_folder_that_can_be_read_in_two_ways_is_refused(tmp_path, files, words):
    for name in files:
        write(tmp_path / name, None)
    with pytest.raises(DatasetError, match=words):
        prepare_segmentation(tmp_path)


# Classes


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "sky\ngrass\ncow\n"),
        ("id2label.json", '{"0": "sky", "2": "cow", "1": "grass"}'),
        ("labels.json", '["sky", "grass", "cow"]'),
        ("labels.json", '{"grass": 1, "sky": 0, "cow": 2}'),
    ],
)
def test_names_stand_in_the_folder_or_in_a_file(tmp_path, file, text):
    write_pairs(tmp_path / "images", tmp_path / "masks")
    (tmp_path / file).write_text(text)
    assert prepare_segmentation(tmp_path).names == NAMES
    data = in_memory([mask_of(0, 1)] * 3)
    assert prepare_segmentation(data, names=tmp_path / file).names == NAMES


@pytest.mark.parametrize("names", [{0: "a", 2: "b"}, ["a", "a"], [], ["a", ""], {"a": 0, "b": 5}])
def test_names_that_leave_a_class_without_one_are_refused(names):
    with pytest.raises(DatasetError, match="class names in names"):
        prepare_segmentation(in_memory([mask_of(0, 1)] * 3), names=names)


def test_without_names_classes_are_numbered_and_that_is_said(reports):
    assert prepare_segmentation(in_memory([mask_of(0, 3, 255)] * 3)).names == [f"class {n}" for n in range(4)]
    assert "class 0 to class 3" in reports.text
    assert "2 of 4 classes occur in no checked mask of split 'train': class 1, class 2" in reports.text


def test_a_label_map_renumbers_and_names(tmp_path):
    rows = [{"id": 7, "train_id": 0, "name": "road"}, {"id": 9, "train_id": 1, "name": "car"}, {"id": 0}]
    (tmp_path / "map.json").write_text(json.dumps(rows))
    masks = in_memory([mask_of(7, 9, 0)] * 3)
    for label_map in (rows, tmp_path / "map.json", str(tmp_path / "map.json")):
        data = prepare_segmentation(masks, label_map=label_map)
        assert data.names == ["road", "car"]
        assert data.train.read(0)[1].tolist() == mask_of(0, 1, 255).tolist()
        assert data.pixel_counts.tolist() == [16, 16]
    other = prepare_segmentation(masks, label_map={7: 1, 9: 0, 0: None})
    assert other.names == ["class 0", "class 1"]
    assert other.fingerprint != data.fingerprint
    with pytest.raises(UnknownNameError, match="cityscapes-19"):
        prepare_segmentation(masks, label_map="town")
    (tmp_path / "map.json").write_text("{")
    for file in ("map.json", "nowhere.json"):
        with pytest.raises(DatasetError, match=f"{file} cannot be read"):
            prepare_segmentation(masks, label_map=tmp_path / file)


def test_pictures_in_colour_are_read_by_the_colours_of_a_label_map():
    rows = [{"train_id": 0, "name": "sky", "color": [0, 0, 255]}, {"train_id": 1, "name": "cow", "color": [99, 50, 0]}]
    picture = Image.new("RGB", SIZE, (0, 0, 255))
    picture.putpixel((1, 0), (99, 50, 0))
    data = prepare_segmentation(in_memory([picture] * 3), label_map=rows)
    assert data.train.read(0)[1].sum() == 1
    assert data.pixel_counts.tolist() == [46, 2]
    with pytest.raises(DatasetError, match="mode RGB holds colours"):
        prepare_segmentation(in_memory([picture] * 3))
    picture.putpixel((2, 0), (1, 1, 1))
    with pytest.raises(DatasetError, match=r"(?s)colours that are not declared.*\(1, 1, 1\) \(1 pixel\)"):
        prepare_segmentation(in_memory([picture] * 3), label_map=rows)


def test_one_name_is_a_binary_task():
    data = prepare_segmentation(in_memory([mask_of(0, 1, 255)] * 3), names=["building"])
    assert (data.names, data.pixel_counts.tolist()) == (["building"], [16, 16])
    as_picture = in_memory([Image.fromarray(mask_of(0, 1)).point(lambda value: value * 255).convert("1")] * 3)
    assert read_all(prepare_segmentation(as_picture, names=["building"]).train)[0].max() == 1


def test_statistics_are_of_the_training_masks():
    data = prepare_segmentation(two_splits([mask_of(0, 0, 1, 255)] * 2, [mask_of(2)]))
    assert data.pixel_counts.tolist() == [24, 12, 0]


# What is checked before training


def test_all_faults_are_in_one_error(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", [f"{number:02}" for number in range(10)])
    (tmp_path / "masks" / "00.png").unlink()
    (tmp_path / "images" / "01.jpg").unlink()
    (tmp_path / "images" / "02.jpg").write_text("not a picture")
    (tmp_path / "masks" / "03.png").write_bytes(b"")
    write(tmp_path / "masks" / "04.png", size=(6, 5))
    write(tmp_path / "masks" / "05.png", (0, 7, 7, 9))
    with pytest.raises(DatasetError) as caught:
        prepare_segmentation(tmp_path, names=NAMES, eval_split=None, held_out=0.1)
    message = str(caught.value)
    assert "images without a mask in split 'train' (1): 00.jpg" in message
    assert "masks without an image in split 'train' (1): 01.png" in message
    assert "02.jpg is not a picture" in message
    assert "03.png is not a picture: it is empty" in message
    assert "04.jpg: the mask has 5x6 pixels, its image 4x6" in message
    assert "values other than 0 to 2 and 255 (ignored): 7 (12 pixels), 9 (6 pixels)" in message


def test_undeclared_values_are_counted_over_all_masks():
    with pytest.raises(DatasetError, match=r"does not declare: 3 \(16 pixels\), 4 \(16 pixels\)"):
        prepare_segmentation(two_splits([mask_of(0, 3, 3, 4, 4, 0)] * 2, [mask_of(0)]), label_map={0: 0, 1: 1})


def test_too_few_names_for_a_label_map_or_the_masks():
    masks = in_memory([mask_of(0, 4)] * 3)
    with pytest.raises(DatasetError, match=r"5 classes, 3 are named"):
        prepare_segmentation(masks, label_map={0: 0, 4: 4}, names=NAMES)
    with pytest.raises(DatasetError, match=r"4 \(24 pixels\).*label_map="):
        prepare_segmentation(masks, names=NAMES)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 255), r"label_map=\{0: 0, 255: 1\}"),
        ((255,), "every pixel is ignored"),
        ((0,), "the classes are not known: the masks hold values up to 0"),
    ],
)
def test_masks_that_teach_nothing_are_refused(values, words):
    with pytest.raises(DatasetError, match=words):
        prepare_segmentation(in_memory([mask_of(*values)] * 3), names=None)


def test_instance_ids_are_not_taken_for_classes():
    masks = [mask_of(0, 26001, dtype=np.uint16)] * 3
    with pytest.raises(DatasetError, match="values up to 26001"):
        prepare_segmentation(in_memory(masks))


@pytest.mark.parametrize("check_images", [0, 2])
def test_what_was_not_checked_still_names_itself_when_read(check_images, reports):
    masks = [mask_of(0, 1, 2)] * 6
    masks[1], masks[2] = mask_of(9), mask_of(0, 1, 2)[:3]
    data = prepare_segmentation(two_splits(masks, [mask_of(0)]), names=NAMES, check_images=check_images)
    assert data.pixel_counts.sum() == 24 * check_images
    with pytest.raises(DatasetError, match=r"mask 1 of split 'train'.*9 \(24 pixels\)"):
        data.train.read(1)
    with pytest.raises(DatasetError, match=r"mask 2 of split 'train'.*3x6 pixels, its image 4x6"):
        data.train.read(2)
    assert ("2 of the 6 images in split 'train' were decoded" in reports.text) == (check_images == 2)


def test_classes_must_be_known_where_no_mask_is_read():
    with pytest.raises(DatasetError, match="no mask was read"):
        prepare_segmentation(in_memory([mask_of(0, 1)] * 3), check_images=0)
    with pytest.raises(DatasetError, match="check_images"):
        prepare_segmentation(in_memory([mask_of(0, 1)] * 3), check_images=-1)


def test_an_empty_split_and_too_little_to_divide():
    with pytest.raises(DatasetError, match="split 'train' is empty"):
        prepare_segmentation(in_memory([]))
    with pytest.raises(DatasetError, match="'train' has one image: nothing can be held out"):
        prepare_segmentation(in_memory([mask_of(0, 1)]))


def test_fingerprints_tell_masks_and_names_apart():
    masks = [mask_of(0, 1, 2)] * 4
    usual = prepare_segmentation(in_memory(masks), names=NAMES).fingerprint
    assert prepare_segmentation(in_memory(masks), names=NAMES).fingerprint == usual
    assert prepare_segmentation(in_memory(masks), names=["x", "y", "z"]).fingerprint != usual
    assert prepare_segmentation(in_memory([mask_of(0, 2, 1)] * 4), names=NAMES).fingerprint != usual
    assert prepare_segmentation(in_memory(masks), names=NAMES, ignore_index=2).fingerprint != usual
