"""`pipeline("object-detection")`: every input and output, batches of mixed sizes, tiles whose seams do not show."""

import contextlib

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from scipy import ndimage
from transformers import pipeline
from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

import hfvision
from hfvision.detections import Detections
from hfvision.errors import ConfigError, ImageReadError, ImageValueError
from hfvision.models.detr.heads import DetrForObjectDetection, DetrForSegmentation
from hfvision.pipelines import raster_sources, tiled_detection
from hfvision.pipelines.any_image import padded, similar_sizes
from hfvision.pipelines.object_detection import ObjectDetectionPipeline
from hfvision.pipelines.tiled_detection import Found, merged
from hfvision.processing.detection import DetrImageProcessor
from tests.models import tiny_config, with_varied_queries

SIZE = {"shortest_edge": 64, "longest_edge": 100}


def picture(height=70, width=90, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def processor(**options):
    return DetrImageProcessor(**{"size": SIZE, **options})


def varied(model_class=DetrForObjectDetection):
    torch.manual_seed(0)
    pixels = processor()(picture(), return_tensors="pt")["pixel_values"]
    return with_varied_queries(model_class(tiny_config("detr", num_queries=12)), pixels)


def detecting(model, image_processor=None):
    return pipeline("object-detection", model=model, image_processor=image_processor or processor())


@pytest.fixture(scope="module")
def detect():
    return detecting(varied())


def assert_same(got, wanted, size=None):
    """Scores and relative boxes within 2e-4: DETR's float32 noise, which the visible weights of the model enlarge."""
    assert (got.size, got.labels.tolist()) == (wanted.size, wanted.labels.tolist())
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=2e-4)
    np.testing.assert_allclose(got.boxes, wanted.boxes, rtol=0, atol=2e-4 * max(wanted.size))


def test_objects_are_those_of_transformers_on_the_same_folder(detect, tmp_path):
    detect.model.save_pretrained(tmp_path)
    detect.image_processor.save_pretrained(tmp_path)
    ours = pipeline("object-detection", model=str(tmp_path))
    assert type(ours) is ObjectDetectionPipeline and type(ours.image_processor) is DetrImageProcessor
    hfvision.unregister()
    try:
        from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

        peer = DetrImageProcessorPil.from_pretrained(tmp_path)
        theirs = pipeline("object-detection", model=str(tmp_path), image_processor=peer)
        assert type(theirs) is transformers.ObjectDetectionPipeline
        for options in ({}, {"threshold": 0.3}, {"threshold": 0.99}):
            got, wanted = ours(picture(), **options), theirs(picture(), **options)
            assert [row["label"] for row in got] == [row["label"] for row in wanted]
            for one, other in zip(got, wanted, strict=True):
                assert set(one) == {"score", "label", "box"} and list(one["box"]) == list(other["box"])
                assert one["score"] == pytest.approx(other["score"], abs=1e-4)
                for edge, value in other["box"].items():
                    assert type(one["box"][edge]) is int and abs(one["box"][edge] - value) <= 1  # cut, not rounded
        assert len(theirs(picture(), threshold=0.3)) > 5
    finally:
        hfvision.register()


def test_every_kind_of_input_gives_the_same_answer(detect, tmp_path):
    image = picture()
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    wanted = detect(image, output="arrays")
    assert len(wanted) > 2
    for one in (
        str(tmp_path / "image.png"),
        tmp_path / "image.png",
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
    ):
        assert_same(detect(one, output="arrays"), wanted)
    grey = image.convert("L")
    assert_same(detect(np.asarray(grey), output="arrays"), detect(grey, output="arrays"))
    column = datasets.Dataset.from_dict({"image": [image] * 2}).cast_column("image", datasets.Image())["image"]
    for many in ([image] * 2, (image for _ in range(2)), column, np.stack([array] * 2)):
        answers = list(detect(many, output="arrays"))
        assert len(answers) == 2
        for answer in answers:
            assert_same(answer, wanted)


