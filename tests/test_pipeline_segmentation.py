"""`pipeline("image-segmentation")` and `segment_raster`: every input, both outputs, windows, files that are whole."""

import json
import os
import resource
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

import hfvision
from hfvision.cli import build_app
from hfvision.errors import (
    ConfigError,
    ImageReadError,
    ImageShapeError,
    ImageValueError,
    ImageWriteError,
    UnknownNameError,
)
from hfvision.models.segformer.model import SegformerConfig, SegformerForSemanticSegmentation
from hfvision.pipelines.image_segmentation import ImageSegmentationPipeline
from hfvision.pipelines.predict import predict
from hfvision.pipelines.raster import segment_raster
from hfvision.processing.segmentation import SegformerImageProcessor, SegmentationImageProcessor
from tests.models import DENSE, tiny_model, with_visible_weights

TINY = {"hidden_sizes": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}


def segformer(labels=6):
    """With classes that occur equally often, about."""
    model = with_visible_weights(SegformerForSemanticSegmentation(SegformerConfig(**TINY, num_labels=labels)))
    with torch.no_grad():
        pixels = processor()(picture(), return_tensors="pt")["pixel_values"]
        model.decode_head.classifier.bias -= model(pixels).logits.mean(dim=(0, 2, 3))
    return model


def picture(height=70, width=90, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def processor(**options):
    return SegformerImageProcessor(**{"size": {"height": 64, "width": 64}, **options})


def segmenting(model, **options):
    return ImageSegmentationPipeline(model=model, image_processor=processor(**options))


@pytest.fixture
def segment():
    return segmenting(segformer())


def same(got, wanted):
    assert np.array_equal(got["classes"], wanted["classes"])
    assert got["labels"] == wanted["labels"]


def test_masks_are_those_of_transformers(segment, tmp_path):
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
    from transformers.models.segformer.modeling_segformer import SegformerForSemanticSegmentation as Theirs

    segment.model.save_pretrained(tmp_path)
    size = {"height": 64, "width": 64}
    reference = transformers.ImageSegmentationPipeline(
        model=Theirs.from_pretrained(tmp_path), image_processor=SegformerImageProcessorPil(size=size)
    )
    for image in (picture(), picture(64, 64, 1), picture(33, 150, 2)):
        got, wanted = segment(image), reference(image)
        assert len(wanted) > 1
        assert [row["label"] for row in got] == [row["label"] for row in wanted]
        assert [row["score"] for row in got] == [None] * len(wanted)
        for ours, other in zip(got, wanted, strict=True):
            assert (ours["mask"].mode, ours["mask"].size) == ("L", image.size)
            differing = np.count_nonzero(np.asarray(ours["mask"]) != np.asarray(other["mask"]))
            assert differing <= 2  # pixels that lie between two classes to within float32 noise


def test_a_map_has_a_palette_labels_and_scores(segment):
    image = picture()
    answer = segment(image, output="map", scores=True)
    assert (answer["map"].mode, answer["map"].size) == ("P", image.size)
    assert np.array_equal(np.asarray(answer["map"]), answer["classes"]) and answer["classes"].dtype == np.uint8
    assert np.array_equal(np.asarray(answer["map"].convert("RGB")), answer["colours"][answer["classes"]])
    assert answer["scores"].shape == answer["classes"].shape and answer["scores"].dtype == np.float32
    assert (answer["scores"] >= 1 / 6).all() and (answer["scores"] <= 1).all()
    for row in answer["labels"]:
        chosen = answer["classes"] == row["id"]
        assert row["label"] == f"LABEL_{row['id']}" and row["pixels"] == chosen.sum()
        assert row["score"] == pytest.approx(answer["scores"][chosen].mean(), abs=1e-6)
    assert sum(row["share"] for row in answer["labels"]) == pytest.approx(1)
    masks = segment(image)
    assert [np.asarray(row["mask"]).astype(bool).sum() for row in masks] == [row["pixels"] for row in answer["labels"]]
    assert segment(image, output="map")["scores"] is None


def test_colours_come_from_the_label_map():
    rows = [{"id": 0, "train_id": 1, "name": "road", "color": [1, 2, 3]}]
    image_processor = SegmentationImageProcessor(size={"height": 64, "width": 64}, label_map=rows)
    answer = ImageSegmentationPipeline(model=segformer(), image_processor=image_processor)(picture(), output="map")
    assert answer["colours"][1].tolist() == [1, 2, 3] and answer["map"].getpalette()[3:6] == [1, 2, 3]


def test_one_class_is_there_or_not():
    model = segformer(labels=1)
    model.config.id2label = {0: "cell"}
    segment = segmenting(model)
    pixels = segment.image_processor(picture(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixels).logits
    answer = segment(picture(), output="map", scores=True)
    wanted = torch.nn.functional.interpolate(logits, (70, 90), mode="bilinear")[0, 0].sigmoid() > 0.5
    assert np.array_equal(answer["classes"], wanted) and 0 < wanted.sum() < wanted.numel()
    assert [row["label"] for row in answer["labels"]] == ["background", "cell"]
    assert (answer["scores"] >= 0.5).all()
    tiled = segment(picture(), output="map", tile=48, scores=True)
    assert set(np.unique(tiled["classes"])) <= {0, 1} and (tiled["scores"] >= 0.5).all()


def test_more_classes_than_a_palette_has():
    answer = segmenting(segformer(labels=300))(picture(), output="map")
    assert answer["map"].mode == "I;16" and answer["classes"].dtype == np.uint16
    assert np.array_equal(np.asarray(answer["map"]), answer["classes"])


def test_every_kind_of_input_gives_the_same_answer(segment, tmp_path):
    image = picture()
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    wanted = segment(image, output="map")
    for one in (
        str(tmp_path / "image.png"),
        tmp_path / "image.png",
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
    ):
        for options in ({}, {"tile": 48}):
            same(segment(one, output="map", **options), segment(image, output="map", **options))
    grey = image.convert("L")
    same(segment(np.asarray(grey), output="map"), segment(grey, output="map"))
    column = datasets.Dataset.from_dict({"image": [image] * 2}).cast_column("image", datasets.Image())["image"]
    for many in ([image] * 2, (image for _ in range(2)), column, np.stack([array] * 2)):
        answers = list(segment(many, output="map"))
        assert len(answers) == 2
        for answer in answers:
            same(answer, wanted)


def test_a_batch_of_mixed_sizes_answers_as_its_images_alone():
    """Where sizes stay different, too. Pixels may flip where two classes are equal to within float32 noise."""
    images = [picture(40, 56, 0), picture(32, 48, 1), picture(40, 56, 2), picture(64, 24, 3)]
    for options in ({}, {"do_resize": False}):
        segment = segmenting(segformer(), **options)
        for call in ({}, {"tile": 32}):
            wanted = [segment(image, output="map", **call) for image in images]
            for got, want in zip(segment(images, batch_size=3, output="map", **call), wanted, strict=True):
                assert (got["classes"] != want["classes"]).mean() < 1e-3


@pytest.mark.parametrize("model_type", DENSE)
def test_every_architecture_answers_as_a_whole_and_in_windows(model_type):
    segment = segmenting(tiny_model(model_type, "AutoModelForSemanticSegmentation"), size={"height": 32, "width": 32})
    rule = {"tile": 32, "stride": 24, "rule": "segmenter"}
    for options in ({}, {"tile": 32}, rule, {"scales": (0.5, 1), "flip": True}):
        answer = segment(picture(), output="map", **options)
        assert answer["classes"].shape == (70, 90)


def test_windows_see_the_image_at_its_own_resolution(segment):
    """A window as large as the image gives what a processor without resizing gives."""
    whole = segmenting(segment.model, do_resize=False)
    got, wanted = segment(picture(), output="map", tile=128), whole(picture(), output="map")
    assert (got["classes"] != wanted["classes"]).mean() < 1e-3


def test_a_rule_resizes_as_the_processor_does_and_comes_back():
    """The originals resize by keeping proportions, slide windows over that, and return to the image's size."""
    size = {"shortest_edge": 96, "longest_edge": 400}
    image_processor = SegmentationImageProcessor(size=size, window_size=64, window_stride=48)
    segment = ImageSegmentationPipeline(model=segformer(), image_processor=image_processor)
    pixels = image_processor(picture(), return_tensors="pt")["pixel_values"]
    assert min(pixels.shape[-2:]) == 96
    from hfvision.pipelines.sliding import sliding_logits

    wanted = sliding_logits(segment.model, pixels, 64, 48, size=(70, 90))[0].argmax(0)
    assert np.array_equal(segment(picture(), output="map", rule="mmseg")["classes"], wanted)


def test_other_models_go_through_transformers_code_unchanged():
    stages = {"depths": [1] * 4, "num_heads": [1] * 4, "out_features": [f"stage{stage}" for stage in range(1, 5)]}
    widths = ("hidden_dim", "feature_size", "mask_feature_size", "encoder_feedforward_dim", "dim_feedforward")
    layers = {"decoder_layers": 2, "encoder_layers": 1, "num_attention_heads": 2, "num_queries": 4, "num_labels": 3}
    backbone = transformers.SwinConfig(image_size=64, embed_dim=8, **stages)
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **dict.fromkeys(widths, 32), **layers)
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    parts = {
        "model": transformers.Mask2FormerForUniversalSegmentation(config).eval(),
        "image_processor": Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}),
    }
    ours = pipeline("image-segmentation", **parts)
    assert type(ours) is ImageSegmentationPipeline
    theirs = transformers.ImageSegmentationPipeline(**parts)
    for subtask in ("semantic", "panoptic", "instance", None):
        got, wanted = (each(picture(), subtask=subtask, threshold=0.1) for each in (ours, theirs))
        assert [(row["label"], row["score"]) for row in got] == [(row["label"], row["score"]) for row in wanted]
        for one, other in zip(got, wanted, strict=True):
            assert np.array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))
    with pytest.raises(ConfigError, match="tile, output: only models of hfvision"):
        ours(picture(), tile=32, output="map")


