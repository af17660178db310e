"""Objects from a detector's outputs: transformers' form and numbers, the original's masks."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from hfvision.errors import ConfigError
from hfvision.geometry import decode_rle
from hfvision.processing import semantic_maps
from hfvision.processing.detections import post_process_object_detection
from tests.detr_outputs import outputs, peer

GOLDENS = Path(__file__).parent / "data" / "goldens" / "detr"
EXACT = {"rtol": 0, "atol": 0}
SIZES = [(30, 41), (64, 12)]


def golden(case):
    facts, stored = json.loads((GOLDENS / case / "case.json").read_text()), np.load(GOLDENS / case / "output.npz")
    names = {"logits": "pred_logits", "pred_boxes": "pred_boxes", "pred_masks": "pred_masks"}
    found = {ours: torch.tensor(stored[theirs]) for ours, theirs in names.items() if theirs in stored}
    return facts, stored, SimpleNamespace(**found)


@pytest.mark.parametrize("targets", [None, SIZES, torch.tensor(SIZES)], ids=["none", "list", "tensor"])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_objects_are_those_of_transformers(threshold, targets):
    found = outputs(queries=30)
    wanted = peer.post_process_object_detection(found, threshold, targets)
    got = post_process_object_detection(found, threshold, targets)
    assert len(got) == len(wanted) == 2
    for ours, theirs in zip(got, wanted, strict=True):
        assert list(ours) == list(theirs)
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, **EXACT)


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDENS.iterdir()))
def test_the_originals_objects_are_all_queries(case):
    """1e-6 of the scores and 1e-6 of the longest side: one rounding of float32."""
    facts, stored, found = golden(case)
    for i, result in enumerate(post_process_object_detection(found, 0, facts["target_sizes"])):
        torch.testing.assert_close(result["labels"].numpy(), stored[f"post_{i}_labels"], **EXACT)
        for name, unit in {"scores": 1, "boxes": max(facts["target_sizes"][i])}.items():
            np.testing.assert_allclose(result[name], stored[f"post_{i}_{name}"], rtol=0, atol=1e-6 * unit)


def test_the_originals_masks_are_decided_at_the_models_size():
    facts, stored, found = golden("panoptic")
    pixel_mask = torch.zeros(2, 96, 96)
    for mask, (height, width) in zip(pixel_mask, facts["image_sizes"], strict=True):
        mask[:height, :width] = 1
    options = {"threshold": 0, "target_sizes": facts["target_sizes"], "pixel_mask": pixel_mask}
    arrays = post_process_object_detection(found, masks="arrays", **options)
    runs = post_process_object_detection(found, masks="rle", **options)
    for i, (ours, encoded) in enumerate(zip(arrays, runs, strict=True)):
        queries, _, height, width = stored[f"post_{i}_masks_shape"]
        wanted = np.unpackbits(stored[f"post_{i}_masks"], axis=-1, count=width).astype(bool)[:, 0]
        assert ours["masks"].dtype == torch.bool and ours["masks"].shape == (queries, height, width)
        assert np.array_equal(ours["masks"].numpy(), wanted)
        assert np.array_equal(np.stack([decode_rle(one) for one in encoded["masks"]]), wanted)


def test_masks_are_made_a_few_at_a_time_and_only_those_that_count(monkeypatch):
    monkeypatch.setattr(semantic_maps, "WORKING_BYTES", 4 * 4 * 140 * 150)  # room for four masks
    found = outputs(queries=11)
    for result, logits, scores in zip(
        post_process_object_detection(found, 0.9, [(140, 150)] * 2, masks="arrays", mask_threshold=0.3),
        found.pred_masks,
        found.logits.softmax(-1)[..., :-1].amax(-1),
        strict=True,
    ):
        wanted = interpolate(logits[None], (140, 150), mode="bilinear")[0].sigmoid() > 0.3
        assert 0 < len(result["masks"]) < 11
        assert torch.equal(result["masks"], wanted[scores > 0.9])


def test_nothing_found_is_empty_of_the_right_shapes():
    found = outputs()
    for form in ("arrays", "rle"):
        (result, _) = post_process_object_detection(found, 1, SIZES, masks=form)
        assert result["boxes"].shape == (0, 4) and result["labels"].dtype == torch.int64
        assert result["masks"] == [] if form == "rle" else result["masks"].shape == (0, *SIZES[0])
    (grid, _) = post_process_object_detection(found, 0.1, masks="arrays")
    assert grid["masks"].shape[1:] == found.pred_masks.shape[2:]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"threshold": 1.5, "mask_threshold": "half"}, "(?s)2 problems.*threshold.*1.5.*mask_threshold.*'half'"),
        ({}, {"target_sizes": [(4, 4)]}, "one target size for each image; got 1 for 2 images"),
        ({}, {"masks": "png"}, "masks is 'arrays', 'rle' or None; got 'png'"),
        ({}, {"masks": "rle", "pixel_mask": torch.ones(3, 8, 8)}, r"for 2 images; got \(3, 8, 8\)"),
        ({}, {"masks": "rle", "pixel_mask": torch.zeros(2, 8, 8)}, "0 everywhere for image 0"),
        ({"pred_boxes": None}, {}, "no pred_boxes; DetrForObjectDetection gives them"),
        ({"pred_masks": None}, {"masks": "rle"}, "no pred_masks; DetrForSegmentation gives them"),
        ({"logits": torch.zeros(2, 9, 1)}, {}, r"logits is \(B, Q, K \+ 1\); got \(2, 9, 1\)"),
        ({"pred_boxes": torch.zeros(2, 8, 4)}, {}, r"pred_boxes is \(B, Q, 4\); got \(2, 8, 4\)"),
        ({"pred_boxes": torch.full((2, 9, 4), torch.nan)}, {}, r"pred_boxes has NaN for images \[0, 1\]"),
    ],
)
def test_what_cannot_work_is_refused_by_name(change, options, message):
    found = outputs()
    for name, value in change.items():
        setattr(found, name, value)
    with pytest.raises(ConfigError, match=message):
        post_process_object_detection(found, **options)
