"""Windows over an image: where they lie, how they blend, and that the strips equal a full accumulation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig

from hfvision.conversion import convert
from hfvision.conversion.verify import load_model, tolerance
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.models.semantic import SemanticModel, SemanticOutput
from hfvision.pipelines.mosaic import Mosaic, segment
from hfvision.pipelines.sliding import sliding_logits, sliding_probabilities
from hfvision.pipelines.windows import Side, Tiling, make_tiling
from hfvision.upsampling import Upsampling, upsample

GOLDENS = Path(__file__).parent / "data" / "goldens"
SETR_HEADS = {"num_attention_heads": 4}


class Coarse(SemanticModel):
    """A strided convolution: an answer that depends on where a window begins and ends."""

    config_class = PreTrainedConfig
    main_input_name = "pixel_values"

    def __init__(self, classes=5, step=4):
        super().__init__(PreTrainedConfig(num_labels=classes))
        self.step = step
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, classes, step + 1, step, padding=step // 2)
        self.batches = []

    def upsampling(self, size):
        padded = tuple(-(-side // self.step) * self.step for side in size)
        return Upsampling(padded, size)

    def forward(self, pixel_values, upsample=False):
        self.batches.append(tuple(pixel_values.shape))
        size = self.upsampling(tuple(pixel_values.shape[-2:])).size
        pads = (0, size[1] - pixel_values.shape[-1], 0, size[0] - pixel_values.shape[-2])
        return SemanticOutput(logits=self.head(nn.functional.pad(pixel_values, pads)))


def window_of(pixels):
    return lambda top, left, height, width: pixels[:, top : top + height, left : left + width]


def naive(model, pixels, tiling):
    """Every window upsampled as a whole, weighted and added up: (K, H, W)."""
    size = tuple(pixels.shape[-2:])
    down, across = tiling.sides(size)
    weights = [torch.from_numpy(side.weights(tiling.blend)) for side in (down, across)]
    total = 0
    for i, top in enumerate(down.starts):
        for j, left in enumerate(across.starts):
            window = pixels[None, :, top : top + down.window, left : left + across.window]
            with torch.no_grad():
                whole = upsample(model(window).logits, model.upsampling((down.window, across.window)))[0].double()
            placed = torch.zeros(len(whole), *size, dtype=torch.float64)
            placed[:, top : top + down.window, left : left + across.window] = whole
            total = total + placed * weights[0][i][:, None] * weights[1][j]
    return total


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (100, 64, 48, (0, 36)),
        (112, 64, 48, (0, 48)),
        (113, 64, 48, (0, 48, 49)),
        (64, 64, 48, (0,)),
        (40, 64, 48, (0,)),
        (10, 4, 4, (0, 4, 6)),
    ],
)
def test_windows_cover_a_side_and_the_last_is_moved_back_inside(size, window, stride, starts):
    side = Side.of(size, window, stride)
    assert side.starts == starts
    assert side.window == min(size, window)


@pytest.mark.parametrize("blend", ["gauss", "mean", "none"])
def test_shares_of_a_pixel_sum_to_one(blend):
    side = Side.of(113, 64, 48)
    shares = side.weights(blend)
    assert shares.sum(axis=0) == pytest.approx(1)
    assert (shares >= 0).all()
    covered = [[start <= pixel < start + 64 for pixel in range(113)] for start in side.starts]
    assert (shares[~torch.tensor(covered).numpy()] == 0).all()
    if blend == "none":
        assert set(shares.ravel()) == {0, 1}


CUTS = [((75, 110), 32, 0.25), ((61, 33), (24, 40), 0.6), ((9, 7), 32, 0)]


@pytest.mark.parametrize("blend", ["gauss", "mean", "none"])
@pytest.mark.parametrize(("size", "tile", "overlap"), CUTS)
def test_strips_equal_a_full_accumulation(blend, size, tile, overlap):
    model, pixels = Coarse(), torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    tiling = make_tiling(tile=tile, overlap=overlap, blend=blend)
    wanted = naive(model, pixels, tiling)
    mosaic = Mosaic(model, window_of(pixels), size, tiling, batch_size=3)
    strips = list(segment([mosaic], want_scores=True))
    classes = torch.cat([part for _, part, _ in strips])
    scores = torch.cat([part for _, _, part in strips])
    torch.testing.assert_close(scores.double(), wanted.softmax(0).amax(0), rtol=0, atol=1e-6)
    best = wanted.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-5  # float32 noise of logits of order one decides between the others
    assert clear.float().mean() > 0.999
    assert torch.equal(classes[clear], wanted.argmax(0)[clear])
    stride = tiling.stride
    got = sliding_logits(model, pixels[None], tile, stride, blend=blend)[0]
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5)


def test_only_a_row_of_windows_is_kept():
    model, pixels = Coarse(), torch.randn(3, 800, 90)
    mosaic = Mosaic(model, window_of(pixels), (800, 90), make_tiling(tile=32))
    kept = []
    for _ in segment([mosaic]):
        kept.append(sum(row.logits.shape[1] for row in mosaic._rows.values()))
    assert max(kept) < 5 * 8  # lines of the coarse grid: a row of windows has 8, the map 200


@pytest.mark.parametrize("size", [(20, 26), (32, 40)])
def test_a_tile_as_large_as_the_image_is_the_image(size):
    model, pixels = Coarse(), torch.randn(1, 3, *size)
    with torch.no_grad():
        wanted = upsample(model(pixels).logits, model.upsampling(size))
    torch.testing.assert_close(sliding_logits(model, pixels, 40, 24), wanted, rtol=0, atol=1e-5)
    assert model.batches[-1] == (1, 3, *size)


def test_a_mirrored_version_is_turned_back_and_probabilities_are_averaged():
    model, pixels = Coarse(), torch.randn(3, 44, 60)
    versions = [(pixels, False), (pixels.flip(-1), True)]
    got = sliding_probabilities(model, versions, 32, 24, (50, 66))
    logits = [sliding_logits(model, image[None], 32, 24)[0] for image, _ in versions]
    large = [nn.functional.interpolate(part[None], (50, 66), mode="bilinear")[0] for part in logits]
    wanted = (large[0].softmax(0) + large[1].flip(-1).softmax(0)) / 2
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_segmenter_enlarges_an_image_below_the_window():
    tiling = make_tiling(tile=32, stride=24, rule="segmenter")
    assert tiling.enlarged((24, 40)) == (32, 53)
    assert tiling.enlarged((40, 33)) == (40, 33)
    assert make_tiling(tile=32, stride=24, rule="mmseg").enlarged((24, 40)) == (24, 40)


def test_defaults_come_from_what_the_processor_has_stored():
    assert make_tiling(rule="mmseg", stored=(512, [384, 256])) == Tiling((512, 512), (384, 256), "mean")
    assert make_tiling(rule="segmenter", tile=64, overlap=0.5, stored=(512, 512)).stride == (32, 32)
    assert make_tiling(tile=100).stride == (75, 75)
    assert make_tiling(tile=100, overlap=0).stride == (100, 100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "tile is a positive number of pixels"),
        ({"tile": 8, "overlap": 1}, "from 0 to below 1; got 1"),
        ({"tile": 8, "overlap": -0.1}, "from 0 to below 1; got -0.1"),
        ({"tile": 8, "overlap": 0.5, "stride": 4}, "say the same"),
        ({"tile": 8, "stride": 9}, "would leave pixels out"),
        ({"overlap": 0.5}, "tile= is missing"),
        ({"rule": "mmseg"}, r"tile= is missing.*no window_size[\s\S]*stride=, in pixels"),
        ({"rule": "mmseg", "tile": 8, "stride": 4, "blend": "gauss"}, "takes the mean"),
        ({"rule": "segmenter", "tile": (8, 9), "stride": 4}, "square windows"),
    ],
)
def test_options_that_cannot_work_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        make_tiling(**options)


def test_unknown_names_list_those_that_exist():
    with pytest.raises(UnknownNameError, match="no blend is called 'linear'; there are gauss, mean, none"):
        make_tiling(tile=8, blend="linear")


# --- what the originals' evaluation computes ----------------------------------------------------------------


def golden(case, tmp_path, **settings):
    """The converted model, the case's facts, and its expected outputs."""
    folder = GOLDENS / case
    convert(folder / "checkpoint.pth", tmp_path / "model", overrides=settings)
    facts = json.loads((folder / "case.json").read_text())
    return load_model(tmp_path / "model"), facts, dict(np.load(folder / "output.npz"))


