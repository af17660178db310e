"""The objects of an image: read from every form of annotation, moved with their image, refused where they are wrong."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hfvision import reporting
from hfvision.errors import ConfigError, DatasetError
from hfvision.geometry import decode_rle, encode_rle, masks_to_boxes
from hfvision.objects import ImageObjects, ListedMasks, SegmentMasks, read_objects

SIZE = (40, 60)  # height, width
XYXY = np.array([[4.0, 6.0, 20.0, 16.0], [30.0, 10.0, 60.0, 40.0]])
XYWH = [[4.0, 6.0, 16.0, 10.0], [30.0, 10.0, 30.0, 30.0]]


@pytest.fixture
def reports(caplog):
    reporting.forget()
    yield caplog
    reporting.forget()


def masks(size=SIZE):
    """Two objects: a rectangle that fills its box, and a triangle."""
    out = np.zeros((2, *size), bool)
    out[0, 6:16, 4:20] = True
    rows, columns = np.mgrid[: size[0], : size[1]]
    out[1] = (rows >= 10) & (columns >= 30) & (columns - 30 <= rows - 10)
    return out


def id_map(ids=(7, 70_000)):
    return np.select(list(masks()), ids, 0)


def coco(**fields):
    columns = {"bbox": XYWH, "category_id": [3, 1], **fields}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


# Reading

TOLD = {
    "COCO objects": coco(area=[160, 900], iscrowd=[0, 0], id=[1, 2]),
    "COCO": {"image_id": 5, "annotations": coco(area=[160, 900])},
    "a cell of datasets": {"bbox": XYWH, "category": [3, 1]},
    "columns of arrays": {"boxes": XYXY, "labels": np.array([3, 1])},
    "columns of tensors": {"boxes": torch.tensor(XYXY), "class_labels": torch.tensor([3, 1])},
    "a list of tensors": {"boxes": list(torch.tensor(XYXY)), "labels": list(torch.tensor([3, 1]))},
}


@pytest.mark.parametrize("form", TOLD)
def test_every_form_says_the_same(form):
    objects = read_objects(TOLD[form], SIZE)
    np.testing.assert_array_equal(objects.boxes, XYXY)
    assert (objects.labels.tolist(), objects.areas.tolist(), objects.crowd.tolist()) == (
        [3, 1],
        [160, 900],
        [False] * 2,
    )
    assert objects.masks is None and len(objects) == 2
    assert objects.image_id == (5 if form == "COCO" else None)


@pytest.mark.parametrize(
    ("options", "boxes"),
    [
        ({"box_form": "xyxy"}, XYXY),
        ({"box_form": "cxcywh"}, [[12, 11, 16, 10], [45, 25, 30, 30]]),
        ({"box_form": "xyxy", "relative": True}, XYXY / [60, 40, 60, 40]),
        ({"relative": True}, np.array(XYWH) / [60, 40, 60, 40]),
    ],
    ids=str,
)
def test_boxes_of_every_form_and_unit(options, boxes):
    objects = read_objects({"bbox": boxes, "category": [3, 1]}, SIZE, **options)
    np.testing.assert_allclose(objects.boxes, XYXY, rtol=0, atol=1e-12)


def test_a_column_of_a_dataset_is_read_row_by_row():
    features = {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"), 4)),
        "category": datasets.List(datasets.Value("int64")),
    }
    rows = datasets.Dataset.from_list(
        [{"objects": {"bbox": XYWH, "category": [3, 1]}}, {"objects": {"bbox": [], "category": []}}],
        features=datasets.Features({"objects": features}),
    )
    for formatted in (rows, rows.with_format("numpy"), rows.with_format("torch")):
        first, none = (read_objects(row["objects"], SIZE) for row in formatted)
        np.testing.assert_array_equal(first.boxes, XYXY)
        assert (len(none), none.boxes.shape, none.labels.dtype) == (0, (0, 4), np.int64)


def test_classes_by_name_or_id():
    named = {"bbox": XYWH, "category": ["cat", "dog"]}
    assert read_objects(named, SIZE, labels={"dog": 0, "cat": 1}).labels.tolist() == [1, 0]
    from_json = {"3": 0, "1": 1}  # a JSON file makes strings of ids
    assert read_objects(coco(), SIZE, labels=from_json).labels.tolist() == [0, 1]


MASK_FORMS = {
    "run lengths": [encode_rle(mask) for mask in masks()],
    "runs as a list": [encode_rle(mask, compressed=False) for mask in masks()],
    "arrays": masks(),
    "tensor": torch.from_numpy(masks()),
    "nested lists": masks().astype(int).tolist(),
    "pictures": [Image.fromarray(mask) for mask in masks()],
    "polygons": [[[4, 6, 20, 6, 20, 16, 4, 16]], encode_rle(masks()[1])],
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_masks_of_every_form(form):
    objects = read_objects({"bbox": XYWH, "category": [3, 1], "segmentation": MASK_FORMS[form]}, SIZE)
    np.testing.assert_array_equal(objects.masks.decoded(), masks())
    assert objects.areas.tolist() == masks().sum((1, 2)).tolist()  # of the masks, where nothing else is said


@pytest.mark.parametrize("holder", ["array", "tensor", "picture", "colours", "file", "bytes"])
def test_a_map_of_segments(holder, tmp_path):
    ids = id_map()
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "map.png")
    source = {
        "array": ids,
        "tensor": torch.from_numpy(ids),
        "picture": Image.fromarray(ids.astype(np.int32)),
        "colours": colours,
        "file": tmp_path / "map.png",
        "bytes": {"bytes": (tmp_path / "map.png").read_bytes(), "path": None},
    }[holder]
    infos = [{"id": 70_000, "category_id": 1, "iscrowd": 1}, {"id": 7, "category_id": 3}]
    objects = read_objects({"id": 9, "segments_info": infos, "segmentation": source}, SIZE)
    wanted = masks()[::-1]
    np.testing.assert_array_equal(objects.masks.decoded(), wanted)
    np.testing.assert_array_equal(objects.boxes, masks_to_boxes(wanted))
    assert (objects.labels.tolist(), objects.crowd.tolist(), objects.image_id) == ([1, 3], [True, False], 9)
    assert objects.areas.tolist() == wanted.sum((1, 2)).tolist()


def test_what_is_changed_is_counted_and_said_once(reports):
    annotation = {"bbox": [[5, 5, 0, 9], [50, 5, 30, 3], *XYWH], "category": [0, 1, 2, 3]}
    dropped, kept = (read_objects(annotation, SIZE, empty=empty, what="a.jpg") for empty in ("drop", "keep"))
    assert (dropped.labels.tolist(), kept.labels.tolist()) == ([1, 2, 3], [0, 1, 2, 3])
    assert dropped.boxes[0].tolist() == [50, 5, 60, 8]
    read_objects(annotation, SIZE, what="b.jpg")
    unlisted = {"segments_info": [{"id": 7, "category_id": 3}], "segmentation": id_map()}
    read_objects(unlisted, SIZE, what="c.png")
    said = [record.message for record in reports.records]
    assert [message.split(" were")[0].split(" belong")[0] for message in said] == [
        "Boxes that stick out of their image",
        "Objects whose box has no area",
        "Objects whose box has no area",
        "Pixels of segments that segments_info does not list",
    ]
    assert f"{masks()[1].sum()} in c.png" in said[3] and "1 in a.jpg" in said[0]


# Bad annotations

WRONG = {
    "NaN": ({"bbox": [[1, 2, float("nan"), 4], XYWH[0]], "category": [1, 1]}, "object 0: the box (1, 2, nan, 4)"),
    "three numbers": ({"bbox": [XYWH[0], [1, 2, 3]], "category": [1, 1]}, "object 1: a box is four numbers"),
    "no box": ([*coco(), {"category_id": 1, "id": 8}], "object 2 (id 8): a box is four numbers; got None"),
    "negative size": ({"boxes": [[20, 6, 4, 16]], "labels": [1]}, "taken as xyxy, has a negative width"),
    "outside": ({"bbox": [[70, 6, 4, 16]], "category": [1]}, "lies outside the image of 40x60"),
    "shares": ({"boxes": [[0.1, 0.1, 0.5, 0.5]], "labels": [1]}, "relative=True"),
    "counts": ({"boxes": XYXY, "labels": [1]}, "got 2 boxes, 1 labels"),
    "ids twice": (coco(id=[4, 4]), "given more than once: 4"),
    "class name": ({"bbox": XYWH, "category": ["cat", "dog"]}, "class 'cat' is no number"),
    "no class": ([{"bbox": XYWH[0], "category_id": None}, *coco()], "object 0 has no class"),
    "area": (coco(area=[-1, 5]), "object 0: its area is -1"),
    "mask of another size": (coco(segmentation=list(masks((40, 61)))), "the image 40x60"),
    "runs of another size": (coco(segmentation=[encode_rle(m) for m in masks((41, 60))]), "size [41, 60]"),
    "mask of no form": (coco(segmentation=["a.png", "b.png"]), "got str"),
    "no columns": ({"bboxs": XYWH, "category": [1, 2]}, "this one has bboxs, category"),
    "no annotation": (5, "got int: 5"),
    "segments without map": ({"segments_info": []}, "needs its map of ids"),
    "map of another size": ({"segments_info": [], "segmentation": np.zeros((3, 4), int)}, "got 3x4"),
    "missing map": ({"segments_info": [], "segmentation": "/nowhere/map.png"}, "no file /nowhere/map.png"),
    "segment without class": ({"segments_info": [{"id": 7}], "segmentation": id_map()}, "these have id"),
    "objects of another image": (ImageObjects.none((3, 4)), "an image of 3x4"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_named_with_its_image_and_object(fault):
    annotation, message = WRONG[fault]
    with pytest.raises(DatasetError) as raised:
        read_objects(annotation, SIZE, what="photo.jpg")
    assert str(raised.value).startswith("photo.jpg: ") and message in str(raised.value)


def test_all_faults_of_an_annotation_come_in_one_error():
    annotation = coco(id=[4, 4], area=[1, 1], segmentation=["x", encode_rle(masks()[1])])
    annotation[1]["bbox"] = [90, 90, 5, 5]
    with pytest.raises(DatasetError, match=r"(?s)4 faults:.*more than once.*outside.*'catt' is not.*got str"):
        read_objects([annotation[0] | {"category_id": "catt"}, annotation[1]], SIZE, labels={"cat": 0, 1: 1})
    with pytest.raises(DatasetError, match="did you mean 'cat'"):
        read_objects({"bbox": XYWH, "category": ["catt", "cat"]}, SIZE, labels={"cat": 0})
    with pytest.raises(DatasetError, match=r"does not lie within 0\.\.1, as relative=True says"):
        read_objects(coco(), SIZE, relative=True)
    with pytest.raises(ConfigError, match="'ltrb'"):
        read_objects(coco(), SIZE, box_form="ltrb")


def test_a_mask_that_nobody_needs_is_not_decoded():
    """Its annotation says the area, and a detector takes no masks."""
    objects = read_objects(coco(area=[5, 5], segmentation=[[[1, 2, 3, 4]], None]), SIZE)
    for wrong, message in ((0, "the mask of object 0: polygon 0 has 4 numbers"), (1, "object 0 has no mask")):
        with pytest.raises(DatasetError, match=message):
            objects.take([wrong]).masks.decoded()


# Moving

BOTH_MASKS = {
    "listed": ListedMasks([encode_rle(mask) for mask in masks()], SIZE),
    "segments": SegmentMasks.of_ids(id_map(), [7, 70_000]),
}


@pytest.fixture(params=BOTH_MASKS)
def objects(request):
    stored = BOTH_MASKS[request.param]
    return ImageObjects(SIZE, XYXY.copy(), np.array([3, 1]), stored.areas(), np.array([False, True]), stored)


def assert_masks_fill_their_boxes(moved):
    np.testing.assert_array_equal(moved.boxes, masks_to_boxes(moved.masks.decoded()))
    assert moved.masks.size == moved.size


def test_mirrored_objects_are_those_of_the_mirrored_image(objects):
    moved = objects.mirrored()
    np.testing.assert_array_equal(moved.masks.decoded(), masks()[..., ::-1])
    assert_masks_fill_their_boxes(moved)
    np.testing.assert_array_equal(moved.mirrored().boxes, objects.boxes)


def test_resized_masks_are_pillows_and_boxes_and_areas_are_in_proportion(objects):
    size = (23, 90)
    moved = objects.resized(size)
    wanted = [np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)) for mask in masks()]
    np.testing.assert_array_equal(moved.masks.decoded(), wanted)
    np.testing.assert_allclose(moved.boxes, XYXY * [1.5, 23 / 40, 1.5, 23 / 40], rtol=1e-12)
    np.testing.assert_allclose(moved.areas, objects.areas * 1.5 * 23 / 40, rtol=1e-12)


def test_cropped_objects_are_cut_counted_and_dropped(objects):
    both = objects.cropped(top=8, left=2, height=20, width=40)
    assert_masks_fill_their_boxes(both)
    np.testing.assert_array_equal(both.masks.decoded(), masks()[:, 8:28, 2:42])
    assert both.areas.tolist() == masks()[:, 8:28, 2:42].sum((1, 2)).tolist()
    corner = objects.cropped(top=0, left=20, height=15, width=40)  # beside the rectangle, the triangle's tip
    assert (corner.labels.tolist(), corner.crowd.tolist(), len(corner.masks)) == ([1], [True], 1)
    above = objects.cropped(top=10, left=45, height=5, width=15)  # in the triangle's box, but none of its pixels
    assert len(above) == len(above.masks) == 0


def test_without_masks_areas_shrink_with_their_boxes():
    objects = read_objects(coco(area=[80, 900]), SIZE)  # half of the first box is the object
    assert objects.cropped(top=0, left=0, height=11, width=60).areas.tolist() == [40, 30]
    with pytest.raises(ConfigError, match="at row 30, column 0"):
        objects.cropped(top=30, left=0, height=11, width=60)


def test_taking_objects_takes_all_that_belongs_to_them(objects):
    for rows in ([1], np.array([False, True]), np.array([1])):
        taken = objects.take(rows)
        assert (taken.labels.tolist(), taken.crowd.tolist(), len(taken)) == ([1], [True], 1)
        np.testing.assert_array_equal(taken.masks.decoded(), masks()[1:])
    np.testing.assert_array_equal(objects.take([1, 0]).masks.decoded(), masks()[::-1])
    none = objects.take([]).resized((5, 6)).mirrored().cropped(0, 0, 2, 3)
    assert (len(none), none.masks.decoded().shape, none.boxes.shape) == (0, (0, 2, 3), (0, 4))


def test_columns_that_do_not_belong_together_are_refused():
    with pytest.raises(DatasetError, match=r"got labels \(3,\), 2 masks of 9x9"):
        ImageObjects(SIZE, XYXY, np.zeros(3, int), np.zeros(2), np.zeros(2, bool), ListedMasks([None] * 2, (9, 9)))


def test_run_lengths_survive_as_they_came():
    """No form is made of another before it is needed."""
    given = [encode_rle(mask) for mask in masks()]
    kept = read_objects(coco(segmentation=given), SIZE).masks.items
    assert kept == given and decode_rle(kept[0]).sum() == 160
