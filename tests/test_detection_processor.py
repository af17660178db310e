"""DETR's processor: transformers' numbers and the original's, images and their objects together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hfvision import reporting
from hfvision.errors import ConfigError, DatasetError, UnknownNameError
from hfvision.geometry import encode_rle
from hfvision.models.detr.config import DetrConfig
from hfvision.objects import ListedMasks, read_objects
from hfvision.processing import batch
from hfvision.processing.detection import DetectionImageProcessor, DetrImageProcessor

GOLDENS = Path(__file__).parent / "data" / "goldens" / "preprocess"
SMALL = {"size": {"shortest_edge": 24, "longest_edge": 40}}
SIZES = ((30, 41), (50, 22), (33, 33))
# Boxes are computed in float64 here and in float32 there: a few units in the last place of values up to one.
FLOAT32 = {"rtol": 2e-6, "atol": 2e-7}


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def annotation(height, width, seed=0, objects=5):
    """COCO's form; some boxes stick out of the image, one is empty, one is a crowd."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform((-3, -3, 1, 1), (width * 0.8, height * 0.8, width / 2, height / 2), (objects, 4))
    boxes[1, 2] = 0
    return {
        "image_id": 100 + seed,
        "annotations": [
            {"bbox": box.tolist(), "category_id": int(k), "area": float(a), "iscrowd": int(i == 3), "id": i}
            for i, (box, k, a) in enumerate(
                zip(boxes, rng.integers(0, 91, objects), rng.uniform(1, 99, objects), strict=True)
            )
        ],
    }


def a_batch():
    return [photo(*size, i) for i, size in enumerate(SIZES)], [annotation(*size, i) for i, size in enumerate(SIZES)]


def panoptic(folder, height, width, seed=0):
    """COCO's panoptic form: three bands of segments (one of them a single column wide) and void."""
    ids = np.zeros((height, width), np.int64)
    ids[5:12], ids[14:20, 3:9], ids[22:, 7:8] = 300, 70_000, 5
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(folder / f"{seed}.png")
    infos = [
        {"id": one, "category_id": i, "iscrowd": int(i == 1), "area": float((ids == one).sum())}
        for i, one in enumerate((70_000, 300, 5))
    ]
    return {"image_id": seed, "file_name": f"{seed}.png", "segments_info": infos}


