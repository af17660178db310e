"""The demo: a small vision transformer from nothing to a fine-tuned model in about a minute, on real images.

    result = run_demo("hfvision-demo")

It trains on the handwritten digits that ship with the package, measures on held-out ones, loads the saved folder back
through `transformers.pipeline`, fine-tunes it to tell even from odd, and draws what it saw. Everything goes through the
functions that users call. The folder `vit-digits` that it writes is how the starter model of that name was made.

The settings were chosen on a fifth of the training images; the held-out ones decided nothing.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image

from hfvision.data.classification import prepare_classification
from hfvision.data.digits import load_digits
from hfvision.errors import ConfigError
from hfvision.models.vit import ViTConfig, ViTForImageClassification
from hfvision.plots.attention import explain_attention
from hfvision.plots.sheet import prediction_sheet
from hfvision.processing.classification import ViTImageProcessor
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import train_classification
from hfvision.training.settings import arguments_of

REQUIRED_ACCURACY = 0.97
NAME = "vit-digits"
PARITY_NAME = "vit-even-odd"
SIDE = 16  # pixels of the images that the model takes

ARCHITECTURE: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": 4,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.08,  # of the order of 1 / sqrt(width): at 0.02 so small a model starts four times slower
}
ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 100,
    "per_device_train_batch_size": 96,
    "learning_rate": 3e-3,
    "weight_decay": 0.2,
    "warmup_steps": 0.1,
    "save_steps": 300,  # there are 1,500
    "per_device_eval_batch_size": 360,
}
FINE_TUNING: dict[str, Any] = {
    **{"num_train_epochs": 5, "per_device_train_batch_size": 64, "learning_rate": 5e-4, "warmup_steps": 0.1},
    "per_device_eval_batch_size": 360,
}

NOTES = (
    "It ships with hfvision: `hfvision predict IMAGE --model vit-digits`, or in Python the folder "
    '`hfvision.starters.resolve("vit-digits")`. `hfvision demo` makes it anew; the settings are above.',
    "Give it one digit, upright, that fills most of the image, in any size and colour mode. It was measured with "
    "bright strokes on a dark ground; two of five training images were negatives, so that dark on bright works, too.",
    "The images of both splits come from the same 13 writers. Expect less on other people's handwriting (a seven "
    "without a bar is what it misreads most) and much less on printed digits.",
)


@dataclass(frozen=True)
class Prediction:
    """What the pipeline said of one held-out image."""

    image: int  # row of the test split
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demo found out; accuracies are shares of held-out images, 0..1."""

    model: str  # folder
    parameters: int
    train_images: int
    epochs: float
    already_trained: bool  # an earlier call had finished the training
    seconds: float  # that training took
    accuracy: float  # of the folder, loaded by transformers.pipeline
    held_out_images: int
    required_accuracy: float
    predictions: list[Prediction]
    fine_tuned: str  # folder of the model that tells even from odd
    fine_tuned_accuracy: float
    fine_tuned_seconds: float
    picture: str  # file

    @property
    def passed(self) -> bool:
        return self.accuracy >= self.required_accuracy


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums come out the same however many cores there are; so small a model gains little from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def run_demo(
    output: str | os.PathLike[str] = "hfvision-demo",
    *,
    seed: int = 0,
    max_steps: int | None = None,
    required_accuracy: float = REQUIRED_ACCURACY,
    say: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Run the demo; `output` gets the folders "vit-digits" and "vit-even-odd" and the picture "demo.png".

    An interrupted run continues when called again with the same arguments; of a finished one only the rest is redone.
    `max_steps` ends both trainings early. `say` receives a line as each part starts. A result below `required_accuracy`
    is returned like any other: see `passed`. Raises ConfigError if `output` holds something else, and as
    `train_classification` does.
    """
    folder = Path(output)
    picture = folder / "demo.png"
    already_trained = (folder / NAME / "model.safetensors").exists()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output is a folder; {folder} is a file. Choose another name.")
    if picture.exists() and not already_trained:
        raise ConfigError(f"{picture} is not this demo's and would be overwritten. Choose another folder.")
    digits = load_digits()
    held_out = digits["test"]
    names = held_out.features["label"].names
    truths = [names[label] for label in held_out["label"]]

    say(f"1/4  training on {len(digits['train']):,} handwritten digits")
    given = arguments_of({"seed": seed, "max_steps": max_steps})
    args = VisionTrainingArguments(**{**ARGUMENTS, **given})
    transformers.set_seed(seed)
    config = ViTConfig(**ARCHITECTURE, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    model = ViTForImageClassification(config)
    trained = train_classification(
        model,
        replace(prepare_classification(digits), name="digits"),
        folder / NAME,
        args=args,
        processor=ViTImageProcessor(size={"height": SIDE, "width": SIDE}, do_convert_rgb=True),
        augment=vary_digit,
        resume=True,
        license="apache-2.0",
        notes=NOTES,
    )

    say(f"2/4  loading {folder / NAME} back: transformers.pipeline, {len(held_out)} held-out images")
    predict = transformers.pipeline("image-classification", model=str(folder / NAME))
    answers = [best[0] for best in predict(list(held_out["image"]), top_k=1, batch_size=60)]
    predictions = [
        Prediction(row, truth, answer["label"], answer["score"])
        for row, (truth, answer) in enumerate(zip(truths, answers, strict=True))
    ]
    right = sum(prediction.predicted == prediction.true for prediction in predictions)

    say("3/4  fine-tuning it to tell even from odd")
    fine_tuned = train_classification(
        folder / NAME,
        replace(prepare_classification(even_or_odd(digits)), name="digits, even or odd"),
        folder / PARITY_NAME,
        args={**FINE_TUNING, **given},
        augment=None,
        resume=True,
    )

    say("4/4  drawing what it looked at")
    shown = _worth_showing(predictions)
    _draw(predict, held_out, shown, right, picture)
    return DemoResult(
        model=str(folder / NAME),
        parameters=model.num_parameters(),
        train_images=trained.train_samples,
        epochs=trained.epochs,
        already_trained=already_trained,
        seconds=trained.seconds,
        accuracy=right / len(held_out),
        held_out_images=len(held_out),
        required_accuracy=required_accuracy,
        predictions=shown,
        fine_tuned=str(folder / PARITY_NAME),
        fine_tuned_accuracy=fine_tuned.accuracy,
        fine_tuned_seconds=fine_tuned.seconds,
        picture=str(picture),
    )


def vary_digit(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A digit as somebody else might have drawn, framed or scanned it: L, 8 x 8 -> L, 16 x 16.

    Four of five are turned (10 degrees), slanted, stretched and moved at random, a quarter of those get harder edges,
    some less contrast; two of five of all become negatives.
    """
    side = image.width
    if generator.random() < 0.2:
        values = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    else:
        scale, stretch = generator.uniform(0.7, 1.1), math.exp(generator.uniform(-0.1, 0.1))
        angle, slant = math.radians(generator.uniform(-10, 10)), generator.uniform(-0.1, 0.1)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forward = turn @ np.array([[1, slant], [0, 1]]) @ np.diag([scale * stretch, scale / stretch])
        room = 0.4 * abs(1 - scale) + 0.06
        shift = generator.uniform(-room, room, 2) * SIDE
        # Pillow maps places of the result to places of the source. A dark border keeps edges of the digit soft.
        back = np.linalg.inv(forward) * (side / SIDE)
        offset = side / 2 + 1 - back @ (SIDE / 2 + shift)
        bordered = Image.new("L", (side + 2, side + 2))
        bordered.paste(image, (1, 1))
        rows = (*back[0], offset[0], *back[1], offset[1])
        moved = bordered.transform((SIDE, SIDE), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC, fillcolor=0)
        values = np.asarray(moved, np.float32)
        if generator.random() < 0.25:
            values = (values - generator.uniform(60, 150)) * generator.uniform(1, 3) + 128
        if generator.random() < 0.15:
            contrast = generator.uniform(0.5, 1)
            values = values * contrast + generator.uniform(0, 255 * (1 - contrast))
    values = np.clip(values, 0, 255)
    if generator.random() < 0.4:
        values = 255 - values
    return Image.fromarray(np.round(values).astype(np.uint8))


def even_or_odd(digits: datasets.DatasetDict) -> datasets.DatasetDict:
    """The same images, labelled by whether the digit is even or odd."""
    feature = datasets.ClassLabel(names=["even", "odd"])
    return datasets.DatasetDict(
        {
            split: data.remove_columns("label").add_column(
                "label", [digit % 2 for digit in data["label"]], feature=feature
            )
            for split, data in digits.items()
        }
    )


def _worth_showing(predictions: Sequence[Prediction], wrong: int = 2) -> list[Prediction]:
    """The first image of each digit, then the first wrong ones that are not among them."""
    first = {prediction.true: prediction for prediction in reversed(predictions)}
    chosen = [first[digit] for digit in sorted(first)]
    missed = [p for p in predictions if p.predicted != p.true and p not in chosen]
    return chosen + missed[:wrong]


def _draw(predict: Any, images: datasets.Dataset, shown: Sequence[Prediction], right: int, path: Path) -> None:
    pictures = [images[prediction.image]["image"] for prediction in shown]
    heat = [explain_attention(predict.model, predict.image_processor, picture).heat for picture in pictures]
    subtitle = (
        f"{right} of {len(images)} held-out images right ({right / len(images):.1%}). Shown: the first of each digit"
    )
    if more := len(shown) - len({prediction.true for prediction in shown}):
        subtitle += f", and {more} of the {len(images) - right} wrong ones"
    sheet = prediction_sheet(
        pictures,
        [(prediction.predicted, prediction.probability) for prediction in shown],
        [prediction.true for prediction in shown],
        heat,
        title=f"{NAME}: handwritten digits that it has not seen, and where it looks",
        subtitle=subtitle,
        legend="attention rollout",
        tile=160,
    )
    sheet.save(path, optimize=True)
