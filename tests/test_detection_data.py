"""Images with objects out of columns: the readers, the classes, and what is checked before training."""

import io
import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from hfvision.data import load_digit_scenes, prepare_detection
from hfvision.data.scenes import SCENE_CLASSES
from hfvision.errors import ConfigError, DatasetError

HEIGHT, WIDTH = 40, 60
BOX = datasets.List(datasets.List(datasets.Value("float32"), length=4))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where `datasets` may write: nowhere that outlives the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(12, 4)


def objects(*boxes, category=None, **others):
    return {"bbox": [list(box) for box in boxes], "category": category or [0] * len(boxes), **others}


def in_memory(rows, split="train", column="objects", images=None, names=("cat", "dog")):
    """A split whose column holds these objects, classes being ClassLabels with `names` or plain values without."""
    images = images or [Image.new("RGB", (WIDTH, HEIGHT))] * len(rows)
    data = datasets.Dataset.from_dict({"image": images, column: rows}, split=datasets.NamedSplit(split))
    data = data.cast_column("image", datasets.Image())
    if names is None:
        return data
    feature = {**data.features[column], "category": datasets.List(datasets.ClassLabel(names=list(names)))}
    return data.cast_column(column, feature)


def both(rows, **options):
    """The rows to train on, and one faultless image of the same columns to measure with."""
    good = {key: values[:1] for key, values in rows[0].items()} | {"bbox": [[5, 5, 10, 10]]}
    return {"train": in_memory(rows, **options), "test": in_memory([good], "test", **options)}


MANY = [objects((2, 3, 10, 10), (30, 20, 20, 15)), objects((5, 5, 50, 30), (40, 4, 15, 30), (1, 1, 4, 4))]


MANY_DATA = in_memory(MANY)


def faults(data, **options):
    with pytest.raises(DatasetError) as caught:
        prepare_detection(data, **options)
    return str(caught.value)


# Sources


def test_the_digit_scenes_for_detection_masks_and_panoptic(scenes):
    plain = prepare_detection(scenes)
    masked = prepare_detection(scenes, masks=True)
    panoptic = prepare_detection(scenes, panoptic=True)
    assert (plain.name, plain.license, plain.names) == ("digit-scenes", "cc-by-4.0", SCENE_CLASSES[1:])
    assert (panoptic.names, panoptic.things) == (SCENE_CLASSES, tuple(range(1, 11)))
    assert panoptic.object_counts.tolist() == [12, *plain.object_counts]
    for row in range(12):
        stored = scenes["train"][row]
        instances = np.asarray(stored["instances"])
        image, found = plain.train.read(row)
        assert (image.size, found.size, found.masks) == ((96, 96), (96, 96), None)
        assert found.labels.tolist() == stored["objects"]["category"]
        assert found.areas.tolist() == stored["objects"]["area"]
        masks = masked.train.read(row)[1].masks.decoded()
        for number, mask in enumerate(masks):
            np.testing.assert_array_equal(mask, instances == number + 1)
        segments = panoptic.train.read(row)[1]
        np.testing.assert_array_equal(segments.masks.decoded(), np.stack([instances == 0, *masks]))
        semantic = segments.labels[segments.masks.decoded().argmax(0)]
        np.testing.assert_array_equal(semantic, np.asarray(stored["mask"]))
        np.testing.assert_array_equal(segments.boxes[1:], found.boxes)
        assert segments.areas.sum() == 96 * 96
    assert len({plain.fingerprint, panoptic.fingerprint, prepare_detection(scenes).fingerprint}) == 2


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "metadata"])
def test_stored_data_sets(tmp_path, scenes, form):
    source = tmp_path / "data"
    part = datasets.DatasetDict(train=scenes["train"], test=scenes["validation"]).remove_columns(["mask", "instances"])
    if form == "save_to_disk":
        part.save_to_disk(str(source))
    elif form == "parquet":
        source = [str(tmp_path / f"{split}.parquet") for split in part]
        part["train"].to_parquet(source[0])
        source = source[:1]
    else:
        for split, data in part.items():
            (source / split).mkdir(parents=True)
            for row, cells in enumerate(data):
                cells["image"].save(source / split / f"{row}.png")
            lines = [
                json.dumps({"file_name": f"{row}.png", "objects": cells["objects"]}) for row, cells in enumerate(data)
            ]
            (source / split / "metadata.jsonl").write_text("\n".join(lines))
    names = SCENE_CLASSES[1:]
    data = prepare_detection(source, names=names if form == "metadata" else None)
    assert data.names == names
    for row in range(3):
        found = data.evaluation.read(row)[1] if form != "parquet" else None
        if found is not None:
            assert found.labels.tolist() == part["test"][row]["objects"]["category"]
    rows = len(data.train) + (len(data.evaluation) if form == "parquet" else 0)
    assert (rows, sum(data.object_counts)) == (12, data.train.objects.counts.sum())


