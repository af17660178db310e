"""What a repository says about itself: its card's YAML, its config, its weights' headers, and the tags from them.

Users' files are read with caps on size, depth and number of values, and nothing in them is ever executed (protocol
sections 4.1, 4.2, 9 and 12).
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

from hfvision.tasks import task_of_class

MOST_VALUES = 50_000  # in one card or config, aliases counted each time they are used
MOST_DEPTH = 40
MOST_TAGS = 300
TAG_LENGTH = 150
HEADER_LIMIT = 32 * 1024**2  # bytes of a safetensors header
HEADER_PARTS = 3_000_000  # values in it, six or seven for each tensor
CONFIG_VALUE_LIMIT = 1024  # characters of one value of a config that is kept beside the repository
LONGEST_NUMBER = 1000  # characters
_NUMBER = re.compile(r"[-+0-9_:.]+")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)

# endings of data files -> tags of a dataset
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")


@dataclass(frozen=True)
class Card:
    """YAML metadata of a README.md; `errors` are reasons why it cannot be used, `warnings` what is odd."""

    data: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Refused(ValueError):
    pass


def parse_card(text: str, limit: int) -> Card:
    """Metadata of a README.md whose text has at most `limit` characters."""
    found = _FRONT_MATTER.match(text[: limit + 1])
    if found is None or not found[1].strip():
        return Card(warnings=("empty or missing yaml metadata in repo card",))  # clients match these words
    if len(found[1]) > limit:
        return Card(errors=(f"the metadata have more than {limit} characters",))
    try:
        _survey(found[1])
        data = plain(yaml.load(found[1], Loader=_LOADER))  # a safe loader: builds plain values only
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        return Card(errors=(f"the metadata are not YAML that the hub reads: {' '.join(str(error).split())[:300]}",))
    if not isinstance(data, dict):
        return Card(errors=("the metadata must be `key: value` lines",))
    errors = []
    if "model-index" in data and not isinstance(data["model-index"], list):
        errors.append('"model-index" must be an array')  # clients match these words
    for key in ("pipeline_tag", "library_name"):
        if data.get(key) is not None and not isinstance(data[key], str):
            errors.append(f'"{key}" must be a string')
    return Card({} if errors else data, tuple(errors))


def _survey(text: str) -> None:
    """Refuse YAML that is deep or long before anything is built from it."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            # a few merges of merges would fill any memory, and long numbers of base 60 take for ever
            tag = event.tag or ""
            if (event.value == "<<" and event.implicit[0]) or tag.endswith(":merge"):
                raise _Refused("merges (<<), which cards do without")
            number = tag.endswith((":int", ":float")) or _NUMBER.fullmatch(event.value)
            if len(event.value) > LONGEST_NUMBER and number:
                raise _Refused(f"a number of more than {LONGEST_NUMBER} characters")
        if depth > MOST_DEPTH or count > MOST_VALUES:
            raise _Refused(f"more than {MOST_DEPTH} levels or {MOST_VALUES} values")


