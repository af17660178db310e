"""Which licence a model's weights come under: what it states itself, and what its parents do.

A fine-tune states its own licence, but cannot lift what a parent asks for: the strictest wins (`Tier`). A parent that
states nothing is settled by what the fine-tune states, which its maker answers for; where neither states anything, the
licence is unknown.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download, metadata_load

from hfvision.errors import CheckpointReadError, UnknownNameError
from hfvision.licences.known import SEGFORMER, UNKNOWN, Licence, conflict, licence_named, strictest
from hfvision.starters import STARTERS, resolve

if TYPE_CHECKING:
    from hfvision.catalog import CatalogRow

RECORD_FILE = "training_run.json"  # of a fine-tune; its "licence" lists the parents
CONVERSION_FILE = "hfvision_conversion.json"  # its "catalog_row" is the published file that it was
CARD = "README.md"
DEEPEST = 8  # generations that are followed

# Repositories whose cards on the Hub are vague about their licence, or say another than the authors' repository, by
# what their ids start with: (licence, the authors' repository on GitHub, which is what counts).
PUBLISHERS: Mapping[str, tuple[str, str]] = {
    "nvidia/segformer-": (SEGFORMER, "NVlabs/SegFormer"),
    "nvidia/mit-": (SEGFORMER, "NVlabs/SegFormer"),
    "microsoft/swin-": ("mit", "microsoft/Swin-Transformer"),
    "facebook/timesformer-": ("cc-by-nc-4.0", "facebookresearch/TimeSformer"),
    "facebook/deit-": ("apache-2.0", "facebookresearch/deit"),
    "facebook/detr-": ("apache-2.0", "facebookresearch/detr"),
    "google/vit-": ("apache-2.0", "google-research/vision_transformer"),
}


# What published dense models' trunks started from: (model, licence, repository), by family.
_VIT = ("ViT of google-research/vision_transformer (augreg)", "apache-2.0", "google-research/vision_transformer")
_DEIT = ("DeiT", "apache-2.0", "facebookresearch/deit")
_TRUNKS = {
    "segmenter": _VIT,
    "setr": _VIT,
    "upernet": ("Swin Transformer", "mit", "microsoft/Swin-Transformer"),
    "detr": ("ResNet of torchvision", "bsd-3-clause", "pytorch/vision"),
}


@dataclass(frozen=True)
class LicenceReport:
    """The licence of a model, where that is said, and the models that its weights come from."""

    model: str  # as it is called: a Hub id, a catalogue name, a folder's name
    licence: Licence  # what holds: the model's own or, if that is stricter, a parent's
    own: Licence  # what the model states for itself
    source: str  # who says so
    repository: str | None = None  # the authors' repository on GitHub, where one is known
    code: str | None = None  # licence of the authors' code, which the weights need not share
    parents: tuple["LicenceReport", ...] = ()

    @property
    def overruled(self) -> bool:
        """Whether a parent's licence holds in the place of the one that the model states."""
        return self.own.stated and self.licence.key != self.own.key

    @property
    def conflict(self) -> str | None:
        """Why no licence keeps to all of them, or None."""
        return conflict(self.all())

    def all(self) -> list[Licence]:
        """Every licence of the chain whose terms hold, the strictest first."""
        found = {self.licence.key: self.licence}
        for one in self.family():
            if one.own.stated:
                found.setdefault(one.own.key, one.own)
        if self.overruled:
            found.pop(self.own.key, None)  # what was stated and does not hold
        return list(found.values())

    def family(self) -> Iterator["LicenceReport"]:
        """The model, its parents, theirs, and so on."""
        yield self
        for parent in self.parents:
            yield from parent.family()

    def repositories(self) -> dict[str, str]:
        """By the key of a licence, the authors' repository of the first of the family that is under it."""
        found: dict[str, str] = {}
        for one in self.family():
            if one.repository:
                found.setdefault(one.own.key, one.repository)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            **self.licence.to_dict(),
            "stated": self.own.key,
            "source": self.source,
            "repository": self.repository,
            "code_license": self.code,
            "conflict": self.conflict,
            "parents": [parent.to_dict() for parent in self.parents],
        }

    def text(self) -> str:
        """For people."""
        licence = self.licence
        commercial = {True: "allowed", False: "not allowed", None: "not known"}[licence.commercial]
        lines = [
            f"{self.model}: {licence.name} ({licence.key})",
            *([f"    {licence.banner}"] if licence.banner else []),
            f"    said by         {self.source}",
            f"    allows          {licence.allows}",
            f"    commercial use  {commercial}",
            *([f"    full text       {licence.url}"] if licence.url else []),
            *(
                [f"    code            {self.code} (the authors' code; the weights have their own terms)"]
                * bool(self.code)
            ),
            *(
                "    a copy carries  " * (not row) + " " * 20 * bool(row) + what
                for row, what in enumerate(self._carried())
            ),
        ]
        if self.overruled:
            lines.append(f"    {self.own.key} is what the model states; a parent's terms are stricter, and hold")
        if self.conflict:
            lines.append(f"    Conflict: {self.conflict}")
        return "\n".join([*lines, *self._chain(1)])

    def _carried(self) -> list[str]:
        """What a card and a copy must have, by all licences that hold."""
        return list(dict.fromkeys(what for licence in self.all() for what in licence.carry)) or ["nothing"]

    def _chain(self, depth: int) -> list[str]:
        lines = []
        for parent in self.parents:
            lines.append(f"{'    ' * depth}made from {parent.model}: {parent.licence.key}, said by {parent.source}")
            lines += parent._chain(depth + 1)
        return lines


