"""Pictures of boxes, masks and segments: which pixel gets which colour, where names stand, what captions count."""

import numpy as np
import pytest
from PIL import Image

from hfvision.detections import Detections
from hfvision.errors import ConfigError
from hfvision.geometry import encode_rle
from hfvision.objects import read_objects
from hfvision.plots import detection_overlay, detection_sheet, panoptic_overlay, panoptic_sheet
from hfvision.plots import panels as panels_module
from hfvision.plots import tags as tags_module
from hfvision.plots.colours import INK, PAPER
from hfvision.plots.painting import STRIPES
from hfvision.plots.tags import Tag, around, draw_tags, ink_on
from hfvision.processing.palette import class_palette

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)
COLOURS = [RED, GREEN, BLUE]
NAMES = ("cat", "dog", "bird")
SIZE = (400, 600)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(100, 156, (*SIZE, 3), np.uint8))


def detections(masks=None, scores=(0.9, 0.6), labels=(0, 1)) -> Detections:
    return Detections([[50, 100, 250, 300], [300, 100, 500, 300]], scores, labels, NAMES, SIZE, masks)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def has(picture: Image.Image, colour) -> bool:
    return bool((pixels(picture) == colour).all(axis=-1).any())


def written(monkeypatch) -> list[list[str]]:
    """The texts of the tags that are drawn from now on, in the order in which they find their places."""
    texts: list[list[str]] = []

    def record(picture, tags, font_size=None):
        texts.append([tag.text for tag in tags])
        return draw_tags(picture, tags, font_size)

    monkeypatch.setattr("hfvision.plots.detection.draw_tags", record)
    monkeypatch.setattr("hfvision.plots.panoptic.draw_tags", record)
    return texts


def test_a_box_is_drawn_inside_its_edges_and_the_rest_stays_as_it_is(image) -> None:
    drawn = pixels(detection_overlay(image, detections(), colours=COLOURS))
    for columns, colour in ((slice(50, 250), RED), (slice(300, 500), GREEN)):
        edges = np.s_[[100, 101, 298, 299], columns], np.s_[102:298, [columns.start, columns.stop - 1]]
        for edge in edges:
            assert (drawn[edge] == colour).all()
    assert (drawn[110:290, 60:240] == pixels(image)[110:290, 60:240]).all()
    assert (drawn[310:] == pixels(image)[310:]).all()


def test_lines_stand_out_from_their_own_colour(image) -> None:
    grounds = {colour: Image.new("RGB", image.size, colour) for colour in (RED, PAPER, INK)}
    for colour, ground in grounds.items():
        drawn = pixels(detection_overlay(ground, detections(), colours=[colour, colour, colour]))
        assert (drawn[99, 150] == ink_on(colour)).all() or (drawn[300, 150] == ink_on(colour)).all()
    assert ink_on((250, 240, 200)) == INK and ink_on((20, 20, 90)) == PAPER


@pytest.mark.parametrize("form", ["arrays", "run lengths"])
def test_masks_are_filled_and_outlined(image, form) -> None:
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 120:280, 70:230], masks[1, 120:280, 320:480] = True, True
    given = masks if form == "arrays" else [encode_rle(mask) for mask in masks]
    drawn = pixels(detection_overlay(image, detections(given), colours=COLOURS, opacity=0.25))
    inside = np.s_[130:270, 80:220]
    assert np.abs(drawn[inside] - (0.75 * pixels(image)[inside] + 0.25 * np.array(RED))).max() <= 0.5
    assert (drawn[120, 70:230] == RED).all() and (drawn[200, 479] == GREEN).all()
    assert (drawn[130:270, 240:245] == pixels(image)[130:270, 240:245]).all()  # in the box, not in the mask


def test_what_is_given_may_be_detections_annotations_or_transformers_dicts(image, monkeypatch) -> None:
    texts = written(monkeypatch)
    found = detections()
    annotation = [
        {"bbox": [50, 100, 200, 200], "category_id": 0},
        {"bbox": [300, 100, 200, 200], "category_id": 1, "iscrowd": 1, "segmentation": encode_rle(np.ones(SIZE))},
    ]
    pictures = [
        detection_overlay(image, found, colours=COLOURS),
        detection_overlay(image, found.to_list(), NAMES, COLOURS),
        detection_overlay(image, found.to_list(), dict(enumerate(NAMES)), COLOURS),
        detection_overlay(image, read_objects(annotation[:1], SIZE), NAMES, COLOURS),
        detection_overlay(image, read_objects(annotation[1:], SIZE), NAMES, COLOURS),
        detection_overlay(image, found, scores=False),
    ]
    assert texts == [["cat · 90%", "dog · 60%"]] * 3 + [["cat"], ["dog · crowd"], ["cat", "dog"]]
    for other in pictures[1:3]:
        assert (pixels(other) == pixels(pictures[0])).all()
    assert has(pictures[3], RED) and not has(pictures[3], GREEN)
    assert np.abs(pixels(pictures[4])[350, 550] - (0.55 * pixels(image)[350, 550] + 0.45 * np.array(GREEN))).max() <= 1