def test_bad_input_ends_in_one_error(segment, tmp_path):
    for options, said in (
        ({"output": "picture"}, "output is 'masks' or 'map'; got 'picture'"),
        ({"subtask": "panoptic"}, "does semantic segmentation alone"),
        ({"scales": (0, 1)}, "scales are factors above 0"),
        ({"tile": 32, "overlap": 1.5}, "overlap is the share"),
    ):
        with pytest.raises(ConfigError, match=said):
            segment(picture(), **options)
    with pytest.raises(ImageValueError, match="at least one image; got an empty list"):
        segment([])
    with pytest.raises(ImageReadError, match=r"nowhere\.png"):
        segment(str(tmp_path / "nowhere.png"))
    with pytest.raises(ImageShapeError):
        segment(np.zeros((8, 8, 5), np.uint8))


# --- from file to file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".npy", ".tif"])
@pytest.mark.parametrize("labels", [6, 300])
def test_a_streamed_map_is_the_one_in_memory_bit_for_bit(ending, labels, tmp_path):
    segment = segmenting(segformer(labels))
    image = picture(150, 190)
    wanted = segment(image, tile=64, output="map", scores=True)
    array = np.asarray(image)
    np.save(tmp_path / "image.npy", array)
    image.save(tmp_path / "image.png")
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    sources = (array, array.transpose(2, 0, 1), mapped, tmp_path / "image.npy", image, str(tmp_path / "image.png"))
    for number, source in enumerate(sources):
        path, scores = tmp_path / f"{number}{ending}", tmp_path / f"{number}-scores.npy"
        result = segment_raster(
            segment.model, source, path, processor=segment.image_processor, tile=64, scores=scores, progress=False
        )
        assert (result["size"], result["windows"]) == ((150, 190), 12)
        assert [row["pixels"] for row in result["labels"]] == [row["pixels"] for row in wanted["labels"]]
        assert np.array_equal(np.load(scores), wanted["scores"])
        if ending == ".npy":
            assert np.array_equal(np.load(path), wanted["classes"])
        else:
            with Image.open(path) as written:
                assert np.array_equal(np.asarray(written), wanted["classes"])
                if labels == 6:
                    assert written.getpalette()[: 3 * labels] == wanted["map"].getpalette()
    assert [path for path in os.listdir(tmp_path) if path.startswith(".")] == []


