"""What the values of label maps mean: declared once, checked, and kept beside the model."""

import json

import numpy as np
import pytest

from hfvision.errors import ConfigError, ImageValueError, UnknownNameError
from hfvision.processing.label_map import Label, LabelMap


def test_the_forms_of_a_label_map_mean_the_same(tmp_path):
    rows = [{"id": 7, "train_id": 0, "name": "road", "color": [128, 64, 128]}, {"id": 0, "train_id": None}]
    wanted = LabelMap((Label(7, 0, "road", (128, 64, 128)), Label(0, None)))
    (tmp_path / "map.json").write_text(json.dumps(wanted.to_dict()))
    assert LabelMap.of(rows) == LabelMap.of({"labels": rows}) == wanted
    assert LabelMap.from_json_file(tmp_path / "map.json") == LabelMap.of(wanted) == wanted
    assert LabelMap.of({7: 0, 0: None}) == LabelMap.of({"7": 0, "0": None})  # as JSON has keys
    assert LabelMap.of({7: 0}).id2label == {0: "LABEL_0"}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_raw_ids_of_any_dtype_become_train_ids(dtype):
    raw = np.array([[7, 0], [11, 7]], dtype)
    got = LabelMap.of({7: 0, 11: 3, 0: None}).to_train_ids(raw, ignore_index=200)
    assert got.dtype == np.int64
    assert got.tolist() == [[0, 200], [3, 0]]


def test_large_and_negative_ids_are_ids_too():
    raw = np.array([[-1, 100_000], [2**40, -1]])
    assert LabelMap.of({-1: None, 100_000: 1, 2**40: 2}).to_train_ids(raw).tolist() == [[255, 1], [2, 255]]


def test_values_that_are_not_declared_are_named_with_their_pixels_or_ignored():
    raw = np.array([[7, 9, 9], [200, 9, 7]], np.uint8)
    with pytest.raises(ImageValueError) as raised:
        LabelMap.of({7: 0}).to_train_ids(raw)
    assert str(raised.value).startswith("2 raw ids are not declared in `label_map`: 9 (3 pixels), 200 (1 pixel).")
    ignoring = LabelMap.of({"labels": [{"id": 7, "train_id": 0}], "unmapped": "ignore"})
    assert ignoring.to_train_ids(raw).tolist() == [[0, 255, 255], [255, 255, 0]]


def test_colours_are_matched_exactly():
    colours = {"labels": [{"train_id": 4, "color": [1, 2, 3]}, {"train_id": None, "color": [0, 0, 0]}]}
    picture = np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8)
    assert LabelMap.of(colours).to_train_ids(picture).tolist() == [[4, 255]]
    picture[0, 0, 2] = 4
    with pytest.raises(ImageValueError, match=r"1 colour is not declared in `label_map`: \(1, 2, 4\) \(1 pixel\)"):
        LabelMap.of(colours).to_train_ids(picture)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({7: -1}, "train ids count from 0"),
        ({}, "it has no rows"),
        ({"road": 0}, "ids of a label map are whole numbers; got 'road'"),
        ([{"id": 1, "train_id": 0}, {"id": 1, "train_id": 2}], "id 1 stands in two rows"),
        ([{"train_id": 0}], "a row needs an id or a color"),
        ([{"id": 1, "trainid": 0}], "got 'trainid' too"),
        ([{"id": 1, "train_id": 0, "color": [1, 2]}], "a color is"),
        ({"labels": [{"id": 1, "train_id": 0}], "unmapped": "drop"}, "unmapped must be error or ignore; got 'drop'"),
        (7, "a label map is a name"),
    ],
)
def test_label_maps_that_cannot_work_are_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        LabelMap.of(value)


def test_a_colour_of_two_classes_is_refused_where_colours_are_read():
    two = LabelMap.of([{"id": 0, "train_id": 0, "color": [9, 9, 9]}, {"id": 1, "train_id": 1, "color": [9, 9, 9]}])
    assert two.to_train_ids(np.array([[0, 1]])).tolist() == [[0, 1]]
    with pytest.raises(ConfigError, match="stands for two classes"):
        two.to_train_ids(np.full((1, 1, 3), 9, np.uint8))


def test_the_data_sets_own_maps():
    ade, city, context = (LabelMap.named(name) for name in ("ade20k-150", "cityscapes-19", "pascal-context-60"))
    assert (ade.num_labels, city.num_labels, context.num_labels) == (150, 19, 60)
    assert ade.to_train_ids(np.array([[0, 1, 150]])).tolist() == [[255, 0, 149]]
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert city.to_train_ids(np.array([raw]))[0].tolist() == list(range(19))
    others = [[value for value in range(-1, 34) if value not in raw]]
    assert set(city.to_train_ids(np.array(others))[0].tolist()) == {255}
    assert context.to_train_ids(np.array([[0, 59]])).tolist() == [[0, 59]]
    assert (ade.id2label[0], city.id2label[18], context.id2label[0]) == ("wall", "bicycle", "background")
    assert city.palette[0] == (128, 64, 128)
    with pytest.raises(UnknownNameError, match="there are ade20k-150, cityscapes-19, pascal-context-60"):
        LabelMap.named("ade")
