"""The card of one model, from its config and from what was measured.

The front matter is what the Hub reads (licence, task, data sets, parent model, a model-index with figures and their
sources); the body says what the model is, how to run it, where it comes from and what is not known about it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CardData, metadata_load

from hfvision.cards.figures import ClassTable, Result, class_table, model_index, results_table
from hfvision.cards.snippets import INSTALL, fenced, snippet
from hfvision.cards.text import bullets, is_hub_id, named, one_line, settings, table
from hfvision.labels.outputs import names_in_order
from hfvision.licences import Licence, LicenceReport, licence_named, write_licence_files
from hfvision.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CARD = "README.md"
FINE_TUNED, TRAINED = "Fine-tuned from", "Trained on"  # how sentences of the introduction begin
UNSTATED = (
    "No licence is stated for these weights, so nobody else may use them. Their maker can state one: "
    "`hfvision card FOLDER --license apache-2.0`, for example."
)
LABELS_SHOWN = 20
LABELLING_TASKS = {one.name for one in TASKS if one.answer}
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


def model_card(config: "PreTrainedConfig", *, name: str, **said: Any) -> str:
    """The whole text of README.md; `said` are the arguments of `card_parts`."""
    front, sections = card_parts(config, name=name, **said)
    return assembled(front, name, sections)


def card_parts(
    config: "PreTrainedConfig",
    *,
    name: str,
    license: str | Licence | LicenceReport,
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
    limits: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """Front matter and sections by their titles, "" for what stands before the first; empty ones are to be left out.

    `name` is what the snippet loads: a Hub id or a folder. `license` is the Hub's identifier, "apache-2.0", or "other"
    for one that is called `license_name`; a LicenceReport also tells of the parents that it comes from.
    `preprocessing` is the image processor's dictionary (`processor.to_dict()`). Data sets and a parent model that are
    no Hub ids (local folders) are named in the text by their last path segment, not in the front matter. `classes` is
    a table of its own. `limits` are sentences beside those that every card has: terms of the data, for one.
    """
    if isinstance(license, str):
        license = licence_named(license, license_name)
    report = license if isinstance(license, LicenceReport) else LicenceReport(name, license, license, "this card")
    front = front_matter(
        report.licence,
        task=task,
        model_types=[config.model_type],
        datasets=datasets,
        base_models=[] if base_model is None else [base_model],
        index=model_index(name, results),
    )
    return front, {
        "": "\n\n".join([*banners(report.all()), _summary(config, task, datasets, base_model)]),
        "Use": f"{INSTALL}\n\n{fenced(snippet(name, task))}",
        "Images": _images(config, preprocessing),
        "Labels": _labels(config) if task in LABELLING_TASKS else "",
        "Training": table(("setting", "value"), (training or {}).items()),
        "Results": results_table(results),
        "Classes": class_table(classes) if classes else "",
        "Provenance": table(("item", "value"), (provenance or {}).items()),
        "Licence": licence_section(report),
        "Limits": _limits([result for result in results if result.measured], limits),
        "Notes": bullets(notes),
    }


def front_matter(
    licence: Licence,
    *,
    task: str,
    model_types: Sequence[str],
    datasets: Iterable[str] = (),
    base_models: Sequence[str] = (),
    index: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the Hub reads, in its order; local names stay out."""
    parents = [parent for parent in base_models if is_hub_id(parent)]
    data: dict[str, Any] = {
        "library_name": "transformers",
        **licence.front_matter(),
        "pipeline_tag": task,
        "tags": list(dict.fromkeys(["hfvision", "vision", *model_types])),
        "datasets": [dataset for dataset in datasets if is_hub_id(dataset)],
        "base_model": parents[0] if len(parents) == 1 else parents,
        "model-index": index,
    }
    return {name: value for name, value in data.items() if value}


def assembled(front: Mapping[str, Any], title: str, sections: Mapping[str, str]) -> str:
    """Front matter, title, and the sections that have a text; that without a name comes first."""
    body = "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections.items() if text)
    return f"---\n{CardData(**front).to_yaml()}\n---\n\n# {one_line(title)}\n\n{body}\n"


