"""The digits, the readers of labelled images, and what is checked before training."""

import logging

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
from PIL import Image

from hfvision.data import load_digits, load_image_dataset, prepare_classification
from hfvision.data.digits import PARQUET, counts_to_grey, grey_to_counts, held_out_rows, write_parquet
from hfvision.errors import DatasetError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where `datasets` may write: nowhere that outlives the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def paint(path, value=128, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def image_folder(root, **counts):
    """root/SPLIT/CLASS/i.png; counts: split -> {class: number of images}."""
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                paint(root / split / name / f"{i}.png", 10 * i)
    return root


def in_memory(labels, feature=None, images=None, split="train"):
    images = images or [Image.new("L", (4, 4), i % 256) for i in range(len(labels))]
    label = feature or datasets.Value("string" if any(isinstance(value, str) for value in labels) else "int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels}, features=features, split=datasets.NamedSplit(split)
    )


# The digits


def test_digits_equal_scikit_learns_exactly():
    original = sklearn.datasets.load_digits()
    table = pq.read_table(PARQUET)
    rows = datasets.Image()
    grey = np.stack([np.asarray(rows.decode_example(cell)) for cell in table["image"].to_pylist()])
    assert grey.dtype == np.uint8
    assert (grey_to_counts(grey) == original.images).all()
    assert (counts_to_grey(original.images) == grey).all()
    assert table["label"].to_pylist() == original.target.tolist()
    held_out = [row for row, split in enumerate(table["split"].to_pylist()) if split == "test"]
    assert set(held_out) == held_out_rows(original.target)


def test_digits_are_two_fixed_splits_with_every_class_in_proportion():
    digits = load_digits()
    assert {split: len(rows) for split, rows in digits.items()} == {"train": 1437, "test": 360}
    assert digits["train"].features["label"].names == [str(digit) for digit in range(10)]
    image = digits["test"][0]["image"]
    assert (image.mode, image.size) == ("L", (8, 8))
    train, test = (np.bincount(digits[split]["label"], minlength=10) for split in ("train", "test"))
    assert (abs(test - (train + test) / 5) < 1).all()
    assert "creativecommons" not in digits["train"].info.license  # the Hub's identifier, not an address
    assert digits["train"].info.license == "cc-by-4.0"


def test_digits_need_no_place_to_write(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert len(load_digits()["train"][:5]["image"]) == 5
    assert not cache.exists()
    assert not (tmp_path / "nowhere").exists()


def test_grey_values_hold_all_counts():
    counts = np.arange(17)
    assert (grey_to_counts(counts_to_grey(counts)) == counts).all()
    assert counts_to_grey(counts)[[0, 16]].tolist() == [0, 255]


def test_the_digits_file_is_small_and_made_by_the_documented_command(tmp_path):
    original = sklearn.datasets.load_digits()
    write_parquet(original.images[:100], original.target[:100], tmp_path / "few.parquet")
    few, all_rows = pq.read_table(tmp_path / "few.parquet"), pq.read_table(PARQUET)
    assert few.schema == all_rows.schema
    assert few["label"] == all_rows["label"].slice(0, 100)
    assert PARQUET.stat().st_size < 150_000


# Readers


def test_image_folder_with_splits(tmp_path):
    root = image_folder(tmp_path / "pets", train={"dog": 2, "cat": 3}, val={"cat": 1, "dog": 1})
    data = load_image_dataset(root)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 5, "validation": 2}
    assert data["train"].features["label"].names == ["cat", "dog"]
    assert data["train"]["label"][:] == [0, 0, 0, 1, 1]
    assert data["train"].column_names == ["image", "label"]


def test_image_folder_without_splits_and_with_deeper_folders(tmp_path, reports):
    root = tmp_path / "flowers"
    paint(root / "rose" / "garden" / "1.png")
    paint(root / "rose" / "2.JPG")
    paint(root / "tulip" / "3.png")
    paint(root / ".thumbnails" / "4.png")
    (root / "tulip" / ".DS_Store").write_bytes(b"")
    (root / "tulip" / "notes.txt").write_text("read me")
    data = load_image_dataset(root, split="train")
    assert [data.features["label"].names[label] for label in data["label"]] == ["rose", "rose", "tulip"]
    assert "no images and were left out (1): notes.txt" in reports.text


def test_classes_named_like_splits_are_classes(tmp_path):
    root = tmp_path / "vehicles"
    for name in ("train", "bus"):
        paint(root / name / "1.png")
    assert load_image_dataset(root)["train"].features["label"].names == ["bus", "train"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.png", "dog/b.png"], r"the folder itself, outside any class folder \(1\): a.png"),
        (["train/dog/a.png", "train/b.png", "test/c.png"], "2 problems"),
        (["train/dog/a.png", "other/dog/b.png"], r"mixes split folders \(train\) and others \(other\)"),
        (["train/a.png", "test/b.png"], "no class folders in them"),
    ],
)
def test_a_muddled_image_folder_is_refused(tmp_path, files, words):
    for name in files:
        paint(tmp_path / "data" / name)
    with pytest.raises(DatasetError, match=words):
        load_image_dataset(tmp_path / "data")


