"""The segmentation metric: its definitions against plain sums, streaming, merging, `evaluate`, and bad input."""

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, recall_score

from hfvision.errors import ConfigError
from hfvision.metrics import SegmentationMetric

CLASSES = 6
LABELS = np.arange(CLASSES)


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    """Answers that are often right, and truths: class 4 is only predicted, class 5 absent, a tenth is ignored."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, (5, 24, 30))
    answers = np.where(generator.random(truth.shape) < 0.6, truth, generator.integers(0, 5, truth.shape))
    return answers, np.where(generator.random(truth.shape) < 0.1, 255, truth)


def counted(metric):
    return {name: counts.tolist() for name, counts in metric.counts.items()}


def test_figures_equal_scikit_learns(maps):
    answers, truth = maps
    metric = SegmentationMetric(CLASSES)
    metric.update(answers, truth)
    valid = truth != 255
    t, a = truth[valid], answers[valid]
    options = {"labels": LABELS, "average": None, "zero_division": np.nan}
    wanted = {
        "iou": np.append(jaccard_score(t, a, labels=LABELS[:5], average=None), np.nan),
        "dice": np.append(f1_score(t, a, labels=LABELS[:5], average=None), np.nan),
        "accuracy": recall_score(t, a, **options),
    }
    result = metric.result()
    # counts are whole numbers and the divisions the same, so nothing but the last bits may differ
    close = {"rtol": 1e-14, "atol": 0}
    for name, values in wanted.items():
        np.testing.assert_allclose(result[f"per_category_{name}"], values, **close)
        np.testing.assert_allclose(result[f"mean_{name}"], np.nanmean(values), **close)
    assert result["per_category_iou"][4] == 0  # predicted, never true
    assert np.isnan(result["per_category_accuracy"][4])
    assert result["overall_accuracy"] == pytest.approx((t == a).mean(), abs=1e-15)
    frequency = np.bincount(t, minlength=CLASSES) / len(t)
    assert result["frequency_weighted_iou"] == pytest.approx(np.nansum(frequency * wanted["iou"]), abs=1e-15)
    assert (metric.confusion == confusion_matrix(t, a, labels=LABELS)).all()
    assert (result["pixels"], result["images"]) == (valid.sum(), 5)


def test_an_absent_class_is_listed_and_left_out_of_the_means(maps):
    metric = SegmentationMetric(CLASSES)
    metric.update(*maps)
    assert metric.absent() == metric.result()["absent"] == [5]
    assert metric.per_class()[5] is None
    assert metric.result()["mean_iou"] == pytest.approx(sum(metric.per_class()[:5]) / 5, abs=1e-15)
    assert [place for place, value in enumerate(metric.per_class("accuracy")) if value is None] == [4, 5]


def test_batches_and_processes_add_up_exactly(maps):
    whole = SegmentationMetric(CLASSES, boundary_tolerance=2)
    whole.update(*maps)
    processes = [SegmentationMetric(CLASSES, boundary_tolerance=2) for _ in range(2)]
    for image, (answer, truth) in enumerate(zip(*maps, strict=True)):
        processes[image % 2].add(predictions=answer, references=truth)
    merged = SegmentationMetric(CLASSES, boundary_tolerance=2)
    merged.merge(*processes)
    assert counted(merged) == counted(whole)
    reduced = SegmentationMetric(CLASSES, boundary_tolerance=2)
    reduced.merge({name: sum(p.counts[name] for p in processes) for name in whole.counts})  # as all_reduce does
    assert counted(reduced) == counted(whole)
    for options in ({"num_labels": 5}, {"num_labels": CLASSES, "ignore_index": None}, {"num_labels": CLASSES}):
        with pytest.raises(ConfigError, match="can be merged"):
            whole.merge(SegmentationMetric(**options))


def test_every_form_of_the_same_maps_counts_the_same(maps):
    answers, truth = maps
    expected = SegmentationMetric(CLASSES)
    expected.update(answers, truth)
    logits = torch.nn.functional.one_hot(torch.from_numpy(answers), CLASSES).permute(0, 3, 1, 2).float()
    forms = [
        (torch.from_numpy(answers), torch.from_numpy(truth)),
        (logits, truth.astype(np.uint8)),
        (logits.bfloat16(), truth.astype(">u2")),
        (list(logits.numpy()), list(truth)),
        ([Image.fromarray(one.astype(np.uint8)) for one in answers], [one.tolist() for one in truth]),
        (answers[:, ::-1, ::-1], truth.astype(np.uint16)[:, ::-1, ::-1]),
    ]
    for predictions, references in forms:
        metric = SegmentationMetric(CLASSES)
        metric.update(predictions, references)
        assert counted(metric) == counted(expected)


def test_maps_of_different_sizes_may_come_in_one_list():
    metric = SegmentationMetric(3)
    metric.update([np.zeros((2, 3), int), np.ones((4, 1), int)], [np.zeros((2, 3), int), np.zeros((4, 1), int)])
    assert metric.result()["pixels"] == 10
    assert metric.per_class() == [0.6, 0.0, None]
    assert metric.result()["images"] == 2


def test_one_class_is_told_from_the_rest():
    truth = np.array([[[1, 1, 0, 0, 255]]])
    metric = SegmentationMetric(1)
    metric.update(np.array([[[[0.1, -3.0, 2.0, -1.0, 9.0]]]]), truth)  # logits above 0 are the class
    result = metric.result()
    assert result["per_category_iou"].tolist() == [1 / 3]
    assert (result["mean_dice"], result["mean_accuracy"], result["overall_accuracy"]) == (0.5, 0.5, 0.5)
    assert result["absent"] == []
    same = SegmentationMetric(1)
    same.update(np.array([[[True, False, True, False, True]]]), truth)
    assert counted(same) == counted(metric)


# --- outlines ------------------------------------------------------------------------------------------------


def plain_boundary_scores(answers, truth, radius):
    """By distance transforms, class after class."""

    def boundary(classes, valid, c):
        edge = np.zeros(classes.shape, bool)
        for y, x in np.argwhere((classes == c) & valid):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= v < classes.shape[0] and 0 <= u < classes.shape[1]
                edge[y, x] |= inside and valid[v, u] and classes[v, u] != c
        return edge

    scores = []
    for c in range(CLASSES):
        hits, drawn_all, found, real_all = 0, 0, 0, 0
        for answer, true in zip(answers, truth, strict=True):
            drawn, real = (boundary(classes, true != 255, c) for classes in (answer, true))
            near_real, near_drawn = (
                ndimage.distance_transform_edt(~edge) <= radius if edge.any() else np.zeros_like(edge)
                for edge in (real, drawn)
            )
            hits, drawn_all = hits + (drawn & near_real).sum(), drawn_all + drawn.sum()
            found, real_all = found + (real & near_drawn).sum(), real_all + real.sum()
        precision, recall = hits / max(drawn_all, 1), found / max(real_all, 1)
        known = drawn_all + real_all > 0
        scores.append(2 * precision * recall / max(precision + recall, 1e-300) if known else np.nan)
    return scores


@pytest.mark.parametrize("tolerance", [1, 1.5, 3, 0.05])
def test_boundary_scores_are_those_of_distance_transforms(tolerance):
    generator = np.random.default_rng(1)
    truth = np.kron(generator.integers(0, 4, (2, 4, 5)), np.ones((1, 6, 6), int))
    answers = np.roll(truth, 2, axis=2)
    answers[:, :3, :4] = 4  # only predicted
    truth[:, 10:13, 7:20] = 255
    metric = SegmentationMetric(CLASSES, boundary_tolerance=tolerance)
    metric.update(answers, truth)
    radius = 2 if tolerance == 0.05 else tolerance  # the diagonal is 38.4 pixels
    wanted = plain_boundary_scores(answers, truth, radius)
    np.testing.assert_allclose(metric.result()["per_category_boundary_f"], wanted, rtol=1e-14, atol=0)
    assert metric.result()["mean_boundary_f"] == pytest.approx(np.nanmean(wanted), abs=1e-14)
    assert metric.per_class("boundary_f")[5] is None


def test_outlines_within_the_tolerance_are_met_and_others_are_not():
    truth = np.zeros((1, 20, 20), int)
    truth[:, :, 10:] = 1
    for shift, score in ((1, 1.0), (2, 1.0), (4, 0.0)):
        metric = SegmentationMetric(2, boundary_tolerance=2)
        metric.update(np.roll(truth, shift, axis=2)[:, :, shift:], truth[:, :, shift:])
        assert metric.result()["mean_boundary_f"] == score
    plain = SegmentationMetric(2)
    plain.update(truth, truth)
    with pytest.raises(ConfigError, match=r"'boundary_f'\. It needs a boundary_tolerance"):
        plain.per_class("boundary_f")


# --- evaluate ------------------------------------------------------------------------------------------------


def test_stands_in_evaluate_combine_without_network_or_files(maps, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    both = evaluate.combine({"a": SegmentationMetric(CLASSES), "b": SegmentationMetric(CLASSES)}, force_prefix=True)
    answers, truth = maps
    both.add_batch(predictions=answers[:3], references=truth[:3])
    for answer, true in zip(answers[3:], truth[3:], strict=True):
        both.add(prediction=answer, reference=true)
    result = both.compute()
    expected = SegmentationMetric(CLASSES).compute(predictions=answers, references=truth)
    assert result["a_mean_iou"] == result["b_mean_iou"] == expected["mean_iou"]
    assert {"mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy"} <= set(
        expected
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="no pixel was counted"):  # compute forgets, as evaluate's modules do
        SegmentationMetric(3).compute(predictions=np.zeros((1, 2, 2), int), references=np.full((1, 2, 2), 255))


# --- bad input -----------------------------------------------------------------------------------------------

ZEROS = np.zeros((2, 4, 5), int)


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        (ZEROS, ZEROS + 3, r"references are classes 0..2 or 255 .ignored.; got \[3\] in 40 pixels"),
        (ZEROS - 1, ZEROS, r"predictions are classes 0..2; got \[-1\] in 40 pixels"),
        (ZEROS, ZEROS.astype(float), r"whole numbers \(B, H, W\); got torch.float64"),
        (ZEROS[:, :2], ZEROS, r"classes of \(2, 2, 5\) for references \(2, 4, 5\)"),
        (np.zeros((2, 3, 2, 2)), ZEROS, r"logits of \(2, 3, 2, 2\) .* need \(2, 3, 4, 5\)"),
        (np.full((2, 3, 4, 5), np.nan), ZEROS, "120 of 120 logits are no numbers"),
        ([ZEROS[0]], [ZEROS[0], ZEROS[0]], "1 predictions for 2 references"),
        ([ZEROS[0], ZEROS[0] + 9], [ZEROS[0] + 9, ZEROS[0]], r"2 problems:\n.*\(map 0\)\n.*predictions.*\(map 1\)"),
    ],
)
def test_bad_batches_are_refused_and_nothing_is_counted(predictions, references, words):
    metric = SegmentationMetric(3)
    with pytest.raises(ConfigError, match=words):
        metric.update(predictions, references)
    assert metric.confusion.sum() == 0


def test_predictions_under_ignored_pixels_may_be_anything():
    metric = SegmentationMetric(3)
    metric.update(np.array([[[0, 255]]]), np.array([[[0, 255]]]))
    assert metric.result()["overall_accuracy"] == 1


def test_senseless_metrics_are_refused():
    with pytest.raises(ConfigError, match=r"ignore_index 0 is one of the classes 0..2, whose pixels would be missed"):
        SegmentationMetric(3, ignore_index=0)
    with pytest.raises(ConfigError, match=r"2 problems:\n.*num_labels.*\n.*boundary_tolerance"):
        SegmentationMetric(0, boundary_tolerance=-1)
