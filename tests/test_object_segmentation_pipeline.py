"""`pipeline("image-segmentation")` with DETR's masks: panoptic, instance and semantic, every output, mixed sizes."""

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import pipeline

import hfvision
from hfvision.detections import Detections
from hfvision.errors import ConfigError, ImageReadError, ImageValueError, UnknownNameError
from hfvision.geometry import masks_to_boxes
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.pipelines.image_segmentation import ImageSegmentationPipeline
from hfvision.processing.detection import DetrImageProcessor
from hfvision.processing.segmentation import SegformerImageProcessor
from tests.models import tiny_config, tiny_model, with_varied_queries

SUBTASKS = ("panoptic", "instance", "semantic")
SEVERAL = {"threshold": 0.3, "overlap_mask_area_threshold": 0.2}  # with which the model finds several segments


def picture(height=70, width=90, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def processor():
    return DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})


@pytest.fixture(scope="module")
def segment():
    torch.manual_seed(0)
    model = DetrForSegmentation(tiny_config("detr", num_queries=30))
    pixels = processor()(picture(), return_tensors="pt")["pixel_values"]
    return pipeline("image-segmentation", model=with_varied_queries(model, pixels), image_processor=processor())


def assert_same(got, wanted):
    """Maps to a few pixels, which lie between two segments to within float32 noise."""
    assert [row["label"] for row in got["segments_info"]] == [row["label"] for row in wanted["segments_info"]]
    assert (got["segmentation"] != wanted["segmentation"]).mean() < 1e-3
    scores = [[row["score"] for row in answer["segments_info"]] for answer in (got, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_masks_are_those_of_transformers_on_the_same_folder(segment, tmp_path):
    segment.model.save_pretrained(tmp_path)
    segment.image_processor.save_pretrained(tmp_path)
    ours = pipeline("image-segmentation", model=str(tmp_path))
    assert type(ours) is ImageSegmentationPipeline and type(ours.model) is DetrForSegmentation
    hfvision.unregister()
    try:
        from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

        peer = DetrImageProcessorPil.from_pretrained(tmp_path)
        theirs = pipeline("image-segmentation", model=str(tmp_path), image_processor=peer)
        assert type(theirs) is transformers.ImageSegmentationPipeline
        for options in ({}, SEVERAL, {"threshold": 0.99}):
            for subtask in (*SUBTASKS, None):
                got, wanted = (each(picture(), subtask=subtask, **options) for each in (ours, theirs))
                assert [row["label"] for row in got] == [row["label"] for row in wanted]
                for one, other in zip(got, wanted, strict=True):
                    assert (one["score"] is None) == (subtask == "semantic")
                    assert subtask == "semantic" or one["score"] == pytest.approx(other["score"], abs=1e-4)
                    assert (one["mask"].mode, one["mask"].size) == ("L", (90, 70))
                    # pixels where two segments are equal to within float32 noise, which is 3e-4 of these logits
                    assert (np.asarray(one["mask"]) != np.asarray(other["mask"])).mean() < 3e-3
        assert len(theirs(picture(), **SEVERAL)) > 2 and len(theirs(picture(), subtask="semantic")) > 1
    finally:
        hfvision.register()


def test_maps_and_arrays_hold_the_same_segments(segment):
    image = picture()
    for subtask in SUBTASKS[:2]:
        masks = segment(image, subtask=subtask, **SEVERAL)
        answer = segment(image, subtask=subtask, output="map", **SEVERAL)
        ids = answer["segmentation"]
        assert ids.shape == (70, 90) and {0, *np.unique(ids)} == {0, *(row["id"] for row in answer["segments_info"])}
        assert answer["map"].mode == "P" and np.array_equal(np.asarray(answer["map"]), ids)
        assert np.array_equal(np.asarray(answer["map"].convert("RGB")), answer["colours"][ids])
        assert len(np.unique(answer["colours"], axis=0)) == len(answer["segments_info"]) + 1
        found = segment(image, subtask=subtask, output="arrays", **SEVERAL)
        assert type(found) is Detections and found.masks.dtype == bool and found.names[4] == "LABEL_4"
        np.testing.assert_array_equal(found.boxes, masks_to_boxes(found.masks))
        for mask, row, score, pixels in zip(masks, answer["segments_info"], found.scores, found.masks, strict=True):
            assert (mask["label"], mask["score"]) == (row["label"], row["score"]) and row["score"] == score
            assert np.array_equal(np.asarray(mask["mask"]) == 255, ids == row["id"])
            assert np.array_equal(pixels, ids == row["id"])
            assert row["pixels"] == pixels.sum() and row["share"] == pytest.approx(pixels.mean())
    classes = segment(image, subtask="semantic", output="map")
    masks = segment(image, subtask="semantic")
    assert [row["label"] for row in classes["labels"]] == [row["label"] for row in masks]
    for mask, row in zip(masks, classes["labels"], strict=True):
        assert np.array_equal(np.asarray(mask["mask"]) == 255, classes["classes"] == row["id"])


def test_an_image_without_segments_has_empty_answers(segment):
    none = {"threshold": 1.0}
    assert segment(picture(), **none) == []
    answer = segment(picture(), output="map", **none)
    assert answer["segments_info"] == [] and not answer["segmentation"].any()
    assert len(segment(picture(), output="arrays", **none)) == 0
    assert segment(picture(), output="picture", **none).mode == "RGB"


def test_a_batch_of_mixed_sizes_answers_as_its_images_alone(segment):
    sizes = [(70, 90), (90, 70), (64, 64), (72, 96), (70, 90)]
    images = [picture(*size, seed=0) for size in sizes]
    for subtask in SUBTASKS[:2]:
        options = {"subtask": subtask, "output": "map", **SEVERAL}
        wanted = [segment(image, **options) for image in images]
        assert any(len(answer["segments_info"]) > 1 for answer in wanted)
        for got, want in zip(segment(images, batch_size=3, **options), wanted, strict=True):
            assert_same(got, want)


def test_every_kind_of_input_gives_the_same_answer(segment, tmp_path):
    image, options = picture(), {"output": "map", **SEVERAL}
    image.save(tmp_path / "image.png")
    array, wanted = np.asarray(image), segment(image, **options)
    for one in (str(tmp_path / "image.png"), array, array.transpose(2, 0, 1), torch.from_numpy(array.copy())):
        assert_same(segment(one, **options), wanted)
    column = datasets.Dataset.from_dict({"image": [image] * 2}).cast_column("image", datasets.Image())["image"]
    for many in ([image] * 2, (image for _ in range(2)), column, np.stack([array] * 2)):
        answers = list(segment(many, **options))
        assert len(answers) == 2
        for answer in answers:
            assert_same(answer, wanted)


def test_stuff_is_fused_by_number_or_name_and_the_originals_rule_is_there(segment):
    image = picture()
    apart = segment(image, output="map", **SEVERAL)["segments_info"]
    labels = [row["label_id"] for row in apart]
    double = max(labels, key=labels.count)
    assert labels.count(double) > 1
    for name in (double, [double], [f"LABEL_{double}"]):
        fused = segment(image, output="map", label_ids_to_fuse=name, **SEVERAL)["segments_info"]
        assert [row["label_id"] for row in fused].count(double) == 1
    original = segment(image, output="map", rule="detr", threshold=0.3)
    assert original["segmentation"].all()  # it gives every pixel to a segment
    assert len(segment(image, rule="detr")) <= len(original["segments_info"])


def test_pictures_show_the_segments(segment):
    for subtask in SUBTASKS[:2]:
        drawn = segment(picture(), subtask=subtask, output="picture", **SEVERAL)
        assert drawn.mode == "RGB" and min(drawn.size) >= 70


def test_bad_input_ends_in_one_error(segment, tmp_path):
    for options, said in (
        ({"subtask": "video"}, "subtask is panoptic, instance, semantic, or None, which is panoptic; got 'video'"),
        ({"output": "coco"}, "output is 'masks', 'map', 'arrays', 'picture' for panoptic segmentation; got 'coco'"),
        ({"subtask": "semantic", "output": "arrays"}, "output is 'masks', 'map' for semantic segmentation"),
        ({"tile": 32, "flip": True}, "tile, flip: for models that give a class to every pixel"),
        ({"threshold": 1.5}, "threshold"),
        ({"label_ids_to_fuse": [7]}, "7"),
        ({"subtask": "instance", "rule": "detr"}, "rule: for panoptic segmentation; got subtask='instance'"),
        ({"rule": "mmseg"}, "rule is one of transformers, detr; got 'mmseg'"),
    ):
        with pytest.raises(ConfigError, match=said):
            segment(picture(), **options)
    with pytest.raises(UnknownNameError, match="no class is called sky; there are LABEL_0"):
        segment(picture(), label_ids_to_fuse=["sky"])
    with pytest.raises(ImageValueError, match="at least one image; got an empty list"):
        segment([])
    with pytest.raises(ImageReadError, match=r"nowhere\.png"):
        segment(str(tmp_path / "nowhere.png"))
    semantic = pipeline(
        "image-segmentation",
        model=tiny_model("segformer", "AutoModelForSemanticSegmentation"),
        image_processor=SegformerImageProcessor(size={"height": 32, "width": 32}),
    )
    with pytest.raises(ConfigError, match="label_ids_to_fuse: only DETR models of hfvision with masks"):
        semantic(picture(), label_ids_to_fuse=[1])
