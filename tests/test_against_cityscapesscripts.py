"""Metrics against the evaluation that Cityscapes publishes (cityscapesscripts), over many small random scenes.

Its files hold raw ids, so that what is compared begins at the pictures: read, mapped to classes, counted. cityscapes-
scripts is no requirement of the tests: it asks for a distribution without wheels. Without it they are skipped.
"""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from hfvision.data import prepare_detection
from hfvision.labels import label_set
from hfvision.metrics import DetectionMetric, PanopticMetric, SegmentationMetric
from hfvision.processing.label_map import LabelMap
from hfvision.processing.label_reading import read_labels
from tests.exports import image_of

scripts = pytest.importorskip("cityscapesscripts.helpers.labels")
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as by_instance  # noqa: E402
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as by_segment  # noqa: E402
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as by_pixel  # noqa: E402
from cityscapesscripts.evaluation.instances2dict import instances2dict  # noqa: E402

LABEL_MAP = LabelMap.named("cityscapes-19")
IN_PICTURES = [label for label in scripts.labels if label.id >= 0]
EVALUATED = [label for label in IN_PICTURES if not label.ignoreInEval]
THINGS = [label for label in EVALUATED if label.hasInstances]
ROAD = scripts.name2label["road"].id  # stands for the rest: what is not labelled excuses detections in the scripts
ALIKE = {"rel": 0, "abs": 1e-12}


@pytest.fixture(autouse=True)
def function_that_numpy_no_longer_has(monkeypatch):
    """cityscapesscripts 2.3 asks for `in1d`, which NumPy 2.4 does not have."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)


def scene(generator, raw_ids, most=13):
    """(H, W) uint8: a picture of few or many of the ids, in blocks or as noise."""
    size = generator.integers(1, most, 2)
    ids = generator.choice(raw_ids, generator.integers(1, 9))
    if generator.random() < 0.5:
        return generator.choice(ids, size).astype(np.uint8)
    blocks = generator.choice(ids, (3, 3))
    rows, columns = (np.sort(generator.integers(0, 3, side)) for side in size)
    return blocks[np.ix_(rows, columns)].astype(np.uint8)


def answer_to(truth, generator):
    """Raw ids of evaluated classes, some of them right."""
    raw_ids = [label.id for label in EVALUATED]
    guessed = generator.choice(generator.choice(raw_ids, 4), truth.shape)
    right = (generator.random(truth.shape) < generator.choice([0, 0.5, 0.95])) & np.isin(truth, raw_ids)
    return np.where(right, truth, guessed).astype(np.uint8)


def test_the_label_set_is_that_of_the_scripts():
    rows = {row.id: row for row in LABEL_MAP.labels}
    assert set(rows) == {label.id for label in scripts.labels}
    for label in scripts.labels:
        row = rows[label.id]
        assert row.name == label.name
        assert row.train_id == (None if label.ignoreInEval else label.trainId)
        if not label.ignoreInEval:
            assert label_set("cityscapes-19").colors[label.trainId] == label.color


def test_the_objects_of_its_maps(tmp_path):
    """Numbers from 1000 are single objects, classes below are groups where their objects are counted."""
    generator, expected, truths = np.random.default_rng(4), {}, []
    raw_ids = [label.id for label in IN_PICTURES]
    for place in range(60):
        split, name = "val" if place % 6 == 0 else "train", f"ulm_{place:06}_000019"
        classes = scene(generator, raw_ids, 20)
        numbers = generator.integers(0, 3, classes.shape) * (generator.random(classes.shape) < 0.3)
        counted = np.isin(classes, [label.id for label in scripts.labels if label.hasInstances]) & (numbers > 0)
        ids = np.where(counted, classes.astype(int) * 1000 + numbers, classes).astype(np.uint16)
        for path, pixels in (
            (tmp_path / "leftImg8bit" / split / f"{name}_leftImg8bit.png", np.asarray(image_of(*classes.shape[::-1]))),
            (tmp_path / "gtFine" / split / f"{name}_gtFine_labelIds.png", classes),
            (tmp_path / "gtFine" / split / f"{name}_gtFine_instanceIds.png", ids),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)
        truths.append(str(path))
    for path, instances in instances2dict(truths).items():
        name = path.rsplit("/", 1)[1].replace("_gtFine_instanceIds", "_leftImg8bit")
        expected[name] = sorted(
            (label.name, one["pixelCount"], one["instID"] < 1000) for label in THINGS for one in instances[label.name]
        )
    data = prepare_detection(tmp_path, masks=True)
    found = {}
    for part in (data.train, data.evaluation):
        for row in range(len(part)):
            objects = part.read(row)[1]
            names = [data.names[label] for label in objects.labels]
            areas = objects.masks.areas().astype(int).tolist()
            found[part.file_of(row)] = sorted(zip(names, areas, objects.crowd.tolist(), strict=True))
    assert found == expected


def evaluated_by_pixel(pairs):
    """The scripts' results for pairs of files."""
    args = by_pixel.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    answers, truths = zip(*pairs, strict=True)
    return by_pixel.evaluateImgLists(list(map(str, answers)), list(map(str, truths)), args)


