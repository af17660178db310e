"""Segments from masks of queries: transformers' numbers and the original's, without the masks of every pixel."""

import pytest
import torch
from torch.nn.functional import interpolate

from hfvision.errors import ConfigError
from hfvision.metrics.panoptic import PanopticMetric
from hfvision.processing import mask_winners, semantic_maps
from hfvision.processing.mask_winners import softmax_winners, weighted_winners
from hfvision.processing.panoptic_maps import (
    post_process_instance_segmentation,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
)
from tests.detr_outputs import outputs, part, peer
from tests.test_detection_results import golden
from tests.test_semantic_maps import Largest

SIZES = [(150, 141), (64, 12)]
KINDS = ["smooth", "noise", "ties"]


@pytest.fixture
def in_pieces(monkeypatch):
    """Small maps too are made piece by piece, as only photos are otherwise."""
    monkeypatch.setattr(mask_winners, "AT_ONCE", 0)


def assert_same(got, wanted):
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert list(ours) == ["segmentation", "segments_info"]
        assert ours["segments_info"] == theirs["segments_info"]
        torch.testing.assert_close(ours["segmentation"], theirs["segmentation"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [None, SIZES, torch.tensor(SIZES)], ids=["none", "list", "tensor"])
def test_segments_are_those_of_transformers(kind, targets, in_pieces):
    segments = 0
    for seed, overlap in enumerate([0.0, 0.2, 0.8]):
        found = outputs(seed, kind=kind, queries=12)
        as_list = None if targets is None else [tuple(map(int, size)) for size in targets]
        for threshold, mask_threshold in ((0.0, 0.5), (0.5, 0.3), (0.9, 0.9)):
            rules = (threshold, mask_threshold, overlap)
            wanted = peer.post_process_panoptic_segmentation(found, *rules, set(), as_list)
            assert_same(post_process_panoptic_segmentation(found, *rules, target_sizes=targets), wanted)
            wanted = peer.post_process_instance_segmentation(found, *rules, as_list)
            assert_same(post_process_instance_segmentation(found, *rules, targets), wanted)
            segments += sum(len(result["segments_info"]) for result in wanted)
    assert segments > 0


def naive_winners(probabilities, scores, target, threshold):
    values = interpolate(probabilities[None], size=target, mode="bilinear")[0] * scores[:, None, None]
    return values.argmax(0).int(), (values >= threshold).flatten(1).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [1 << 16, 200 << 20])
def test_winners_and_counts_are_the_naive_ones(kind, room, in_pieces, monkeypatch):
    """By cells and by chunks of queries, for grids and targets of which the kernel has several forms."""
    monkeypatch.setattr(semantic_maps, "WORKING_BYTES", room)
    for way in ("cells", "chunks"):
        if way == "chunks":
            monkeypatch.setattr(mask_winners, "kernel_fuses_positions", lambda *_: None)
        for seed, queries in enumerate([1, 2, 3, 4, 21]):
            for target in ((210, 187), (40, 50), (13, 17), (9, 200)):
                found = outputs(seed, 1, queries, kind=kind)
                masks, scores = found.pred_masks[0], found.logits[0].softmax(-1).amax(-1)
                for threshold in (0.0, 0.25, float(scores[0]) / 2, 1.0):
                    got = weighted_winners(masks.sigmoid(), scores, target, threshold)
                    wanted = naive_winners(masks.sigmoid(), scores, target, threshold)
                    assert all(map(torch.equal, got, wanted))
                full = interpolate(masks[None], size=target, mode="bilinear")[0]
                assert torch.equal(
                    softmax_winners(masks, target), full.flatten(1).T.softmax(-1).argmax(-1).view(target)
                )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_give_what_transformers_gives(dtype):
    found = outputs(3, dtype=dtype)
    rules = (0.3, 0.3, 0.1)
    wanted = peer.post_process_panoptic_segmentation(found, *rules, set(), SIZES)
    assert_same(post_process_panoptic_segmentation(found, *rules, target_sizes=SIZES), wanted)


@pytest.mark.parametrize("rule", ["transformers", "detr"])
def test_the_masks_of_all_pixels_never_exist(rule, monkeypatch):
    """40 masks at 600x800 would be 77 MB; nothing is larger than the map of ids itself, or its indices."""
    for module in (semantic_maps, mask_winners):
        monkeypatch.setattr(module, "AT_ONCE", 1 << 20)
    found = outputs(images=1, queries=40)
    with Largest() as largest:
        post_process_panoptic_segmentation(found, 0.0, target_sizes=[(600, 800)], rule=rule)
    assert largest.bytes <= 600 * 800 * 8