def test_parquet_written_by_datasets_and_without_it(tmp_path):
    data = in_memory(["b", "a", "b"])
    data.to_parquet(tmp_path / "typed.parquet")
    table = pq.read_table(tmp_path / "typed.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "plain.parquet")
    for name in ("typed", "plain"):
        read = prepare_classification([tmp_path / f"{name}.parquet"], held_out=0.5).train
        assert read.split == "train"
        assert np.asarray(read.read(0)).shape == (4, 4)


def test_parquet_files_one_by_split(tmp_path):
    in_memory(["b", "a", "b"]).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    in_memory(["a", "b"]).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    assert {split: len(rows) for split, rows in load_image_dataset(tmp_path).items()} == {"train": 3, "test": 2}


def test_a_folder_of_save_to_disk(tmp_path):
    load_digits().save_to_disk(tmp_path / "saved")
    assert len(load_image_dataset(tmp_path / "saved", split="test")) == 360


def test_built_in_name_and_memory_give_the_same():
    named, given = load_image_dataset("digits"), load_image_dataset(load_digits())
    assert named["test"]["label"][:] == given["test"]["label"][:]


def test_other_columns_and_formats_do_not_disturb():
    data = in_memory([1, 0]).add_column("image_id", [7, 8]).with_format("numpy")
    assert load_image_dataset(data)["train"].column_names == ["image", "label"]


def test_columns_may_be_named_crosswise():
    data = in_memory([1, 0]).rename_columns({"image": "label", "label": "image"})
    read = load_image_dataset(data, image_column="label", label_column="image", split="train")
    assert read["label"][:] == [1, 0]


def test_a_named_column_may_hold_paths(tmp_path):
    paint(tmp_path / "1.png")
    data = datasets.Dataset.from_dict({"file": [str(tmp_path / "1.png")] * 4, "kind": ["a", "b"] * 2})
    ready = prepare_classification(data, image_column="file", label_column="kind", held_out=0.5)
    assert ready.train.read(0).size == (6, 4)


def test_arrays_are_images_where_there_are_no_others():
    features = datasets.Features({"bands": datasets.Array3D((12, 4, 4), "uint16"), "label": datasets.Value("int32")})
    cubes = np.arange(4 * 12 * 16, dtype=np.uint16).reshape(4, 12, 4, 4)
    data = datasets.Dataset.from_dict({"bands": list(cubes), "label": [5, 9, 5, 9]}, features=features)
    ready = prepare_classification(data, held_out=0.5)
    image = ready.train.read(0)
    assert ready.names == ["5", "9"]
    assert image.dtype == np.uint16
    assert any((image == cube).all() for cube in cubes)


def test_ambiguous_columns_name_the_argument_that_settles_it():
    digits = load_digits()["train"].select(range(20))
    two_labels = digits.add_column("writer", [0, 1] * 10, feature=datasets.ClassLabel(names=["a", "b"]))
    with pytest.raises(DatasetError, match=r"label, writer.*label_column=.*ClassLabel of 10"):
        load_image_dataset(two_labels)
    two_images = digits.add_column(
        "mask", digits.cast_column("image", datasets.Image(decode=False))["image"][:], feature=datasets.Image()
    )
    with pytest.raises(DatasetError, match=r"image, mask.*image_column="):
        load_image_dataset(two_images)
    assert load_image_dataset(two_images, image_column="mask")["train"].num_rows == 20


def test_missing_columns_are_listed():
    numbers = datasets.Dataset.from_dict({"x": [1.5, 2.5], "y": [1, 2]})
    with pytest.raises(DatasetError, match=r"no column is known to hold images.*x \(float64\), y \(int64\)"):
        load_image_dataset(numbers)
    with pytest.raises(DatasetError, match="image_column='picture' and label_column='kind'"):
        load_image_dataset(numbers, image_column="picture", label_column="kind")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./no-such-folder", "no folder or file"),
        ("nobody/no-such-dataset", "cannot load the data set nobody/no-such-dataset"),
        (3, "got int"),
        ([], "got list"),
        (["a.csv", "b.parquet"], "a.csv, b.parquet"),
    ],
)
def test_an_unknown_source_is_one_clear_error(source, words):
    with pytest.raises(DatasetError, match=words):
        load_image_dataset(source)


