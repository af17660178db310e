"""The card of a model folder, whether converted, fine-tuned or a starter: written, or refreshed.

What it says comes from config.json, the image processor, and the records of conversion, training and evaluation. What
a card that is there says beyond that stays; see `hfvision.cards.existing`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hfvision.cards.data_terms import data_terms, hub_datasets
from hfvision.cards.existing import (
    ExistingCard,
    merged_front,
    merged_sections,
    names_said,
    read_existing,
    without_quoted,
)
from hfvision.cards.figures import ClassTable, Result
from hfvision.cards.model_card import CARD, FINE_TUNED, TRAINED, assembled, card_parts
from hfvision.cards.quoted import quoted
from hfvision.cards.records import classes_of, measured, of_these_weights, read_record, row_of
from hfvision.cards.tasks import NAMES, task_of
from hfvision.catalog import CatalogRow
from hfvision.errors import CheckpointReadError, ConfigError
from hfvision.licences import LicenceReport, inherit, of_row, trace, write_licence_files
from hfvision.licences.inheritance import CONVERSION_FILE, RECORD_FILE
from hfvision.registry import ARCHITECTURES, load
from hfvision.reporting import report as say
from hfvision.writing import new_file


def write_folder_card(folder: str | Path, *, name: str | None = None, license: str | None = None) -> Path:
    """Write or refresh README.md of a model folder, and LICENSE where its terms want it beside the weights.

    `name` is what the title and the snippet call the model, "me/my-model"; by default what they call it now, or else
    the folder's name. `license` states the licence of the weights, which a stricter one of a parent overrules
    (reported in the card). Raises CheckpointReadError for a folder without a model, ConfigError for a card whose front
    matter cannot be read or a disk that cannot be written.

    Example:
        >>> import tempfile, hfvision
        >>> folder = tempfile.mkdtemp()
        >>> hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1).save_pretrained(folder)
        >>> hfvision.write_folder_card(folder, name="me/my-deit").name
        'README.md'
    """
    folder = Path(folder)
    text, report = _written(folder, name, license)
    with new_file(folder / CARD, ConfigError) as work:
        work.write_text(text, encoding="utf-8")
    write_licence_files(folder, report.all(), report.repositories())
    return folder / CARD


def folder_card(folder: str | Path, *, name: str | None = None, license: str | None = None) -> str:
    """The text that `write_folder_card` writes."""
    return _written(Path(folder), name, license)[0]


def row_card(row: CatalogRow, name: str | None = None) -> str:
    """The card of a published file before it is converted, as far as the catalogue knows it."""
    config = load(ARCHITECTURES[row.model_type].config).from_catalog(row.name)
    config.architectures = [row.model_class]
    front, sections = card_parts(
        config,
        name=name or row.name,
        license=of_row(row),
        task=NAMES[row.auto_class],
        datasets=row.datasets,
        provenance={
            "source repository": f"github.com/{row.repository}",
            "source file": row.file or "none was published",
            **({"sha256 begins with": row.sha256_prefix} if row.sha256_prefix else {}),
            "format": row.format,
            "catalogue row": row.name,
        },
        results=quoted(row),
        notes=row.notes,
        preprocessing=row.preprocessing,
        limits=data_terms(row.datasets),
    )
    return assembled(front | {"datasets": hub_datasets(row.datasets)}, name or row.name, sections)


def _written(folder: Path, name: str | None, license: str | None) -> tuple[str, LicenceReport]:
    config = _config(folder)
    old = read_existing(folder / CARD)
    title = name or old.title or folder.resolve().name
    conversion = read_record(folder / CONVERSION_FILE)
    origin = row_of(conversion)
    row = origin
    if origin is not None and not of_these_weights(folder, conversion):
        row = None  # trained since: figures of the published file are not theirs, its terms are a parent's
        old = without_quoted(old)
        say(
            f"the weights in {folder.name} are not those that were converted from {origin.name} any more: its figures "
            "are left out of the card, and its licence counts as a parent's."
        )
    report = _licence(folder, title, license, row, origin)
    results = _results(folder, old, row)
    classes = classes_of(folder)
    front, sections = card_parts(
        config,
        name=title,
        license=report,
        task=_task(config, old),
        datasets=_datasets(folder, old, row),
        base_model=_base_model(folder, old),
        provenance={} if old.sections.get("Provenance") else _provenance(conversion),
        results=results,
        classes=ClassTable(*classes) if classes else None,
        notes=[] if old.sections.get("Notes") else conversion.get("notes", ()),
        preprocessing=read_record(folder / "preprocessor_config.json"),
        limits=data_terms(row.datasets) if row else (),
    )
    if row:
        front["datasets"] = hub_datasets(row.datasets)
    text = assembled(merged_front(front, old.front), title, merged_sections(sections, old.sections))
    return text, report


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CheckpointReadError(
            f"{folder} has no config.json: a card is written for a model folder. Give that folder."
        )
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointReadError(f"{folder}/config.json cannot be read: {error}") from error


def _task(config: Any, old: ExistingCard) -> str:
    return task_of(config) or str(old.front.get("pipeline_tag") or "image-feature-extraction")


def _licence(
    folder: Path, title: str, license: str | None, row: CatalogRow | None, origin: CatalogRow | None
) -> LicenceReport:
    """What is stated now, else in the card, unless a parent's terms are stricter; of a published file, `row`, its
    authors'. `origin` is that which the weights were before they were trained.
    """
    found = replace(trace(folder, download=False), model=title)
    published = None if row is None else replace(of_row(row), model=title)
    if license is None and published is not None and found.own.key in (published.own.key, "unknown"):
        return published
    parents = found.parents if origin is None else (of_row(origin),)
    if license is None and origin is None:
        return found
    own = found.own if license is None else license
    return replace(inherit(title, own, parents, "its maker"), repository=found.repository)


def _results(folder: Path, old: ExistingCard, row: CatalogRow | None) -> list[Result]:
    """Measured anew, then what the old card has, then what is quoted of a published file."""
    found = [*measured(folder), *old.results, *(quoted(row) if row else ())]
    unique: dict[tuple[str, ...], Result] = {}
    for one in found:
        unique.setdefault(
            (one.dataset, one.split, one.metric_type, "" if one.measured else one.metric + one.source), one
        )
    return list(unique.values())


def _datasets(folder: Path, old: ExistingCard, row: CatalogRow | None) -> list[str]:
    if row is not None:
        return list(row.datasets)
    trained = read_record(folder / RECORD_FILE).get("plan", {}).get("data", {}).get("name")
    stated = old.front.get("datasets") or names_said(TRAINED, old.sections.get("", ""))
    return [str(trained)] if trained else [stated] if isinstance(stated, str) else list(stated)


def _base_model(folder: Path, old: ExistingCard) -> str | None:
    """Of several parents the first; the licence section names all."""
    stated = old.front.get("base_model") or names_said(FINE_TUNED, old.sections.get("", ""))
    parents = read_record(folder / RECORD_FILE).get("licence", {}).get("parents") or ()
    found = parents[0]["model"] if parents else stated
    return found[0] if isinstance(found, list) and found else found or None


def _provenance(conversion: dict[str, Any]) -> dict[str, str]:
    shown = {"source": "source file", "sha256": "sha256", "entry": "entry", "format": "format"}
    shown |= {"catalog_row": "catalogue row"}
    return {title: str(conversion[key]) for key, title in shown.items() if conversion.get(key)}
