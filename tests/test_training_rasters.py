"""Training on GeoTIFFs of four bands and 16 bits, masks as GeoTIFFs too: a step of each task, and what does not fit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hfvision import reporting
from hfvision.data import prepare_classification, prepare_detection, prepare_segmentation
from hfvision.errors import ConfigError, DatasetError
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.heads import DetrForObjectDetection
from hfvision.models.segformer.model import SegformerConfig, SegformerForSemanticSegmentation
from hfvision.models.vit import ViTConfig, ViTForImageClassification
from hfvision.processing.classification import ViTImageProcessor
from hfvision.processing.detection import DetrImageProcessor
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.registry import ARCHITECTURES
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import train_classification
from hfvision.training.detection import train_detection
from hfvision.training.evaluation import evaluate
from hfvision.training.segmentation import train_segmentation

rasterio = pytest.importorskip("rasterio")

SIDE, BANDS = 32, 4
ONE_STEP = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=4)
READING = {"image_mean": [0.5] * BANDS, "image_std": [0.5] * BANDS, "input_range": (0, 65535)}
RNG = np.random.default_rng(3)


def raster(path, pixels):
    """A GeoTIFF of (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"height": pixels.shape[1], "width": pixels.shape[2], "count": len(pixels), "dtype": pixels.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32632", transform=rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), **profile
    ) as file:
        file.write(pixels)


def bands(count=BANDS):
    return RNG.integers(0, 65536, (count, SIDE, SIDE)).astype(np.uint16)


def class_folders(folder, count=BANDS):
    for split in ("train", "val"):
        for name in ("crop", "forest"):
            for number in range(2):
                raster(folder / split / name / f"{number}.tif", bands(count))
    return folder


def masked(folder, dtype=np.uint16):
    for split in ("train", "val"):
        for number in range(2):
            raster(folder / "images" / split / f"{number}.tif", bands())
            raster(folder / "masks" / split / f"{number}.tif", RNG.integers(0, 3, (1, SIDE, SIDE)).astype(dtype))
    (folder / "classes.txt").write_text("water\nfield\ntown\n")
    return folder


def boxed(folder):
    for split in ("train", "val"):
        images = [{"id": n, "file_name": f"{n}.tif", "height": SIDE, "width": SIDE} for n in range(2)]
        box = {"category_id": 1, "bbox": [4, 4, 10, 12], "area": 120, "iscrowd": 0}
        content = {
            "images": images,
            "annotations": [{"id": n, "image_id": n, **box} for n in range(2)],
            "categories": [{"id": 1, "name": "ship"}],
        }
        for number in range(2):
            raster(folder / split / f"{number}.tif", bands())
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def vit(**changes):
    return ViTForImageClassification(
        ViTConfig(**ARCHITECTURES["vit"].tiny | {"image_size": SIDE, "patch_size": 8, "num_channels": BANDS} | changes)
    )


def classify(data, to, **changes):
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **READING)
    return train_classification(vit(**changes), data, to, processor=processor, args=ONE_STEP)


def segment(data, to):
    model = SegformerForSemanticSegmentation(
        SegformerConfig(**ARCHITECTURES["segformer"].tiny | {"num_channels": BANDS})
    )
    processor = SegformerImageProcessor(size={"height": SIDE, "width": SIDE}, **READING)
    return train_segmentation(model, data, to, processor=processor, args=ONE_STEP)


def detect(data, to):
    tiny = ARCHITECTURES["detr"].tiny
    config = DetrConfig(**tiny | {"backbone_config": {**tiny["backbone_config"], "num_channels": BANDS}})
    processor = DetrImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE}, **READING)
    return train_detection(DetrForObjectDetection(config), data, to, processor=processor, args=ONE_STEP)


