"""What training does to images with objects: the recipe moves both, and batches are of similar shape."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from hfvision.errors import ConfigError
from hfvision.objects import ImageObjects, SegmentMasks
from hfvision.processing.detection import DetrImageProcessor
from hfvision.training.buckets import BucketSampler, by_shape
from hfvision.training.detection_augmentation import DetectionAugmentation, cut_image, object_preparation
from hfvision.training.detection_samples import collate, packed, unpacked

NOTHING = {"scale": (1, 1), "crop": 0, "flip": 0, "colour": False}
HEIGHT, WIDTH = 40, 60
BOXES = [(4, 6, 24, 26), (30, 10, 50, 38)]  # xyxy


def picture():
    """An image whose red is 200 in the first object and 100 in the second, and its objects."""
    pixels, places = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.int32)
    for place, (left, top, right, bottom) in enumerate(BOXES):
        pixels[top:bottom, left:right, 0] = (200, 100)[place]
        places[top:bottom, left:right] = place + 1
    boxes = np.array(BOXES, np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowd = np.zeros(2, bool)
    return Image.fromarray(pixels), ImageObjects(
        (HEIGHT, WIDTH), boxes, np.array([7, 3]), areas, crowd, SegmentMasks(places, 2)
    )


def processor(**options):
    return DetrImageProcessor(**{"size": {"shortest_edge": 80, "longest_edge": 200}, "resample": 0} | options)


def prepared(augment, seed=0, masks=True, objects=None, **options):
    image, own = picture()
    prepare = object_preparation(processor(**options), augment, masks)
    return prepare(image, own if objects is None else objects, np.random.default_rng(seed))


def assert_boxes_are_those_of_the_pixels(pixels, labels):
    """The red of an image says where its objects are; nearest pixels leave an error of a pixel or two."""
    height, width = pixels.shape[1:]
    red = (pixels[0] * 255).round()
    for label, box, mask in zip(labels["class_labels"].tolist(), labels["boxes"], labels["masks"], strict=True):
        rows, columns = torch.nonzero(red == (200 if label == 7 else 100), as_tuple=True)
        x, y, w, h = (box * torch.tensor([width, height, width, height])).tolist()
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert [x - w / 2, y - h / 2, x + w / 2, y + h / 2] == pytest.approx([float(edge) for edge in drawn], abs=2)
        assert torch.equal(mask, red == (200 if label == 7 else 100))


def test_without_any_part_the_recipe_is_the_processor():
    pixels, labels = prepared(DetectionAugmentation(**NOTHING))
    image, objects = picture()
    alone = processor()(image, annotations=objects, return_segmentation_masks=True, return_tensors="pt")
    torch.testing.assert_close(pixels, alone["pixel_values"][0], rtol=0, atol=0)
    assert labels.keys() == alone["labels"][0].keys()
    for name, values in labels.items():
        torch.testing.assert_close(values, alone["labels"][0][name], rtol=0, atol=0)


def test_image_boxes_and_masks_move_together():
    recipe = DetectionAugmentation(colour=False, scale=(0.5, 1.5))
    shapes, mirrored, objects = set(), 0, set()
    for seed in range(30):
        pixels, labels = prepared(recipe, seed, do_normalize=False)
        assert_boxes_are_those_of_the_pixels(pixels, labels)
        shapes.add(tuple(pixels.shape))
        objects.add(len(labels["boxes"]))
        if len(labels["boxes"]) == 2:
            mirrored += bool(labels["boxes"][0, 0] > labels["boxes"][1, 0])
    assert len(shapes) > 15  # scales and windows differ
    assert objects >= {1, 2}  # a window loses objects
    assert 3 < mirrored < 25


def test_a_window_may_be_cut_out_of_arrays_of_either_layout():
    image, _ = picture()
    last = np.asarray(image)
    window, size = (5, 7, 20, 30), (HEIGHT, WIDTH)
    wanted = np.asarray(cut_image(image, size, window))
    assert wanted.shape == (20, 30, 3)
    np.testing.assert_array_equal(cut_image(last, size, window), wanted)
    np.testing.assert_array_equal(cut_image(last.transpose(2, 0, 1), size, window), wanted.transpose(2, 0, 1))


def test_crowds_are_no_targets_and_an_image_without_objects_is_one():
    _, objects = picture()
    crowded = ImageObjects(
        objects.size, objects.boxes, objects.labels, objects.areas, np.array([True, False]), objects.masks
    )
    assert prepared(None, objects=crowded)[1]["class_labels"].tolist() == [3]
    _, labels = prepared("standard", masks=False, objects=ImageObjects.none((HEIGHT, WIDTH)))
    assert labels["boxes"].shape == (0, 4)


def test_augmentation_depends_on_the_generator_only_and_settings_are_checked():
    first, again, other = (prepared("standard", seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
    with pytest.raises(ConfigError, match="4 problems"):
        DetectionAugmentation(scale=(2, 1), crop=2, crop_sides=(1.5, 2), flip=-1)
    with pytest.raises(ConfigError, match="augment is"):
        prepared("strong")


def test_a_batch_is_padded_to_its_largest_image():
    samples = [
        {"pixel_values": torch.ones(3, height, width), "labels": {"boxes": torch.zeros(0, 4)}, "row": row}
        for row, (height, width) in enumerate([(4, 6), (5, 3)])
    ]
    batch = collate(samples)
    assert batch["pixel_values"].shape == (2, 3, 5, 6)
    assert batch["pixel_mask"].sum(dim=(1, 2)).tolist() == [24, 15]
    torch.testing.assert_close(batch["pixel_values"][:, 0], batch["pixel_mask"].float(), rtol=0, atol=0)
    assert len(batch["labels"]) == 2


def test_objects_survive_the_way_between_processes():
    _, objects = picture()
    table = packed([ImageObjects.none((HEIGHT, WIDTH)), objects])
    none, some = unpacked(torch.nn.functional.pad(table, (0, 0, 0, 3), value=-100.0), torch.tensor([4, 9]))
    assert (none["boxes"].shape, none["image_id"], some["image_id"]) == ((0, 4), 4, 9)
    for name, values in {"boxes": objects.boxes, "labels": objects.labels, "area": objects.areas}.items():
        np.testing.assert_array_equal(some[name], values)


class Part:
    """Of samples: what a sampler asks."""

    seed, epoch = 3, 0


def test_batches_are_of_similar_shape_and_differ_by_epoch():
    rng = np.random.default_rng(0)
    sizes = [(100, 200) if wide else (200, 100) for wide in rng.random(103) < 0.5]
    part = Part()
    sampler = BucketSampler(part, sizes, 8)
    orders = []
    for part.epoch in (0, 1, 0):
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(103))
        batches = [orders[-1][start : start + 8] for start in range(0, 96, 8)]
        mixed = [len({sizes[row] for row in batch}) > 1 for batch in batches]
        assert sum(mixed) <= 1
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    together = {frozenset(orders[0][start : start + 8]) for start in range(0, 96, 8)}
    assert not together & {frozenset(orders[1][start : start + 8]) for start in range(0, 96, 8)}
    in_order = [sizes[row] for row in by_shape(sizes)]
    assert sum(first != second for first, second in pairwise(in_order)) == 1