def test_a_class_without_a_colour_is_left_out_and_others_keep_theirs(image, monkeypatch) -> None:
    texts = written(monkeypatch)
    drawn = detection_overlay(image, detections(), colours=[None, GREEN], legend=True)
    assert texts == [["dog · 60%"]]
    assert drawn.height > image.height and has(drawn, GREEN) and not has(drawn, RED)
    assert has(detection_overlay(image, detections(labels=(2, 2))), tuple(class_palette(3)[2]))


def test_small_images_are_enlarged_until_names_fit(image) -> None:
    small = image.resize((96, 64))
    found = Detections([[10, 10, 50, 50]], [0.5], [0], NAMES, (64, 96))
    drawn = detection_overlay(small, found, colours=COLOURS)
    assert drawn.size == (384, 256)
    assert (pixels(drawn)[40, 40:200] == RED).all()
    inside = pixels(drawn)[50:190, 50:190]
    assert (inside == np.kron(pixels(small), np.ones((4, 4, 1), int))[50:190, 50:190]).all()
    assert detection_overlay(small, found, size=(96, 64)).size == (96, 64)
    assert detection_overlay(image, detections()).size == image.size


def test_boxes_that_leave_the_image_and_those_without_area_are_drawn_at_its_edge(image) -> None:
    boxes = [[-80, -90, 700, 900], [650, 450, 800, 500], [100, 100, 100, 100]]
    drawn = detection_overlay(image, Detections(boxes, [1, 1, 1], [0, 1, 2], NAMES, SIZE), colours=COLOURS)
    assert drawn.size == image.size and (pixels(drawn)[-1, 10:500] == RED).all() and has(drawn, GREEN)


def test_names_stand_inside_the_picture_and_beside_each_other() -> None:
    boxes = [(5, 5, 60, 60), (5, 5, 60, 60), (280, 150, 300, 200), (-9, 195, 40, 260), (100, 100, 101, 101)]
    colours = [tuple(colour) for colour in class_palette(len(boxes)).tolist()]
    tags = [Tag("a name", colour, around(box)) for colour, box in zip(colours, boxes, strict=True)]
    alone = []
    for tag in tags:
        picture = Image.new("RGB", (300, 200))
        draw_tags(picture, [tag])
        alone.append((pixels(picture) == tag.colour).all(axis=-1).sum())
    assert len(set(alone)) == 1 or max(alone) - min(alone) < 0.1 * max(alone)  # all of each is there, ink aside
    picture = Image.new("RGB", (300, 200))
    draw_tags(picture, tags)
    for colour, size in zip(colours, alone, strict=True):
        assert (pixels(picture) == colour).all(axis=-1).sum() == size  # none hides another


def test_where_names_collide_the_first_stays_legible() -> None:
    first, second = (Tag("a name", colour, lambda *_: [(10, 10)]) for colour in (RED, GREEN))
    picture = Image.new("RGB", (300, 200))
    draw_tags(picture, [first, second])
    assert has(picture, RED) and not has(picture, GREEN)


def test_a_name_longer_than_the_picture_is_cut() -> None:
    picture = Image.new("RGB", (80, 60))
    draw_tags(picture, [Tag("a very long name of a class", RED, around((0, 0, 80, 60)))], font_size=11)
    assert has(picture, RED)