@pytest.mark.parametrize("form", ["dict of lists", "list of dicts", "columns"])
def test_forms_of_columns(form):
    boxes, categories = (
        [[[1.0, 2.0, 10.0, 20.0], [0.0, 0.0, 60.0, 40.0]], [], [[3.0, 4.0, 5.0, 6.0]]],
        [["b", "a"], [], ["b"]],
    )
    if form == "dict of lists":
        data = in_memory([{"bbox": b, "category": c} for b, c in zip(boxes, categories, strict=True)], names=None)
    elif form == "list of dicts":
        rows = [
            [{"bbox": b, "category": c} for b, c in zip(*row, strict=True)]
            for row in zip(boxes, categories, strict=True)
        ]
        data = in_memory(rows, names=None)
    else:
        images = [Image.new("RGB", (WIDTH, HEIGHT))] * 3
        data = datasets.Dataset.from_dict({"image": images, "bbox": boxes, "labels": categories})
    data = prepare_detection({"train": data, "test": data})
    assert data.names == ["a", "b"]
    read = [data.train.read(row)[1] for row in range(3)]
    assert [one.labels.tolist() for one in read] == [[1, 0], [], [1]]
    assert read[0].boxes.tolist() == [[1, 2, 11, 22], [0, 0, 60, 40]]
    assert read[0].areas.tolist() == [200, 2400]


def test_box_forms_and_units_can_be_told():
    def told(convert, **options):
        rows = [{**row, "bbox": [convert(*map(float, box)) for box in row["bbox"]]} for row in MANY]
        data = in_memory(rows)
        part = prepare_detection({"train": data, "test": data}, **options).train
        return np.concatenate([part.read(row)[1].boxes for row in range(2)])

    expected = told(lambda *box: box)
    xyxy = told(lambda x, y, w, h: (x, y, x + w, y + h), box_form="xyxy")
    np.testing.assert_array_equal(xyxy, expected)
    shares = told(
        lambda x, y, w, h: ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT),
        box_form="cxcywh",
        relative=True,
    )
    np.testing.assert_allclose(shares, expected, atol=1e-9)


def test_masks_in_columns_are_read_row_by_row():
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[5:15, 10:30] = True
    polygon = [[[10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]]]
    picture = Image.fromarray(square.astype(np.uint8) * 255)
    rows = [objects((10, 5, 20, 10), segmentation=[polygon[0]])]
    nested = prepare_detection(both(rows), masks=True).train.read(0)[1]
    np.testing.assert_array_equal(nested.masks.decoded()[0], square)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "boxes": BOX,
            "labels": datasets.List(datasets.Value("int64")),
            "masks": datasets.List(datasets.Image()),
        }
    )
    columns = datasets.Dataset.from_dict(
        {
            "image": [Image.new("RGB", (WIDTH, HEIGHT))],
            "boxes": [[[10, 5, 30, 15]]],
            "labels": [[0]],
            "masks": [[picture]],
        },
        features,
    )
    pictures = prepare_detection({"train": columns, "test": columns}, masks=True, names=["a"]).train.read(0)[1]
    np.testing.assert_array_equal(pictures.masks.decoded()[0], square)
    assert (pictures.boxes.tolist(), pictures.areas.tolist()) == ([[10, 5, 30, 15]], [200])
    assert "neither masks nor ids" in faults({"train": MANY_DATA, "test": MANY_DATA}, masks=True)


def test_a_map_of_segments_beside_their_list():
    ids = np.full((HEIGHT, WIDTH), 700, np.int32)
    ids[10:20, 30:50] = 9
    colours = Image.fromarray(np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8))
    infos = [[{"id": 9, "category_id": 1, "iscrowd": 0}, {"id": 700, "category_id": 0, "iscrowd": 0}]]
    data = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (WIDTH, HEIGHT))], "label": [colours], "segments_info": infos}
    )
    data = data.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
    prepared = prepare_detection({"train": data, "test": data}, panoptic=True, names=["wall", "door"], things=["door"])
    found = prepared.train.read(0)[1]
    assert (prepared.things, found.labels.tolist()) == ((1,), [1, 0])
    assert found.boxes.tolist() == [[30, 10, 50, 20], [0, 0, WIDTH, HEIGHT]]
    assert found.areas.tolist() == [200, HEIGHT * WIDTH - 200]
    text = faults({"train": data, "test": data}, panoptic=True, names=["wall", "door"], things=["window"])
    assert "window is none of wall, door" in text