def pixels_of(case, name):
    return torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy"))


def assert_near(got, expected, facts, name):
    wanted = torch.from_numpy(expected[name])
    rounding = tolerance(wanted, facts["float64_max_abs_diff"][name])
    torch.testing.assert_close(got, wanted, rtol=0, atol=rounding)


SLIDES = [
    ("segformer/slide_inference", "input", "seg_map", {}),
    ("setr/naive", "input_slide", "slide_seg_map", SETR_HEADS),
]


@pytest.mark.parametrize(("case", "name", "map_name", "settings"), SLIDES)
def test_sliding_windows_are_those_of_mmsegmentation(case, name, map_name, settings, tmp_path):
    model, facts, expected = golden(case, tmp_path, **settings)
    rule = facts["config"]["test_cfg"]
    logits = sliding_logits(model, pixels_of(case, name), tuple(rule["crop_size"]), tuple(rule["stride"]))
    assert_near(logits, expected, facts, "slide_logits")
    assert np.array_equal(logits.argmax(1), expected[map_name])


SEGMENTERS = [("segmenter/sliding_window", {"decoder_num_attention_heads": 2}), ("segmenter/multiscale_flip", {})]


@pytest.mark.parametrize(("case", "settings"), SEGMENTERS)
def test_sliding_windows_and_versions_are_those_of_segmenter(case, settings, tmp_path):
    model, facts, expected = golden(case, tmp_path, **settings)
    names = ["input", *(f"input_{i}" for i in range(1, facts["num_inputs"]))]
    versions = [(pixels_of(case, name)[0], flip) for name, flip in zip(names, facts["flips"], strict=True)]
    window, stride = facts["config"]["window_size"], facts["config"]["window_stride"]
    got = sliding_probabilities(model, versions, window, stride, tuple(facts["ori_shape"]))
    assert_near(got, expected, facts, "seg_prob")
    assert np.array_equal(got.argmax(0), expected["seg_map"])
