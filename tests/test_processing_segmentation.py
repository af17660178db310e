"""Processors of segmentation: an image and its label map together, transformers' results and the originals'."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hfvision.errors import ConfigError, ImageShapeError, ImageValueError, UnknownNameError
from hfvision.processing import batch
from hfvision.processing.label_map import LabelMap
from hfvision.processing.segmentation import (
    SegformerImageProcessor,
    SegmentationImageProcessor,
    SegmenterImageProcessor,
    SetrImageProcessor,
)

GOLDENS = Path(__file__).parent / "data" / "goldens"
SMALL = {"size": {"height": 20, "width": 24}}


def noise(*shape, dtype=np.uint8, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def labels_of(processor, images, maps, **options):
    return processor(images, maps, return_tensors="np", **options)["labels"]


# Equal to transformers and to the originals


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 37, "width": 51}, "do_reduce_labels": True},
        {"size": {"shortest_edge": 30}, "resample": 3},
        {"do_resize": False, "do_normalize": False},
    ],
    ids=str,
)
def test_images_and_label_maps_equal_transformers(options):
    ours, theirs = SegformerImageProcessor(**options), SegformerImageProcessorPil(**options)
    for shape in ((45, 60), (61, 33)):
        image, labels = noise(*shape, 3), noise(*shape, high=151)
        got, wanted = (processor(image, labels, return_tensors="np") for processor in (ours, theirs))
        for name in ("pixel_values", "labels"):
            assert got[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(got[name], wanted[name])


def test_reduced_labels_equal_the_originals():
    golden = GOLDENS / "segformer" / "seg_64"
    raw, wanted = np.load(golden / "raw_labels.npy"), np.load(golden / "output.npz")["reduced_labels"]
    images = [noise(*one.shape, 3) for one in raw]
    processor = SegformerImageProcessor(do_resize=False, do_reduce_labels=True)
    np.testing.assert_array_equal(labels_of(processor, images, raw), wanted)
    ade = SegmentationImageProcessor(do_resize=False, label_map="ade20k-150")
    declared = np.where(raw == 255, 0, raw)
    np.testing.assert_array_equal(labels_of(ade, images, declared), np.where(raw == 255, 255, wanted))


@pytest.mark.parametrize(
    ("case", "protocol"),
    [("mmseg_resize", "mmseg"), ("mmseg_aligned_resize", "mmseg-aligned"), ("segmenter_vit_norm", "segmenter-vit")],
)
@pytest.mark.parametrize("device", ["cpu", "elsewhere"])
def test_the_originals_evaluation_is_reproduced(case, protocol, device, monkeypatch):
    """Every grey level is the original's; 1e-6: rounding to float32 of mean and deviation on another scale."""
    golden = GOLDENS / "preprocess" / case
    config, outputs = json.loads((golden / "case.json").read_text())["config"], np.load(golden / "output.npz")
    processor = SegmentationImageProcessor.from_protocol(protocol, size=tuple(config["img_scale"]))
    if device == "elsewhere":
        monkeypatch.setattr(batch, "WITH_PILLOW", ())
    for i in range(len(outputs.files)):
        image = np.load(golden / f"image_{i}.npy")
        for source in (torch.from_numpy(image), image, Image.fromarray(image)):
            got = processor(source, return_tensors="np")["pixel_values"][0]
            np.testing.assert_allclose(got, outputs[f"pixel_values_{i}"], rtol=0, atol=1e-6)


def test_floats_are_mixed_without_antialiasing_as_torch_does_it():
    """1e-5: positions of tens of pixels are rounded to float32 (4e-6) after another formula; values are up to one."""
    image = np.random.default_rng(0).random((3, 31, 43), np.float32)
    options = {"antialias": False, "input_range": (0, 1), "do_normalize": False, "return_tensors": "pt"}
    got = SegmentationImageProcessor(size={"height": 17, "width": 60})(image, **options).pixel_values
    wanted = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=(17, 60), mode="bilinear")
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


# Together


def test_image_and_label_map_share_resize_crop_and_padding():
    """The image is painted with its labels, so the two results must say the same everywhere."""
    maps = [noise(40, 52, high=5), noise(33, 61, high=5, seed=1)]
    images = [np.repeat(one[..., None] * np.uint8(40), 3, axis=-1) for one in maps]
    plain = {"do_rescale": True, "rescale_factor": 1 / 40, "do_normalize": False, "resample": 0}
    for options in (
        {"size": {"height": 20, "width": 24}},
        {
            "size": {"shortest_edge": 20, "longest_edge": 30},
            "size_rounding": "nearest",
            "do_pad": True,
        },
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 36, "width": 70}},
        {"do_resize": False, "do_center_crop": True, "crop_size": 31, "crop_rounding": "nearest"},
        {"do_resize": False, "do_pad": True, "pad_size": {"height": 50, "width": 64}},
    ):
        got = SegmentationImageProcessor(**plain, **options)(images, maps, return_tensors="np")
        inside = got["labels"] != 255
        assert got["labels"].shape == got["pixel_values"].shape[:1] + got["pixel_values"].shape[2:]
        np.testing.assert_allclose(got["pixel_values"][:, 0], np.where(inside, got["labels"], 0), atol=1e-6)