def test_arrays_and_turned_photographs_have_their_sizes():
    features = datasets.Features(
        {
            "image": datasets.Array3D((HEIGHT, WIDTH, 5), "uint8"),
            "bbox": BOX,
            "label": datasets.List(datasets.ClassLabel(names=["a"])),
        }
    )
    data = datasets.Dataset.from_dict(
        {"image": [np.zeros((HEIGHT, WIDTH, 5), np.uint8)], "bbox": [[[1, 2, 3, 4]]], "label": [[0]]}, features
    )
    part = prepare_detection({"train": data, "test": data}).train
    assert part.sizes() == [(HEIGHT, WIDTH)]
    assert part.read(0)[0].shape == (HEIGHT, WIDTH, 5)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "jpeg", exif=exif)
    turned = in_memory([objects((5, 45, 10, 10))], images=[{"bytes": buffer.getvalue(), "path": None}])
    part = prepare_detection({"train": turned, "test": turned}).train
    assert part.sizes() == [part.read(0)[0].size[::-1]] == [(WIDTH, HEIGHT)]


def test_parts_of_a_split_keep_images_and_objects_together(scenes):
    part = prepare_detection(scenes).train
    taken = part.take([7, 2, 7], "some")
    assert (taken.split, len(taken), taken.sizes()) == ("some", 3, [(96, 96)] * 3)
    for place, row in enumerate((7, 2, 7)):
        (image, found), (same_image, same) = taken.read(place), part.read(row)
        assert np.array_equal(image, same_image)
        assert (found.boxes.tolist(), found.labels.tolist()) == (same.boxes.tolist(), same.labels.tolist())
    assert len(part.take([], "none")) == 0


# Checks


def test_boxes_given_in_another_form_are_named():
    xyxy = [{**row, "bbox": [[x, y, x + w, y + h] for x, y, w, h in row["bbox"]]} for row in MANY]
    text = faults(both(xyxy))
    assert "2 of 5 boxes in split 'train' stick out of their image or have a negative size when read as xywh" in text
    assert "read as xyxy all of them fit. Most likely they are xyxy given as xywh: box_form='xyxy'" in text
    assert prepare_detection(both(xyxy), box_form="xyxy").train.read(1)[1].boxes[1].tolist() == [40, 4, 55, 34]
    assert "Most likely they are xywh given as xyxy: box_form='xywh'" in faults(both(MANY), box_form="xyxy")


def test_units_of_boxes_are_named():
    shares = [{**row, "bbox": [[x / 60, y / 40, w / 60, h / 40] for x, y, w, h in row["bbox"]]} for row in MANY]
    data = {"train": in_memory(shares), "test": in_memory(shares, "test")}
    assert "all 5 boxes in split 'train' are within 0 to 1, but are read as pixels" in faults(data)
    boxes = prepare_detection(data, relative=True).train.read(0)[1].boxes
    np.testing.assert_allclose(boxes, [[2, 3, 12, 13], [30, 20, 50, 35]], rtol=1e-6)
    assert "go up to 50: they are in pixels. Give relative=False" in faults(both(MANY), relative=True)


def test_single_boxes_outside_are_an_error_unless_they_may_be_cut(reports):
    rows = [*MANY * 5, objects((50, 30, 15, 5), (70, 5, 5, 5), (2, 2, -3, 5))]
    text = faults(both(rows))
    assert "row 10: object 0: [50, 30, 15, 5] in 40x60 pixels" in text
    assert "row 10: object 1: [70, 5, 5, 5]" in text
    assert "boxes of negative width or height in split 'train' (1 of 28)" in text
    data = prepare_detection(both([*MANY * 5, objects((50, 30, 15, 5), (58, 0, 3, 40))]), outside="clip")
    assert data.train.read(10)[1].boxes.tolist() == [[50, 30, 60, 35], [58, 0, 60, 40]]
    assert "2 of 27 boxes in split 'train' stick out of their image, by up to 5 pixels" in reports.text


def test_boxes_without_area_are_dropped_or_kept_and_counted(reports):
    data = both([objects((5, 5, 0, 10), (5, 5, 10, 10)), objects((0, 0, 0, 0))])
    assert prepare_detection(data).train.objects.counts.tolist() == [1, 0]
    first = "the first: row 0: object 0"
    assert f"left out: 2 boxes without area (of 3; empty='keep' keeps them; {first})" in reports.text
    assert "train: 2 images, 1 of them without objects (kept)" in reports.text
    kept = prepare_detection(data, empty="keep")
    assert kept.train.objects.counts.tolist() == [2, 1]
    with pytest.raises(ConfigError, match="empty is 'drop' or 'keep'; got 'remove'"):
        prepare_detection(data, empty="remove")


