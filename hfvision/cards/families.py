"""The cards of the families' published files: one for each family and training set, made from the catalogue.

They are `model_cards/` of the repository; `hfvision card --all OUT` writes them. Every figure in them is quoted: they
are about the authors' files, which nobody measured here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hfvision.cards.data_terms import data_terms, hub_datasets
from hfvision.cards.figures import Result, marked, model_index
from hfvision.cards.model_card import assembled, banners, front_matter, licence_section
from hfvision.cards.quoted import quoted
from hfvision.cards.snippets import INSTALL, fenced, snippet
from hfvision.cards.tasks import NAMES
from hfvision.cards.text import bullets, settings, table
from hfvision.catalog import CatalogRow, rows
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.licences import of_row
from hfvision.writing import new_file

TITLES = {
    "vit": "Vision Transformer (ViT)",
    "hybrid": "Hybrid ViT: a ResNet's features into a Vision Transformer",
    "mixer": "MLP-Mixer",
    "deit": "DeiT: data-efficient image transformers",
    "swin": "Swin Transformer",
    "segformer": "SegFormer",
    "segmenter": "Segmenter",
    "upernet": "UPerNet on Swin Transformers",
    "detr": "DETR: detection transformers",
}
_VIT_PAPER = "Dosovitskiy et al. 2020, arXiv 2010.11929"
PAPERS = {
    "vit": _VIT_PAPER,
    "hybrid": _VIT_PAPER,
    "mixer": "Tolstikhin et al. 2021, arXiv 2105.01601",
    "deit": "Touvron et al. 2020, arXiv 2012.12877",
    "swin": "Liu et al. 2021, arXiv 2103.14030",
    "segformer": "Xie et al. 2021, arXiv 2105.15203",
    "segmenter": "Strudel et al. 2021, arXiv 2105.05633",
    "upernet": "Xiao et al. 2018, arXiv 1807.10221; Liu et al. 2021, arXiv 2103.14030",
    "detr": "Carion et al. 2020, arXiv 2005.12872",
}
# How weights were trained where a family has several ways, by the first folder of the file's name.
RECIPES = {
    "augreg": ("augreg", "Steiner et al. 2021, arXiv 2106.10270: augmentation and regularisation chosen by size"),
    "sam": ("sam", "Chen et al. 2021, arXiv 2106.01548: sharpness-aware minimisation"),
    "gsam": ("sam", "Zhuang et al. 2022, arXiv 2203.08065: surrogate gap minimisation"),
}
SEGMENTS = {"imagenet-1k", "imagenet-21k", "imagenet-22k"}  # what a trunk is trained on before, not named in a title
DATASETS = {
    "imagenet-1k": "ImageNet-1k",
    "imagenet-21k": "ImageNet-21k",
    "imagenet-22k": "ImageNet-22k",
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "pascal-context": "PASCAL-Context",
    "coco-2017": "COCO 2017",
    "coco-2017-panoptic": "COCO 2017 panoptic",
}


@dataclass(frozen=True)
class FamilyCard:
    """The card of one family and training set."""

    name: str  # "segmenter-ade20k"; the file is NAME.md
    family: str
    rows: tuple[CatalogRow, ...]
    text: str


def family_cards(family: str | None = None) -> list[FamilyCard]:
    """One card for each family and training set, or those of one family; architectures without a file have none.

    Raises UnknownNameError for a family that has no published files.
    """
    groups: dict[str, list[CatalogRow]] = defaultdict(list)
    for row in rows():
        if row.published and family in (None, row.family):
            groups[_name(row)].append(row)
    if not groups:
        raise UnknownNameError(
            f"no card for the family {family!r}: families with published files are {', '.join(TITLES)}."
        )
    return [FamilyCard(name, found[0].family, tuple(found), _text(found)) for name, found in sorted(groups.items())]


def write_family_cards(out: str | Path, family: str | None = None) -> list[Path]:
    """Write them as OUT/NAME.md, each whole or not at all; returns the paths. Raises ConfigError, UnknownNameError."""
    cards = family_cards(family)
    paths = [Path(out, f"{card.name}.md") for card in cards]
    for card, path in zip(cards, paths, strict=True):
        with new_file(path, ConfigError) as work:
            work.write_text(card.text, encoding="utf-8")
    return paths


def _name(row: CatalogRow) -> str:
    recipe = RECIPES.get(_folder(row), ("", ""))[0]
    return "-".join(filter(None, (row.family, recipe, *_training_set(row))))


def _folder(row: CatalogRow) -> str:
    return (row.file or "").partition("/")[0]


def _training_set(row: CatalogRow) -> tuple[str, ...]:
    """What tells cards of a family apart: all of a classifier's data sets, the last of a model that has a trunk."""
    return row.datasets if set(row.datasets) <= SEGMENTS else row.datasets[-1:]