@pytest.mark.parametrize(
    ("folder", "train"),
    [(class_folders, classify), (masked, segment), (boxed, detect)],
    ids=["classification", "segmentation", "detection"],
)
def test_one_step_on_four_bands_of_16_bits_and_its_figures_again(tmp_path, folder, train):
    torch.manual_seed(0)
    result = train(folder(tmp_path / "data"), tmp_path / "out")
    assert result.steps == 1 and result.split == "validation"
    measured = evaluate(tmp_path / "out", tmp_path / "data", record=False)
    assert measured.samples == result.samples
    name = next(name for name in ("accuracy", "mean_iou", "AP") if hasattr(result, name))
    assert measured.metrics[name] == pytest.approx(getattr(result, name), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_masks_are_rasters_of_any_type_of_whole_numbers(tmp_path, dtype):
    data = prepare_segmentation(masked(tmp_path, dtype))
    assert data.names == ["water", "field", "town"]
    image, mask = data.train.read(0)
    assert image.shape == (SIDE, SIDE, BANDS) and image.dtype == np.uint16
    assert mask.shape == (SIDE, SIDE) and set(np.unique(mask).tolist()) == {0, 1, 2}
    assert data.pixel_counts.sum() == 2 * SIDE * SIDE


def test_values_stay_as_they_are_stored(tmp_path):
    stored = bands()
    raster(tmp_path / "val" / "a" / "0.tif", stored)
    raster(tmp_path / "val" / "b" / "0.tif", bands())
    raster(tmp_path / "train" / "a" / "0.tif", bands())
    raster(tmp_path / "train" / "b" / "0.tif", bands())
    image = prepare_classification(tmp_path).evaluation.read(0)
    np.testing.assert_array_equal(image, np.moveaxis(stored, 0, 2))
    ships = prepare_detection(boxed(tmp_path / "ships")).train.read(0)[0]
    assert ships.shape == (SIDE, SIDE, BANDS) and ships.dtype == np.uint16


def test_bands_that_the_processor_or_the_model_does_not_take_are_refused(tmp_path):
    folder = class_folders(tmp_path / "five", count=5)
    with pytest.raises((ConfigError, DatasetError), match="5"):
        classify(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"takes 3 channels; image 0 .* has 4"):
        classify(class_folders(tmp_path / "four"), tmp_path / "out", num_channels=3)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_several_bands_is_no_mask(tmp_path):
    folder = masked(tmp_path)
    raster(folder / "masks" / "train" / "0.tif", bands(2))
    with pytest.raises(DatasetError, match=r"0\.tif|a label map is \(H, W\)"):
        prepare_segmentation(folder)


def colors(path, pixels, depth):
    """A file of red, green, blue and alpha: a PNG of 8 bits, or a PNG or GeoTIFF of 16 with every level times 257."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if depth == 8:
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        return
    profile = {"height": SIDE, "width": SIDE, "count": 4, "dtype": "uint16"}
    options = {"driver": "PNG"} if path.suffix == ".png" else {"driver": "GTiff", "photometric": "RGB", "alpha": "yes"}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(pixels.transpose(2, 0, 1).astype(np.uint16) * 257)


def color_sets(folder, suffix, depth):
    """The same pictures for each task."""
    generator = np.random.default_rng(4)
    for split in ("train", "val"):
        for number in range(2):
            pixels = generator.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
            for path in (
                folder / "classes" / split / "ab"[number] / f"{number}{suffix}",
                folder / "masks" / "images" / split / f"{number}{suffix}",
                folder / "boxes" / split / f"{number}{suffix}",
            ):
                colors(path, pixels, depth)
            raster(folder / "masks" / "masks" / split / f"{number}.tif", generator.integers(0, 3, (1, SIDE, SIDE)))
    (folder / "masks" / "classes.txt").write_text("water\nfield\ntown\n")
    boxed_names = [f"{number}{suffix}" for number in range(2)]
    for split in ("train", "val"):
        images = [{"id": n, "file_name": name, "height": SIDE, "width": SIDE} for n, name in enumerate(boxed_names)]
        box = {"category_id": 1, "bbox": [4, 4, 10, 12], "area": 120, "iscrowd": 0}
        content = {
            "images": images,
            "annotations": [{"id": n, "image_id": n, **box} for n in range(2)],
            "categories": [{"id": 1, "name": "ship"}],
        }
        (folder / "boxes" / "annotations").mkdir(exist_ok=True)
        (folder / "boxes" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colors_of_16_bits_with_alpha_train_as_those_of_8(tmp_path, suffix, caplog):
    """Where the processor takes three channels, alpha is dropped and that is said; in every task."""
    reporting.forget()
    shallow, deep = color_sets(tmp_path / "8", ".png", 8), color_sets(tmp_path / "16", suffix, 16)
    side = {"height": SIDE, "width": SIDE}
    tasks = {
        "classes": (prepare_classification, ViTImageProcessor(size=side)),
        "masks": (prepare_segmentation, SegformerImageProcessor(size=side)),
        "boxes": (prepare_detection, DetrImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})),
    }
    for folder, (prepare, processor) in tasks.items():
        images = []
        for root in (shallow, deep):
            found = prepare(root / folder).train.read(0)
            images.append(found if folder == "classes" else found[0])
        assert images[1].dtype == np.uint16 and images[1].shape == (SIDE, SIDE, 4)
        expected, got = (processor(images=image, return_tensors="np")["pixel_values"] for image in images)
        np.testing.assert_array_equal(got, expected)
        cut = processor(images=images[1][4:30, 2:20], return_tensors="np")["pixel_values"]  # as an augmentation would
        np.testing.assert_array_equal(
            cut, processor(images=images[0].crop((2, 4, 20, 30)), return_tensors="np")["pixel_values"]
        )
    assert "Alpha channels were dropped" in caplog.text
    three = ViTForImageClassification(ViTConfig(**ARCHITECTURES["vit"].tiny | {"image_size": SIDE, "patch_size": 8}))
    processor = ViTImageProcessor(size=side)
    train_classification(three, deep / "classes", tmp_path / "out", processor=processor, args=ONE_STEP)
    assert evaluate(tmp_path / "out", deep / "classes", record=False).samples == 2