def test_faults_of_rows_are_told_at_once():
    rows = [
        objects((1, 1, 5, 5), category=["a"], id=[1]),
        {"bbox": [[1, 1, 5, 5], [2, 2, 5, 5]], "category": ["a"], "id": [1]},
        {"bbox": [[1, 1, 5], [float("inf"), 2, 5, 5]], "category": ["a", "a"], "id": [1, 2]},
        {"bbox": [[1, 1, 5, 5]], "category": [None], "id": [1]},
        {"bbox": [[1, 1, 5, 5], [2, 2, 5, 5]], "category": ["a", "a"], "id": [4, 4]},
    ]
    text = faults({"train": in_memory(rows, names=None), "test": in_memory(rows[:1], "test", names=None)})
    for part in (
        "row 1: 2 in objects.bbox, 1 in objects.category",
        "boxes that are not four numbers in split 'train' (1):\n        row 2",
        "row 2: annotation 2: [inf, 2, 5, 5]",
        "objects without a class in split 'train' (1):\n        row 3",
        "object ids that stand twice in an image of split 'train' (1):\n        row 4: 4",
    ):
        assert part in text, part


def test_ids_with_gaps_must_be_named(reports):
    rows = [objects((1, 1, 5, 5), (2, 2, 6, 6), category=[90, 3]), objects((1, 1, 5, 5), category=[1])]
    data = both(rows, names=None)
    text = faults(data)
    assert "the category ids are 1, 3, 90: not 0 to K-1 without gaps" in text
    assert 'Give names={1: "...", 3: "...", 90: "..."}' in text
    named = prepare_detection(data, names={"1": "ant", "3": "bee", "90": "cat"})
    assert named.names == ["ant", "bee", "cat"]
    assert named.train.read(0)[1].labels.tolist() == [2, 1]
    text = faults(data, names=["ant", "bee"])
    assert "not among the 2 classes (2)" in text
    assert "90 (1 object, the first object 0 of row 0)" in text
    whole = prepare_detection(both([objects((1, 1, 5, 5), (2, 2, 6, 6), category=[0, 1])], names=None))
    assert whole.names == ["class 0", "class 1"]
    assert "are called class 0 to class 1" in reports.text


def test_a_class_that_only_the_evaluation_has():
    train = in_memory([objects((1, 1, 5, 5), category=["cat"])], names=None)
    test = in_memory([objects((1, 1, 5, 5), category=["Cat"])], "test", names=None)
    assert "'Cat' (1 object" in faults({"train": train, "test": test})


def test_splits_without_any_object(reports):
    nothing = in_memory([objects(), objects()], "test").cast_column("objects", MANY_DATA.features["objects"])
    data = prepare_detection({"train": MANY_DATA, "test": nothing}, held_out=0.5)
    assert "split 'test' has no objects and was passed over" in reports.text
    assert data.evaluation.split == "50% held out of train"
    assert "split 'test' has no object at all" in faults({"train": MANY_DATA, "test": nothing}, eval_split="test")
    assert "split 'train' has no object at all" in faults({"train": nothing, "test": MANY_DATA})


def test_unreadable_images():
    broken = in_memory(MANY, images=[{"bytes": b"nothing", "path": "x.jpg"}, {"bytes": None, "path": None}])
    text = faults({"train": broken, "test": MANY_DATA})
    assert "rows with no image in split 'train' (1): 1" in text
    assert "--skip-unreadable, leaves them out) in split 'train' (1)" in text
    assert "x.jpg" in text
    buffer = io.BytesIO()
    Image.effect_noise((WIDTH, HEIGHT), 50).save(buffer, "png")
    cut = in_memory(MANY[:1], images=[{"bytes": buffer.getvalue()[:800], "path": "cut.png"}])
    assert "cut.png" in faults({"train": cut, "test": MANY_DATA})
    with pytest.raises(DatasetError, match="image 0 of split 'train'"):
        prepare_detection({"train": cut, "test": MANY_DATA}, check_images=0).train.read(0)


def test_columns_that_cannot_be_told_apart():
    two = MANY_DATA.add_column("more", MANY)
    assert "2 columns could hold the objects: objects, more. Name it: objects_column=..." in faults(two)
    data = prepare_detection(two, objects_column="objects", held_out=0.5)
    assert data.names == ["cat", "dog"]
    assert "no column holds objects with boxes and classes" in faults(MANY_DATA.remove_columns("objects"))
    assert "no column objects_column='x'" in faults(MANY_DATA, objects_column="x")