def _text(found: Sequence[CatalogRow]) -> str:
    first = found[0]
    example = max(found, key=lambda row: len(row.figures))  # the one most is known about
    task = NAMES[example.auto_class]
    reports = [of_row(row) for row in found]
    report = replace(
        of_row(example), parents=tuple({one.model: one for found in reports for one in found.parents}.values())
    )
    datasets = list(dict.fromkeys(name for row in found for name in row.datasets))
    named = ", then ".join(DATASETS.get(name, name) for name in _training_set(first))
    recipe = RECIPES.get(_folder(first), ("", ""))[0]
    title = f"{TITLES[first.family]}{f' ({recipe})' if recipe else ''}, {named}"
    index = [entry for row in found for entry in model_index(row.name, quoted(row)) or []]
    front = front_matter(report.licence, task=task, model_types=list(dict.fromkeys(row.model_type for row in found)))
    front |= {"datasets": hub_datasets(datasets)} | ({"model-index": index} if index else {})
    others = {one.licence.key for one in reports} - {report.licence.key}
    if others:  # one front matter cannot speak for both
        raise ConfigError(
            f"the files of {_name(first)} have several licences: {report.licence.key}, {', '.join(others)}."
        )
    sections = {
        "": "\n\n".join([*banners(report.all()), _summary(found, task)]),
        "Files": _files(found),
        "Use": _use(example, task),
        "Images": _images(found, example),
        "Results": _results(found),
        "Provenance": _provenance(found),
        "Licence": licence_section(report),
        "Limits": _limits(datasets),
        "Notes": _notes(found),
    }
    return assembled(front, title, sections)


def _summary(found: Sequence[CatalogRow], task: str) -> str:
    count = "One file" if len(found) == 1 else f"{len(found)} files"
    trained = dict.fromkeys(" and then ".join(DATASETS.get(name, name) for name in row.datasets) for row in found)
    papers = [PAPERS[found[0].family]]
    papers += dict.fromkeys(RECIPES[_folder(row)][1] for row in found if _folder(row) in RECIPES)
    return (
        f"{count} that the authors published for {task.replace('-', ' ')}, trained on {'; or on '.join(trained)}, and "
        f"how to use {'it' if len(found) == 1 else 'them'} with transformers. Papers: {'. '.join(papers)}."
    )


def _files(found: Sequence[CatalogRow]) -> str:
    cells = []
    for row in found:
        sha = f" (sha256 {row.sha256_prefix}...)" if row.sha256_prefix else ""
        height, width = row.input_size
        cells.append(
            (
                row.name,
                f"`{row.file}`{sha}",
                f"{row.parameters / 1e6:.1f} M",
                f"{row.flops / 1e9:.1f} G" if row.flops else "not computed",
                f"{height} x {width}",
                "; ".join(dict.fromkeys(_figure(figure) for figure in quoted(row))) or "none is quoted",
            )
        )
    head = ("name", "file", "parameters", "FLOPs", "input", "published figure")
    return (
        f"{table(head, cells)}\n\nParameters and FLOPs (a multiply-add counts as two) were computed from the model, "
        'for one image of the input size. Figures are quoted; "Results" says from where.'
    )


def _figure(one: Result) -> str:
    return f"{one.metric} {one.value:g} %" if "(" not in one.metric else f"{one.value:g} % {one.metric}"


def _use(example: CatalogRow, task: str) -> str:
    file = Path(example.file or "").name
    command = f'hfvision convert "{file}" {example.name}'
    return (
        f"{INSTALL[:-1]} get a file from github.com/{example.repository}, and convert it:\n\n"
        f"{fenced(command, 'bash')}\n\n"
        f"That writes the folder `{example.name}`, with a card of its own:\n\n{fenced(snippet(example.name, task))}"
    )


def _images(found: Sequence[CatalogRow], example: CatalogRow) -> str:
    protocols: dict[str, list[str]] = defaultdict(list)
    for row in found:
        protocols[row.protocol].append(row.name)
    lines = [
        f"{protocol} ({', '.join(names)})" if len(protocols) > 1 else protocol for protocol, names in protocols.items()
    ]
    shown = settings(example.preprocessing)
    text = f"How the authors prepared images for their figures:\n\n{bullets(lines)}"
    return f"{text}\n\n`preprocessor_config.json` of {example.name}:\n\n{shown}" if shown else text


def _results(found: Sequence[CatalogRow]) -> str:
    cells = [
        (row.name, f"{one.dataset} ({one.split})", one.metric, f"{one.value:g} %", marked(one))
        for row in found
        for one in quoted(row)
    ]
    shown = table(("name", "data", "metric", "value", "source"), cells)
    return shown or "No figure of these files is quoted here."


def _provenance(found: Sequence[CatalogRow]) -> str:
    containers = "; ".join(dict.fromkeys(row.container for row in found))
    repositories = ", ".join(dict.fromkeys(f"[{row.repository}](https://github.com/{row.repository})" for row in found))
    lines = table(
        ("item", "value"),
        [
            ("source repository", repositories),
            ("container", containers),
            ("conversion format", ", ".join(dict.fromkeys(row.format for row in found))),
        ],
    )
    return (
        f"{lines}\n\n`hfvision convert` writes the file's name and sha256, the date and its own version into the card "
        "of the folder that it makes."
    )


def _limits(datasets: Iterable[str]) -> str:
    lines = [
        "No figure was measured for these files here. Check a model on images of your own before you rely on it: other "
        "cameras, populations and image qualities than those of its training data change what it gets right.",
        *data_terms(datasets),
    ]
    return bullets(lines)


def _notes(found: Sequence[CatalogRow]) -> str:
    """What the catalogue says of the files; what it says of several, once."""
    notes: dict[str, list[str]] = defaultdict(list)
    for row in found:
        for note in row.notes:
            notes[note].append(row.name)
    return bullets(note if len(names) == len(found) else f"{', '.join(names)}: {note}" for note, names in notes.items())