def write_card(folder: str | Path, text: str) -> Path:
    """Write `text` as the folder's README.md, and beside it the text of its licence where copies must have it.

    The folder must exist.
    """
    path = Path(folder) / CARD
    path.write_text(text, encoding="utf-8")
    front = metadata_load(path) or {}
    write_licence_files(folder, [licence_named(front.get("license"), front.get("license_name"))])
    return path


def banners(licences: Iterable[Licence]) -> list[str]:
    """What must be read before anything else, as quotations of Markdown."""
    return [f"> **{licence.banner}**" for licence in licences if licence.banner]


def licence_section(report: LicenceReport) -> str:
    """What holds, what it allows, what a copy carries, and which parents it comes from; or that nothing is stated."""
    licence = report.licence
    if not licence.stated and not report.parents:
        return UNSTATED
    terms = f"[{licence.name}]({licence.url})" if licence.url else licence.name
    lines = [f"{terms}: {licence.allows}."]
    if carried := dict.fromkeys(what for one in report.all() for what in one.carry):
        lines.append(f"A copy carries {'; '.join(carried)}.")
    if report.overruled:
        lines.append(f"Its maker stated {report.own.name}; the terms of a parent are stricter, and hold.")
    if report.conflict:
        lines.append(report.conflict)
    parents = [(parent.model, parent.licence.key, parent.source) for one in report.family() for parent in one.parents]
    shown = table(("made from", "licence", "said by"), parents)
    return " ".join(lines) + (f"\n\n{shown}" if shown else "")


def _summary(config: "PreTrainedConfig", task: str, datasets: Sequence[str], base_model: str | None) -> str:
    facts = _facts(config)
    if task in LABELLING_TASKS:
        facts.append(f"{config.num_labels:,} labels")
    classes = ", ".join(f"`{name}`" for name in config.architectures or ())
    text = f"A `{config.model_type}` model{f' ({classes})' if classes else ''} for {task.replace('-', ' ')}"
    text += f": {', '.join(facts)}." if facts else "."
    if base_model:
        text += f" {FINE_TUNED} {named(base_model)}."
    if datasets:
        text += f" {TRAINED} {', '.join(named(dataset, 'datasets/') for dataset in datasets)}."
    return text


def _facts(config: "PreTrainedConfig") -> list[str]:
    """The sizes of a model, or of the trunk of one that is made of two."""
    trunk = getattr(config, "backbone_config", None) or config
    sizes = STAGED_SIZES if hasattr(trunk, "depths") else SIZES
    facts = [form.format(_size(getattr(trunk, field))) for field, form in sizes.items() if hasattr(trunk, field)]
    if not hasattr(config, "num_queries"):
        return facts
    trunk_name = getattr(trunk, "backbone", None)  # by a trunk that timm has a name for
    of_detector = [form.format(getattr(config, field)) for field, form in DETECTOR_SIZES.items()]
    return [f"trunk {trunk_name}" if trunk_name else f"trunk of {', '.join(facts)}", *of_detector]


def _images(config: "PreTrainedConfig", preprocessing: Mapping[str, object] | None) -> str:
    channels = getattr(config, "num_channels", None)
    text = f"The model takes {channels} channel{'' if channels == 1 else 's'} per pixel. " if channels else ""
    text += "`preprocessor_config.json` prepares images as they were prepared in training."
    shown = settings(preprocessing)
    return f"{text}\n\n{shown}" if shown else text


def _labels(config: "PreTrainedConfig") -> str:
    names = names_in_order(config.id2label, config.num_labels or 0)
    text = ", ".join(one_line(name) for name in names[:LABELS_SHOWN])
    more = len(names) - LABELS_SHOWN
    return f"{text} and {more:,} more (`id2label` in `config.json`)." if more > 0 else f"{text}."


def _limits(measured: Sequence[Result], further: Sequence[str]) -> str:
    known = "Nothing was measured beyond the figures above" if measured else "No figure was measured for these files"
    general = (
        f"{known}. Check the model on images of your own before you rely on it: other cameras, "
        "populations and image qualities than those of its training data change what it gets right."
    )
    return "\n\n".join([general, *([bullets(further)] if further else [])])


def _size(value: object) -> str:
    """16 -> "16", [30, 42] -> "30 x 42"."""
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