def test_fused_stuff_is_one_segment_with_an_id_of_its_own():
    """Where transformers numbers segments after a fused one, an id may come twice; areas and classes are the same."""
    for seed in range(6):
        found = outputs(seed, queries=14, classes=3)
        rules = (0.2, 0.3, 0.05)
        got = post_process_panoptic_segmentation(found, *rules, {0, 2}, SIZES)
        apart = peer.post_process_panoptic_segmentation(found, *rules, set(), SIZES)
        for ours, theirs in zip(got, apart, strict=True):
            infos = ours["segments_info"]
            assert [info["id"] for info in infos] == list(range(1, len(infos) + 1))
            assert len({info["label_id"] for info in infos if info["was_fused"]}) == sum(i["was_fused"] for i in infos)
            assert all(info["was_fused"] == (info["label_id"] in {0, 2}) for info in infos)
            scores, wanted = {}, torch.zeros_like(ours["segmentation"])
            for info in theirs["segments_info"]:
                label = info["label_id"]
                key = label if label in {0, 2} else (label, info["id"])
                scores[key] = max(info["score"], scores.get(key, 0))
                wanted[theirs["segmentation"] == info["id"]] = list(scores).index(key) + 1
            assert [info["score"] for info in infos] == list(scores.values())
            assert torch.equal(ours["segmentation"], wanted)
        PanopticMetric(3).update(got, got)  # refuses ids that come twice


def test_without_a_duplicate_fusing_only_marks():
    found = outputs(queries=6)
    found.logits = 9 * torch.eye(6)[None].roll(1, 0).expand(2, 6, 6)  # a class for each query
    rules = (0.5, 0.1, 0.0, {1, 4}, SIZES)
    wanted = peer.post_process_panoptic_segmentation(found, *rules)
    assert any(info["was_fused"] for result in wanted for info in result["segments_info"])
    assert_same(post_process_panoptic_segmentation(found, *rules), wanted)


def test_the_originals_maps_come_out_to_the_last_pixel(monkeypatch):
    facts, stored, found = golden("panoptic")
    stuff = {int(label) for label, thing in facts["is_thing_map"].items() if not thing}
    for pieces in (False, True):
        if pieces:
            monkeypatch.setattr(mask_winners, "AT_ONCE", 0)
        results = post_process_panoptic_segmentation(
            found,
            facts["panoptic_threshold"],
            label_ids_to_fuse=stuff,
            target_sizes=facts["target_sizes"],
            rule="detr",
            processed_sizes=facts["image_sizes"],
        )
        for i, result in enumerate(results):
            assert result["segmentation"].dtype == torch.int32
            assert (result["segmentation"].numpy() - 1 == stored[f"panoptic_{i}_ids"]).all()
            rows = [
                (info["id"] - 1, not info["was_fused"], info["label_id"], info["area"])
                for info in result["segments_info"]
            ]
            assert rows == [tuple(row) for row in stored[f"panoptic_{i}_segments"].tolist()]


def test_the_originals_rule_drops_small_segments_until_none_is_left():
    """Three masks over 8x8 pixels: one of 4 pixels goes, the next then takes them; a duplicate of stuff is merged."""
    found = outputs(images=1, queries=4, classes=3, grid=(8, 8))
    found.logits = 20 * torch.eye(4)[[0, 1, 2, 2]][None]
    found.pred_masks = torch.tensor([0.0, 0.0, 0.0, 0.0])[:, None, None].repeat(1, 8, 8)[None] - 5
    found.pred_masks[0, 0] = 1
    found.pred_masks[0, 1, :2, :2] = 9
    found.pred_masks[0, 2, :4, :4] = 5
    found.pred_masks[0, 3, 6:] = 5
    (result,) = post_process_panoptic_segmentation(found, label_ids_to_fuse=[2], rule="detr")
    assert [(info["label_id"], info["area"], info["was_fused"]) for info in result["segments_info"]] == [
        (0, 48, False),  # takes the rows of the duplicate, whose mask is gone when the masks compete again
        (2, 16, True),
    ]
    assert (result["segmentation"][:4, :4] == 2).all() and (result["segmentation"] == 2).sum() == 16
    assert result["segmentation"][7, 7] == 1
    (nothing,) = post_process_panoptic_segmentation(found, 1.0, rule="detr")
    assert nothing["segments_info"] == [] and not nothing["segmentation"].any()
    found.pred_masks = found.pred_masks[:, :, :2, :2].contiguous()
    (too_small,) = post_process_panoptic_segmentation(found, rule="detr")
    assert too_small["segments_info"] == [] and not too_small["segmentation"].any()


