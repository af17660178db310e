"""Metrics and geometry against independent references, over many small random cases: pycocotools for boxes, masks and
run lengths, the definition of panoptic quality written out, and plain counting for mean IoU.
"""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hfvision.geometry import box_iou, decode_rle, encode_rle, rle_area
from hfvision.metrics import ClassificationMetric, DetectionMetric, PanopticMetric, SegmentationMetric

SIDE = 128
COCO_FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


def random_masks(generator, count):
    """Masks of every kind: of one pixel, full, empty, noise, rectangles; of sides 1 to 40."""
    for _ in range(count):
        height, width = generator.integers(1, 41, 2)
        mask = generator.random((height, width)) < generator.choice([0, 0.02, 0.5, 0.98, 1])
        if generator.random() < 0.3:
            top, left = generator.integers(0, [height, width])
            mask[:] = False
            mask[top : top + generator.integers(1, 20), left : left + generator.integers(1, 20)] = True
        yield mask


def test_run_lengths_are_pycocotools_both_ways():
    for mask in random_masks(np.random.default_rng(0), 2000):
        theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = encode_rle(mask)
        assert ours["size"] == list(theirs["size"]) and ours["counts"] == theirs["counts"].decode()
        np.testing.assert_array_equal(decode_rle(ours), mask)
        assert rle_area(ours) == coco_mask.area(theirs) == mask.sum()


def test_overlaps_of_boxes_are_pycocotools():
    generator = np.random.default_rng(1)
    for _ in range(300):
        first, second = (random_boxes(generator, generator.integers(1, 8)) for _ in range(2))
        theirs = coco_mask.iou(first, second, np.zeros(len(second), np.uint8).tolist())
        corners = [np.concatenate([one[:, :2], one[:, :2] + one[:, 2:]], axis=1) for one in (first, second)]
        ours = box_iou(corners[0][:, None], corners[1])
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def random_boxes(generator, count):
    """(count, 4) xywh of all three sizes of COCO, on whole and on half pixels, some alike."""
    boxes = np.concatenate(
        [generator.integers(0, SIDE // 2, (count, 2)), generator.choice([6, 20, 31, 32, 33, 60, 96, 97], (count, 2))],
        axis=1,
    ).astype(float)
    return boxes + generator.choice([0, 0.5], (count, 1)) * [1, 1, 0, 0]


def scenes(generator, images, classes):
    """Objects and detections of each image: near misses, ties of scores, crowds, more than 100 detections at times."""
    for _ in range(images):
        objects = random_boxes(generator, generator.integers(0, 7))
        labels = generator.integers(0, classes, len(objects))
        crowd = generator.random(len(objects)) < 0.15
        copies = generator.integers(0, 4, len(objects)).repeat(1)
        near = np.repeat(objects, copies, axis=0) + generator.integers(-3, 4, (copies.sum(), 4))
        near[:, 2:] = near[:, 2:].clip(1)
        strange = random_boxes(generator, generator.integers(0, 120 if generator.random() < 0.05 else 6))
        found = np.concatenate([near, strange])
        answers = np.concatenate([np.repeat(labels, copies), generator.integers(0, classes, len(strange))])
        scores = generator.choice(np.linspace(0.1, 1, 7), len(found))  # few values: many ties
        yield objects, labels, crowd, found, answers, scores


def as_pycocotools_has_it(cases, classes, kind):
    """Its twelve figures."""
    truth = {
        "images": [{"id": number + 1, "height": 2 * SIDE, "width": 2 * SIDE} for number in range(len(cases))],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        "annotations": [],
    }
    results = []
    for number, (objects, labels, crowd, found, answers, scores) in enumerate(cases):
        for box, label, many in zip(objects, labels, crowd, strict=True):
            one = {"id": len(truth["annotations"]) + 1, "image_id": number + 1, "category_id": int(label) + 1}
            one |= {"bbox": box.tolist(), "iscrowd": int(many), **region(box, kind)}
            truth["annotations"].append(one)
        for box, label, score in zip(found, answers, scores, strict=True):
            one = {"image_id": number + 1, "category_id": int(label) + 1, "score": float(score)}
            results.append(one | (region(box, kind) if kind == "segm" else {"bbox": box.tolist()}))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_FIGURES, evaluation.stats, strict=True))


def drawn(box):
    mask = np.zeros((2 * SIDE, 2 * SIDE), bool)
    left, top, width, height = box.astype(int)
    mask[max(top, 0) : top + height, max(left, 0) : left + width] = True
    return mask


def region(box, kind):
    if kind == "bbox":
        return {"area": float(box[2] * box[3])}
    encoded = encode_rle(drawn(box))
    return {"segmentation": encoded, "area": float(rle_area(encoded))}


