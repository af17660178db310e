"""Geometry, label maps, colors and metrics against scikit-image, over thousands of small random cases; and rasters
that its own writer of TIFF files makes.

Where the two define the same thing the numbers are equal; the definitions that differ are named by a test.
"""

import io

import numpy as np
import pytest
import skimage.color
import skimage.draw
import skimage.measure
import skimage.metrics
import skimage.morphology
import skimage.segmentation
import skimage.transform
import skimage.util
import tifffile
import torch

from hfvision.geometry import (
    box_area,
    boxes_to_masks,
    decode_rle,
    encode_rle,
    masks_to_boxes,
    polygons_to_mask,
    rle_area,
)
from hfvision.metrics import PanopticMetric, SegmentationMetric
from hfvision.objects.masks import SegmentMasks
from hfvision.plots.painting import edges_of
from hfvision.plots.segmentation import segmentation_overlay
from hfvision.processing.bilinear import resize_bilinear
from hfvision.processing.channels import GREY_SHARES, alpha_onto_white
from hfvision.processing.label_map import LabelMap
from hfvision.processing.reading import image_size, open_image
from hfvision.processing.resizing import Resampling, resize, resize_tensor
from hfvision.training.color_jitter import YIQ, colour_matrix
from tests.outlines import near_edges

TIFF_LAYOUTS = (
    *({}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}, {"rowsperstrip": 2}),
    *({"planarconfig": "separate"}, {"compression": "zlib"}),
)

pytest.importorskip("rasterio")


def label_map(generator, classes=5, most=20):
    """(H, W) classes: noise, blocks, or one class."""
    size = generator.integers(1, most, 2)
    kind = generator.random()
    if kind < 0.4:
        return generator.integers(0, classes, size)
    if kind < 0.9:
        blocks = generator.integers(0, classes, (3, 3))
        rows, columns = (np.sort(generator.integers(0, 3, side)) for side in size)
        return blocks[np.ix_(rows, columns)]
    return np.full(size, generator.integers(0, classes))


# --- geometry ------------------------------------------------------------------------------------------------


def test_boxes_and_areas_of_masks_are_those_of_regions():
    generator = np.random.default_rng(0)
    for _ in range(300):
        mask = generator.random(generator.integers(1, 30, 2)) < generator.choice([0.02, 0.3, 1])
        parts = skimage.measure.label(mask, connectivity=generator.integers(1, 3))
        regions = skimage.measure.regionprops(parts)
        expected = np.array([[box[1], box[0], box[3], box[2]] for box in (one.bbox for one in regions)]).reshape(-1, 4)
        masks = parts == np.arange(1, len(regions) + 1)[:, None, None]
        np.testing.assert_array_equal(masks_to_boxes(masks), expected)
        np.testing.assert_array_equal(masks_to_boxes(torch.from_numpy(masks)).numpy(), expected)
        segments = SegmentMasks.of_ids(parts, np.arange(1, len(regions) + 1))
        np.testing.assert_array_equal(segments.boxes(), expected)
        areas = [one.area for one in regions]
        np.testing.assert_array_equal(segments.areas(), areas)
        assert [rle_area(encode_rle(one)) for one in masks[:20]] == areas[:20]
        np.testing.assert_array_equal(box_area(expected), [one.area_bbox for one in regions])
        for one, region in zip(masks[:5], regions[:5], strict=True):
            np.testing.assert_array_equal(decode_rle(encode_rle(one))[region.slice], region.image)


def test_the_masks_of_boxes_are_drawn_rectangles():
    generator = np.random.default_rng(1)
    for _ in range(500):
        height, width = size = tuple(generator.integers(1, 30, 2).tolist())
        left, right = np.sort(generator.choice(width + 1, 2, replace=False))
        top, bottom = np.sort(generator.choice(height + 1, 2, replace=False))
        expected = np.zeros(size, bool)
        expected[skimage.draw.rectangle((top, left), (bottom - 1, right - 1))] = True
        np.testing.assert_array_equal(boxes_to_masks(np.array([[left, top, right, bottom]]), size)[0], expected)


def corners_in(generator, size):
    corners = generator.uniform(-0.2, 1.2, (generator.integers(3, 8), 2)) * size[::-1]
    if generator.random() < 0.3:
        return np.round(corners)
    if generator.random() < 0.5:  # an outline that does not cross itself
        across, down = (corners - corners.mean(axis=0)).T
        return corners[np.argsort(np.arctan2(down, across))]
    return corners


