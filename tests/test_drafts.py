"""decode="draft": JPEG files decoded at a fraction of their size, whose answers are still about the true size."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hfvision.errors import ConfigError
from hfvision.processing.classification import MultispectralImageProcessor, ViTImageProcessor
from hfvision.processing.detection import DetrImageProcessor
from hfvision.processing.reading import ORIENTATION, draft_of, read_image, true_size
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.registry import OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from hfvision.reporting import forget
from tests.models import tiny_model

SMALL = {"height": 60, "width": 70}


def photo(height=601, width=803, orientation=None, kind="JPEG"):
    """The bytes of a picture with soft shapes, as photos have."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    file = io.BytesIO()
    picture.save(file, kind, quality=90, exif=exif)
    return file.getvalue()


def values(processor, image, **options):
    return processor(image, return_tensors="pt", **options)["pixel_values"]


@pytest.mark.parametrize("orientation", [None, 3, 6])
@pytest.mark.parametrize("size", [SMALL, {"shortest_edge": 50}, {"shortest_edge": 50, "longest_edge": 60}])
def test_a_draft_is_near_the_exact_result_and_of_its_shape(size, orientation):
    """0.1 of the range -1..1: soft shapes of 66 pixels lose little at an eighth of the size."""
    processor, image = ViTImageProcessor(size=size), photo(orientation=orientation)
    exact, draft = values(processor, image), values(processor, image, decode="draft")
    assert exact.shape == draft.shape
    assert 0 < (exact - draft).abs().max() < 0.1
    assert torch.equal(values(processor, image, decode="exact"), exact)


@pytest.mark.parametrize("orientation", [1, 5, 6, 8])
def test_a_draft_is_not_below_what_is_asked_for_and_knows_the_true_size(orientation):
    seen = []

    def least(height, width):
        seen.append((height, width))
        return (height // 3, 10)

    draft = read_image(photo(orientation=orientation), least=least)
    true = (601, 803) if orientation == 1 else (803, 601)
    assert seen == [true]
    assert true_size(draft) == true
    assert draft_of(draft) is not None
    assert draft.size[::-1] == tuple(-(-side // 2) for side in true)


@pytest.mark.parametrize("image", [photo(kind="PNG"), photo(90, 110), np.zeros((601, 803, 3), np.uint8)])
def test_other_images_and_small_ones_stay_exact(image):
    processor = ViTImageProcessor(size=SMALL)
    assert torch.equal(values(processor, image, decode="draft"), values(processor, image))
    assert torch.equal(
        values(processor, photo(), do_resize=False, decode="draft"), values(processor, photo(), do_resize=False)
    )


def test_drafts_are_reported_once_with_their_effect(caplog):
    forget()
    with caplog.at_level(logging.WARNING, "hfvision"):
        for _ in range(2):
            ViTImageProcessor(size=SMALL, decode="draft")([photo(), photo()], return_tensors="pt")
    (message,) = [record.message for record in caplog.records]
    assert "(decode=draft): 2 in this call" in message
    assert "0.003 on average" in message


def test_boxes_and_label_maps_refer_to_the_true_size():
    objects = {"image_id": 1, "annotations": [{"bbox": [40, 60, 400, 300], "category_id": 3, "area": 9, "iscrowd": 0}]}
    processor = DetrImageProcessor(size={"shortest_edge": 80, "longest_edge": 100})
    exact, draft = (
        processor(photo(orientation=6), annotations=objects, return_tensors="pt", decode=decode)
        for decode in ("exact", "draft")
    )
    assert exact["pixel_values"].shape == draft["pixel_values"].shape
    assert torch.equal(exact["pixel_mask"], draft["pixel_mask"])
    assert all(torch.equal(exact["labels"][0][name], draft["labels"][0][name]) for name in exact["labels"][0])

    labels = np.arange(601)[:, None] // 100 * np.ones((1, 803), np.uint8)
    maps = SegformerImageProcessor(size=SMALL)
    exact, draft = (
        maps(photo(), labels.astype(np.uint8), return_tensors="pt", decode=decode)["labels"]
        for decode in ("exact", "draft")
    )
    assert torch.equal(exact, draft)


def test_it_is_never_a_default_and_is_stored_when_chosen(tmp_path):
    ViTImageProcessor().save_pretrained(tmp_path / "plain")
    assert "decode" not in (tmp_path / "plain" / "preprocessor_config.json").read_text()
    ViTImageProcessor(size=SMALL, decode="draft").save_pretrained(tmp_path / "chosen")
    loaded = MultispectralImageProcessor.from_pretrained(tmp_path / "chosen")
    assert torch.equal(values(loaded, photo()), values(ViTImageProcessor(size=SMALL), photo(), decode="draft"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "fast"}, "decode must be exact or draft; got 'fast'"),
        ({"decode": "draft", "antialias": False}, "leave one of them out"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ViTImageProcessor(**options)


def test_pipelines_take_it_and_answer_at_the_true_size(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo(orientation=6))
    segment = pipeline(
        "image-segmentation",
        model=tiny_model("segformer", SEMANTIC_SEGMENTATION),
        image_processor=SegformerImageProcessor(size=SMALL),
    )
    answer = segment(str(path), output="map", decode="draft")
    assert answer["classes"].shape == (803, 601)
    detect = pipeline(
        "object-detection", model=tiny_model("detr", OBJECT_DETECTION), image_processor=DetrImageProcessor(size=SMALL)
    )
    found = detect(str(path), output="arrays", threshold=0.0, decode="draft")
    assert found.size == (803, 601)
    assert detect(str(path), output="picture", decode="draft").size == (601, 803)


def test_a_classifier_reads_a_draft_where_a_call_asks_for_it(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo())
    model, size = tiny_model("vit"), {"height": 32, "width": 32}

    def scores(call, **options):
        processor = ViTImageProcessor(size=size, **options)
        classify = pipeline("image-classification", model=model, image_processor=processor)
        answers = classify(str(path), top_k=5, **call)
        return [answer["score"] for answer in sorted(answers, key=lambda one: one["label"])]

    drafted = scores({}, decode="draft")
    assert scores({"decode": "draft"}) == pytest.approx(drafted, abs=1e-6)
    assert scores({}) != pytest.approx(drafted, abs=1e-6)
