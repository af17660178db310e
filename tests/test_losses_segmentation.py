"""Losses of segmentation: the originals' numbers, torch's and plain sums, strips against all at once, bad settings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hfvision.conversion.verify import tolerance
from hfvision.errors import ConfigError, DatasetError
from hfvision.losses import fused
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.upsampling import Upsampling, upsample

GOLDENS = Path(__file__).parent / "data" / "goldens"
ROUNDING = {"rtol": 1e-6, "atol": 1e-7}  # float32 sums in another order
EXACT = {"rtol": 1e-12, "atol": 1e-13}  # the same in float64


@pytest.fixture
def in_strips(monkeypatch):
    """Strips of at most three rows, whatever the size."""
    monkeypatch.setattr(fused, "WORTHWHILE", 0)
    monkeypatch.setattr(fused, "STRIP", {"cpu": 3 * 5 * 19})


def coarse(batch=2, classes=5, height=6, width=7, dtype=torch.float64):
    return (3 * torch.randn(batch, classes, height, width, dtype=dtype)).requires_grad_()


def label_maps(size, classes=5, batch=2, ignored=0.2):
    labels = torch.randint(0, classes, (batch, *size))
    return labels.masked_fill(torch.rand(batch, *size) < ignored, 255)


def value_and_gradient(loss, logits, labels, upsampling):
    logits = logits.detach().requires_grad_()
    value = loss(logits, labels, upsampling)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def plain_cross_entropy(logits, labels, upsampling, **options):
    return nn.functional.cross_entropy(upsample(logits, upsampling), labels, ignore_index=255, **options)


# --- the originals -------------------------------------------------------------------------------------------

STORED = [
    *[(f"segformer/{case}", "head_logits", "loss_seg", 1.0) for case in ("seg_64", "seg_not_multiple_of_32")],
    ("segformer/eps_sensitive", "head_logits", "loss_seg", 1.0),
    *[(f"segmenter/{case}", "decoder_output", "loss", 1.0) for case in ("linear", "linear_pad", "mask_distilled")],
    ("segmenter/mask_pad_and_interpolate", "decoder_output", "loss", 1.0),
    ("segmenter/mask_released_layout", "decoder_output", "loss", 1.0),
    ("segmenter/eps_sensitive", "decoder_output", "loss", 1.0),
    *[(f"setr/{case}", "logits", "loss/decode.loss_seg", 1.0) for case in ("naive", "pup", "mla")],
    *[(f"setr/{case}", "aux_1_logits", "loss/aux_1.loss_seg", 0.4) for case in ("naive", "pup", "mla")],
    ("upernet/swin_upernet_odd", "head_logits", "loss/decode.loss_seg", 1.0),
    ("upernet/swin_upernet_odd", "aux_logits", "loss/aux.loss_seg", 0.4),
]


@pytest.mark.parametrize(("case", "logits", "loss", "weight"), STORED)
@pytest.mark.parametrize("strips", [False, True])
def test_the_losses_are_those_of_the_originals(case, logits, loss, weight, strips, monkeypatch):
    if strips:
        monkeypatch.setattr(fused, "WORTHWHILE", 0)
        monkeypatch.setattr(fused, "STRIP", {"cpu": 1 << 11})
    folder = GOLDENS / case
    outputs = np.load(folder / "output.npz")
    facts = json.loads((folder / "case.json").read_text())
    values = torch.from_numpy(outputs[logits])
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    size = labels.shape[1:]
    patch = facts["config"].get("patch_size", 1) if case.startswith("segmenter") else 1
    upsampling = Upsampling(tuple(-(-side // patch) * patch for side in size), tuple(size))
    average = "valid" if case.startswith("segmenter") else "all"
    got = weight * SegmentationLoss(average=average)(values, labels, upsampling)
    expected = torch.from_numpy(outputs[loss])
    allowed = tolerance(expected, facts["float64_max_abs_diff"][loss])
    torch.testing.assert_close(got, expected, rtol=0, atol=allowed)


# --- each term -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0, 0.0, 3.0)])
def test_cross_entropy_is_torchs_mean_over_valid_pixels(weights, smoothing):
    logits, labels, upsampling = coarse(), label_maps((21, 19)), Upsampling((24, 28), (21, 19))
    loss = SegmentationLoss(class_weights=weights, label_smoothing=smoothing)
    expected = plain_cross_entropy(
        logits,
        labels,
        upsampling,
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss(logits, labels, upsampling), expected, **EXACT)


def test_the_average_over_all_pixels_counts_the_ignored_ones():
    logits, labels, upsampling = coarse(), label_maps((12, 14)), Upsampling((12, 14))
    valid, everything = (SegmentationLoss(average=a)(logits, labels, upsampling) for a in ("valid", "all"))
    torch.testing.assert_close(everything, valid * (labels != 255).double().mean(), **EXACT)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_cross_entropy_times_a_power_of_the_doubt(gamma):
    logits, labels, upsampling = coarse(), label_maps((12, 14)), Upsampling((12, 14))
    logits.data[0] *= 1000  # some pixels are beyond doubt, where a power below 1 has no slope
    surprise = plain_cross_entropy(logits, labels, upsampling, reduction="none")
    expected = ((1 - (-surprise).exp()) ** gamma * surprise).sum() / (labels != 255).sum()
    value, gradient = value_and_gradient(SegmentationLoss(terms="focal", focal_gamma=gamma), logits, labels, upsampling)
    torch.testing.assert_close(value, expected.detach(), **EXACT)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_dice_compares_the_classes_that_occur():
    logits, labels, upsampling = coarse(), label_maps((12, 14), classes=3), Upsampling((12, 14))  # 3 and 4 do not occur
    probabilities = upsample(logits, upsampling).softmax(1)
    valid = labels != 255
    expected = []
    for c in range(3):
        truth = (labels == c) & valid
        overlap = probabilities[:, c][truth].sum()
        expected.append(1 - (2 * overlap + 1) / (probabilities[:, c][valid].sum() + truth.sum() + 1))
    loss = SegmentationLoss(terms="dice")
    torch.testing.assert_close(loss(logits, labels, upsampling), torch.stack(expected).mean(), **EXACT)
    weights = torch.tensor([1.0, 0.0, 3.0, 9.0, 9.0], dtype=torch.float64)
    weighted = SegmentationLoss(terms="dice", class_weights=tuple(weights.tolist()))(logits, labels, upsampling)
    torch.testing.assert_close(weighted, (torch.stack(expected) * weights[:3]).sum() / 4, **EXACT)


def test_lovasz_of_certain_answers_is_one_minus_the_iou():
    """Where every probability is 0 or 1, the extension is the set function itself (Berman et al. 2018, section 2)."""
    labels = label_maps((12, 14), classes=3)
    answers = torch.randint(0, 5, labels.shape)
    logits = 1000 * nn.functional.one_hot(answers, 5).permute(0, 3, 1, 2).double()
    valid = labels != 255
    ious = []
    for c in range(3):
        truth, answer = (labels == c) & valid, (answers == c) & valid
        ious.append((truth & answer).sum() / (truth | answer).sum())
    loss = SegmentationLoss(terms="lovasz")(logits, labels, Upsampling((12, 14)))
    torch.testing.assert_close(loss, 1 - torch.stack(ious).double().mean(), rtol=0, atol=1e-7)  # ious are float32


def test_lovasz_is_the_sum_of_its_definition():
    """Errors in falling order, each times the growth of 1 - IoU of the set of pixels up to it."""
    logits, labels = coarse(batch=1, classes=3, height=4, width=4), label_maps((4, 4), classes=3, batch=1)
    probabilities = logits.softmax(1)
    expected = []
    for c in labels[labels != 255].unique():
        truth, errors = (labels == c).flatten(), ((labels == c).double() - probabilities[:, c]).abs().flatten()
        errors = errors * (labels != 255).flatten()
        total, before, wrong = 0.0, 0.0, torch.zeros(16, dtype=torch.bool)
        for pixel in errors.argsort(descending=True):
            wrong[pixel] = True
            after = 1 - (truth & ~wrong).sum().double() / (truth | wrong).sum()
            total, before = total + errors[pixel] * (after - before), after
        expected.append(total)
    got = SegmentationLoss(terms="lovasz")(logits, labels, Upsampling((4, 4)))
    torch.testing.assert_close(got, torch.stack(expected).mean(), **EXACT)


def test_terms_add_up_with_their_weights():
    logits, labels, upsampling = coarse(), label_maps((12, 14)), Upsampling((12, 14))

    def value(terms):
        return SegmentationLoss(terms=terms)(logits, labels, upsampling)

    expected = 0.5 * value("dice") + 2 * value("focal") + value("cross_entropy") + 3 * value("lovasz")
    torch.testing.assert_close(value("0.5*dice + 2*focal+cross_entropy+3*lovasz"), expected, **EXACT)


# --- one class -----------------------------------------------------------------------------------------------


def test_one_class_has_binary_cross_entropy():
    logits, labels, upsampling = coarse(classes=1), label_maps((12, 14), classes=2), Upsampling((12, 14))
    valid = labels != 255
    z, y = upsample(logits, upsampling)[:, 0][valid], labels[valid].double()
    binary = nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(SegmentationLoss()(logits, labels, upsampling), binary(z, y), **EXACT)
    weighted = SegmentationLoss(class_weights=(4.0,))(logits, labels, upsampling)
    torch.testing.assert_close(weighted, binary(z, y, 1 + 3 * y, reduction="sum") / (1 + 3 * y).sum(), **EXACT)
    alpha = SegmentationLoss(terms="focal", focal_gamma=0, focal_alpha=0.25)(logits, labels, upsampling)
    torch.testing.assert_close(alpha, binary(z, y, 0.75 - 0.5 * y), **EXACT)


@pytest.mark.parametrize("term", ["dice", "lovasz"])
def test_one_class_is_compared_even_where_it_does_not_occur(term):
    logits, upsampling = coarse(classes=1), Upsampling((12, 14))
    p = upsample(logits, upsampling).sigmoid()
    nothing = torch.zeros(2, 12, 14, dtype=torch.long)
    expected = {"dice": 1 - 1 / (p.sum() + 1), "lovasz": p.max()}[term]
    torch.testing.assert_close(SegmentationLoss(terms=term)(logits, nothing, upsampling), expected, **EXACT)


# --- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("terms", ["cross_entropy", "focal", "dice", "lovasz"])
@pytest.mark.parametrize("average", ["valid", "all"])
def test_a_batch_of_ignored_pixels_costs_nothing(terms, average, classes):
    nothing = torch.full((2, 12, 14), 255, dtype=torch.uint8)
    loss = SegmentationLoss(terms=terms, average=average)
    value, gradient = value_and_gradient(loss, coarse(classes=classes), nothing, Upsampling((12, 14)))
    assert value == 0
    assert (gradient == 0).all()


def test_a_strip_of_ignored_pixels_costs_nothing(in_strips):
    nothing = torch.full((2, 24, 28), 255)
    value, gradient = value_and_gradient(SegmentationLoss(), coarse(), nothing, Upsampling((24, 28)))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_labels_may_be_of_any_integer_type(dtype):
    logits, labels, upsampling = coarse(), label_maps((12, 14)), Upsampling((12, 14))
    expected = SegmentationLoss(terms="cross_entropy+dice")(logits, labels, upsampling)
    got = SegmentationLoss(terms="cross_entropy+dice")(logits, labels.to(dtype), upsampling)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_labels_out_of_range_are_named_with_their_counts():
    labels = torch.zeros(2, 12, 14, dtype=torch.long)
    labels[0, 0, :3], labels[1, 2, 5], labels[1, 3] = 5, -100, 255
    with pytest.raises(DatasetError, match=r"classes 0..4, or 255 .* got -100 \(1 pixel\), 5 \(3 pixels\)\.\n"):
        SegmentationLoss()(coarse(), labels, Upsampling((12, 14)))
    with pytest.raises(DatasetError, match=r"classes 0..1"):
        SegmentationLoss()(coarse(classes=1), labels, Upsampling((12, 14)))
    labels[0] = torch.arange(12 * 14).reshape(12, 14)
    with pytest.raises(DatasetError, match=r"and \d+ other values"):
        SegmentationLoss()(coarse(), labels, Upsampling((12, 14)))
    with pytest.raises(ConfigError, match=r"whole numbers; got torch\.float32"):
        SegmentationLoss()(coarse(), labels.float(), Upsampling((12, 14)))


# --- strips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampling", [Upsampling((24, 28)), Upsampling((23, 29)), Upsampling((40, 24), (38, 19))])
@pytest.mark.parametrize(
    "settings", [{}, {"average": "all"}, {"terms": "focal+cross_entropy"}, {"label_smoothing": 0.1}]
)
def test_strips_equal_everything_at_once(upsampling, settings, in_strips, monkeypatch):
    logits, labels = coarse(), label_maps(upsampling.image_size)
    loss = SegmentationLoss(class_weights=(0.5, 2.0, 1.0, 0.0, 3.0), **settings)
    value, gradient = value_and_gradient(loss, logits, labels, upsampling)
    single = value_and_gradient(loss, logits.float(), labels, upsampling)
    assert fused._in_strips(logits, labels)
    monkeypatch.setattr(fused, "WORTHWHILE", 1 << 60)
    expected, expected_gradient = value_and_gradient(loss, logits, labels, upsampling)
    torch.testing.assert_close(value, expected, **EXACT)
    torch.testing.assert_close(gradient, expected_gradient, **EXACT)
    torch.testing.assert_close(single[0].double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(single[1].double(), expected_gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()))


def test_a_grid_finer_than_the_image_is_not_cut_into_strips(in_strips):
    logits, labels, upsampling = coarse(), label_maps((4, 5)), Upsampling((4, 5))
    got = SegmentationLoss()(logits, labels, upsampling)
    torch.testing.assert_close(got, plain_cross_entropy(logits, labels, upsampling), **EXACT)


def test_strips_have_second_derivatives(in_strips):
    logits, labels = coarse(batch=1, classes=3, height=3, width=2), label_maps((6, 8), classes=3, batch=1)

    def loss(values):
        return SegmentationLoss()(values, labels, Upsampling((6, 8))) ** 2

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


def test_strips_are_left_to_all_at_once_under_transformations(in_strips):
    logits, labels, upsampling = coarse().detach(), label_maps((12, 14)), Upsampling((12, 14))
    expected = value_and_gradient(SegmentationLoss(), logits, labels, upsampling)[1]

    def loss(values, maps, terms="cross_entropy"):
        return SegmentationLoss(terms=terms)(values, maps, upsampling)

    torch.testing.assert_close(torch.func.grad(loss)(logits, labels), expected, **EXACT)
    of_each = torch.func.vmap(torch.func.grad(lambda x, y: loss(x[None], y[None])))(logits, labels)
    counts = (labels != 255).sum(dim=(1, 2))
    weighted = of_each * (counts / counts.sum())[:, None, None, None]  # the mean of a batch counts pixels
    torch.testing.assert_close(weighted, expected, rtol=1e-6, atol=1e-9)
    regions = torch.func.vmap(lambda x, y: loss(x[None], y[None], "dice+lovasz"))(logits, labels)
    alone = [loss(x[None], y[None], "dice+lovasz") for x, y in zip(logits, labels, strict=True)]
    torch.testing.assert_close(regions, torch.stack(alone), **EXACT)


@pytest.mark.parametrize("terms", ["cross_entropy", "focal+dice+lovasz"])
def test_losses_compile_to_one_graph(terms, in_strips):
    logits, labels, upsampling = coarse(dtype=torch.float32), label_maps((12, 14)), Upsampling((12, 14))
    loss = SegmentationLoss(terms=terms)
    compiled = torch.compile(lambda x, y: loss(x, y, upsampling), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, labels), loss(logits, labels, upsampling), **ROUNDING)


def test_half_precision_logits_are_summed_in_single_precision(in_strips):
    logits, labels, upsampling = coarse(dtype=torch.bfloat16), label_maps((24, 28)), Upsampling((24, 28))
    loss = SegmentationLoss()
    expected, gradient = value_and_gradient(loss, logits.float(), labels, upsampling)
    with torch.autocast("cpu", torch.bfloat16):
        value, half_gradient = value_and_gradient(loss, logits, labels, upsampling)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(half_gradient, gradient.bfloat16(), rtol=0, atol=0)


def test_nothing_of_the_size_of_the_upsampled_logits_is_kept():
    """What autograd keeps of 20 classes at 256 x 256 pixels: the coarse logits and their gradient."""
    logits, labels = coarse(1, 20, 32, 32, torch.float32), label_maps((256, 256), 20, batch=1)
    nodes, kept = [SegmentationLoss()(logits, labels, Upsampling((256, 256))).grad_fn], []
    while nodes:
        node = nodes.pop()
        kept += [tensor.numel() for tensor in getattr(node, "saved_tensors", ())]
        nodes += [before for before, _ in node.next_functions if before is not None]
    assert sorted(kept) == [logits.numel(), logits.numel()]


# --- settings ------------------------------------------------------------------------------------------------


def test_settings_survive_json():
    loss = SegmentationLoss(terms="0.5*dice+focal", focal_gamma=1.5, class_weights=[1, 2], average="all")
    assert SegmentationLoss(**json.loads(json.dumps(loss.describe()))) == loss
    assert SegmentationLoss().describe() == {"terms": "cross_entropy", "ignore_index": 255, "average": "valid"}
    assert len({loss, SegmentationLoss(**loss.describe())}) == 1


def test_every_setting_that_cannot_work_is_named():
    with pytest.raises(ConfigError, match="8 problems") as caught:
        SegmentationLoss(
            terms="dice+dice+-1*lovasz+bce",
            average="mean",  # type: ignore[arg-type]
            class_weights=(1, -1),
            label_smoothing=1.0,
            focal_gamma=-1,
            focal_alpha=1.0,
        )
    message = str(caught.value)
    for words in (
        "dice twice",
        "got '-1*lovasz'",
        "cross_entropy, focal, dice, lovasz, joined by +; got 'bce'",
        "mean",
    ):
        assert words in message
    with pytest.raises(ConfigError, match=r"label_smoothing=0.1 changes nothing without the term cross_entropy"):
        SegmentationLoss(terms="dice", label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"2 problems:\n.*3 values for 5 classes\n.*focal_alpha is for one class"):
        settings = SegmentationLoss(terms="focal", class_weights=(1, 1, 1), focal_alpha=0.5)
        settings(coarse(), label_maps((12, 14)), Upsampling((12, 14)))