@pytest.mark.parametrize(("kind", "images", "rounds"), [("bbox", 12, 40), ("segm", 5, 12)])
def test_figures_of_detection_are_pycocotools(kind, images, rounds):
    classes, generator = 3, np.random.default_rng(2)
    for _ in range(rounds):
        cases = list(scenes(generator, images, classes))
        if not any(len(case[0]) for case in cases) or not any(len(case[3]) for case in cases):
            continue
        metric = DetectionMetric(classes, regions=["masks" if kind == "segm" else "boxes"], box_form="xywh")
        for objects, labels, crowd, found, answers, scores in cases:
            prediction = {"boxes": found, "scores": scores, "labels": answers}
            reference = {"boxes": objects, "labels": labels, "iscrowd": crowd}
            if kind == "segm":
                prediction["masks"] = [encode_rle(drawn(box)) for box in found]
                reference["masks"] = [encode_rle(drawn(box)) for box in objects]
            metric.update([prediction], [reference])
        figures = metric.result()
        for name, value in as_pycocotools_has_it(cases, classes, kind).items():
            own = figures[("mask_" if kind == "segm" else "") + name]
            assert value == -1 if np.isnan(own) else own == pytest.approx(value, abs=1e-9), name


def panoptic_quality(pairs, classes):
    """By the definition, segment by segment: {class: (PQ, SQ, RQ)} of classes that occur."""
    overlaps, right = {k: [] for k in range(classes)}, dict.fromkeys(range(classes), 0)
    missed, wrong = dict.fromkeys(range(classes), 0), dict.fromkeys(range(classes), 0)
    for predicted, predicted_labels, true, true_labels in pairs:
        matched = set()
        for number, label in true_labels.items():
            own, best = true == number, None
            for other, other_label in predicted_labels.items():
                theirs = predicted == other
                union = (own | theirs) & (true > 0)
                iou = (own & theirs).sum() / union.sum()
                if other_label == label and iou > 0.5:
                    best = (other, iou)
            if best is None:
                missed[label] += 1
            else:
                matched.add(best[0])
                overlaps[label].append(best[1])
                right[label] += 1
        for other, label in predicted_labels.items():
            theirs = predicted == other
            if other not in matched and (theirs & (true == 0)).sum() <= 0.5 * theirs.sum():
                wrong[label] += 1
    figures = {}
    for label in range(classes):
        errors = right[label] + (missed[label] + wrong[label]) / 2
        if errors:
            sq = sum(overlaps[label]) / right[label] if right[label] else 0.0
            figures[label] = (sq * right[label] / errors, sq, right[label] / errors)
    return figures


def test_panoptic_quality_is_that_of_the_definition():
    classes, generator = 3, np.random.default_rng(3)
    for _ in range(150):
        pairs, metric = [], PanopticMetric(classes)
        for _ in range(3):
            true = np.kron(generator.integers(0, 4, (3, 3)), np.ones((4, 4), int))
            predicted = np.where(generator.random(true.shape) < generator.choice([0.05, 0.3]), 0, true)
            predicted = np.where(generator.random(true.shape) < 0.1, 4, predicted)
            true_labels, predicted_labels = (
                {int(number): int(generator.integers(0, 2)) + (number == 3) for number in np.unique(ids) if number}
                for ids in (true, predicted)
            )
            predicted_labels |= {
                n: true_labels[n] for n in predicted_labels if generator.random() < 0.7 and n in true_labels
            }
            pairs.append((predicted, predicted_labels, true, true_labels))
            metric.update([segments(predicted, predicted_labels)], [segments(true, true_labels)])
        expected, figures = panoptic_quality(pairs, classes), metric.result()
        for place, name in enumerate(("PQ", "SQ", "RQ")):
            values = figures[f"per_category_{name}"]
            assert {k for k in range(classes) if not np.isnan(values[k])} == expected.keys()
            for label, of_class in expected.items():
                assert values[label] == pytest.approx(of_class[place], abs=1e-12)
            if expected:
                assert figures[name] == pytest.approx(np.mean([one[place] for one in expected.values()]), abs=1e-12)


def segments(ids, labels):
    return {"segmentation": ids, "segments_info": [{"id": one, "label_id": label} for one, label in labels.items()]}


def test_mean_iou_is_that_of_counting_pixels():
    classes, ignored, generator = 4, 255, np.random.default_rng(4)
    for _ in range(300):
        metric, predictions, references = SegmentationMetric(classes), [], []
        for _ in range(generator.integers(1, 4)):
            size = tuple(generator.integers(1, 12, 2))
            references.append(np.where(generator.random(size) < 0.2, ignored, generator.integers(0, classes, size)))
            predictions.append(generator.integers(0, generator.integers(1, classes + 1), size))
            metric.update([predictions[-1]], [references[-1]])
        said = np.concatenate([one.ravel() for one in predictions])
        true = np.concatenate([one.ravel() for one in references])
        said, true = said[true != ignored], true[true != ignored]
        union = [((said == k) | (true == k)).sum() for k in range(classes)]
        ious = [((said == k) & (true == k)).sum() / union[k] for k in range(classes) if union[k]]
        if ious:
            assert metric.result()["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-12)


def test_top_k_accuracy_is_that_of_sorting():
    generator = np.random.default_rng(5)
    for _ in range(300):
        scores, truth = generator.integers(0, 4, (6, 5)) / 4, generator.integers(0, 5, 6)  # few values: many ties
        metric = ClassificationMetric(5, top_k=(1, 2, 3))
        metric.update(scores, truth)
        order = [sorted(range(5), key=lambda k, row=row: (-row[k], k)) for row in scores]
        for k, name in ((1, "accuracy"), (2, "top_2_accuracy"), (3, "top_3_accuracy")):
            right = np.mean([label in row[:k] for row, label in zip(order, truth, strict=True)])
            assert metric.result()[name] == pytest.approx(right)
