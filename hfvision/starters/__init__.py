"""Models that ship inside the package: small, trained, answering at once and without a network."""

import json
import math
import os
from pathlib import Path
from typing import Any

# name -> folder of this package that holds config.json, model.safetensors, preprocessor_config.json and README.md
STARTERS = {
    name: Path(__file__).with_name(name)
    for name in (
        "vit-digits",
        "segformer-digit-scenes",
        "segmenter-digit-scenes",
        "detr-digit-scenes",
        "detr-panoptic-digit-scenes",
    )
}


def resolve(name_or_path: str | os.PathLike[str]) -> str:
    """The folder of a starter model, or what was given, as text: a path or a Hub id.

    A folder of the same name in the working directory goes before the starter, as it does for `from_pretrained`.
    """
    given = os.fspath(name_or_path)
    if given in STARTERS and not os.path.isdir(given):
        return str(STARTERS[given])
    return given


def starters() -> list[dict[str, Any]]:
    """For each starter its name, folder, model class, labels, and the number of its parameters."""
    return [_described(name, folder) for name, folder in STARTERS.items()]


def _described(name: str, folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "model.safetensors").open("rb") as file:  # eight bytes of length, then a JSON header
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {
        "name": name,
        "folder": str(folder),
        "architecture": config["architectures"][0],
        "labels": len(config.get("id2label", ())) or 2,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in header.values()),
    }
