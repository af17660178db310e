"""The digit scenes: reproducible, exact in masks, instances and boxes, of disjoint digits."""

import datasets
import numpy as np
import pytest

from hfvision.data import load_digits, prepare_segmentation
from hfvision.data.digits import load_digit_scenes
from hfvision.data.scenes import DIGIT_SIZE, SCENE_CLASSES, SPLITS, ScenePainter
from hfvision.errors import DatasetError


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(train=60, validation=12)


def arrays(rows, column):
    return [np.asarray(image) for image in rows[column]]


def test_scenes_are_pictures_with_masks_and_objects(scenes):
    assert {split: len(rows) for split, rows in scenes.items()} == {"train": 60, "validation": 12}
    row = scenes["train"][0]
    assert (row["image"].mode, row["image"].size) == ("RGB", (96, 96))
    assert (row["mask"].mode, row["instances"].mode) == ("L", "L")
    assert scenes["train"].features["objects"]["category"].feature.names == SCENE_CLASSES[1:]
    counts = [len(objects["id"]) for objects in scenes["train"]["objects"]]
    assert 1 <= min(counts) < max(counts) <= 4


def test_every_digit_occurs_and_background_prevails(scenes):
    pixels = np.bincount(np.concatenate([mask.ravel() for mask in arrays(scenes["train"], "mask")]), minlength=11)
    assert (pixels[1:] > 1000).all()
    assert 0.7 < pixels[0] / pixels.sum() < 0.9


def test_objects_tell_of_the_visible_pixels_exactly(scenes):
    for row in scenes["train"]:
        mask, instances, objects = np.asarray(row["mask"]), np.asarray(row["instances"]), row["objects"]
        assert set(np.unique(instances)) == {0, *objects["id"]}
        assert ((instances == 0) == (mask == 0)).all()
        for number, box, category, area in zip(*objects.values(), strict=True):
            visible = instances == number
            assert set(mask[visible]) == {category + 1}
            assert visible.sum() == area
            x, y, width, height = map(int, box)
            rows, columns = np.nonzero(visible)
            assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (y, x, y + height, x + width)


def test_the_mask_is_where_ink_covers_half_of_the_background():
    painter = ScenePainter(load_digits()["train"], 96, (1, 1), DIGIT_SIZE)
    black = np.zeros((3, 96, 96), np.float32), np.zeros((2, 3), np.float32)
    for index in range(10):
        painter._background = lambda random: (black[0].copy(), black[1])
        scene = painter.paint(np.random.default_rng(index))
        cover = scene.image.max(axis=-1) / scene.image.max()
        assert (cover[scene.instances == 1] > 0.49).all()
        assert (cover[scene.instances == 0] < 0.51).all()
        assert scene.mask.max() == scene.digits[0] + 1


def test_a_later_digit_hides_little_of_an_earlier_one():
    painter = ScenePainter(load_digits()["train"], 64, (6, 6), DIGIT_SIZE)
    for index in range(20):
        scene = painter.paint(np.random.default_rng(index))
        areas = np.bincount(scene.instances.ravel())[1:]
        assert len(areas) == len(scene.digits)
        assert areas.min() > 80


def test_a_scene_depends_on_seed_split_and_index_only(scenes):
    again = load_digit_scenes(train=3, validation=2)
    for split in again:
        for column in ("image", "mask", "instances"):
            pairs = zip(arrays(again[split], column), arrays(scenes[split], column), strict=False)
            assert all((one == other).all() for one, other in pairs)
        assert again[split]["objects"][:] == scenes[split]["objects"][: len(again[split])]
    other = load_digit_scenes(train=1, validation=1, seed=1)
    assert (np.asarray(other["train"][0]["image"]) != np.asarray(scenes["train"][0]["image"])).any()
    assert (np.asarray(scenes["validation"][0]["image"]) != np.asarray(scenes["train"][0]["image"])).any()


def test_training_and_validation_scenes_are_of_the_disjoint_splits_of_digits(monkeypatch):
    digits = load_digits()
    assert SPLITS == {"train": "train", "validation": "test"}
    # With the digits of the test split taken away, training scenes are the same, and validation scenes are not.
    others = datasets.DatasetDict(train=digits["train"], test=digits["train"].select(range(10)))
    usual = load_digit_scenes(train=2, validation=2)
    monkeypatch.setattr("hfvision.data.scenes.load_digits", lambda: others)
    changed = load_digit_scenes(train=2, validation=2)
    same = {
        split: arrays(usual[split], "mask")[0].tolist() == arrays(changed[split], "mask")[0].tolist() for split in usual
    }
    assert same == {"train": True, "validation": False}


def test_larger_canvases_take_more_digits():
    large = load_digit_scenes(train=4, validation=1, size=192)
    assert large["train"][0]["image"].size == (192, 192)
    assert min(len(objects["id"]) for objects in large["train"]["objects"]) > 5


def test_strokes_are_wide_enough_for_coarse_logits(scenes):
    """Half of the digit pixels at least lie in whole 3 x 3 squares of their digit."""
    inside = total = 0
    for instances in arrays(scenes["validation"], "instances"):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(instances, 1), (3, 3))
        inside += ((windows == windows[..., 1:2, 1:2]).all(axis=(2, 3)) & (instances > 0)).sum()
        total += (instances > 0).sum()
    assert inside / total > 0.4


def test_scenes_need_no_place_to_write(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(load_digit_scenes(1, 1)["train"]) == 1
    assert not (tmp_path / "cache").exists()


def test_scenes_survive_parquet_and_saving(scenes, tmp_path):
    scenes["validation"].to_parquet(tmp_path / "scenes.parquet")
    back = datasets.Dataset.from_parquet(str(tmp_path / "scenes.parquet"), cache_dir=str(tmp_path / "cache"))
    assert back.features == scenes["validation"].features
    assert (np.asarray(back[3]["mask"]) == np.asarray(scenes["validation"][3]["mask"])).all()


def test_scenes_in_memory_bring_their_names(scenes):
    data = prepare_segmentation(scenes)
    assert (data.name, data.names) == ("digit-scenes", SCENE_CLASSES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 0}, "numbers of scenes"),
        ({"seed": -1}, "seed"),
        ({"digits": (3, 2)}, r"got \(3, 2\)"),
        ({"size": 32}, "from 8 to the canvas' 32"),
        ({"size": 32, "validation": 0}, "2 problems"),
    ],
)
def test_scenes_that_cannot_be(options, words):
    with pytest.raises(DatasetError, match=words):
        load_digit_scenes(**options)