def test_a_batch_of_mixed_sizes_answers_as_its_images_alone(monkeypatch):
    detect = detecting(varied())
    sizes = [(70, 90), (90, 70), (64, 64), (72, 96), (70, 90), (40, 200)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    wanted = [detect(image, threshold=0, output="arrays") for image in images]
    batches = []
    forward = detect.model.forward

    def counted(**inputs):
        batches.append(tuple(inputs["pixel_values"].shape))
        return forward(**inputs)

    monkeypatch.setattr(detect.model, "forward", counted)
    for got, want in zip(detect(images, batch_size=6, threshold=0, output="arrays"), wanted, strict=True):
        assert_same(got, want)
    assert sorted(shape[0] for shape in batches) == [1, 1, 4]  # those of one shape, or nearly, run together


def test_similar_sizes_share_a_batch_whose_padding_is_bounded():
    sizes = [(int(h), int(w)) for h, w in np.random.default_rng(0).integers(50, 200, (60, 2))]
    buckets = similar_sizes(sizes, most_padding=0.2)
    assert sorted(index for bucket in buckets for index in bucket) == list(range(60))
    assert 1 < len(buckets) < 60
    for bucket in buckets:
        height, width = (max(sizes[index][axis] for index in bucket) for axis in (0, 1))
        assert sum(sizes[index][0] * sizes[index][1] for index in bucket) >= 0.8 * height * width * len(bucket)
    assert similar_sizes([(8, 8)] * 3) == [[0, 1, 2]] and similar_sizes([]) == []
    images = [torch.ones(1, 3, 4, 6), torch.ones(1, 3, 5, 2)]
    batch, mask = padded(images)
    assert batch.shape == (2, 3, 5, 6) and torch.equal(batch.bool().all(1).long(), mask)
    assert mask.sum((1, 2)).tolist() == [24, 10] and padded(images[:1])[1] is None


def test_other_outputs_hold_the_same_objects(detect):
    image = picture()
    found = detect(image, output="arrays")
    assert type(found) is Detections and found.size == (70, 90) and found.names[4] == "LABEL_4"
    assert detect(image) == found.to_list()
    assert detect(image, output="coco") == found.to_coco(0)
    assert detect(image, output="coco", image_ids=139) == found.to_coco(139)
    assert detect([image] * 2, output="coco") == [found.to_coco(0), found.to_coco(1)]
    assert detect([image] * 2, output="coco", image_ids=[7, "b"]) == [found.to_coco(7), found.to_coco("b")]
    assert list(detect((image for _ in range(2)), output="coco", image_ids=(7, 8)))[1] == found.to_coco(8)
    drawn = detect(image, output="picture")
    assert drawn.mode == "RGB" and drawn.width / drawn.height == pytest.approx(90 / 70)
    stored = ObjectDetectionPipeline(model=detect.model, image_processor=detect.image_processor, output="coco")
    assert stored(image) == found.to_coco(0)


def test_a_model_with_masks_detects_without_making_them(monkeypatch):
    model = varied(DetrForSegmentation)
    wanted = detecting(model.detr)(picture(), output="arrays")
    monkeypatch.setattr(model.mask_head, "forward", None)
    assert_same(detecting(model)(picture(), output="arrays"), wanted)


def test_other_models_go_through_transformers_code_unchanged():
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.YolosConfig(**sizes, image_size=[64, 96], num_detection_tokens=4, num_labels=3)
    model = transformers.YolosForObjectDetection(config).eval()
    parts = {"model": model, "image_processor": YolosImageProcessorPil(size=SIZE)}
    ours, theirs = pipeline("object-detection", **parts), transformers.ObjectDetectionPipeline(**parts)
    assert type(ours) is ObjectDetectionPipeline
    assert ours(picture(), threshold=0.1) == theirs(picture(), threshold=0.1) != []
    with pytest.raises(ConfigError, match="tile, output: only DETR models of hfvision"):
        ours(picture(), tile=32, output="arrays")
    with pytest.raises(ConfigError, match="image_ids= are for output='coco'"):
        ours(picture(), image_ids=1)


def test_bad_input_ends_in_one_error(detect, tmp_path):
    for options, said in (
        ({"output": "boxes"}, "output is 'objects', 'arrays', 'coco', 'picture'; got 'boxes'"),
        ({"threshold": 1.5}, "threshold"),
        ({"image_ids": [1]}, "image_ids= are for output='coco'"),
        ({"output": "coco", "image_ids": [1]}, "one number or name for one image"),
        ({"overlap": 0.5}, "tile= is missing"),
        ({"whole": True}, "tile= is missing"),
        ({"tile": 32, "overlap": 1}, "overlap is the share"),
        (
            {"tile": 32, "merge": "wbf", "merge_iou": 0, "whole": 3},
            r"3 faults:\s+whole is True or False[\s\S]*merge is 'nms' or 'nmm'; got 'wbf'[\s\S]*merge_iou is above 0",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            detect(picture(), **options)
    with pytest.raises(ConfigError, match="one for each of the 2 images; got"):
        detect([picture()] * 2, output="coco", image_ids=[1])
    with pytest.raises(ConfigError, match="there are 1, and more images"):
        list(detect((picture() for _ in range(2)), output="coco", image_ids=[1]))
    for options in ({}, {"tile": 32}):
        with pytest.raises(ImageValueError, match="at least one image; got an empty list"):
            detect([], **options)
        with pytest.raises(ImageReadError, match=r"nowhere\.png"):
            detect(str(tmp_path / "nowhere.png"), **options)


# --- tiles ------------------------------------------------------------------------------------------------


class BrightSquares(DetrForObjectDetection):
    """Finds regions of pure red (class 0) and pure green (class 1); the smaller one is, the more certain."""

    def forward(self, pixel_values, pixel_mask=None):
        self.batches.append(tuple(pixel_values.shape))
        queries, (height, width) = 400, pixel_values.shape[-2:]
        logits, boxes = torch.zeros(len(pixel_values), queries, 3), torch.zeros(len(pixel_values), queries, 4)
        logits[..., 2] = 9
        for image, image_logits, image_boxes in zip(pixel_values, logits, boxes, strict=True):
            query = 0
            for colour in (0, 1):
                regions, _ = ndimage.label((image[colour] > 0.5).numpy())
                for rows, columns in ndimage.find_objects(regions):
                    tall, wide = rows.stop - rows.start, columns.stop - columns.start
                    image_logits[query, colour] = 20 - 8 * tall * wide / (height * width)
                    centre = (columns.start + columns.stop) / 2 / width, (rows.start + rows.stop) / 2 / height
                    image_boxes[query] = torch.tensor([*centre, wide / width, tall / height])
                    query += 1
        return DetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)


def squares(**options):
    model = BrightSquares(tiny_config("detr", num_labels=2)).eval()
    model.batches = []
    return detecting(model, processor(**{"do_resize": False, "do_normalize": False, **options}))


def scene(boxes, size=(200, 260)):
    """(H, W, 3) with rectangles (xyxy, class)."""
    image = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom, colour in boxes:
        image[top:bottom, left:right, colour] = 255
    return image


def rows_of(found):
    return sorted((*map(round, box), label) for box, label in zip(found.boxes.tolist(), found.labels, strict=True))


def small_scene():
    """Objects of 14 pixels everywhere, on seams and across the corners of tiles, none closer than a pixel."""
    return [
        (left, top, left + 14, top + 14, (left // 17 + top // 19) % 2)
        for top in range(1, 180, 19)
        for left in range(1, 240, 17)
    ]


@pytest.mark.parametrize("merge", ["nms", "nmm"])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0.25), ((80, 50), 0.3), (64, 0.5)])
def test_tiles_find_what_lies_on_their_seams_once(merge, tile, overlap):
    """Also where the piece of an object is more certain than the object."""
    boxes = small_scene()
    answer = squares()(scene(boxes), tile=tile, overlap=overlap, whole=False, merge=merge, output="arrays")
    assert rows_of(answer) == sorted(boxes)


def test_a_pass_over_the_whole_image_finds_what_no_tile_holds():
    boxes = [(10, 20, 200, 180, 0), (30, 40, 44, 54, 1), (58, 58, 72, 72, 1), (220, 5, 250, 190, 1)]
    detect = squares()
    assert rows_of(detect(scene(boxes), tile=64, output="arrays")) == sorted(boxes)
    without = detect(scene(boxes), tile=64, whole=False, output="arrays")
    assert rows_of(without) != sorted(boxes) and len(without) > len(boxes)


def test_merging_joins_the_pieces_of_what_no_tile_holds():
    boxes = [(30, 30, 82, 50, 0)]  # 52 wide, in tiles of 64 every 32
    detect = squares()
    options = {"tile": 64, "overlap": 0.5, "whole": False, "output": "arrays"}
    assert rows_of(detect(scene(boxes), **options, merge="nmm")) == boxes
    wide = [(5, 30, 120, 50, 0)]
    assert rows_of(detect(scene(wide), **options, merge="nmm")) == wide
    assert rows_of(detect(scene(wide), **options, merge="nms")) != wide


def test_boxes_of_different_classes_are_never_merged():
    boxes = [(50, 50, 66, 66, 0), (50, 50, 66, 66, 1), (52, 52, 64, 64, 1)]
    assert rows_of(squares()(scene(boxes[:2]), tile=64, output="arrays")) == boxes[:2]


def test_a_tile_as_large_as_the_image_is_the_image():
    boxes = small_scene()[:30]
    detect = squares()
    assert_same(detect(scene(boxes), tile=300, output="arrays"), detect(scene(boxes), output="arrays"))
    assert len(detect.model.batches) == 2  # and it is seen once


def test_batch_size_counts_tiles_and_progress_shows_them(monkeypatch):
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, unit, disable):
            super().__init__(self)
            self.shown, self.done = disable is not True, 0
            bars.append(self)

        def reset(self, total):
            self.total = total

        def update(self, tiles):
            self.done += tiles

    monkeypatch.setattr("transformers.utils.logging.tqdm", Bar)
    detect = squares()
    detect(scene(small_scene()), tile=64, whole=False, batch_size=5, progress=True)
    assert [shape[0] for shape in detect.model.batches] == [5, 5, 5, 5, 4]
    assert {shape[1:] for shape in detect.model.batches} == {(3, 64, 64)}
    detect(scene(small_scene()), tile=64)
    assert [(bar.shown, bar.done, bar.total) for bar in bars] == [(True, 24, 24), (False, 24, 24)]


