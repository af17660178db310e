"""Markdown that nothing users write can break: tables, links, one-line texts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SETTINGS_SHOWN = ("size", "resample", "do_center_crop", "crop_size", "rescale_factor", "image_mean", "image_std")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, or "" when there are no rows."""
    lines = ["| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def one_line(value: object) -> str:
    return " ".join(str(value).split())


def bullets(lines: Iterable[object]) -> str:
    return "\n".join(f"- {one_line(line)}" for line in lines)


def is_hub_id(name: str) -> bool:
    """Whether `name` reads "owner/name" and is no folder here. (A bare name could be either; it gets no link.)"""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def named(source: str, kind: str = "") -> str:
    """A link to a Hub id; of a local folder the last segment only, since a card is published."""
    return f"[{source}](https://huggingface.co/{kind}{source})" if is_hub_id(source) else f"`{Path(source).name}`"


def settings(preprocessing: Mapping[str, object] | None) -> str:
    """What an image processor does, as a table; "" where it says nothing."""
    given = preprocessing or {}
    rows = [(key, _setting(key, given[key])) for key in SETTINGS_SHOWN if given.get(key) is not None]
    return table(("setting", "value"), rows)


def _setting(name: str, value: object) -> str:
    """A processor's setting in words: {"height": 30, "width": 42} -> "30 x 42", resample 2 -> "bilinear"."""
    if name == "resample" and isinstance(value, int):
        return Image.Resampling(value).name.lower()
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        return f"{value['height']} x {value['width']}"
    if isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
        return f"short side {value['shortest_edge']}"
    if isinstance(value, Mapping) and value.keys() == {"shortest_edge", "longest_edge"}:
        return f"short side {value['shortest_edge']}, long side at most {value['longest_edge']}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