def licence_of(model: str | Path) -> Licence:
    """The licence that holds for the weights of a model folder, a Hub id, a catalogue row or a starter.

    Raises CheckpointReadError where there is no such model; UNKNOWN is a model that states none.

    Example:
        >>> import hfvision
        >>> hfvision.licence_of("vit-digits").name
        'Apache License 2.0'
    """
    return trace(model).licence


def trace(model: str | Path, *, download: bool = True) -> LicenceReport:
    """The same with its sources and the chain of parents. `download`: whether a card may be fetched from the Hub.

    Raises CheckpointReadError that says what was looked for.
    """
    return _traced(str(model), download, DEEPEST)


def of_row(row: "CatalogRow") -> LicenceReport:
    """That of a row of the catalogue, with what its trunk started from."""
    licence = licence_named(row.license, row.license_name)
    parents = []
    if row.family in _TRUNKS:
        model, key, repository = _DEIT if "-deit-" in row.name else _TRUNKS[row.family]
        trunk = licence_named(key)
        parents.append(LicenceReport(model, trunk, trunk, f"github.com/{repository}", repository))
    code = licence_named(row.code_license, row.license_name).key
    return LicenceReport(
        row.name, licence, licence, f"github.com/{row.repository}", row.repository, code, tuple(parents)
    )


def inherit(
    name: str, stated: str | Licence | None, parents: Sequence[LicenceReport], source: str = "its maker"
) -> LicenceReport:
    """The licence of a model of that name, made from the parents; `stated` by its maker, or None."""
    own = stated if isinstance(stated, Licence) else licence_named(stated)
    return LicenceReport(name, _holds(own, parents), own, source, parents=tuple(parents))


def of_parent(name: str, source: str | None = None) -> LicenceReport:
    """The report of a model that training starts from, `source` being where its files are; one that cannot be read
    states nothing.
    """
    try:
        found = trace(source or name)
    except CheckpointReadError:
        return LicenceReport(shown(name), UNKNOWN, UNKNOWN, "nobody: no card could be read")
    return replace(found, model=shown(name))


def shown(name: str) -> str:
    """A Hub id or a name as it is, of a path the last part: a card is published."""
    return Path(name).resolve().name if Path(name).exists() or Path(name).is_absolute() else name


def _holds(own: Licence, parents: Iterable[LicenceReport]) -> Licence:
    theirs = [parent.licence for parent in parents]
    if not own.stated:
        return strictest(theirs) if theirs else UNKNOWN
    return strictest([own, *(one for one in theirs if one.stated and one.tier > own.tier)])


def _traced(model: str, download: bool, deep: int) -> LicenceReport:
    path = Path(resolve(model))
    if path.is_dir():
        return _of_folder(path, model if model in STARTERS else path.resolve().name, download, deep)
    if (published := _of_publisher(model)) is not None:
        return published
    row = _of_catalog(model)
    return row if row is not None else _of_hub(model, download, deep)