def test_tiles_are_processed_as_images_are():
    """A processor that enlarges does so with each tile."""
    detect = squares(do_resize=True, size={"height": 128, "width": 128})
    boxes = [(50, 50, 66, 66, 0), (100, 20, 120, 40, 1)]
    found = detect(scene(boxes), tile=64, whole=False, output="arrays")
    assert {shape[2:] for shape in detect.model.batches} == {(128, 128)}
    assert rows_of(found) == sorted(boxes)


def test_tiles_come_from_files_a_window_at_a_time(tmp_path, monkeypatch):
    """A mapped file is never in memory as a whole: not for tiles, and for the pass over all of it in strips."""
    boxes = small_scene()
    image = scene(boxes, (203, 261))
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image).save(tmp_path / "image.tif")
    np.save(tmp_path / "image.npy", image)
    detect = squares()
    wanted = detect(image, tile=64, output="arrays")
    assert rows_of(wanted) == sorted(boxes)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    for source in (*(tmp_path / f"image.{kind}" for kind in ("png", "tif", "npy")), mapped, torch.from_numpy(image)):
        assert_same(detect(source, tile=64, output="arrays"), wanted)
    read, sizes = raster_sources.ArraySource.read, []

    def counted(self, top, left, height, width):
        sizes.append(height * width)
        return read(self, top, left, height, width)

    monkeypatch.setattr(raster_sources.ArraySource, "read", counted)
    monkeypatch.setattr(tiled_detection, "WHOLE_PIXELS", 8000)
    large = [(20, 30, 160, 180, 0)]
    np.save(tmp_path / "large.npy", scene(large, (203, 261)))
    detect = squares(do_resize=True, size={"height": 64, "width": 64})
    found = detect(tmp_path / "large.npy", tile=64, output="arrays")
    assert max(sizes) <= 64 * 64 and len(found) == 1
    np.testing.assert_allclose(found.boxes[0], large[0][:4], rtol=0, atol=4)  # a pixel of the resized image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_large_image_is_reduced_to_means(dtype, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (2, 11, 17)).astype(dtype)
    monkeypatch.setattr(tiled_detection, "WHOLE_PIXELS", 24)
    plan = DetrImageProcessor(image_mean=[0, 0], image_std=[1, 1], do_convert_rgb=False)
    from hfvision.pipelines.any_image import plan_of

    source = raster_sources.ArraySource(image, plan_of(plan))
    reduced, size = tiled_detection.whole_image(source, reduces=True)
    assert reduced.shape == (2, 4, 6) and size == (12, 18) and reduced.dtype == dtype
    for row in range(4):
        for column in range(6):
            mean = image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].mean(axis=(1, 2), dtype=np.float64)
            np.testing.assert_allclose(reduced[:, row, column], mean, rtol=1e-6, atol=0.5 * (dtype != np.float32))
    assert tiled_detection.whole_image(source, reduces=False)[0].shape == image.shape


