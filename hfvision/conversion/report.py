"""What a conversion did: for people, for programs, and for the record in the folder that it wrote."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RECORD_FILE = "hfvision_conversion.json"  # the whole report, beside the converted model
SHOWN = 6  # keys that the report for people writes out for each reason
RECORD_FIELD = "hfvision_conversion"  # in config.json: what the way back needs; other programs pass it on unread


@dataclass(frozen=True)
class ConversionReport:
    """Everything that was taken over, left out, guessed or changed, with names and counts."""

    direction: str  # "to huggingface" or "to original"
    format: str
    source: str  # file or folder name, without its path
    sha256: str
    out: str
    model_type: str
    model_class: str
    config: Mapping[str, Any]
    tensors: int  # in the source
    used: int  # of them
    parameters: int  # numbers in the tensors written
    dropped: Mapping[str, str] = field(default_factory=dict)  # key of the source -> reason
    added: Mapping[str, str] = field(default_factory=dict)  # key of the result that has no source -> reason
    left_out: tuple[str, ...] = ()  # what the source file held besides tensors
    assumed: tuple[str, ...] = ()  # what the tensors cannot tell
    given: tuple[str, ...] = ()  # what was set and the tensors cannot confirm
    changed: tuple[str, ...] = ()  # what cannot be undone exactly
    notes: tuple[str, ...] = ()
    licence: str = ""  # of the weights, whose it is and what to do if it is not; in words
    checked: tuple[str, ...] = ()  # what was compared after writing
    files: tuple[str, ...] = ()  # written, without their path
    entry: str | None = None  # of a training file, that held the weights
    dtype: str = ""  # of all weights written
    recognised: str = ""  # which row of the catalogue the source is, or what of it differs; in words
    recognition: Mapping[str, Any] = field(default_factory=dict)  # the same as data
    weights: str = ""  # digest of those written for a published file, to tell whether they were trained since
    catalog_row: str | None = None  # the row's name, where the source is the published file itself

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def record(self) -> str:
        """JSON to keep beside the model: without this machine's path, and without what config.json says."""
        left = {"out", "config"} if self.catalog_row else {"out", "config", "catalog_row", "weights"}
        kept = {key: value for key, value in self.to_dict().items() if key not in left}
        return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"

    def text(self) -> str:
        """The report for people, several lines."""
        inside = f", entry {self.entry!r}" if self.entry else ""
        lines = [
            f"{self.source} (sha256 {self.sha256[:12]}{inside}) {self.direction}, format {self.format}",
            f"{self.model_class} ({self.model_type}): {self.used} of {self.tensors} tensors used, "
            f"{self.parameters:,} parameters written{f' as {self.dtype}' if self.dtype else ''}",
        ]
        if self.recognised:
            lines.append(f"catalogue: {self.recognised}")
        lines += [f"dropped: {keys}: {reason}" for reason, keys in _by_reason(self.dropped)]
        lines += [f"filled in: {keys}: {reason}" for reason, keys in _by_reason(self.added)]
        if self.assumed:
            lines.append(f"assumed, since the tensors cannot tell: {', '.join(self.assumed)}")
        if self.given:
            lines.append(f"set, and the tensors cannot confirm it: {', '.join(self.given)}")
        lists = {
            "left in the file": self.left_out,
            "from the catalogue": self.recognition.get("taken", ()),
            "changed": self.changed,
            "note": self.notes,
            "checked": self.checked,
        }
        if self.licence:
            lines.append(f"licence: {self.licence}")
        lines += [f"{what}: {line}" for what, entries in lists.items() for line in entries]
        return "\n".join(lines)


def _by_reason(keys: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each reason once, with its keys; of many the first and their number, the record has all."""
    grouped: dict[str, list[str]] = {}
    for key, reason in keys.items():
        grouped.setdefault(reason, []).append(key)
    return [
        (reason, ", ".join(group[:SHOWN]) + (f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""))
        for reason, group in grouped.items()
    ]
