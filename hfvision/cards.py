"""Model cards: the README.md of a model folder, from its config and from what was measured.

The front matter is what the Hub reads (licence, task, data sets, parent model, a model-index with measured figures
only); the body says what the model is, how to run it, where it comes from and what is not known about it. Figures that
somebody else published may be shown too, but marked as quoted, and never in the model-index.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData
from PIL import Image

from hfvision.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MEASURED = "measured"
LABELS_SHOWN = 20

CLASSES_SHOWN = 200

PIPELINE_SNIPPET = """\
import hfvision
from transformers import pipeline

predict = pipeline("{task}", model={name})
print(predict("image.png"))  # a path, an address, a PIL image or an array"""

SEGMENTATION_SNIPPET = """\
import hfvision
from transformers import pipeline

segment = pipeline("image-segmentation", model={name})
for part in segment("image.png"):  # a path, an address, a PIL image or an array
    print(part["label"], part["mask"].size)  # the mask: a PIL image, 255 where the label is"""

DETECTION_SNIPPET = """\
import hfvision
from transformers import pipeline

detect = pipeline("object-detection", model={name})
for found in detect("image.png"):  # a path, an address, a PIL image or an array
    print(found["label"], f"{{found['score']:.2f}}", found["box"])  # the box: xmin, ymin, xmax, ymax in pixels"""

FEATURES_SNIPPET = """\
import hfvision
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModel.from_pretrained({name})
features = model(**processor(Image.open("image.png"), return_tensors="pt")).last_hidden_state
print(features.shape)"""


SNIPPETS = {
    "image-segmentation": SEGMENTATION_SNIPPET,
    "object-detection": DETECTION_SNIPPET,
    "image-feature-extraction": FEATURES_SNIPPET,
}
LABELLING_TASKS = ("image-classification", "image-segmentation", "object-detection")


SIZES = {
    "num_hidden_layers": "{} blocks",
    "hidden_size": "width {}",
    "num_attention_heads": "{} heads",
    "patch_size": "{} pixel patches",
    "image_size": "{} pixel images",
}
STAGED_SIZES = {"depths": "stages of {} blocks", "hidden_sizes": "widths {}", "embed_dim": "width {} and doubling"}
DETECTOR_SIZES = {
    "encoder_layers": "{} encoder layers",
    "decoder_layers": "{} decoder layers",
    "d_model": "width {}",
    "num_queries": "{} queries",
}


@dataclass(frozen=True)
class Result:
    """One figure: `value` of `metric` over `samples` samples of `dataset`/`split`.

    `source` is "measured" for figures that this model was evaluated for; anything else says who published the figure,
    and the card shows it as quoted. Raises ConfigError for a value that is no finite number or a count below one.
    """

    task: str
    dataset: str
    split: str
    metric: str
    value: float
    samples: int
    source: str = MEASURED

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ConfigError(f"A result is a finite number, got {self.metric} = {self.value} on {self.dataset}.")
        if self.samples < 1:
            raise ConfigError(
                f"{self.metric} on {self.dataset} says {self.samples} samples; give the number it was measured on."
            )

    @property
    def measured(self) -> bool:
        return self.source == MEASURED


@dataclass(frozen=True)
class ClassTable:
    """A figure for each class; None: there was nothing to measure it on."""

    figure: str  # "IoU"
    values: Mapping[str, float | None]


def model_card(
    config: "PreTrainedConfig",
    *,
    name: str,
    license: str,
    license_name: str | None = None,
    task: str = "image-classification",
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    provenance: Mapping[str, str] | None = None,
    training: Mapping[str, object] | None = None,
    results: Sequence[Result] = (),
    classes: ClassTable | None = None,
    notes: Sequence[str] = (),
    preprocessing: Mapping[str, object] | None = None,
) -> str:
    """The whole text of README.md; `classes` is a table of its own.

    `name` is what the snippet loads: a Hub id or a folder. `license` is the Hub's identifier, "apache-2.0", or "other"
    for one that is called `license_name`.
    `preprocessing` is the image processor's dictionary (`processor.to_dict()`). Data sets and a parent model that are
    no Hub ids (local folders) are named in the text by their last path segment, not in the front matter.
    """
    measured = [result for result in results if result.measured]
    front = ModelCardData(
        license=license,
        license_name=license_name,
        library_name="transformers",
        pipeline_tag=task,
        tags=["hfvision", "vision", config.model_type],
        datasets=[dataset for dataset in datasets if _is_hub_id(dataset)] or None,
        base_model=base_model if base_model is not None and _is_hub_id(base_model) else None,
        model_name=name if measured else None,
        eval_results=[_eval_result(result) for result in measured] or None,
    )
    sections = {
        "": _summary(config, task, datasets, base_model),
        "Use": _use(name, task),
        "Images": _images(config, preprocessing),
        "Labels": _labels(config) if task in LABELLING_TASKS else "",
        "Training": _table(("setting", "value"), (training or {}).items()),
        "Results": _results(results),
        "Classes": _classes(classes) if classes else "",
        "Provenance": _table(("item", "value"), (provenance or {}).items()),
        "Limits": _limits(measured),
        "Notes": "\n".join(f"- {_one_line(note)}" for note in notes),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text)
    return f"---\n{front.to_yaml()}\n---\n\n# {_one_line(name)}\n\n{body}\n"