def test_polygons_are_scikit_images_half_a_pixel_on():
    """Its corners are pixels, COCO's are points between them. Within a third of a pixel of the outline, which COCO
    rounds to fifths, a centre may be on either side."""
    generator = np.random.default_rng(2)
    for _ in range(1000):
        size = tuple(generator.integers(4, 30, 2).tolist())
        corners = corners_in(generator, size)
        theirs = skimage.draw.polygon2mask(size, corners[:, ::-1] - 0.5)
        own = polygons_to_mask([corners], size)
        if (own != theirs).any():
            assert not ((own != theirs) & ~near_edges(corners, size, 0.35)).any()


def test_the_contours_of_a_mask_draw_it_again():
    """scikit-image's contours run between the centres of pixels, which its numbers count; half a pixel on they are
    outlines as COCO has them, and drawn give the mask back: holes by the even number of crossings around them."""
    generator = np.random.default_rng(3)
    for _ in range(200):
        mask = generator.random(generator.integers(1, 6, 2)) < 0.6
        mask = np.kron(mask, np.ones((3, 3), bool))
        contours = skimage.measure.find_contours(np.pad(mask, 1).astype(float), 0.5)
        again = np.zeros(mask.shape, bool)
        for contour in contours:
            again ^= polygons_to_mask([contour[:, ::-1] - 1 + 0.5], mask.shape)
        np.testing.assert_array_equal(again, mask)


# --- resizing ------------------------------------------------------------------------------------------------


def test_bilinear_resizing_without_antialiasing_is_the_same():
    """Half-pixel centres, the margin repeated; OpenCV's rule adds in float32, scikit-image in float64."""
    generator = np.random.default_rng(4)
    for _ in range(400):
        image = generator.random(generator.integers(1, 20, 2)).astype(np.float32)
        size = tuple(generator.integers(1, 30, 2).tolist())
        expected = skimage.transform.resize(
            image.astype(np.float64), size, order=1, mode="edge", anti_aliasing=False, preserve_range=True
        )
        for one in (image[None], torch.from_numpy(image)[None]):
            np.testing.assert_allclose(np.asarray(resize_bilinear(one, size))[0], expected, rtol=0, atol=2e-6)
        levels = np.round(image * 255).astype(np.uint8)
        expected = skimage.transform.resize(
            levels.astype(np.float64), size, order=1, mode="edge", anti_aliasing=False, preserve_range=True
        )
        assert np.abs(resize_bilinear(levels[None], size)[0] - expected).max() < 1  # OpenCV's integers round


def test_the_box_filter_is_the_mean_of_blocks():
    """Of whole factors."""
    generator = np.random.default_rng(5)
    for _ in range(300):
        factors, size = generator.integers(1, 6, 2), generator.integers(1, 9, 2)
        image = generator.random(factors * size).astype(np.float32)
        expected = skimage.transform.downscale_local_mean(image.astype(np.float64), tuple(factors))
        wanted = tuple(size.tolist())
        np.testing.assert_allclose(resize(image[None], wanted, Resampling.BOX)[0], expected, rtol=0, atol=1e-6)
        got = resize_tensor(torch.from_numpy(image), wanted, Resampling.BOX)
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)


