"""Class names of a data set that keeps them beside its label maps: in a text file, in JSON, or given by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfvision.errors import DatasetError

CLASS_FILES = ("class_names.txt", "classes.txt", "id2label.json", "labels.json")


def names_beside(folder: Path) -> list[str] | None:
    """The classes in the order of their numbers, of the first of `CLASS_FILES` in a folder; None without one."""
    path = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    return None if path is None else names_in_file(path)


def names_in_file(path: Path) -> list[str]:
    """Class names of a text file (one a line) or a JSON file (a list, {"0": name} or {name: 0})."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else text.rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"class names: {path} cannot be read: {error}") from error
    return list_of_names(content, str(path))


def list_of_names(content: Any, where: str) -> list[str]:
    """Class names by number. Raises DatasetError where numbers are missing or names are none."""
    if isinstance(content, Mapping):
        content = {value: key for key, value in content.items()} if _is_label2id(content) else content
        numbers = {str(key): name for key, name in content.items()}
        content = [numbers.get(str(number)) for number in range(len(numbers))]
    named = [name.strip() for name in content if isinstance(name, str)] if isinstance(content, list | tuple) else []
    if not named or len(named) != len(content) or not all(named):
        raise DatasetError(
            f"class names in {where} must be one name for each class 0, 1, 2, ...: a text file with one a line, a "
            'list, or {"0": name, "1": name, ...} without gaps.'
        )
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise DatasetError(f"class names in {where} stand twice: {', '.join(twice)}.")
    return named


def _is_label2id(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, int) for value in content.values())