def write_card(folder: str | Path, text: str) -> Path:
    """Write `text` as the folder's README.md; the folder must exist."""
    path = Path(folder) / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _eval_result(result: Result) -> EvalResult:
    return EvalResult(
        task_type=result.task,
        dataset_type=result.dataset,
        dataset_name=result.dataset,
        dataset_split=result.split,
        metric_type=result.metric,
        metric_value=result.value,
        metric_args={"samples": result.samples},  # per metric: the Hub merges what is said about the data set
    )


def _summary(config: "PreTrainedConfig", task: str, datasets: Sequence[str], base_model: str | None) -> str:
    facts = _facts(config)
    if task in LABELLING_TASKS:
        facts.append(f"{config.num_labels:,} labels")
    classes = ", ".join(f"`{name}`" for name in config.architectures or ())
    text = f"A `{config.model_type}` model{f' ({classes})' if classes else ''} for {task.replace('-', ' ')}"
    text += f": {', '.join(facts)}." if facts else "."
    if base_model:
        text += f" Fine-tuned from {_named(base_model)}."
    if datasets:
        text += f" Trained on {', '.join(_named(dataset, 'datasets/') for dataset in datasets)}."
    return text


def _facts(config: "PreTrainedConfig") -> list[str]:
    """The sizes of a model, or of the trunk of one that is made of two."""
    trunk = getattr(config, "backbone_config", None) or config
    sizes = STAGED_SIZES if hasattr(trunk, "depths") else SIZES
    facts = [form.format(_size(getattr(trunk, field))) for field, form in sizes.items() if hasattr(trunk, field)]
    if not hasattr(config, "num_queries"):
        return facts
    named = getattr(trunk, "backbone", None)  # by a trunk that timm has a name for
    of_detector = [form.format(getattr(config, field)) for field, form in DETECTOR_SIZES.items()]
    return [f"trunk {named}" if named else f"trunk of {', '.join(facts)}", *of_detector]


def _use(name: str, task: str) -> str:
    code = SNIPPETS.get(task, PIPELINE_SNIPPET).format(name=json.dumps(name, ensure_ascii=False), task=task)
    return f"`pip install hfvision`, then:\n\n```python\n{code}\n```"


def _images(config: "PreTrainedConfig", preprocessing: Mapping[str, object] | None) -> str:
    channels = getattr(config, "num_channels", None)
    text = f"The model takes {channels} channel{'' if channels == 1 else 's'} per pixel. " if channels else ""
    text += "`preprocessor_config.json` prepares images as they were prepared in training."
    shown = ("size", "resample", "do_center_crop", "crop_size", "rescale_factor", "image_mean", "image_std")
    settings = preprocessing or {}
    rows = [(key, _setting(key, settings[key])) for key in shown if settings.get(key) is not None]
    return f"{text}\n\n{_table(('setting', 'value'), rows)}" if rows else text


def _labels(config: "PreTrainedConfig") -> str:
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    text = ", ".join(_one_line(name) for name in names[:LABELS_SHOWN])
    more = len(names) - LABELS_SHOWN
    return f"{text} and {more:,} more (`id2label` in `config.json`)." if more > 0 else f"{text}."


def _results(results: Sequence[Result]) -> str:
    rows = [
        (
            result.task,
            f"{result.dataset} ({result.split})",
            result.metric,
            f"{result.value:.6g}",
            f"{result.samples:,}",
            MEASURED if result.measured else f"quoted from {result.source}, not measured",
        )
        for result in results
    ]
    return _table(("task", "data", "metric", "value", "samples", "source"), rows)


def _classes(table: ClassTable) -> str:
    """Best first, since that is what a reader of a long table looks for; at most CLASSES_SHOWN."""
    ranked = sorted(table.values.items(), key=lambda row: -1.0 if row[1] is None else row[1], reverse=True)
    rows = [(name, "not measured" if value is None else f"{value:.4f}") for name, value in ranked[:CLASSES_SHOWN]]
    more = len(ranked) - len(rows)
    return _table(("class", table.figure), rows) + (f"\n\nand {more:,} more classes." if more else "")


def _limits(measured: Sequence[Result]) -> str:
    known = "Nothing was measured beyond the figures above" if measured else "No figure was measured for these files"
    return (
        f"{known}. Check the model on images of your own before you rely on it: other cameras, "
        "populations and image qualities than those of its training data change what it gets right."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, or "" when there are no rows."""
    lines = ["| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def _setting(name: str, value: object) -> str:
    """A processor's setting in words: {"height": 30, "width": 42} -> "30 x 42", resample 2 -> "bilinear"."""
    if name == "resample" and isinstance(value, int):
        return Image.Resampling(value).name.lower()
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        return f"{value['height']} x {value['width']}"
    if isinstance(value, Mapping) and value.keys() == {"shortest_edge", "longest_edge"}:
        return f"short side {value['shortest_edge']}, long side at most {value['longest_edge']}"
    return str(value)


def _size(value: object) -> str:
    """16 -> "16", [30, 42] -> "30 x 42"."""
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _named(source: str, kind: str = "") -> str:
    """A link to a Hub id; of a local folder the last segment only, since a card is published."""
    return f"[{source}](https://huggingface.co/{kind}{source})" if _is_hub_id(source) else f"`{Path(source).name}`"


def _is_hub_id(name: str) -> bool:
    """Whether `name` reads "owner/name" and is no folder here. (A bare name could be either; it gets no link.)"""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not Path(name).exists()