def test_antialiasing_is_another_and_keeps_slopes_alike():
    """scikit-image blurs with a Gaussian and then interpolates; Pillow, and hfvision, widen the filter. Of noise
    they make other pictures; what changes evenly stays where it is in both, within a fifteenth of a new pixel's
    step."""
    generator = np.random.default_rng(15)
    for resample in (Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS):
        for _ in range(60):
            old = generator.integers(24, 60, 2)
            new = tuple(generator.integers(old // 4, old).tolist())
            down, across = generator.uniform(-3, 3, 2)
            slope = (down * np.arange(old[0])[:, None] + across * np.arange(old[1])).astype(np.float32)
            noise = generator.normal(0, 1, old).astype(np.float32)
            own, theirs = (
                [resize(image[None], new, resample)[0] for image in (slope, noise)],
                [
                    skimage.transform.resize(np.float64(image), new, order=1, anti_aliasing=True)
                    for image in (slope, noise)
                ],
            )
            inside = tuple(slice(-(-side // 4), side - -(-side // 4)) for side in new)  # away from the margin
            step = abs(down) * old[0] / new[0] + abs(across) * old[1] / new[1]
            np.testing.assert_allclose(own[0][inside], theirs[0][inside], rtol=0, atol=step / 14)
            assert np.abs(own[1] - theirs[1]).max() > 0.01


# --- colors --------------------------------------------------------------------------------------------------


def test_alpha_is_laid_on_white_as_scikit_image_does():
    generator = np.random.default_rng(6)
    for _ in range(200):
        pixels = generator.integers(0, 256, (*generator.integers(1, 12, 2), 4), dtype=np.uint8)
        expected = skimage.color.rgba2rgb(pixels) * 255
        own = alpha_onto_white(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        assert np.abs(own - expected).max() <= 0.5 + 1e-9  # in 8 bits
        exact = alpha_onto_white(pixels.transpose(2, 0, 1).astype(np.float32)).transpose(1, 2, 0)
        np.testing.assert_allclose(exact, expected, rtol=0, atol=3e-5)


def test_hue_and_saturation_turn_in_scikit_images_color_space():
    """To the digits of its matrix; grey is that of BT.601 (its `rgb2gray` is BT.709's: another definition)."""
    generator = np.random.default_rng(7)
    np.testing.assert_allclose(YIQ.T, skimage.color.rgb2yiq(np.eye(3)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(GREY_SHARES, skimage.color.rgb2yuv(np.eye(3))[:, 0], rtol=0, atol=1e-9)
    for _ in range(200):
        colors, saturation, hue = generator.random((1, 20, 3)), generator.uniform(0, 2), generator.uniform(-3, 3)
        spread = skimage.color.rgb2yiq(colors)
        turned = (spread[..., 1] + 1j * spread[..., 2]) * saturation * np.exp(1j * hue)
        expected = skimage.color.yiq2rgb(np.stack([spread[..., 0], turned.real, turned.imag], axis=-1))
        own = colors @ colour_matrix(saturation, hue).numpy().T
        np.testing.assert_allclose(own, expected, rtol=0, atol=2e-3)


def test_classes_are_painted_over_grey_as_scikit_image_does():
    """Both round; hfvision also greys the picture first, with BT.601's shares, so that the picture here is grey."""
    generator = np.random.default_rng(8)
    colors = skimage.color.color_dict
    palette = [tuple(round(255 * value) for value in colors[name]) for name in ("red", "green", "blue", "cyan", "gray")]
    for _ in range(60):
        labels = label_map(generator)
        grey = generator.integers(0, 256, labels.shape, dtype=np.uint8)
        opacity = generator.choice([0.0, 0.3, 0.5, 1.0])
        shown = np.stack([grey] * 3, axis=-1) / 255
        present = [np.array(palette[label]) / 255 for label in np.unique(labels)]
        expected = skimage.color.label2rgb(labels, shown, present, opacity, bg_label=-1, image_alpha=1)
        own = segmentation_overlay(grey, labels, palette, opacity=float(opacity), legend=False, outlines=False)
        assert np.abs(np.asarray(own) - 255 * expected).max() <= 1.5


# --- label maps ----------------------------------------------------------------------------------------------


def test_raw_ids_are_looked_up_as_scikit_image_does():
    generator = np.random.default_rng(9)
    for dtype in (np.uint8, np.uint16, np.int16, np.int32, np.int64):
        for _ in range(60):
            low, high = (0, 200) if dtype == np.uint8 else (0, 40_000) if np.dtype(dtype).kind == "u" else (-9000, 9000)
            raw = np.unique(generator.integers(low, high, 8))
            train = generator.integers(0, 5, len(raw))
            values = generator.choice(raw, generator.integers(1, 12, 2)).astype(dtype)
            expected = skimage.util.map_array(values, raw.astype(dtype), train)
            own = LabelMap.of(dict(zip(raw.tolist(), train.tolist(), strict=True))).to_train_ids(values)
            np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_outlines_in_pictures_are_thick_boundaries(width):
    generator = np.random.default_rng(10)
    for _ in range(200):
        labels = label_map(generator)
        if width == 1:
            expected = skimage.segmentation.find_boundaries(labels, connectivity=1, mode="thick")
        else:  # another class so far up, down, left or right
            expected = np.zeros(labels.shape, bool)
            for number in np.unique(labels):
                for line in (np.ones((2 * width + 1, 1)), np.ones((1, 2 * width + 1))):
                    here = labels == number
                    away = skimage.morphology.dilation(~here, line) if here.any() else here
                    expected |= here & away
        np.testing.assert_array_equal(edges_of(labels, width), expected)


# --- metrics -------------------------------------------------------------------------------------------------


def test_confusion_is_scikit_images_table():
    generator, ignored = np.random.default_rng(11), 255
    for _ in range(300):
        truth = label_map(generator)
        answer = np.where(generator.random(truth.shape) < 0.4, generator.integers(0, 5, truth.shape), truth)
        truth = np.where(generator.random(truth.shape) < 0.2, ignored, truth)
        metric = SegmentationMetric(5)
        metric.update(answer, truth)
        table = skimage.metrics.contingency_table(truth, answer, ignore_labels=[ignored]).toarray()
        expected = np.zeros((5, 5))
        expected[: min(5, table.shape[0]), : table.shape[1]] = table[:5]
        np.testing.assert_array_equal(metric.confusion, expected)


@pytest.mark.parametrize("tolerance", [1, 2, 3.5])
def test_boundary_scores_are_those_of_dilated_boundaries(tolerance):
    generator = np.random.default_rng(12)
    disk = skimage.morphology.disk(int(tolerance)).astype(bool)
    rows, columns = np.nonzero(np.ones((2 * int(tolerance) + 1,) * 2))
    disk = (np.hypot(rows - int(tolerance), columns - int(tolerance)) <= tolerance).reshape(disk.shape)
    for _ in range(100):
        truth = label_map(generator)
        answer = np.where(generator.random(truth.shape) < generator.choice([0, 0.1]), (truth + 1) % 5, truth)
        answer = np.roll(answer, generator.integers(-2, 3, 2), (0, 1))
        metric = SegmentationMetric(5, boundary_tolerance=tolerance)
        metric.update(answer, truth)
        outlines = [skimage.segmentation.find_boundaries(one, connectivity=1, mode="thick") for one in (answer, truth)]
        scores = metric.result()["per_category_boundary_f"]
        for label in range(5):
            drawn, real = (edge & (one == label) for edge, one in zip(outlines, (answer, truth), strict=True))
            if not (drawn.any() or real.any()):
                assert np.isnan(scores[label])
                continue
            met = [
                (one & skimage.morphology.dilation(other, disk)).sum() / max(one.sum(), 1)
                for one, other in ((drawn, real), (real, drawn))
            ]
            assert scores[label] == pytest.approx(2 * met[0] * met[1] / sum(met) if sum(met) else 0, abs=1e-12)


def test_panoptic_quality_does_not_ask_how_segments_are_numbered():
    generator = np.random.default_rng(13)
    for _ in range(150):
        pairs = []
        for _ in range(2):
            ids = label_map(generator, 6, 12) * generator.integers(1, 5000)
            numbers = [number for number in np.unique(ids).tolist() if number]
            pairs.append((ids, {number: int(generator.integers(0, 3)) for number in numbers}))
        size = np.minimum(*(ids.shape for ids, _ in pairs))
        cut = [ids[: size[0], : size[1]] for ids, _ in pairs]
        figures = []
        for renumbered in (False, True):
            given = []
            for ids, (_, labels) in zip(cut, pairs, strict=True):
                new, forward, _ = (
                    skimage.segmentation.relabel_sequential(ids) if renumbered else (ids, range(1 << 15), 0)
                )
                infos = [{"id": int(forward[n]), "label_id": labels[n]} for n in labels if (ids == n).any()]
                given.append({"segmentation": new, "segments_info": infos})
            metric = PanopticMetric(3)
            metric.update(given[:1], given[1:])
            figures.append(metric.result())
        for name in ("per_category_PQ", "per_category_SQ", "per_category_RQ"):
            np.testing.assert_array_equal(figures[0][name], figures[1][name])


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_tiff_files_of_another_writer_are_read_whole(dtype):
    """tifffile's layouts: bands beside each other and one after another, strips and tiles, byte orders, BigTIFF."""
    generator = np.random.default_rng(14)
    for bands in (1, 2, 3, 4, 6):
        pixels = (generator.random((5, 7, bands)) * 100).astype(dtype)
        expected = pixels[..., 0] if bands == 1 else pixels
        for options in TIFF_LAYOUTS:
            if bands == 1:
                stored = expected
            else:
                options = {"planarconfig": "contig", **options}
                stored = pixels.transpose(2, 0, 1) if options["planarconfig"] == "separate" else pixels
            file = io.BytesIO()
            tifffile.imwrite(file, stored, photometric="minisblack", metadata=None, **options)
            read = np.asarray(open_image(file.getvalue()).image)
            np.testing.assert_array_equal(read, expected)
            assert image_size(file.getvalue()) == (5, 7)
