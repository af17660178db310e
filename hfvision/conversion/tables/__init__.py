"""The tables of all original formats that hfvision converts: one module each, one row here."""

from collections.abc import Iterable, Mapping
from typing import Any

from hfvision.conversion.formats import Format
from hfvision.conversion.tables import (
    deit,
    detr,
    google_hybrid,
    google_mixer,
    google_vit,
    segformer,
    segmenter,
    setr,
    swin,
    timm_hybrid,
    timm_mixer,
    timm_swin,
    timm_vit,
    upernet,
)
from hfvision.errors import ConversionError, UnknownNameError

FORMATS: tuple[Format, ...] = (
    google_vit.FORMAT,
    google_hybrid.FORMAT,
    google_mixer.FORMAT,
    deit.FORMAT,
    timm_vit.FORMAT,
    timm_hybrid.FORMAT,
    timm_mixer.FORMAT,
    swin.FORMAT,
    timm_swin.FORMAT,
    segformer.FORMAT,
    segmenter.FORMAT,
    setr.FORMAT,
    upernet.FORMAT,
    detr.FORMAT,
)


def recognise(keys: Iterable[str], family: str | None = None, entry: str | None = None) -> Format:
    """The format that a checkpoint with these keys has; `family` names it instead.

    Where several have the same keys, the entry of the file that held them tells whose they are. Raises
    UnknownNameError for an unknown family, ConversionError if no format or several fit the keys.
    """
    keys = list(keys)
    found = candidates(keys, family, entry)
    if len(found) == 1:
        return found[0]
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    known = "".join(f"\n    {one.name}: {one.title}" for one in found or FORMATS)
    if found:
        raise ConversionError(f"several formats have the keys {shown}; name one (--family):{known}")
    raise ConversionError(f"no known format has the keys {shown}. Known formats (--family):{known}")


def candidates(keys: Iterable[str], family: str | None = None, entry: str | None = None) -> list[Format]:
    """The formats in question: none, one, or several that the entry does not tell apart either.

    Raises UnknownNameError for an unknown family.
    """
    keys = list(keys)
    possible = of_family(family)
    if family is not None and len(possible) == 1:
        return list(possible)
    found = [one for one in possible if one.matches(keys)]
    if len(found) > 1:
        found = [one for one in found if entry in one.entries] or found
    return found


def recognise_folder(config: Mapping[str, Any], family: str | None = None, suffix: str = "") -> Format:
    """The format to write a folder back to: that of its conversion record, else the one for its model_type.

    Where several have a place for that, the suffix of the file to write tells which one is meant. Raises
    UnknownNameError for an unknown family, ConversionError if no format or several take the model_type.
    """
    model_type = config.get("model_type")
    record = config.get("hfvision_conversion") or {}
    found = [candidate for candidate in of_family(family) if model_type in candidate.model_types]
    recorded = [candidate for candidate in found if candidate.name == record.get("format")]
    found = found if family is not None else recorded or found
    if len(found) > 1:
        found = [candidate for candidate in found if suffix in candidate.suffixes] or found
    if len(found) == 1:
        return found[0]
    known = "".join(f"\n    {one.name}: model_type {' or '.join(one.model_types)}" for one in FORMATS)
    count = "several original formats have" if found else "no original format has"
    raise ConversionError(f"{count} a place for model_type {model_type!r}; known formats (--family):{known}")


def of_family(family: str | None) -> tuple[Format, ...]:
    """The formats of a family, or the one of that name; None: all. Raises UnknownNameError."""
    chosen = tuple(one for one in FORMATS if family is None or family in (one.name, one.family))
    if not chosen:
        known = ", ".join(f"{one.family} ({one.name}: {one.title})" for one in FORMATS)
        raise UnknownNameError(f"no original format or family is called {family!r}; known: {known}.")
    return chosen
