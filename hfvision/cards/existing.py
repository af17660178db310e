"""A card that is there already: what of it stays when it is written anew.

Sections are told apart by their titles ("## Title"). Those that hfvision has no newer text for stay, so hand-written
ones do; those that it writes are replaced, unless their first line is `<!-- kept -->`. In the front matter fields that
hfvision does not write stay, and so do further tags.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hfvision.cards.figures import MEASURED, Result
from hfvision.errors import ConfigError

KEPT = "<!-- kept -->"
_FENCE = re.compile(r"\s*(```|~~~)")


@dataclass(frozen=True)
class ExistingCard:
    """Front matter, title and sections of a README.md; empty where there is none."""

    front: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    sections: Mapping[str, str] = field(default_factory=dict)
    results: tuple[Result, ...] = ()  # of its model-index


def read_existing(path: Path) -> ExistingCard:
    """Raises ConfigError for a card whose front matter cannot be read: it is not overwritten."""
    if not path.is_file():
        return ExistingCard()
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
        front = card.data.to_dict()
        results = tuple(_result(one) for one in card.data.get("eval_results", ()))
    except Exception as error:  # of YAML, and of huggingface_hub for a model-index that is none
        said = " ".join(str(error).split())
        raise ConfigError(f"the front matter of {path} cannot be read: {said}. Mend it, or remove the card.") from error
    title, sections = split_sections(card.text)
    return ExistingCard(front, title, sections, results)


def without_quoted(card: ExistingCard) -> ExistingCard:
    """The card without figures that others published; a table of them goes, unless it was written by hand."""
    sections = {name: text for name, text in card.sections.items() if name != "Results" or text.startswith(KEPT)}
    return replace(card, results=tuple(one for one in card.results if one.measured), sections=sections)


def split_sections(body: str) -> tuple[str | None, dict[str, str]]:
    """The title ("# ...") and the text below each "## ...", "" for what comes before; code is no title."""
    title, current, fenced = None, "", False
    lines: dict[str, list[str]] = {"": []}
    for line in body.splitlines():
        fenced ^= _FENCE.match(line) is not None
        if not fenced and line.startswith("## "):
            current = line[3:].strip()
            lines.setdefault(current, [])
        elif not fenced and title is None and current == "" and line.startswith("# "):
            title = line[2:].strip()
        else:
            lines[current].append(line)
    return title, {name: "\n".join(found).strip() for name, found in lines.items()}


def names_said(words: str, intro: str) -> list[str]:
    """The names in a sentence of the introduction that begins with these words: `digits`, or the text of a link."""
    sentence = re.search(rf"{re.escape(words)} ((?:`[^`]*`|\[[^\]]*\]\([^)]*\)|, )+)", intro)
    return [a or b for a, b in re.findall(r"`([^`]*)`|\[([^\]]*)\]\(", sentence[1])] if sentence else []


def merged_sections(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Ours in our order, then what is theirs alone; theirs stay where ours are empty or they say so."""
    merged = {}
    for name, text in ours.items():
        old = theirs.get(name, "")
        merged[name] = old if old.startswith(KEPT) or not text else text
    return merged | {name: text for name, text in theirs.items() if name not in merged}


def merged_front(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, and of theirs the fields that ours lacks; tags of both. What says the licence is ours alone."""
    kept = {key: value for key, value in theirs.items() if not key.startswith("license") and key != "model-index"}
    tags = [*ours.get("tags", ()), *theirs.get("tags", ())]
    return {**ours, **{key: kept[key] for key in kept if key not in ours}, "tags": list(dict.fromkeys(tags))}


def _result(one: Any) -> Result:
    """What `model_index` wrote, or somebody else."""
    samples = (one.metric_args or {}).get("samples") if isinstance(one.metric_args, Mapping) else None
    measured = one.source_name is None and isinstance(samples, int)
    said = str(one.metric_name or one.metric_type)
    return Result(
        one.task_type,
        one.dataset_name,
        str(one.dataset_split or "not said"),
        said.removesuffix(", quoted, not measured").removesuffix(" in per cent"),
        float(one.metric_value),
        samples=samples,
        source=MEASURED if measured else one.source_name or "an earlier card, which does not say by whom",
        url=one.source_url,
        revision=one.dataset_revision,
        percent=" in per cent" in said,
    )