def test_values_do_not_depend_on_the_window_they_are_seen_in(tmp_path):
    """A dark window of a 16-bit image is not stretched, and what would have to be guessed is asked for."""
    deep = np.asarray(picture(100, 120)).astype(np.uint16) * 257
    deep[:64, :64] //= 300
    segment = segmenting(segformer())
    wanted = segment(deep, tile=64, output="map")["classes"]
    options = {"processor": segment.image_processor, "tile": 64, "progress": False}
    segment_raster(segment.model, deep, tmp_path / "map.npy", **options)
    assert np.array_equal(np.load(tmp_path / "map.npy"), wanted)
    with pytest.raises(ImageValueError, match=r"input_range=\(black, white\)"):
        segment_raster(segment.model, deep.astype(np.float32), tmp_path / "other.npy", **options)
    segment_raster(
        segment.model, deep.astype(np.float32), tmp_path / "other.npy", input_range=(0.0, 65535.0), **options
    )
    assert (np.load(tmp_path / "other.npy") != wanted).mean() < 1e-3  # levels differ by float32 noise


class Breaks(Exception):
    pass


@pytest.mark.parametrize("ending", [".png", ".npy", ".tif"])
def test_what_fails_leaves_nothing_behind(ending, tmp_path, monkeypatch):
    model, image = segformer(), np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    path = tmp_path / f"map{ending}"
    path.write_bytes(b"before")

    def run(source=image):
        segment_raster(model, source, path, processor=processor(), tile=64, progress=False)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))  # as a full disk
    try:
        with pytest.raises(ImageWriteError, match=r"cannot be written: .*Nothing was kept"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    broken = image.astype(np.float64)
    broken[200, 10] = np.nan
    with pytest.raises(ImageValueError, match=r"rows 192 to 255, columns 0 to 63: .*NaN"):
        segment_raster(
            model, broken, path, processor=processor(), tile=64, overlap=0, input_range=(0.0, 255.0), progress=False
        )
    for error in (KeyboardInterrupt, Breaks):
        calls = []

        def failing(*args, calls=calls, error=error, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise error
            return SegformerForSemanticSegmentation.forward(model, *args, **kwargs)

        monkeypatch.setattr(model, "forward", failing)
        with pytest.raises(error):
            run()
        monkeypatch.undo()
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"before"


def test_a_raster_that_cannot_be_is_refused_before_work_begins(tmp_path):
    model, image = segformer(), np.zeros((70, 70, 3), np.uint8)
    (tmp_path / "text.npy").write_text("no array")
    options = {"processor": processor(), "progress": False}
    for error, said, source, destination, more in (
        (ConfigError, r"classes go into a file that ends in \.npy, \.png", image, "map.jpg", {}),
        (ConfigError, r"scores go into a file that ends in \.npy, \.tif", image, "map.png", {"scores": "scores.png"}),
        (ConfigError, "overlap is the share", image, "map.png", {"overlap": 1}),
        (ImageReadError, r"there is no file .*nowhere\.npy", tmp_path / "nowhere.npy", "map.png", {}),
        (ImageReadError, r"text\.npy is not a NumPy array", tmp_path / "text.npy", "map.png", {}),
        (ImageShapeError, "5 or 70 channels", np.zeros((70, 70, 5), np.uint8), "map.png", {}),
        (UnknownNameError, "no option", image, "map.png", {"tiel": 4}),
    ):
        with pytest.raises(error, match=said):
            segment_raster(model, source, tmp_path / destination, **options, **more)
    with pytest.raises(ConfigError, match="takes a model of hfvision"):
        segment_raster(model, image, tmp_path / "map.png")
    assert os.listdir(tmp_path) == ["text.npy"]


def test_an_image_smaller_than_a_tile_or_a_patch_is_one_window(tmp_path):
    image = np.asarray(picture(72, 80))[:2, :5]
    result = segment_raster(segformer(), image, tmp_path / "map.npy", processor=processor(), progress=False)
    assert (result["windows"], np.load(tmp_path / "map.npy").shape) == (1, (2, 5))


@pytest.mark.filterwarnings("ignore")  # rasterio's own
def test_a_geotiff_keeps_its_place_on_earth(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(500000, 5600000, 10, 10)}
    array = np.asarray(picture(150, 190)).transpose(2, 0, 1)
    profile = {"driver": "GTiff", "height": 150, "width": 190, "count": 3, "dtype": "uint8", **place}
    with rasterio.open(tmp_path / "image.tif", "w", **profile) as file:
        file.write(array)
    options = {"processor": processor(), "tile": 64, "progress": False}
    segment_raster(segformer(), tmp_path / "image.tif", tmp_path / "map.tif", **options)
    segment_raster(segformer(), array, tmp_path / "map.npy", **options)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.transform) == (rasterio.crs.CRS.from_epsg(32632), place["transform"])
        assert np.array_equal(file.read(1), np.load(tmp_path / "map.npy"))
        assert len(file.colormap(1)) >= 6


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    segformer().save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_predict_writes_maps_and_overlays(folder, tmp_path):
    for name in ("a/one.png", "b/one.png"):
        (tmp_path / name).parent.mkdir()
        picture().save(tmp_path / name)
    images = [str(tmp_path / "a/one.png"), str(tmp_path / "b/one.png")]
    wanted = predict(images, str(folder), tile=48)
    out = tmp_path / "out"
    command = ["predict", *images, "--model", str(folder), "--tile", "48", "--output", str(out)]
    rows = json.loads(CliRunner().invoke(build_app(), [*command, "--json"], catch_exceptions=False).stdout)
    assert sorted(os.listdir(out)) == ["one-2.map.png", "one-2.overlay.png", "one.map.png", "one.overlay.png"]
    for row, answer in zip(rows, wanted, strict=True):
        assert row["predictions"] == answer["labels"]
        with Image.open(row["map"]) as written:
            assert written.mode == "P" and np.array_equal(np.asarray(written), answer["classes"])
        assert Path(row["overlay"]).is_file()
    text = CliRunner().invoke(build_app(), command[:-2], catch_exceptions=False).stdout
    assert text.splitlines()[1].split()[0] == wanted[0]["labels"][0]["label"]


def test_predict_refuses_options_of_the_other_task(folder):
    with pytest.raises(ConfigError, match=r"top_k: for a model that classifies; .* gives a class to every pixel"):
        predict([picture()], str(folder), top_k=2)
    with pytest.raises(ConfigError, match=r"gives a class to every pixel .*; 'vit-digits' is one that classifies"):
        predict([picture()], "vit-digits", tile=32)


def test_the_names_are_public():
    assert hfvision.segment_raster is segment_raster
