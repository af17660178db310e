"""From coarse logits to label maps: the naive result to the last pixel, without its memory."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from hfvision.errors import ConfigError
from hfvision.processing import cells, semantic_maps
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.processing.semantic_maps import post_process_semantic_segmentation, semantic_map
from hfvision.upsampling import Upsampling, upsample


@pytest.fixture
def in_pieces(monkeypatch):
    """Small maps too are made piece by piece, as only photos are otherwise."""
    monkeypatch.setattr(semantic_maps, "AT_ONCE", 0)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive(logits, target, upsampling=None):
    logits = logits[None]
    if upsampling is not None:
        logits = upsample(logits, upsampling)
    if tuple(logits.shape[-2:]) != target:
        logits = interpolate(logits, size=target, mode="bilinear", align_corners=False)
    return logits[0]


KINDS = {
    "noise": lambda logits: logits,
    "smooth": lambda logits: 5 * interpolate(logits[None, :, :2, :2], size=logits.shape[1:], mode="bilinear")[0],
    "ties": lambda logits: logits.round(),
    "equal classes": lambda logits: logits[:1].expand(logits.shape).contiguous(),
    "bfloat16": lambda logits: logits.bfloat16(),
    "float64": lambda logits: logits.double(),
    "channels last": lambda logits: logits.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "a part": lambda logits: logits[:, 1:, 2:],
    "not finite": lambda logits: logits.masked_fill(logits > 2, torch.nan).masked_fill(logits < -2, -torch.inf),
}
SIZES = [  # of the grid, and of the image
    ((13, 17), (210, 187)),
    ((13, 17), (40, 50)),  # where the kernel is another
    ((150, 90), (64, 100)),  # smaller
    ((1, 9), (130, 140)),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3, 21])
def test_the_map_is_the_naive_one_ties_included(kind, classes, in_pieces, monkeypatch):
    for room in (1 << 16, 200 << 20):
        monkeypatch.setattr(semantic_maps, "WORKING_BYTES", room)
        for i, (grid, target) in enumerate(SIZES):
            if kind == "a part":
                grid = (grid[0] + 1, grid[1] + 2)
            logits = KINDS[kind](noise(classes, *grid, seed=i))
            assert torch.equal(semantic_map(logits, target)[0], naive(logits, target).argmax(0))


@pytest.mark.parametrize("kind", ["noise", "ties", "bfloat16", "channels last"])
def test_the_models_own_upsampling_and_its_crop_come_first(kind, in_pieces, monkeypatch):
    logits = KINDS[kind](noise(19, 12, 14))
    padded = Upsampling((96, 112), crop=(90, 107))
    for room in (1 << 16, 200 << 20):
        monkeypatch.setattr(semantic_maps, "WORKING_BYTES", room)
        for target in ((90, 107), (200, 231), (50, 61)):
            classes, _ = semantic_map(logits, target, padded)
            assert torch.equal(classes, naive(logits, target, padded).argmax(0))


@pytest.mark.parametrize("way", ["cells", "chunks"])
def test_scores_are_the_softmax_of_the_winners(way, in_pieces, monkeypatch):
    """1e-6: sums of exponentials of 21 classes in another order, relative to probabilities of at most one."""
    if way == "chunks":
        monkeypatch.setattr(semantic_maps, "kernel_fuses_positions", lambda *_: None)
    monkeypatch.setattr(semantic_maps, "WORKING_BYTES", 1 << 20)
    logits, target = noise(21, 13, 17), (210, 187)
    classes, scores = semantic_map(logits, target, want_scores=True)
    assert torch.equal(classes, naive(logits, target).argmax(0))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, naive(logits, target).softmax(0).amax(0), rtol=0, atol=1e-6)


def test_one_logit_is_a_binary_mask():
    logits = noise(1, 6, 7)
    positive = naive(logits, (30, 40))[0].sigmoid()
    classes, scores = semantic_map(logits, (30, 40), want_scores=True)
    assert torch.equal(classes, (positive > 0.5).long())
    torch.testing.assert_close(scores, torch.maximum(positive, 1 - positive), rtol=0, atol=0)
    assert semantic_map(torch.zeros(1, 2, 2), (4, 4))[0].sum() == 0


class Largest(TorchDispatchMode):
    """Remembers the size in bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.nbytes)
        return result