def test_an_empty_folder_and_a_wrong_file(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b")
    for source in (tmp_path / "empty", tmp_path / "table.csv"):
        with pytest.raises(DatasetError, match=source.name):
            load_image_dataset(source)


def test_an_unknown_split_lists_those_there_are():
    with pytest.raises(DatasetError, match="no split 'dev'; it has train, test"):
        load_image_dataset("digits", split="dev")


# What is checked before training


def test_text_and_numbers_become_classes_in_order():
    assert prepare_classification(in_memory([10, 9, 10, 9]), held_out=0.5).names == ["9", "10"]
    ready = prepare_classification(in_memory(["pear", "apple", "pear", "apple"]), held_out=0.5)
    assert ready.names == ["apple", "pear"]
    assert sorted(ready.train.labels.tolist() + ready.evaluation.labels.tolist()) == [0, 0, 1, 1]


def test_evaluation_prefers_validation_then_test_then_a_share_of_each_class(reports):
    rows = in_memory([0, 1] * 10)
    both = datasets.DatasetDict(train=rows, test=rows, validation=rows)
    assert prepare_classification(both).evaluation.split == "validation"
    assert prepare_classification(both, eval_split="test").evaluation.split == "test"
    assert prepare_classification(datasets.DatasetDict(train=rows, test=rows)).evaluation.split == "test"
    assert prepare_classification({"train": rows, "test": rows}).evaluation.split == "test"
    assert "held out" not in reports.text
    first, again = (prepare_classification(rows, held_out=0.2) for _ in range(2))
    assert np.bincount(first.evaluation.labels).tolist() == [2, 2]
    assert np.bincount(first.train.labels).tolist() == [8, 8]
    assert first.fingerprint == again.fingerprint
    assert "4 of 20 images were held out" in reports.text


def test_held_out_images_are_not_trained_on():
    ready = prepare_classification(in_memory([0, 1] * 10), held_out=0.3)
    grey = [
        {int(np.asarray(part.read(row))[0, 0]) for row in range(len(part))} for part in (ready.train, ready.evaluation)
    ]
    assert len(grey[0]) + len(grey[1]) == 20
    assert grey[0] & grey[1] == set()


def test_an_unlabelled_test_split_is_passed_over(reports):
    kinds = datasets.ClassLabel(names=["a", "b"])
    data = datasets.DatasetDict(train=in_memory([0, 1] * 5, kinds), test=in_memory([-1] * 4, kinds, split="test"))
    assert "held out of train" in prepare_classification(data).evaluation.split
    assert "'test' has no labels" in reports.text
    with pytest.raises(DatasetError, match=r"4 of 4 images in split 'test' have no label, row 0, 1, 2, 3"):
        prepare_classification(data, eval_split="test")


def test_a_label_unseen_in_training_is_named_with_counts():
    data = datasets.DatasetDict(train=in_memory(["a", "b"] * 3), test=in_memory(["a", "c", "d", "c"], split="test"))
    with pytest.raises(DatasetError, match=r"3 of 4 images in split 'test' have labels unseen in training \(2\): c, d"):
        prepare_classification(data)
    kinds = datasets.ClassLabel(names=["a", "b", "c"])
    data = datasets.DatasetDict(train=in_memory([0, 1] * 3, kinds), test=in_memory([0, 2], kinds, split="test"))
    with pytest.raises(DatasetError, match=r"1 of 2 images in split 'test' have labels unseen in training \(1\): c"):
        prepare_classification(data, drop_empty_classes=True)


def test_a_class_without_training_images_is_named_or_left_out(reports):
    kinds = datasets.ClassLabel(names=["a", "b", "c"])
    data = datasets.DatasetDict(train=in_memory([0, 2] * 3, kinds), test=in_memory([0, 2], kinds, split="test"))
    with pytest.raises(DatasetError, match=r"1 of 3 classes have no image in split 'train': b\."):
        prepare_classification(data)
    ready = prepare_classification(data, drop_empty_classes=True)
    assert (ready.names, ready.evaluation.labels.tolist()) == (["a", "c"], [0, 1])
    assert "left out: b" in reports.text


def test_splits_that_number_the_same_names_differently_are_matched_by_name():
    forward, backward = datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["b", "a"])
    data = datasets.DatasetDict()
    data["train"] = in_memory([0, 1] * 3, forward)
    data["test"] = in_memory([0, 1, 1], backward, split="test")
    assert prepare_classification(data).evaluation.labels.tolist() == [1, 0, 0]