def test_padding_comes_after_normalising_and_is_ignored():
    processor = SegmentationImageProcessor(do_resize=False, do_pad=True, ignore_index=99)
    got = processor([noise(9, 12, 3), noise(14, 7, 3)], [noise(9, 12), noise(14, 7)], return_tensors="pt")
    assert (tuple(got.labels.shape), got.labels.dtype) == ((2, 14, 12), torch.int64)
    assert got.labels[0, 9:].unique().tolist() == [99] == got.labels[1, :, 7:].unique().tolist()
    assert got.pixel_values[0, :, 9:].abs().max() == 0
    apart = SegmentationImageProcessor(do_resize=False)(
        [noise(9, 12, 3), noise(14, 7, 3)], [noise(9, 12), noise(14, 7)]
    )
    assert [one.shape for one in apart["labels"]] == [(9, 12), (14, 7)]


SOURCES = {
    "array": lambda labels: labels,
    "one channel": lambda labels: labels[None],
    "int64": lambda labels: labels.astype(np.int64),
    "big-endian": lambda labels: labels.astype(">u2"),
    "whole floats": lambda labels: labels.astype(np.float32),
    "tensor": torch.from_numpy,
    "uint16 tensor": lambda labels: torch.from_numpy(labels.astype(np.uint16)),
    "L": Image.fromarray,
    "P": lambda labels: palette(labels),
    "I": lambda labels: Image.fromarray(labels.astype(np.int32)),
    "F": lambda labels: Image.fromarray(labels.astype(np.float32)),
    "I;16": lambda labels: Image.fromarray(labels.astype(np.uint16)),
    "I;16B": lambda labels: Image.frombytes("I;16B", labels.shape[::-1], labels.astype(">u2").tobytes()),
    "LA": lambda labels: Image.fromarray(labels).convert("LA"),
    "PA": lambda labels: palette(labels).convert("PA"),
}


def palette(labels):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette(noise(768).tolist())
    return image


@pytest.mark.parametrize("kind", SOURCES)
def test_label_maps_of_every_kind(kind):
    labels = noise(31, 37, high=200)
    got = labels_of(SegformerImageProcessor(do_resize=False), noise(31, 37, 3), SOURCES[kind](labels))
    np.testing.assert_array_equal(got, labels[None])


def test_files_booleans_and_batches(tmp_path):
    labels, processor = noise(3, 31, 37, high=200), SegformerImageProcessor(do_resize=False)
    images = noise(3, 31, 37, 3)
    for one, name in zip(labels, "abc", strict=True):
        palette(one).save(tmp_path / f"{name}.png")
    for maps in (
        labels,
        labels[:, None],
        list(labels),
        torch.from_numpy(labels),
        [tmp_path / f"{n}.png" for n in "abc"],
    ):
        np.testing.assert_array_equal(labels_of(processor, images, maps), labels)
    mask = labels[0] > 100
    for one in (mask, Image.fromarray(mask)):
        np.testing.assert_array_equal(labels_of(processor, images[:1], one)[0], mask)


def test_coloured_masks_are_read_through_a_label_map_with_colours():
    colours = [{"train_id": 1, "color": [255, 0, 0]}, {"train_id": None, "color": [0, 0, 0]}]
    mask = np.zeros((6, 8, 3), np.uint8)
    mask[2:, 3:, 0] = 255
    wanted = np.where(mask[..., 0] > 0, 1, 255)
    processor = SegmentationImageProcessor(do_resize=False, label_map=colours)
    for source in (mask, mask.transpose(2, 0, 1), mask[None], Image.fromarray(mask), torch.from_numpy(mask)):
        np.testing.assert_array_equal(labels_of(processor, noise(6, 8, 3), source)[0], wanted)
    with pytest.raises(ImageShapeError, match="give a label_map with a color in each row"):
        labels_of(SegformerImageProcessor(), noise(6, 8, 3), Image.fromarray(mask))