@pytest.mark.parametrize(("sides", "places"), [((64, 40), (16, 10)), ((61, 38), (16, 10)), ((97, 66), (25, 17))])
def test_a_padded_image_is_answered_for_as_if_it_were_alone(sides, places):
    """A trunk of stride 4 has 25 x 17 places for 97 x 66 pixels, of which those of the image are the first."""
    found = outputs(grid=(25, 17), queries=12)
    pixel_mask = torch.ones(2, 97, 66, dtype=torch.int64)
    pixel_mask[1, sides[0] :], pixel_mask[1, :, sides[1] :] = 0, 0
    alone = part(found, 1, slice(places[0]), slice(places[1]))
    rules = {"threshold": 0.2, "target_sizes": SIZES, "pixel_mask": pixel_mask}
    lone = {"threshold": 0.2, "target_sizes": SIZES[1:]}
    got = post_process_panoptic_segmentation(found, **rules)
    assert_same(got[1:], post_process_panoptic_segmentation(alone, **lone))
    assert_same(got[:1], post_process_panoptic_segmentation(part(found, 0), 0.2, target_sizes=SIZES[:1]))
    instances = post_process_instance_segmentation(found, **rules)
    assert_same(instances[1:], post_process_instance_segmentation(alone, **lone))
    (original,) = post_process_panoptic_segmentation(found, **rules, rule="detr")[1:]
    assert_same([original], post_process_panoptic_segmentation(alone, **lone, rule="detr", processed_sizes=[sides]))
    semantic = post_process_semantic_segmentation(found, SIZES, pixel_mask=pixel_mask)
    assert torch.equal(semantic[1], post_process_semantic_segmentation(alone, SIZES[1:])[0])


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_semantic_maps_are_those_of_transformers(classes, monkeypatch):
    monkeypatch.setattr(semantic_maps, "AT_ONCE", 0)
    found = outputs(classes=classes)
    for targets in (None, SIZES):
        for scores in (False, True):
            wanted = peer.post_process_semantic_segmentation(found, targets, scores)
            got = post_process_semantic_segmentation(found, targets, scores)
            for ours, theirs in zip(got, wanted, strict=True):
                for one, other in zip(ours.values(), theirs.values(), strict=True) if scores else [(ours, theirs)]:
                    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_instances_come_as_runs_or_as_masks_on_request():
    found = outputs(2, images=3)
    found.logits[1, :, -1] = 50  # nothing there
    rules = (0.5, 0.3, 0.1)
    plain = post_process_instance_segmentation(found, *rules)
    wanted = peer.post_process_instance_segmentation(found, *rules, return_coco_annotation=True)
    runs = post_process_instance_segmentation(found, *rules, return_coco_annotation=True)
    masks = post_process_instance_segmentation(found, *rules, return_binary_maps=True)
    assert runs[0]["segmentation"] == wanted[0]["segmentation"] and len(runs[0]["segmentation"]) > 1
    assert torch.equal(runs[1]["segmentation"], wanted[1]["segmentation"])
    for one, other in zip(plain, masks, strict=True):
        ids = [info["id"] for info in one["segments_info"]]
        assert other["segmentation"].dtype == torch.bool and len(other["segmentation"]) == len(ids)
        assert all(torch.equal(other["segmentation"][place], one["segmentation"] == i) for place, i in enumerate(ids))
    assert masks[1]["segmentation"].shape == (0, 13, 17)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sizes": [(4, 4)] * 3}, "one target size for each image; got 3 for 2 images"),
        ({"label_ids_to_fuse": {1, 5, -1}}, r"classes of the model, 0..4; got \[-1, 5\]"),
        ({"threshold": -0.1, "mask_threshold": 2}, "(?s)2 problems.*threshold.*-0.1.*mask_threshold.*2"),
        ({"overlap_mask_area_threshold": float("nan")}, "overlap_mask_area_threshold is a share in 0..1; got nan"),
        ({"rule": "original"}, "rule is one of transformers, detr; got 'original'"),
        ({"rule": "detr", "mask_threshold": 0.3}, "mask_threshold belong to rule='transformers'"),
        ({"processed_sizes": [(4, 4)] * 2}, "processed_sizes belong to rule='detr'"),
        ({"rule": "detr", "processed_sizes": [(4, 4)]}, "one processed size for each image; got 1 for 2 images"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        post_process_panoptic_segmentation(outputs(), **options)


def test_outputs_without_masks_and_options_that_exclude_each_other_are_refused():
    found = outputs()
    with pytest.raises(ConfigError, match="exclude each other"):
        post_process_instance_segmentation(found, return_coco_annotation=True, return_binary_maps=True)
    del found.pred_masks
    for function in (
        post_process_panoptic_segmentation,
        post_process_instance_segmentation,
        post_process_semantic_segmentation,
    ):
        with pytest.raises(ConfigError, match="no pred_masks; DetrForSegmentation gives them"):
            function(found)