def test_a_sheet_says_how_many_objects_were_found(image, monkeypatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(panels_module, "fitted", lambda text, *_: captions.append(text) or text)
    truth = read_objects(
        {"bbox": [[50, 100, 200, 200], [300, 100, 200, 200], [10, 10, 20, 20]], "category": [0, 1, 2]}, SIZE
    )
    answers = [
        detections(),
        detections(labels=(0, 2)),  # another class
        Detections([[50, 100, 250, 300], [55, 100, 250, 300]], [0.9, 0.8], [0, 0], NAMES, SIZE),  # one twice
        Detections([[50, 100, 100, 300]], [0.9], [0], NAMES, SIZE),  # overlaps by a quarter
        Detections(np.zeros((0, 4)), [], [], NAMES, SIZE),
    ]
    sheet = detection_sheet([image] * 5, answers, [truth] * 5, NAMES, COLOURS, tile=96, title="A title", columns=2)
    assert captions == [
        "2 of 3 found",
        "1 of 3 found, 1 false",
        "1 of 3 found, 1 false",
        "0 of 3 found, 1 false",
        "0 of 3 found",
    ]
    assert all(has(sheet, colour) for colour in (RED, GREEN, BLUE))
    without = detection_sheet([image] * 5, answers, colours=COLOURS, tile=96, columns=2)
    assert without.width < sheet.width


def test_dicts_without_names_have_the_same_colours_on_all_cards(image) -> None:
    only_dog = detections().of_class("dog").to_list()
    sheet = detection_sheet([image, image], [detections().to_list(), only_dog], colours=COLOURS, tile=192, columns=1)
    half = sheet.height // 2
    assert has(sheet.crop((0, 0, sheet.width, half)), RED)
    second = sheet.crop((0, half, sheet.width, sheet.height - 60))  # without the legend
    assert has(second, GREEN) and not has(second, RED)


def test_faults_of_detection_pictures_are_named(image) -> None:
    with pytest.raises(ConfigError, match=r"2 problems:\n.*of an image of 400x600 .* this one has 64x96\n.*opacity"):
        detection_overlay(image.resize((96, 64)), detections(), opacity=2)
    with pytest.raises(ConfigError, match=r"objects are Detections, ImageObjects or the dicts .*; got str"):
        detection_overlay(image, "boxes")
    with pytest.raises(ConfigError, match="colours has none for class 1"):
        detection_overlay(image, detections(), colours=[RED])
    with pytest.raises(ConfigError, match=r"3 problems:\n.*1 truths for 2 images\n.*tile is .*\n.*columns is"):
        detection_sheet([image] * 2, [detections()] * 2, [detections()], tile=1, columns=0)


# Panoptic segmentations


def segmentation() -> tuple[np.ndarray, list[dict]]:
    """Grass, two sheep, and a strip without a segment below."""
    ids = np.full(SIZE, 7)
    ids[100:300, 50:250], ids[100:300, 300:500], ids[380:] = 1, 2, 0
    return ids, [
        {"id": 7, "label_id": 0, "score": 0.95, "label": "grass"},
        {"id": 1, "label_id": 1, "score": 0.8, "label": "sheep"},
        {"id": 2, "category_id": 1},
    ]


def test_segments_have_shades_of_their_class_and_what_has_none_is_striped(image) -> None:
    ids, info = segmentation()
    drawn = pixels(panoptic_overlay(image, ids, info, None, [GREEN, RED], 1.0, legend=False, tags=False))
    assert (drawn[110:290, 60:240] == RED).all()
    second = {tuple(colour) for colour in drawn[110:290, 310:490].reshape(-1, 3)}
    assert len(second) == 1 and RED not in second and next(iter(second))[0] == 255  # lighter red
    assert (drawn[:90] == GREEN).all()
    assert {tuple(colour) for colour in drawn[382:].reshape(-1, 3)} == set(STRIPES)


def test_names_stand_in_the_middle_of_their_segments(image, monkeypatch) -> None:
    texts = written(monkeypatch)
    ids, info = segmentation()
    drawn = panoptic_overlay(image, ids, info, None, [GREEN, RED], legend=False)
    plain = panoptic_overlay(image, ids, info, None, [GREEN, RED], legend=False, tags=False)
    assert texts == [["grass · 95%", "sheep · 80%", "sheep"]]
    rows, columns = np.nonzero((pixels(drawn) != pixels(plain)).any(axis=-1)[100:300, 50:250])
    assert abs(rows.mean() - 100) < 8 and abs(columns.mean() - 100) < 8
    panoptic_overlay(image, np.where((np.indices(SIZE) < 12).all(axis=0), 1, 7), info[:2])
    assert texts[1] == ["grass · 95%"]  # the other one has no room


def test_the_legend_counts_segments_and_their_share(image, monkeypatch) -> None:
    said: list[dict] = []
    monkeypatch.setattr("hfvision.plots.panoptic.with_legend", lambda drawn, key, remarks: said.append(remarks))
    ids, info = segmentation()
    panoptic_overlay(image, ids, info)
    assert said == [{0: "1 x, 61.7%", 1: "2 x, 33.3%", -1: "5.0%"}]


def test_a_sheet_of_segments_says_the_quality_of_each_image(image, monkeypatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(panels_module, "fitted", lambda text, *_: captions.append(text) or text)
    ids, info = segmentation()
    truth = {"segmentation": ids, "segments_info": info}
    nothing = {"segmentation": np.full(SIZE, -1), "segments_info": []}
    sheet = panoptic_sheet([image] * 2, [truth, nothing], [truth] * 2, colours=[GREEN, RED], opacity=1.0, tile=96)
    assert captions == ["PQ 100.0%", "PQ 0.0%"]
    assert has(sheet, RED) and has(sheet, GREEN)


def test_faults_of_segmentations_are_named(image) -> None:
    ids, info = segmentation()
    with pytest.raises(ConfigError, match=r"ids that segments_info lacks: \[2\]"):
        panoptic_overlay(image, ids, info[:2])
    with pytest.raises(ConfigError, match="without an id, or without a label_id or category_id"):
        panoptic_overlay(image, ids, [{"id": 1}])
    with pytest.raises(ConfigError, match=r"2 problems:\n.*is 400x600 and the image 64x96\n.*opacity"):
        panoptic_overlay(image.resize((96, 64)), ids, info, opacity=-1)
    for wrong in (ids[None], ids + 0.5):
        with pytest.raises(ConfigError, match=r"not a map \(H, W\) of whole numbers; got"):
            panoptic_overlay(image, wrong, info)


def test_fonts_grow_with_the_picture(monkeypatch) -> None:
    sizes: list[int] = []
    load = tags_module.ImageFont.load_default
    monkeypatch.setattr(tags_module.ImageFont, "load_default", lambda size: sizes.append(size) or load(size))
    for side in (64, 2000):
        draw_tags(Image.new("RGB", (side, side)), [])
    assert sizes[0] == tags_module.SMALLEST < sizes[1]