def _of_folder(folder: Path, name: str, download: bool, deep: int) -> LicenceReport:
    front = _front_matter(folder / CARD) if (folder / CARD).is_file() else None
    if front is None and not (folder / "config.json").is_file():
        raise CheckpointReadError(
            f"{folder} holds neither a model (config.json) nor a card ({CARD}): no licence to read."
        )
    where = f"{CARD} of {name}" if front else f"nobody: {name} has no card ({CARD})"
    recorded = _record(folder / RECORD_FILE)
    if recorded is not None:
        parents: tuple[LicenceReport, ...] = tuple(_from_record(parent) for parent in recorded.get("parents", ()))
    else:
        parents = _parents(front or {}, deep)
    report = inherit(name, _of_front(front or {}), parents, where)
    return replace(report, repository=_source_repository(folder))


def _of_publisher(model: str) -> LicenceReport | None:
    for start, (key, repository) in PUBLISHERS.items():
        if model.startswith(start):
            licence = licence_named(key)
            return LicenceReport(model, licence, licence, f"github.com/{repository}", repository)
    return None


def _of_catalog(model: str) -> LicenceReport | None:
    from hfvision.catalog import row

    try:
        found = row(model)
    except UnknownNameError:
        return None
    return of_row(found)


def _of_hub(model: str, download: bool, deep: int) -> LicenceReport:
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model) is None:
        raise CheckpointReadError(f"there is no model folder {model!r} (from {Path.cwd()}).")
    try:
        front = _front_matter(Path(hf_hub_download(model, CARD, local_files_only=not download)))
    except Exception as error:  # no such repository, no network, no cache, no card: huggingface_hub has many errors
        from hfvision.catalog import nearest, rows

        near = nearest(model, [*(one.name for one in rows()), *STARTERS])
        raise CheckpointReadError(
            f"no licence of {model!r} can be read: it is no folder, no starter ({', '.join(STARTERS)}), no row of the "
            f"catalogue{f' (the nearest: {near[0]})' if near else ''}, and no card of a Hub repository of that name is "
            f"at hand ({type(error).__name__}). Give a folder, or try again with a network."
        ) from error
    return inherit(model, _of_front(front or {}), _parents(front or {}, deep), f"{CARD} of huggingface.co/{model}")


def _of_front(front: Mapping[str, Any]) -> Licence:
    """Of several licences in a card the strictest."""
    stated = front.get("license")
    listed = stated if isinstance(stated, list) else [stated]
    found = [
        licence_named(_text(one), _text(front.get("license_name")), _text(front.get("license_link"))) for one in listed
    ]
    return strictest(found) if found else UNKNOWN


def _parents(front: Mapping[str, Any], deep: int) -> tuple[LicenceReport, ...]:
    """The models that a card names as `base_model`; what is not at hand is asked of nobody."""
    stated = front.get("base_model") or ()
    found = []
    for name in [stated] if isinstance(stated, str) else stated:
        try:
            if deep and isinstance(name, str):
                found.append(_traced(name, False, deep - 1))
        except CheckpointReadError:
            found.append(LicenceReport(str(name), UNKNOWN, UNKNOWN, "nobody: its card is not at hand"))
    return tuple(found)


def _record(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("licence")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) else None


def _from_record(entry: Mapping[str, Any]) -> LicenceReport:
    """What `LicenceReport.to_dict` wrote."""
    hub = entry.get("hub", {})
    licence = licence_named(hub.get("license"), hub.get("license_name"), hub.get("license_link"))
    return LicenceReport(
        str(entry.get("model")),
        licence,
        licence_named(entry.get("stated")),
        str(entry.get("source")),
        entry.get("repository"),
        entry.get("code_license"),
        tuple(_from_record(parent) for parent in entry.get("parents", ())),
    )


def _source_repository(folder: Path) -> str | None:
    """The authors' repository of a published file, by the catalogue's row that the record of its conversion names."""
    from hfvision.catalog import row

    try:
        return row(json.loads((folder / CONVERSION_FILE).read_text(encoding="utf-8"))["catalog_row"]).repository
    except (OSError, ValueError, TypeError, LookupError):  # no record, no row in it, or one of another version
        return None


def _front_matter(card: Path) -> dict[str, Any] | None:
    """What stands between the first lines "---"; None where there is none that can be read."""
    try:
        return metadata_load(card)
    except (OSError, ValueError, UnicodeError) as error:
        raise CheckpointReadError(f"{card} has no front matter that can be read: {error}") from error
    except Exception as error:  # of the YAML reader, whose errors have no base class of Python's
        raise CheckpointReadError(
            f"{card} has no front matter that can be read: {' '.join(str(error).split())}"
        ) from error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