def test_a_fault_in_a_tile_says_where_it_is():
    image = scene(small_scene()).astype(np.float32)
    with pytest.raises(ImageValueError, match=r"input_range=\(black, white\)"):
        squares()(image, tile=64)
    image[150, 10] = np.nan
    with pytest.raises(ImageValueError, match=r"rows 96 to 159, columns 0 to 63: .*NaN"):
        squares(input_range=(0.0, 255.0))(image, tile=64, whole=False)


def test_pieces_give_way_to_boxes_that_hold_them():
    """As a plain loop over pairs of boxes finds it."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 800, (300, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 300, (300, 2))], axis=1)
    found = Found(boxes, random.uniform(size=300), random.integers(0, 3, 300))
    pieces, full, none = found.take(slice(0, 100)), found.take(slice(100, 300)), found.take(slice(0, 0))
    alone = merged(full, none, none, "nms", 0.5)
    left = []
    for row, (box, label) in enumerate(zip(pieces.boxes, pieces.labels, strict=True)):
        shares = [
            max(min(box[2], other[2]) - max(box[0], other[0]), 0)
            * max(min(box[3], other[3]) - max(box[1], other[1]), 0)
            / ((box[2] - box[0]) * (box[3] - box[1]))
            for other in alone.boxes[alone.labels == label]
        ]
        left += [row] if max(shares) <= 0.5 else []
    assert 10 < len(left) < 90
    got = merged(full, pieces, none, "nms", 0.5)
    kept = {*map(tuple, got.boxes.tolist())}
    assert {*map(tuple, alone.boxes.tolist())} < kept
    rest = merged(none, pieces.take(left), none, "nms", 0.5)
    assert kept - {*map(tuple, alone.boxes.tolist())} == {*map(tuple, rest.boxes.tolist())}
    assert (np.diff(got.scores) <= 0).all()
    assert len(merged(none, none, none, "nmm", 0.5).scores) == 0


def test_boxes_of_the_whole_image_give_way_to_the_finer_ones_of_tiles():
    def found(*rows):
        return Found(
            np.array([row[:4] for row in rows], float), np.array([row[4] for row in rows]), np.zeros(len(rows))
        )

    joined = merged(
        found((10, 10, 30, 30, 0.7)),
        found((50, 50, 70, 90, 0.8)),
        found((9, 9, 31, 31, 0.9), (0, 0, 90, 90, 0.6)),
        "nms",
        0.5,
    )
    assert joined.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 90, 90]]  # the piece lies in the large one
    assert joined.scores.tolist() == [0.9, 0.6]  # the surest that is known of an object


def test_objects_that_the_whole_image_shows_coarsely_are_found_once():
    boxes = [(left, top, left + 14, top + 14, 0) for top in range(3, 420, 57) for left in range(5, 500, 51)]
    image = scene(boxes, (440, 520))
    detect = squares(do_resize=True, size={"height": 64, "width": 64})
    coarse = detect(image, output="arrays")
    assert len(coarse) > 20 and (np.ptp(coarse.boxes[:, ::2], axis=1) > 15).any()
    assert rows_of(detect(image, tile=64, output="arrays")) == sorted(boxes)