@pytest.mark.parametrize(
    ("maps", "kind", "message"),
    [
        (lambda: noise(30, 37), ImageShapeError, "label map 0: it has 30x37 pixels, its image 31x37"),
        (lambda: noise(31, 37) / 255, ImageValueError, "labels are whole numbers"),
        (lambda: [noise(31, 37, 3)], ImageShapeError, r"got shape \(31, 37, 3\)"),
        (lambda: [noise(2, 31, 37)], ImageShapeError, r"got shape \(2, 31, 37\)"),
        (lambda: [noise(31, 37)] * 2, ImageShapeError, "got 1 images and 2 maps"),
        (lambda: [], ImageShapeError, "got 1 images and 0 maps"),
        (lambda: np.full((31, 37), np.nan), ImageValueError, "the first in row 0, column 0"),
        (lambda: noise(31, 37).astype(complex), ImageValueError, "got dtype complex128"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(maps, kind, message):
    with pytest.raises(kind, match=message):
        SegformerImageProcessor()(noise(31, 37, 3), maps())


def test_all_faulty_label_maps_are_listed():
    with pytest.raises(ImageShapeError) as raised:
        SegformerImageProcessor()([noise(9, 9, 3)] * 3, [noise(9, 9), noise(9, 8), noise(8, 9)])
    assert str(raised.value).startswith("2 faulty label maps:")


# Options and files


def test_a_label_map_is_kept_in_the_file_under_a_type_of_our_own(tmp_path):
    processor = SegformerImageProcessor(**SMALL, label_map={7: 0, 0: None})
    processor.save_pretrained(tmp_path)
    contents = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert contents["image_processor_type"] == "SegmentationImageProcessor"
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "SegmentationImageProcessor"
    image, raw = noise(31, 37, 3), noise(31, 37, high=2) * np.uint8(7)
    np.testing.assert_array_equal(labels_of(loaded, image, raw), labels_of(processor, image, raw))
    assert set(np.unique(labels_of(loaded, image, raw))) == {0, 255}
    assert LabelMap.of(loaded.label_map) == LabelMap.of({7: 0, 0: None})


def test_files_interchange_with_transformers(tmp_path):
    image, labels = noise(31, 37, 3), noise(31, 37, high=151)
    options = {**SMALL, "do_reduce_labels": True, "resample": 3}
    for source, reader in (
        (SegformerImageProcessor, SegformerImageProcessorPil),
        (SegformerImageProcessorPil, SegformerImageProcessor),
    ):
        source(**options).save_pretrained(tmp_path)
        got, wanted = (
            p(image, labels, return_tensors="np") for p in (reader.from_pretrained(tmp_path), source(**options))
        )
        np.testing.assert_array_equal(got["pixel_values"], wanted["pixel_values"])
        np.testing.assert_array_equal(got["labels"], wanted["labels"])


@pytest.mark.parametrize("option", [{"do_center_crop": True, "crop_size": 16}, {"do_pad": True}, {"ignore_index": 0}])
def test_what_transformers_would_pass_over_does_not_travel_under_the_shared_name(option):
    assert SegformerImageProcessor(**option).to_dict()["image_processor_type"] == "SegmentationImageProcessor"
    plain = SegformerImageProcessor(do_reduce_labels=True, do_pad=False)
    assert plain.to_dict()["image_processor_type"] == "SegformerImageProcessor"


def test_files_of_early_versions_load(tmp_path):
    early = {"feature_extractor_type": "SegformerFeatureExtractor", "reduce_labels": True, "size": 20, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(early))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    for loaded in (SegformerImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SegformerImageProcessor
        assert dict(loaded.size) == {"height": 20, "width": 20}
        assert labels_of(loaded, noise(31, 37, 3), np.zeros((31, 37), np.uint8)).min() == 255


@pytest.mark.parametrize("made", [SegmenterImageProcessor, SetrImageProcessor])
def test_new_families_prepare_as_their_originals_and_keep_their_name(made, tmp_path):
    processor = made(window_size=512, window_stride=[256, 384])
    processor.save_pretrained(tmp_path)
    loaded = made.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.to_dict()["image_processor_type"] == made.__name__
    protocol = {SegmenterImageProcessor: "segmenter-vit", SetrImageProcessor: "mmseg"}[made]
    wanted = SegmentationImageProcessor.from_protocol(protocol, size=(2048, 512))
    image = noise(70, 50, 3)
    got = loaded(image, return_tensors="np")["pixel_values"]
    assert got.shape == (1, 3, 717, 512)
    np.testing.assert_array_equal(got, wanted(image, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_map": {7: 0}, "do_reduce_labels": True}, "use one"),
        ({"window_size": [3]}, "window_size must be"),
        ({"size_rounding": "up"}, "size_rounding must be nearest"),
        ({"size_divisor": 0}, "size_divisor must be 1 or more; got 0"),
        ({"antialias": False, "resample": 3}, "antialias=False is bilinear"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationImageProcessor(**options)


def test_protocols_are_known_by_name():
    with pytest.raises(UnknownNameError, match="there are mmseg, mmseg-aligned, segmenter-vit, segmenter-deit"):
        SegmenterImageProcessor.from_protocol("mmsegmentation")
    with pytest.raises(ConfigError, match=r"size is \(long side, short side\)"):
        SegmenterImageProcessor.from_protocol("mmseg", size=(512, 2048))
    assert SetrImageProcessor.from_protocol("mmseg", (2049, 1025), do_pad=True).do_pad
