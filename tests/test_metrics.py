"""The accuracy metric: its definition against an independent one, streaming, merging, `evaluate`, and bad input."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, top_k_accuracy_score

from hfvision.errors import ConfigError
from hfvision.metrics import ClassificationMetric

CLASSES = 12
SAMPLES = 500


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Random scores without ties, and true classes that they favour a little; class 11 never occurs."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, CLASSES - 1, SAMPLES)
    scores = generator.normal(size=(SAMPLES, CLASSES))
    scores[np.arange(SAMPLES), truth] += 1.0
    return scores, truth


def test_figures_equal_scikit_learns(scored):
    scores, truth = scored
    metric = ClassificationMetric(CLASSES, top_k=(1, 3, 5), confusion=True)
    metric.update(scores, truth)
    result = metric.result()
    labels = np.arange(CLASSES)
    # counts are whole numbers and the divisions the same, so nothing but the last bit may differ
    assert result["accuracy"] == pytest.approx(accuracy_score(truth, scores.argmax(1)), abs=1e-15)
    for k in (3, 5):
        assert result[f"top_{k}_accuracy"] == pytest.approx(
            top_k_accuracy_score(truth, scores, k=k, labels=labels), abs=1e-15
        )
    recalls = recall_score(truth, scores.argmax(1), average=None, labels=np.arange(CLASSES - 1))
    assert metric.per_class()[:-1] == pytest.approx(recalls.tolist(), abs=1e-15)
    assert result["mean_class_accuracy"] == pytest.approx(recalls.mean(), abs=1e-15)
    assert (metric.confusion == confusion_matrix(truth, scores.argmax(1), labels=labels)).all()
    assert (metric.predicted == np.bincount(scores.argmax(1), minlength=CLASSES)).all()
    assert result["samples"] == SAMPLES


def test_a_class_without_samples_is_listed_and_left_out_of_the_mean(scored):
    metric = ClassificationMetric(CLASSES)
    metric.update(*scored)
    assert metric.absent() == [CLASSES - 1]
    assert metric.per_class()[-1] is None
    present = [accuracy for accuracy in metric.per_class() if accuracy is not None]
    assert metric.result()["mean_class_accuracy"] == sum(present) / (CLASSES - 1)


def test_batches_and_processes_add_up_exactly(scored):
    scores, truth = scored
    whole = ClassificationMetric(CLASSES, confusion=True)
    whole.update(scores, truth)
    processes = [ClassificationMetric(CLASSES, confusion=True) for _ in range(3)]
    for start in range(0, SAMPLES, 32):
        processes[start // 32 % 3].update(scores[start : start + 32], truth[start : start + 32])
    merged = ClassificationMetric(CLASSES, confusion=True)
    merged.merge(*processes)
    assert merged.result() == whole.result()
    assert {name: counts.tolist() for name, counts in merged.counts.items()} == {
        name: counts.tolist() for name, counts in whole.counts.items()
    }
    reduced = ClassificationMetric(CLASSES, confusion=True)
    reduced.merge({name: sum(p.counts[name] for p in processes) for name in whole.counts})  # as all_reduce does
    assert reduced.result() == whole.result()


def test_equal_scores_go_to_the_lower_class_as_argmax_does():
    metric = ClassificationMetric(3, top_k=(1, 2))
    metric.update(np.zeros((3, 3)), np.array([0, 1, 2]))  # a model that says nothing must not score 100 %
    assert metric.result()["accuracy"] == pytest.approx(1 / 3)
    assert metric.result()["top_2_accuracy"] == pytest.approx(2 / 3)


def test_memory_does_not_grow_with_the_samples(scored):
    metric = ClassificationMetric(CLASSES)
    sizes = {name: array.nbytes for name, array in metric.counts.items()}
    for _ in range(10):
        metric.update(*scored)
    assert {name: array.nbytes for name, array in metric.counts.items()} == sizes


def test_top_k_of_as_many_classes_is_left_out():
    assert ClassificationMetric(5).top_k == (1,)
    assert ClassificationMetric(6).top_k == (1, 5)


def test_classes_instead_of_scores_give_top_1():
    metric = ClassificationMetric(10, top_k=(1,))
    assert metric.compute(predictions=[1, 2, 3, 4], references=[1, 2, 3, 5])["accuracy"] == 0.75
    with pytest.raises(ConfigError, match="no sample was counted"):  # compute forgets, as evaluate's modules do
        metric.compute()


def test_stands_in_evaluate_combine_without_network_or_files(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    both = evaluate.combine(
        {"plain": ClassificationMetric(3, top_k=(1,)), "other": ClassificationMetric(3, top_k=(1,))}, force_prefix=True
    )
    both.add_batch(predictions=[0, 1], references=[0, 2])
    both.add(prediction=2, reference=2)
    result = both.compute()
    assert result["plain_accuracy"] == result["other_accuracy"] == pytest.approx(2 / 3)
    assert both.compute(predictions=[0], references=[0])["plain_samples"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        (np.zeros((2, 4)), [0, 1], r"scores \(B, 3\)"),
        (np.zeros((2, 3)), [0, 3], r"classes 0..2, got \[3\]"),
        (np.zeros((2, 3)), [0, -1], r"got \[-1\]"),
        (np.zeros((2, 3)), [0.0, 1.0], "whole numbers"),
        (np.zeros((2, 3)), [0, 1, 2], "2 predictions for 3 references"),
        (np.array([[0, 1, np.nan], [0, 0, 0]]), [0, 1], "1 of 2 samples have NaN"),
        ([0, 1], [0, 1], "top-2 needs scores"),
    ],
)
def test_bad_batches_are_refused_and_nothing_is_counted(predictions, references, words):
    metric = ClassificationMetric(3, top_k=(1, 2))
    with pytest.raises(ConfigError, match=words):
        metric.update(predictions, references)
    assert metric.samples.sum() == 0


def test_all_faults_of_a_batch_are_named_at_once():
    with pytest.raises(ConfigError, match=r"3 problems") as caught:
        ClassificationMetric(3).update(np.zeros((2, 4)), [0, 1, 7])
    assert "scores (B, 3)" in str(caught.value)
    assert "classes 0..2, got [7]" in str(caught.value)
    assert "2 predictions for 3 references" in str(caught.value)


def test_metrics_that_count_something_else_do_not_merge():
    metric = ClassificationMetric(3)
    for options in ({"num_labels": 4}, {"num_labels": 3, "confusion": True}, {"num_labels": 3, "top_k": (2,)}):
        with pytest.raises(ConfigError, match="can be merged"):
            metric.merge(ClassificationMetric(**options))


@pytest.mark.parametrize(
    "arguments", [{"num_labels": 1}, {"num_labels": 3, "top_k": ()}, {"num_labels": 3, "top_k": (0,)}]
)
def test_senseless_metrics_are_refused(arguments):
    with pytest.raises(ConfigError):
        ClassificationMetric(**arguments)