def assert_same_labels(got, wanted, frame=None):
    """`frame`: transformers' boxes are shares of it, where the batch was padded, ours always of the image itself."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        ours, theirs = torch.as_tensor(got[name]), torch.as_tensor(value)
        assert ours.dtype == theirs.dtype
        if name == "boxes" and frame is not None:
            height, width = got["size"].tolist()
            ours = ours * torch.tensor([width, height, width, height]) / torch.tensor(frame)[[1, 0, 1, 0]]
        if name == "size" and frame is not None:
            theirs = torch.tensor([min(a, b) for a, b in zip(frame, ours.tolist(), strict=True)])
        torch.testing.assert_close(ours, theirs, **FLOAT32, msg=lambda m, name=name: f"{name}: {m}")


# Equal to transformers and to the original


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"shortest_edge": 47, "longest_edge": 61}, "resample": 3},
        {"size": {"height": 31, "width": 52}, "do_normalize": False},
        {"size": {"max_height": 28, "max_width": 64}, "do_convert_annotations": False},
        {"do_resize": False, "do_rescale": False},
    ],
    ids=str,
)
def test_single_images_and_their_objects_equal_transformers(options):
    ours, theirs = (kind(**{**SMALL, **options}) for kind in (DetrImageProcessor, DetrImageProcessorPil))
    for image, objects in zip(*a_batch(), strict=True):
        got, wanted = (processor(image, annotations=objects, return_tensors="pt") for processor in (ours, theirs))
        assert set(got) == set(wanted)
        for name in ("pixel_values", "pixel_mask"):
            torch.testing.assert_close(got[name], wanted[name], rtol=0, atol=0)
        theirs_of = dict(wanted["labels"][0])
        theirs_of.setdefault("size", got["labels"][0]["size"])  # without resizing transformers leaves it out
        assert_same_labels(got["labels"][0], theirs_of)


@pytest.mark.parametrize("pad_size", [None, {"height": 64, "width": 70}])
def test_batches_equal_transformers_up_to_the_unit_of_boxes(pad_size):
    images, annotations = a_batch()
    got, wanted = (
        kind(**SMALL)(images, annotations=annotations, pad_size=pad_size, return_tensors="pt")
        for kind in (DetrImageProcessor, DetrImageProcessorPil)
    )
    for name in ("pixel_values", "pixel_mask"):
        assert got[name].dtype == wanted[name].dtype
        torch.testing.assert_close(got[name], wanted[name], rtol=0, atol=0)
    for mine, its in zip(got["labels"], wanted["labels"], strict=True):
        assert_same_labels(mine, its, frame=tuple(got["pixel_values"].shape[-2:]))


@pytest.mark.parametrize("with_masks", [None, False])
def test_panoptic_annotations_equal_transformers(with_masks, tmp_path):
    images = [photo(*size, i) for i, size in enumerate(SIZES[:2])]
    annotations = [panoptic(tmp_path, *size, seed=i) for i, size in enumerate(SIZES[:2])]
    options = {"masks_path": tmp_path, "return_segmentation_masks": with_masks, "return_tensors": "pt"}
    got, wanted = (
        kind(**SMALL, format="coco_panoptic")(images, annotations=annotations, **options)
        for kind in (DetrImageProcessor, DetrImageProcessorPil)
    )
    assert ("masks" in got["labels"][0]) == (with_masks is None)
    for mine, its in zip(got["labels"], wanted["labels"], strict=True):
        assert_same_labels(mine, its, frame=tuple(got["pixel_values"].shape[-2:]))


@pytest.mark.parametrize("device", ["cpu", "elsewhere"])
def test_the_originals_evaluation_is_reproduced(device, monkeypatch):
    golden = GOLDENS / "detr_eval"
    config, outputs = json.loads((golden / "case.json").read_text())["config"], np.load(golden / "output.npz")
    corners = np.load(golden / "targets.npz")
    if device == "elsewhere":
        monkeypatch.setattr(batch, "WITH_PILLOW", ())
    processor = DetrImageProcessor(size=config["short_side"], max_size=config["max_side"])
    for i in range(2):
        objects = {"boxes": corners[f"boxes_xyxy_{i}"], "labels": [0, 1, 2]}
        got = processor(torch.from_numpy(np.load(golden / f"image_{i}.npy")), objects, return_tensors="np")
        np.testing.assert_allclose(got["pixel_values"][0], outputs[f"pixel_values_{i}"], rtol=0, atol=1e-6)
        for name, stored in (("boxes", "boxes_cxcywh"), ("area", "area"), ("size", "size")):
            np.testing.assert_allclose(got["labels"][0][name], outputs[f"{stored}_{i}"], **FLOAT32)


def test_what_is_saved_is_what_transformers_saves(tmp_path):
    for options in ({}, {"do_pad": False, "do_normalize": False}, {"size": 600, "max_size": 900}):
        ours, theirs = DetrImageProcessor(**options), DetrImageProcessorPil(**options)
        assert ours.to_dict() == theirs.to_dict()
        ours.save_pretrained(tmp_path)
        again = DetrImageProcessorPil.from_pretrained(tmp_path)
        assert again.to_dict() == theirs.to_dict()
    DetrConfig().save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is DetrImageProcessor


def test_files_of_the_first_versions_are_understood(tmp_path):
    old = {"feature_extractor_type": "DetrFeatureExtractor", "size": 48, "max_size": 70, "format": "coco_detection"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**old, "pad_and_return_pixel_mask": False}))
    processor = DetrImageProcessor.from_pretrained(tmp_path)
    assert (dict(processor.size), processor.do_pad) == ({"shortest_edge": 48, "longest_edge": 70}, False)
    assert processor.do_convert_annotations is True


# Objects


def test_the_results_of_an_image_do_not_depend_on_its_batch():
    images, annotations = a_batch()
    processor = DetrImageProcessor(**SMALL)
    together = processor(images, annotations, return_tensors="pt")["labels"]
    for image, objects, label in zip(images, annotations, together, strict=True):
        alone = processor(image, objects, return_tensors="pt")["labels"][0]
        for name in alone:
            assert torch.equal(alone[name], label[name]), name


def test_image_boxes_and_masks_share_their_geometry():
    """Two rectangles are painted in the image: masks and boxes must find them in the processed picture."""
    image, painted = np.zeros((40, 64, 3), np.uint8), np.zeros((2, 40, 64), bool)
    painted[0, 8:24, 4:20], painted[1, 16:40, 32:64] = True, True
    for mask, grey in zip(painted, (100, 200), strict=True):
        image[mask] = grey
    objects = read_objects(
        {"boxes": [[4, 8, 20, 24], [32, 16, 64, 40]], "labels": [0, 1], "masks": [encode_rle(m) for m in painted]},
        (40, 64),
    )
    got = DetrImageProcessor(size={"shortest_edge": 20, "longest_edge": 90}, resample=0, image_mean=0.0, image_std=1.0)(
        [image, np.zeros((60, 40, 3), np.uint8)], [objects, []], return_segmentation_masks=True, return_tensors="pt"
    )
    first, second = got["labels"]
    grey = (got["pixel_values"][0, 0] * 255).round()
    torch.testing.assert_close(first["masks"], torch.stack([grey == 100, grey == 200]))
    torch.testing.assert_close(
        first["boxes"], torch.tensor([[12, 16, 16, 16], [48, 28, 32, 24]]) / torch.tensor([64, 40] * 2)
    )
    torch.testing.assert_close(first["area"], torch.tensor([64.0, 192.0]))
    assert tuple(second["masks"].shape) == (0, 30, 32) and tuple(second["boxes"].shape) == (0, 4)
    assert second["class_labels"].dtype == torch.int64


def test_annotations_without_ceremony():
    """Shares, centres, names, string ids, no areas; objects as a list, as records, as columns, as ImageObjects."""
    image = photo(40, 60)
    options = {"box_form": "cxcywh", "relative": True, "label2id": {"cat": 4, "dog": 7}, "return_tensors": "np"}
    columns = {"boxes": [[0.5, 0.5, 0.2, 0.4]], "labels": ["dog"], "image_id": "photo-1"}
    label = DetrImageProcessor(**SMALL)(image, columns, **options)["labels"][0]
    np.testing.assert_allclose(label["boxes"], [[0.5, 0.5, 0.2, 0.4]], **FLOAT32)
    assert (label["class_labels"].tolist(), label["image_id"]) == ([7], "photo-1")
    records = [{"bbox": [24, 12, 12, 16], "category_id": 7}]
    for form in (records, [records], {"annotations": records}, records[0], read_objects(records, (40, 60))):
        other = DetrImageProcessor(**SMALL)(image, form, return_tensors="np")["labels"][0]
        for name in ("boxes", "area", "class_labels"):
            np.testing.assert_allclose(other[name], label[name], **FLOAT32)
        assert "image_id" not in other


def test_empty_boxes_are_dropped_or_kept_and_counted(caplog):
    reporting.forget()
    objects = {"bbox": [[1, 1, 0, 5], [2, 2, 5, 5]], "category": [0, 1]}
    images, annotations = [photo(40, 60)] * 2, [objects] * 2
    for empty, classes in ((None, [1]), ("keep", [0, 1])):
        got = DetrImageProcessor(**SMALL)(images, annotations, empty_boxes=empty)["labels"]
        assert [one["class_labels"].tolist() for one in got] == [classes] * 2
    assert [record.message for record in caplog.records] == [
        "Objects whose box has no area were dropped: 2 in this call.",
        "Objects whose box has no area were kept: 2 in this call.",
    ]


def test_own_options_are_saved_under_an_own_name(tmp_path):
    options = {"box_form": "xyxy", "relative": True, "empty_boxes": "keep", "label2id": {"cat": 0}}
    for name, value in options.items():
        DetrImageProcessor(**{name: value}).save_pretrained(tmp_path)
        again = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(again) is DetectionImageProcessor and getattr(again, name) == value


# Images


def test_any_image_is_taken(tmp_path):
    pixels = photo(40, 60)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    processor = DetrImageProcessor(**SMALL)
    wanted = processor(pixels, return_tensors="pt")
    sources = (tmp_path / "photo.png", Image.fromarray(pixels), torch.from_numpy(pixels).movedim(-1, 0), [pixels])
    for source in sources:
        torch.testing.assert_close(processor(source, return_tensors="pt")["pixel_values"], wanted["pixel_values"])
    bands = np.random.default_rng(0).random((7, 40, 60), np.float32)
    several = DetectionImageProcessor(**SMALL, image_mean=[0.5] * 7, image_std=[0.2] * 7, input_range=(0, 1))
    assert several(bands, return_tensors="pt")["pixel_values"].shape == (1, 7, 24, 36)


def test_forms_of_the_result():
    images, annotations = a_batch()
    processor = DetrImageProcessor(**SMALL)
    lists = processor(images, annotations, do_pad=False)
    assert set(lists) == {"pixel_values", "labels"}
    assert [one.shape for one in lists["pixel_values"]] == [(3, *label["size"]) for label in lists["labels"]]
    assert isinstance(lists["labels"][0]["boxes"], np.ndarray)
    padded = processor(images)
    assert isinstance(padded["pixel_mask"], list) and padded["pixel_mask"][0].dtype == np.int64


def test_processed_images_become_a_batch():
    images, _ = a_batch()
    processor = DetrImageProcessor(**SMALL)
    single = [processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
    got, wanted = processor.pad(single, return_tensors="pt"), processor(images, return_tensors="pt")
    assert all(torch.equal(got[name], wanted[name]) for name in ("pixel_values", "pixel_mask"))


# Bad input


def test_faulty_annotations_are_named_in_one_error(tmp_path):
    images, annotations = a_batch()
    annotations[0]["annotations"][2]["bbox"][0] = float("nan")
    annotations[2] = {"file_name": "x.jpg", "annotations": [{"bbox": [99, 99, 1, 1], "category_id": 1}]}
    processor = DetrImageProcessor(**SMALL)
    with pytest.raises(DatasetError) as raised:
        processor(images, annotations)
    message = str(raised.value)
    assert "2 faulty annotations" in message and "annotation 0 (image 100): object 2 (id 2): the box (nan" in message
    assert "annotation 2 (image x.jpg): object 0" in message and "annotation 1" not in message
    with pytest.raises(DatasetError, match="3 images and 2 annotations"):
        processor(images, annotations[:2])
    with pytest.raises(DatasetError, match="masks are asked for, but its objects have none"):
        processor(images[1], annotations[1], return_segmentation_masks=True)
    segments = panoptic(tmp_path, 30, 41)
    with pytest.raises(DatasetError, match="for a file_name, give masks_path"):
        processor(images[0], segments)
    with pytest.raises(DatasetError, match=r"map of segment ids has the size of its image, 50x22.*got 30x41"):
        processor(images[1], segments, masks_path=tmp_path)
    stale = ListedMasks([[[1, 2, 3, 4]]], SIZES[0])
    objects = read_objects({"bbox": [[1, 2, 3, 4]], "category": [0]}, SIZES[0])
    with pytest.raises(DatasetError, match="annotation 0: the mask of object 0: polygon 0 has 4 numbers"):
        processor(images[0], replace(objects, masks=stale), return_segmentation_masks=True)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)4 faults.*format.*box_form.*empty_boxes.*do_center_crop"):
        DetrImageProcessor(
            format="voc", box_form="ltrb", empty_boxes="no", do_center_crop=True, crop_size={"height": 4, "width": 4}
        )
    with pytest.raises(ConfigError, match="masks_path must be the folder"):
        DetrImageProcessor(**SMALL)(photo(40, 60), [], masks_path=5)
    with pytest.raises(UnknownNameError, match="did you mean 'box_form'"):
        DetrImageProcessor(box_from="xyxy")