def test_confusion_and_iou_of_classes_and_categories(tmp_path):
    generator = np.random.default_rng(0)
    raw_ids = [label.id for label in IN_PICTURES]
    category_of = {label.id: None if label.ignoreInEval else label.categoryId - 1 for label in scripts.labels}
    categories = LabelMap.of(category_of)
    for _ in range(250):
        metric, coarse, pairs = SegmentationMetric(19), SegmentationMetric(categories.num_labels), []
        for place in range(generator.integers(1, 4)):
            truth = scene(generator, raw_ids)
            paths = tmp_path / f"answer_{place}.png", tmp_path / f"truth_{place}.png"
            for path, pixels in zip(paths, (answer_to(truth, generator), truth), strict=True):
                Image.fromarray(pixels).save(path, compress_level=1)
            pairs.append(paths)
            answer, truth = map(read_labels, paths)
            metric.update(LABEL_MAP.to_train_ids(answer), LABEL_MAP.to_train_ids(truth))
            coarse.update(categories.to_train_ids(answer), categories.to_train_ids(truth))
        theirs = evaluated_by_pixel(pairs)
        order = [label.id for label in sorted(EVALUATED, key=lambda label: label.trainId)]
        confusion = np.array(theirs["confMatrix"])[np.ix_(order, order)]
        np.testing.assert_array_equal(metric.confusion, confusion)
        if not confusion.sum():  # every pixel is ignored: the scripts answer NaN, a metric says so
            continue
        figures, coarse_figures = metric.result(), coarse.result()
        for label in EVALUATED:
            expected = pytest.approx(theirs["classScores"][label.name], nan_ok=True, **ALIKE)
            assert figures["per_category_iou"][label.trainId] == expected, label.name
            expected = pytest.approx(theirs["categoryScores"][label.category], nan_ok=True, **ALIKE)
            assert coarse_figures["per_category_iou"][label.categoryId - 1] == expected, label.category
        assert figures["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], **ALIKE)
        assert coarse_figures["mean_iou"] == pytest.approx(theirs["averageScoreCategories"], **ALIKE)


def panoptic_scene(generator, size, classes):
    """A map of segment ids and its segments, crowds among them (one of a class at most, as in COCO's files)."""
    ids = np.kron(generator.integers(0, 7, (3, 3)), np.ones(size, int))
    ids = np.where(generator.random(ids.shape) < generator.choice([0, 0.1]), 0, ids)
    segments, crowds = [], set()
    for number in np.unique(ids[ids > 0]).tolist():
        label = int(generator.choice(classes))
        crowd = generator.random() < 0.2 and label not in crowds
        crowds |= {label} if crowd else set()
        area = int((ids == number).sum())
        segments.append({"id": number, "category_id": label, "iscrowd": int(crowd), "area": area})
    return ids, segments


def panoptic_answer(ids, segments, generator, classes):
    ids = np.where(generator.random(ids.shape) < generator.choice([0.02, 0.2, 0.45]), generator.integers(0, 9), ids)
    of_truth = {one["id"]: one["category_id"] for one in segments}
    labels = {
        number: of_truth[number] if number in of_truth and generator.random() < 0.8 else int(generator.choice(classes))
        for number in np.unique(ids[ids > 0]).tolist()
    }
    return ids, [{"id": number, "category_id": label} for number, label in labels.items()]


def test_panoptic_quality(tmp_path):
    generator = np.random.default_rng(1)
    order = sorted(EVALUATED, key=lambda label: label.trainId)
    used = [label.trainId for label in order[::4]]  # few classes: more of them meet
    things = [label.trainId for label in THINGS]
    categories = {label.trainId: {"id": label.trainId, "isthing": int(label in THINGS)} for label in order}
    for _ in range(300):
        metric, files = PanopticMetric(19, things), []
        for place in range(generator.integers(1, 4)):
            truth = panoptic_scene(generator, tuple(generator.integers(2, 5, 2)), used)
            answer = panoptic_answer(*truth, generator, used)
            found = []
            for name, (ids, segments) in (("truth", truth), ("answer", answer)):
                pixels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"{name}_{place}.png", compress_level=1)
                copies = [dict(one) for one in segments]  # the scripts write areas into them
                found.append({"image_id": place, "file_name": f"{name}_{place}.png", "segments_info": copies})
            files.append(tuple(found))
            metric.update(*([{"segmentation": ids, "segments_info": infos}] for ids, infos in (answer, truth)))
        with contextlib.redirect_stdout(io.StringIO()):
            statistics = by_segment.pq_compute_single_core(0, files, str(tmp_path), str(tmp_path), categories)
        figures = metric.result()
        if np.isnan(figures["PQ"]):  # neither match nor error: the scripts divide by zero
            continue
        everything, by_class = statistics.pq_average(categories, isthing=None)
        assert [figures[name] for name in ("PQ", "SQ", "RQ")] == [
            pytest.approx(everything[name], **ALIKE) for name in ("pq", "sq", "rq")
        ]
        for label, expected in by_class.items():
            own = figures["per_category_PQ"][label]
            assert (0 if np.isnan(own) else own) == pytest.approx(expected["pq"], **ALIKE)
        assert len(figures["absent"]) == 19 - everything["n"]