def test_one_class_only():
    with pytest.raises(DatasetError, match="at least 2 classes, got 1: a"):
        prepare_classification(in_memory(["a"] * 4))


def test_missing_labels_and_images_are_counted():
    with pytest.raises(DatasetError, match=r"2 of 4 images in split 'train' have no label, row 1, 3"):
        prepare_classification(in_memory(["a", None, "b", " "]))
    images = [Image.new("L", (2, 2)), None, Image.new("L", (2, 2)), Image.new("L", (2, 2))]
    with pytest.raises(DatasetError, match=r"image 1 of split 'train': .*no image"):
        prepare_classification(in_memory([0, 1, 0, 1], images=images))


def test_an_empty_split():
    with pytest.raises(DatasetError, match="split 'train' is empty"):
        prepare_classification(in_memory([], datasets.ClassLabel(names=["a", "b"])))


@pytest.mark.parametrize("feature", [datasets.Value("float32"), datasets.List(datasets.ClassLabel(names=["a", "b"]))])
def test_labels_of_other_tasks_are_refused(feature):
    labels = [0.5, 1.5] if isinstance(feature, datasets.Value) else [[0], [0, 1]]
    with pytest.raises(DatasetError, match="one class per image"):
        prepare_classification(in_memory(labels, feature), label_column="label")


def test_unreadable_images_are_all_named_before_training(tmp_path):
    root = image_folder(tmp_path / "pets", train={"cat": 4, "dog": 4}, test={"cat": 2, "dog": 2})
    (root / "train" / "cat" / "1.png").write_bytes(b"")
    (root / "train" / "dog" / "2.png").write_text("not a picture")
    whole = (root / "test" / "dog" / "0.png").read_bytes()
    (root / "test" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError) as caught:
        prepare_classification(root)
    message = str(caught.value)
    assert "2 problems" in message
    assert "unreadable images in split 'train' (2 of 8)" in message
    assert "unreadable images in split 'test' (1 of 4)" in message
    for path in ("train/cat/1.png", "train/dog/2.png", "test/dog/0.png"):
        assert str(root / path) in message


def test_checking_fewer_images_is_reported_and_a_bad_one_still_names_itself(tmp_path, reports):
    root = image_folder(tmp_path / "pets", train={"cat": 4, "dog": 4}, test={"cat": 2, "dog": 2})
    (root / "train" / "cat" / "1.png").write_bytes(b"")
    ready = prepare_classification(root, check_images=2)
    assert "2 of the 8 images in split 'train' were decoded" in reports.text
    with pytest.raises(DatasetError, match=r"image 1 of split 'train'.*cat/1\.png"):
        ready.train.read(1)
    with pytest.raises(DatasetError, match="check_images"):
        prepare_classification(root, check_images=-1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_split": "a", "eval_split": "b"}, "train_split='a' and eval_split='b'; it has train, test"),
        ({"eval_split": "train"}, "both 'train'"),
        ({"train_split": "test", "eval_split": "test"}, "both 'test'"),
    ],
)
def test_splits_that_cannot_be_used(options, words):
    with pytest.raises(DatasetError, match=words):
        prepare_classification("digits", **options)


def test_held_out_must_be_a_share_and_leave_something():
    with pytest.raises(DatasetError, match=r"between 0 and 1; got 1\.5"):
        prepare_classification(in_memory([0, 1]), held_out=1.5)
    with pytest.raises(DatasetError, match="one image per class"):
        prepare_classification(in_memory([0, 1]))


def test_images_are_upright_and_in_the_stored_mode(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned
    image = Image.new("L", (6, 4))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(2):
            image.save(tmp_path / "pets" / name / f"{i}.jpg", exif=exif)
    read = prepare_classification(tmp_path / "pets", held_out=0.5).train.read(0)
    assert (read.mode, read.size) == ("L", (4, 6))
