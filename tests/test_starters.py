"""The models that ship inside the package: complete, small, as good as their cards say, and answering offline."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image, ImageDraw, ImageOps
from transformers import AutoModelForImageClassification, pipeline
from typer.testing import CliRunner

import hfvision
from hfvision.cli import build_app
from hfvision.data.digits import load_digit_scenes, load_digits
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.starters import STARTERS, resolve
from hfvision.training import demo_detection, demo_segmentation

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
DIGITS = resolve("vit-digits")
TASKS = {
    "vit-digits": "image-classification",
    "segformer-digit-scenes": "image-segmentation",
    "segmenter-digit-scenes": "image-segmentation",
    "detr-digit-scenes": "object-detection",
    "detr-panoptic-digit-scenes": "image-segmentation",
}

# How a hand may draw the digits: the corners of the strokes, (x, y) in percent of the image.
STROKES = {
    "0": [[(50, 10), (28, 24), (23, 50), (29, 79), (50, 90), (71, 79), (77, 50), (72, 24), (50, 10)]],
    "1": [[(32, 28), (52, 10), (52, 90)]],
    "2": [[(25, 28), (36, 11), (59, 10), (72, 25), (66, 46), (23, 90), (77, 89)]],
    "3": [[(25, 14), (50, 9), (70, 21), (64, 41), (43, 47), (68, 54), (75, 72), (54, 90), (23, 84)]],
    "4": [[(54, 10), (23, 59), (79, 59)], [(61, 36), (59, 90)]],
    "5": [[(72, 10), (32, 10), (28, 46), (54, 41), (73, 57), (68, 82), (46, 90), (23, 82)]],
    "6": [[(64, 10), (36, 32), (25, 64), (34, 86), (54, 90), (72, 77), (66, 59), (46, 54), (28, 68)]],
    "7": [[(23, 11), (75, 11), (54, 50), (43, 90)], [(36, 50), (75, 50)]],
    "8": [
        [(68, 19), (50, 10), (32, 19), (36, 39), (66, 61), (70, 82), (50, 90), (30, 82), (34, 61), (64, 39), (68, 19)]
    ],
    "9": [[(70, 28), (50, 10), (30, 23), (32, 43), (50, 50), (68, 41), (70, 25), (68, 59), (54, 90)]],
}


def drawn(digit: str, side: int = 280) -> Image.Image:
    """White strokes with round ends on black, L, side x side."""
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    radius = side / 16
    for stroke in STROKES[digit]:
        corners = [(side * x / 100, side * y / 100) for x, y in stroke]
        draw.line(corners, fill=255, width=round(2 * radius), joint="curve")
        for x, y in corners:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image


@pytest.fixture(scope="module")
def predict():  # type: ignore[no-untyped-def]
    return pipeline("image-classification", model=DIGITS)


def labels(predict, images) -> list[str]:  # type: ignore[no-untyped-def]
    return [answer[0]["label"] for answer in predict(list(images), top_k=1, batch_size=60)]


def rightly_read(answers: list[str], digits: list[int]) -> int:
    return sum(answer == str(digit) for answer, digit in zip(answers, digits, strict=True))


def said(name: str, figure: str):  # type: ignore[no-untyped-def]
    results = ModelCard.load(STARTERS[name] / "README.md").data.eval_results
    return next(result for result in results if result.metric_type == figure)


def test_a_name_gives_the_folder_and_everything_else_stays_as_it_is(tmp_path, monkeypatch) -> None:
    assert Path(resolve("vit-digits")) == Path(hfvision.__file__).parent / "starters" / "vit-digits"
    for other in ("google/vit-base-patch16-224", "./vit-digits", "vit-letters", str(tmp_path)):
        assert resolve(other) == other
    assert resolve(tmp_path) == str(tmp_path)
    (tmp_path / "vit-digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("vit-digits") == "vit-digits"  # somebody's own folder of that name goes first


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_is_complete_and_small(name: str) -> None:
    files = list(STARTERS[name].iterdir())
    assert {path.name for path in files} == FILES
    assert sum(path.stat().st_size for path in files) < 2_000_000


@pytest.mark.parametrize("name", STARTERS)
def test_the_card_says_licence_origin_and_figures(name: str) -> None:
    card = ModelCard.load(STARTERS[name] / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == TASKS[name]
    assert "hfvision demo" in card.text
    assert "https://doi.org/10.24432/C50P49" in card.text
    assert "/tmp" not in card.content


def test_the_shipped_file_is_exactly_as_accurate_as_its_card_says(predict) -> None:
    held_out = load_digits()["test"]
    right = rightly_read(labels(predict, held_out["image"]), held_out["label"])
    card = said("vit-digits", "accuracy")
    assert card.metric_args == {"samples": len(held_out)}
    assert card.metric_value == right / len(held_out)
    assert card.metric_value >= 0.97


@pytest.mark.parametrize("name", demo_segmentation.RECIPES)
def test_a_segmentation_starter_reaches_what_its_card_says_on_unseen_scenes(name: str) -> None:
    unseen = load_digit_scenes(train=1)["validation"]
    segment = pipeline("image-segmentation", model=resolve(name))
    metric = SegmentationMetric(11)
    answers = segment(list(unseen["image"]), output="map", batch_size=25)
    metric.update([answer["classes"] for answer in answers], [np.array(mask) for mask in unseen["mask"]])
    card = said(name, "mean_iou")
    assert card.metric_args == {"samples": len(unseen)}
    # other numbers of threads add in another order, which may turn single pixels
    assert metric.result()["mean_iou"] == pytest.approx(card.metric_value, abs=1e-3)
    assert card.metric_value >= demo_segmentation.RECIPES[name].required


@pytest.mark.parametrize("name", demo_detection.RECIPES)
def test_a_detection_starter_reaches_what_its_card_says_on_unseen_scenes(name: str, tmp_path) -> None:
    result = demo_detection.run_detection_demo(tmp_path / "demo", starter=name)
    card = said(name, result.figure)
    assert (card.metric_args, result.scenes) == ({"samples": 200}, 200)
    assert result.figures[result.figure] == pytest.approx(card.metric_value, abs=2e-3)
    assert card.metric_value >= result.required
    assert result.passed


def test_negatives_of_held_out_images_are_read_as_well(predict) -> None:
    held_out = load_digits()["test"]
    answers = labels(predict, (ImageOps.invert(image) for image in held_out["image"]))
    assert rightly_read(answers, held_out["label"]) / len(held_out) >= 0.95


@pytest.mark.parametrize("side", [40, 280, 1001])
def test_digits_that_a_user_draws_are_read_in_any_size_colour_and_polarity(predict, side: int) -> None:
    for digit in STROKES:
        white = drawn(digit, side)
        black = ImageOps.invert(white)
        coloured = ImageOps.colorize(white, "midnightblue", "khaki")
        for image in (white, black, white.convert("RGB"), black.convert("RGBA"), black.convert("P"), coloured):
            assert labels(predict, [image]) == [digit], f"{digit} as {image.mode}, {side} pixels"


def test_predict_answers_by_name(tmp_path) -> None:
    path = tmp_path / "seven.png"
    ImageOps.invert(drawn("7")).convert("RGB").save(path)
    outcome = CliRunner().invoke(build_app(), ["predict", str(path), "--model", "vit-digits", "--top-k", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.splitlines()[1].split()[0] == "7"


def test_plain_transformers_reads_the_same_folder(predict) -> None:
    theirs = transformers.ViTForImageClassification.from_pretrained(DIGITS).eval()
    ours = AutoModelForImageClassification.from_pretrained(DIGITS).eval()
    assert type(ours).__module__.startswith("hfvision.")
    pixels = predict.image_processor(images=[drawn(digit) for digit in STROKES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        difference = (ours(pixels).logits - theirs(pixels).logits).abs().max()
    assert difference <= 1e-5 * theirs(pixels).logits.abs().max()  # the same sums in another order, float32


def test_its_processor_gives_what_plain_transformers_pil_backend_gives(predict) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    images = [drawn(digit).convert("RGB") for digit in STROKES]
    theirs = ViTImageProcessorPil.from_pretrained(DIGITS)(images=images, return_tensors="pt")["pixel_values"]
    ours = predict.image_processor(images=images, return_tensors="pt")["pixel_values"]
    # one rounding of float32 values up to 1 in another order of rescaling and normalisation
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-6)