def drawn(corners):
    mask = np.zeros((96, 96), bool)
    left, top, right, bottom = corners
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return mask


def evaluated_by_instance(images, folder):
    """(classes, overlaps): the scripts' average precision of images (map of instance ids, masks, raw ids, scores)."""
    args = by_instance.args
    args.quiet, args.JSONOutput, args.predictionPath = True, False, str(folder)
    args.gtInstancesFile = str(folder / "instances.json")
    (folder / "instances.json").unlink(missing_ok=True)
    by_instance.setInstanceLabels(args)
    truths, answers = [], []
    for place, (ids, masks, raw_ids, scores) in enumerate(images):
        truths.append(str(folder / f"truth_{place}.png"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1], compress_level=1)
        lines = []
        for number, (mask, raw_id, score) in enumerate(zip(masks, raw_ids, scores, strict=True)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{place}_{number}.png", compress_level=1)
            lines.append(f"{place}_{number}.png {raw_id} {score!r}")
        answers.append(folder / f"answer_{place}.txt")
        answers[-1].write_text("\n".join(lines))
    known = by_instance.getGtInstances(truths, args)
    matches = by_instance.matchGtWithPreds(list(map(str, answers)), truths, known, args)
    return by_instance.evaluateMatches(matches, args)[0]


def instance_scene(generator, classes):
    """Map of instance ids, true corners and classes: objects of 100 pixels at least that do not touch."""
    ids, truth = np.full((96, 96), ROAD), []
    for top, left in np.ndindex(3, 3):
        if generator.random() < 0.7:
            start = np.add([32 * left, 32 * top], generator.integers(0, 4, 2))
            truth.append([*start, *(start + generator.integers(10, 28, 2))])
    labels = generator.integers(0, classes, len(truth))
    for number, (corners, label) in enumerate(zip(truth, labels, strict=True)):
        ids[drawn(corners)] = THINGS[label].id * 1000 + number
    return ids, np.array(truth, int).reshape(-1, 4), labels


def test_objects_match_at_the_same_overlaps(tmp_path):
    """One object and one detection of a class in a data set: found at an overlap or not, whatever the area under a
    curve is. An IoU that is an overlap itself is enough for COCO and not for the scripts, and does not occur here."""
    generator, seen = np.random.default_rng(2), set()
    for _ in range(60):
        ids, masks = np.full((96, 96), ROAD), []
        metric = DetectionMetric(len(THINGS), regions=["masks"])
        for number, label in enumerate(THINGS):
            start = np.array([32 * (number % 3), 32 * (number // 3)]) + 2
            corners, reach = np.array([*start, *(start + generator.integers(11, 29, 2))]), generator.integers(0, 5)
            ids[drawn(corners)] = label.id * 1000
            masks.append((drawn(corners), drawn(corners + generator.integers(-reach, reach + 1, 4).clip(-2))))
        truth, answer = zip(*masks, strict=True)
        labels, scores = np.arange(len(THINGS)), generator.random(len(THINGS))
        metric.update([{"masks": answer, "labels": labels, "scores": scores}], [{"masks": truth, "labels": labels}])
        raw_ids = [label.id for label in THINGS]
        theirs = evaluated_by_instance([(ids, answer, raw_ids, scores.tolist())], tmp_path)
        overlaps = [(one & other).sum() / (one | other).sum() for one, other in masks]
        clear = [not np.isclose(np.arange(0.5, 1, 0.05), overlap).any() for overlap in overlaps]
        own = metric.result()["mask_per_category_AP"]
        np.testing.assert_allclose(own[clear], theirs.mean(axis=1)[clear], rtol=0, atol=1e-9)
        seen |= set(np.round(theirs.mean(axis=1), 6).tolist())
    assert len(seen) == 11  # found at none of the overlaps to all of them


def test_average_precision_is_another_area_under_the_same_curve(tmp_path):
    """COCO's is the mean precision at 101 recalls, the scripts' the sum of steps between the points of the curve. Where
    nothing false is found both are the share of the objects that are found: exactly in the scripts, in COCO's figure as
    the share of the recalls 0, 0.01, ... 1 that lie up to that."""
    generator = np.random.default_rng(3)
    classes = 3
    for _ in range(30):
        metric, images, counts = DetectionMetric(classes, regions=["masks"]), [], np.zeros((2, classes), int)
        for _ in range(3):
            ids, truth, labels = instance_scene(generator, classes)
            kept = generator.random(len(truth)) < 0.8
            masks, scores = [drawn(corners) for corners in truth], generator.random(kept.sum())
            found = [mask for mask, is_kept in zip(masks, kept, strict=True) if is_kept]
            images.append((ids, found, [THINGS[label].id for label in labels[kept]], scores.tolist()))
            counts += [np.bincount(labels[kept], minlength=classes), np.bincount(labels, minlength=classes)]
            metric.update(
                [{"masks": found, "labels": labels[kept], "scores": scores}], [{"masks": masks, "labels": labels}]
            )
        theirs = evaluated_by_instance(images, tmp_path)[:classes].mean(axis=1)
        own = metric.result()["mask_per_category_AP"]
        shares = np.divide(counts[0], counts[1], out=np.full(classes, np.nan), where=counts[1] > 0)
        np.testing.assert_allclose(theirs, shares, rtol=0, atol=1e-9)
        up_to = [(np.linspace(0, 1, 101) <= share).mean() if share else share for share in shares]
        np.testing.assert_allclose(own, up_to, rtol=0, atol=1e-9)