def test_ties_of_channels_last_logits_fall_as_the_kernel_rounds_them():
    """Classes that differ by their last bits: which of them is the largest depends on the order of the sum."""
    logits = KINDS["channels last"](noise(1, 13, 17) * (1 + 1e-7 * noise(37, 1, 1)))
    target = (310, 287)
    assert semantic_maps.channels_last_kernel((13, 17), target, 37) is not None
    wanted = naive(logits, target).argmax(0)
    assert torch.equal(semantic_map(logits, target)[0], wanted)
    assert not torch.equal(semantic_map(logits.contiguous(), target)[0], wanted)


@pytest.mark.parametrize("way", ["cells", "chunks"])
def test_the_logits_of_all_pixels_never_exist(way, monkeypatch):
    """40 classes at 600x800 would be 77 MB; nothing is larger than the room that is set, or the label map itself."""
    monkeypatch.setattr(semantic_maps, "kernel_fuses_positions", lambda *_: True if way == "cells" else None)
    monkeypatch.setattr(semantic_maps, "WORKING_BYTES", 4 << 20)
    with Largest() as largest:
        semantic_map(noise(40, 16, 20), (600, 800))
        if way == "cells":
            semantic_map(KINDS["channels last"](noise(40, 8, 10)), (400, 500))
    assert largest.bytes <= max(4 << 20, 600 * 800 * 8)


def test_another_arithmetic_of_the_kernel_is_noticed(monkeypatch):
    cells.kernel_fuses_positions.cache_clear()
    cells.channels_last_kernel.cache_clear()
    plain = torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda added, one, two: plain(added, one, two) * (1 + 2**-23))
    assert cells.kernel_fuses_positions((13, 17), (210, 187)) is None
    assert cells.channels_last_kernel((13, 17), (210, 187), 21) is None
    cells.kernel_fuses_positions.cache_clear()
    cells.channels_last_kernel.cache_clear()


def test_outputs_become_maps_of_the_target_sizes():
    outputs = SimpleNamespace(logits=noise(2, 5, 8, 9))
    processor = SegformerImageProcessor()
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(30, 41), (17, 12)])
    for one, logits, size in zip(maps, outputs.logits, [(30, 41), (17, 12)], strict=True):
        assert torch.equal(one, naive(logits, size).argmax(0))
    as_tensor = processor.post_process_semantic_segmentation(outputs, torch.tensor([[30, 41], [17, 12]]))
    assert all(map(torch.equal, as_tensor, maps))
    assert all(map(torch.equal, processor.post_process_semantic_segmentation(outputs), outputs.logits.argmax(1)))
    padded = processor.post_process_semantic_segmentation(outputs, upsampling=Upsampling((32, 36), (30, 33)))
    assert torch.equal(padded[0], naive(outputs.logits[0], (30, 33), Upsampling((32, 36), (30, 33))).argmax(0))


def test_scores_and_confidence_come_on_request():
    outputs = SimpleNamespace(logits=noise(2, 5, 8, 9))
    (first, _) = post_process_semantic_segmentation(outputs, [(30, 41)] * 2, True, return_confidence=True)
    full = naive(outputs.logits[0], (30, 41))
    assert torch.equal(first.segmentation_scores, full)
    assert torch.equal(first.segmentation, full.argmax(0))
    torch.testing.assert_close(first.segmentation_confidence, full.softmax(0).amax(0), rtol=0, atol=1e-6)
    (plain, _) = post_process_semantic_segmentation(outputs, return_confidence=True)
    assert set(plain) == {"segmentation", "segmentation_confidence"}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(4, 4)], "one target size for each image; got 1 for 2 images"),
        ([(4, 4), (0, 3)], r"above 0; got \[0, 3\]"),
        ([(4, 4), (4, 4, 3)], r"got \[4, 4, 3\]"),
        ([(4, 4), (4, 2.5)], r"got \[4, 2.5\]"),
        ([4, 4], r"is \(height, width\) in pixels, above 0; got 4"),
    ],
)
def test_sizes_that_are_none_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        post_process_semantic_segmentation(SimpleNamespace(logits=noise(2, 5, 8, 9)), sizes)
    if len(sizes) == 1:
        ways = [Upsampling((8, 9))] * 3
        with pytest.raises(ConfigError, match="one upsampling for each image; got 3 for 2 images"):
            post_process_semantic_segmentation(SimpleNamespace(logits=noise(2, 5, 8, 9)), upsampling=ways)