def plain(value: Any) -> Any:
    """The same value with what JSON knows only: texts that can be encoded, finite numbers, lists, dicts of texts.

    Raises ValueError for one that is too deep or has too many parts, counted as if written out.
    """
    left = MOST_VALUES

    def convert(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MOST_DEPTH:
            raise _Refused(f"more than {MOST_DEPTH} levels or {MOST_VALUES} values")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) < 2**63 else str(value) if abs(value) < 2**4096 else None
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, str):
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        if isinstance(value, dict):
            return {str(convert(key, depth + 1)): convert(one, depth + 1) for key, one in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [convert(one, depth + 1) for one in value]
        if isinstance(value, date):  # datetimes too
            return value.isoformat()
        return str(value)[:TAG_LENGTH]

    return convert(value, 0)


def json_parts(data: bytes) -> int:
    """At most how many values JSON can have, without reading it: each takes memory, some twenty times its text."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def parse_json(data: bytes) -> Any:
    """JSON made plain; None if it is none or too large in depth or number of values."""
    try:
        return plain(json.loads(data))
    except (ValueError, RecursionError):
        return None


def brief_config(config: Any) -> dict[str, Any] | None:
    """What is kept of a config.json: its short values."""
    if not isinstance(config, dict):
        return None
    return {key: value for key, value in config.items() if len(json.dumps(value)) <= CONFIG_VALUE_LIMIT}


def infer_library(card: dict[str, Any], config: dict[str, Any] | None, files: Iterable[str]) -> str | None:
    """`library_name`: the card's, else by the marks that libraries leave in config.json."""
    if card.get("library_name"):
        return str(card["library_name"])
    if config:
        if "pretrained_cfg" in config and "architecture" in config:
            return "timm"
        if any(key in config for key in ("architectures", "model_type", "transformers_version")):
            return "transformers"
    return "diffusers" if "model_index.json" in set(files) else None


def infer_task(card: dict[str, Any], config: dict[str, Any] | None, library: str | None) -> str | None:
    """`pipeline_tag`: the card's, else by the class name of the model."""
    if card.get("pipeline_tag"):
        return str(card["pipeline_tag"])
    names = (config or {}).get("architectures")
    for name in names if isinstance(names, list) else []:
        if task := task_of_class(str(name)):
            return task.name
    return "image-classification" if library == "timm" else None


def tensor_counts(header: Any) -> dict[str, int]:
    """{dtype: parameters} of a safetensors header. Raises ValueError if it is none."""
    counts: dict[str, int] = {}
    if not isinstance(header, dict):
        raise ValueError("a safetensors header is a JSON object")
    for name, row in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(row, dict) or not isinstance(row.get("dtype"), str) or not isinstance(row.get("shape"), list):
            raise ValueError("a tensor has no dtype or shape")
        if not all(isinstance(side, int) and 0 <= side < 2**48 for side in row["shape"]) or len(row["shape"]) > 16:
            raise ValueError("a tensor's shape cannot be")
        counts[row["dtype"][:16]] = counts.get(row["dtype"][:16], 0) + math.prod(row["shape"])
    if len(counts) > 64 or any(count >= 2**62 for count in counts.values()):
        raise ValueError("impossible counts")
    return counts


def read_safetensors_header(read: Callable[[int, int], bytes], size: int) -> Any:
    """JSON header of a safetensors file of `size` bytes; `read` gives bytes start..end. ValueError if it is none."""
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
        raise ValueError("no safetensors header")
    header = read(8, 8 + length)
    if json_parts(header) > HEADER_PARTS:
        raise ValueError("a safetensors header with more values than any model has")
    try:
        return json.loads(header)
    except RecursionError as error:
        raise ValueError("no safetensors header") from error


def tags(
    kind: str,
    card: dict[str, Any],
    config: dict[str, Any] | None,
    library: str | None,
    task: str | None,
    files: Sequence[str],
) -> list[str]:
    """Tags that lists can be filtered by, each once, in a stable order (protocol section 4.2)."""
    found: list[str] = []
    if kind == "model":
        found += [name for name in (library, task) if name]
        if any(path.endswith(".safetensors") for path in files):
            found.append("safetensors")
        if config and isinstance(config.get("model_type"), str):
            found.append(config["model_type"])
    if kind == "dataset":
        endings = {"." + path.rpartition(".")[2].lower() for path in files}
        formats = sorted({FORMATS[ending] for ending in endings if ending in FORMATS} - {"json"})
        pictures = not endings.isdisjoint(IMAGES)
        if "json" in {FORMATS.get(ending) for ending in endings} and not formats and not pictures:
            formats = ["json"]
        found += [f"format:{name}" for name in (formats or (["imagefolder"] if pictures else []))]
        if pictures or '"dtype": "image"' in json.dumps(card.get("dataset_info", "")):
            found.append("modality:image")
        for key in ("task_categories", "size_categories"):
            found += [f"{key}:{value}" for value in _texts(card.get(key))]
    for key, prefix in (
        ("license", "license:"),
        ("language", ""),
        ("datasets", "dataset:"),
        ("base_model", "base_model:"),
    ):
        found += [prefix + value for value in _texts(card.get(key))]
    found += [f"arxiv:{value}" for value in _texts(card.get("arxiv"))]
    found += _texts(card.get("tags"))
    return list(dict.fromkeys(tag for tag in found if len(tag) <= TAG_LENGTH))[:MOST_TAGS]


def _texts(value: Any) -> list[str]:
    """A card's field that may be one text or a list of them."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if isinstance(one, (str, int, float)) and not isinstance(one, bool) and str(one)]
