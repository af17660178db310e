"""Which classes the objects of a data set are of: from what its files declare, what is given, and what occurs.

Shapes: K classes.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hfvision.data.cells import cases, shown
from hfvision.data.class_files import class_file, stored_classes
from hfvision.data.class_names import list_of_names, names_in_file
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import Key, ObjectTable, StoredSplit, file_of
from hfvision.errors import DatasetError
from hfvision.reporting import report

Names: TypeAlias = str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any] | None
LISTED = 10  # keys written out
LABEL_LISTS = ("labels.txt",)  # names one a line, of labelme
IGNORED = ("__ignore__", "_ignore_")
NO_OBJECTS = ("background", "_background_", "__background__", *IGNORED)  # what tools call no object


def is_no_object(name: str) -> bool:
    """Whether a name of a class stands for the background, or for what is to be ignored."""
    return name.strip().lower() in NO_OBJECTS


def is_ignored(name: str) -> bool:
    """Whether a name of an object says that it marks what is to be ignored."""
    return name.strip().lower() in IGNORED


def declared_objects(folder: Path, splits: Collection[ObjectRows]) -> dict[Key, str] | None:
    """The classes that a file beside the data names, each under its own name; None where there is no such file.

    Names for the background that no object has are left out. Both is said of all splits.
    """
    used = {str(key) for rows in splits for key in rows.categories}
    listed = next((folder / name for name in LABEL_LISTS if (folder / name).is_file()), None)
    path = class_file(folder) or listed
    if path is None:
        return None
    names = [one.name for one in stored_classes(path)]
    dropped = [name for name in names if is_no_object(name) and name not in used]
    said = [f"the classes are those of {path.name}"]
    if dropped:
        said.append(f"names in {path.name} that stand for no object are no classes: {shown(map(repr, dropped))}")
    for rows in splits:
        rows.conclusions += said
    return {name: name for name in names if name not in dropped}


def class_set(
    name: str, splits: Mapping[str, StoredSplit], given: Names, problems: list[str]
) -> tuple[list[str], dict[Key, int]]:
    """The names (K,) of the classes, and the class 0..K-1 of every key that a split stores; the first is trained on.

    `given` are names by number, {key as stored: name}, or a file of either. Keys of no class become problems.
    """
    train, *_ = splits.values()
    declared = train.categories or {}
    for split, stored in splits.items():
        problems.extend(_conflicts(declared, stored, split))
    stored_keys = {key for stored in splits.values() for key in stored.objects.keys}
    used = sorted(stored_keys, key=lambda key: (isinstance(key, str), key))
    if given is not None:
        names, labels = _given(given, declared, used)
    else:
        labels = declared or _of_what_occurs(name, train, used, problems)
        names = list(dict.fromkeys(labels.values()))
        _report_numbering(name, declared)
    numbers = {label: number for number, label in enumerate(names)}
    mapping = {key: numbers[label] for key, label in labels.items() if label in numbers}
    if names:
        for split, stored in splits.items():
            problems.extend(_unknown(split, stored, mapping, names))
    return names, mapping


def with_train_ids(objects: ObjectTable, mapping: Mapping[Key, int]) -> Any:
    """(M,) the class of every object; -1 where its key is of none."""
    return np.array([mapping.get(key, -1) for key in objects.keys] or [-1], np.int64)[objects.classes]


def _given(given: Any, declared: Mapping[Key, str], used: Sequence[Key]) -> tuple[list[str], Mapping[Key, str]]:
    """The names of classes, and the name for each key, by what the user says. Raises DatasetError for no names."""
    if isinstance(given, str | os.PathLike):
        given = names_in_file(Path(given))
    is_text = bool(used) and all(isinstance(key, str) for key in used)
    if isinstance(given, Mapping) and not all(isinstance(value, int) for value in given.values()):
        wrong = [f"{key!r}: {name!r}" for key, name in given.items() if not isinstance(name, str) or not name.strip()]
        if wrong:
            raise DatasetError(f"names are {{category as stored: name of its class}}; got {shown(wrong)}.")
        labels = {str(key) if is_text else _whole(key): name.strip() for key, name in given.items()}
        return list(dict.fromkeys(labels.values())), labels
    names = list_of_names(given, "names")
    if declared:
        return names, declared
    return names, {label: label for label in names} if is_text else dict(enumerate(names))


def _of_what_occurs(name: str, train: StoredSplit, used: Sequence[Key], problems: list[str]) -> dict[Key, str]:
    """Sorted texts of the training split, or whole numbers without gaps."""
    keys = train.objects.keys
    if keys and all(isinstance(key, str) for key in keys):
        return {key: str(key) for key in sorted(map(str, keys))}
    numbers = [key for key in used if isinstance(key, int)]
    if not numbers:
        return {}
    if numbers[0] != 0 or numbers[-1] != len(numbers) - 1:
        listed = ", ".join(map(str, numbers[:LISTED])) + (", ..." if len(numbers) > LISTED else "")
        example = ", ".join(f'{number}: "..."' for number in numbers[:3]) + (", ..." if len(numbers) > 3 else "")
        problems.append(
            f"the category ids are {listed}: not 0 to K-1 without gaps, and nothing names them. Give "
            f"names={{{example}}}, which numbers these {len(numbers)} classes from 0 in that order, or a list of all "
            "names where classes without objects leave the gaps"
        )
        return {}
    report(f"the classes of {name} have no names: they are called class 0 to class {len(numbers) - 1}; names=...")
    return {number: f"class {number}" for number in numbers}


def _conflicts(declared: Mapping[Key, str], stored: StoredSplit, split: str) -> list[str]:
    """What a split declares otherwise than the training split."""
    found = stored.categories
    if not declared or not found:
        return []
    where = f"split {split!r}" + (f" ({stored.origin})" if stored.origin else "")
    shared = [key for key in found if key in declared]
    differ = [f"{key}: {found[key]}, there {declared[key]}" for key in shared if declared[key] != found[key]]
    more = [f"{key}: {found[key]}" for key in found if key not in declared]
    kinds = {"are others in": differ, "are not in": more}
    return [
        cases(f"categories of {where} that {kind} the training split ({len(listed)})", listed)
        for kind, listed in kinds.items()
        if listed
    ]


def _unknown(split: str, stored: StoredSplit, mapping: Mapping[Key, int], names: Sequence[str]) -> list[str]:
    """Objects whose category is of no class."""
    objects = stored.objects
    counts = np.bincount(objects.classes, minlength=len(objects.keys))
    found = []
    for number, key in enumerate(objects.keys):
        if key not in mapping and counts[number]:
            first = int(np.flatnonzero(objects.classes == number)[0])
            times = f"{counts[number]:,} object{'s' if counts[number] > 1 else ''}"
            file = file_of(stored.data, int(objects.images[first]))
            found.append(f"{key!r} ({times}, the first {objects.name_of(first)} of {file})")
    if not found:
        return []
    known = shown([f"{key!r}: {names[mapping[key]]}" for key in mapping])
    advice = "Correct the objects, or name all categories: names={category: name, ...}"
    return [
        cases(f"categories in split {split!r} that are not among the {len(names)} classes ({len(found)})", found)
        + f"\n        The classes are {known}. {advice}"
    ]


def _report_numbering(name: str, declared: Mapping[Key, str]) -> None:
    """Say where classes are not numbered as their categories, or share a name."""
    is_named = all(key == label for key, label in declared.items())
    if not is_named and list(declared) != list(range(len(declared))):
        keys = [f"{key}" for key in declared]
        report(
            f"the {len(declared)} categories of {name} have the ids {shown(keys)}: in that order they are classes 0 to "
            f"{len(set(declared.values())) - 1}."
        )
    names = list(declared.values())
    twice = sorted({label for label in names if names.count(label) > 1})
    if twice:
        report(f"categories of {name} that share a name are one class: {shown(twice)}.")


def _whole(key: Any) -> Key:
    """The number of a key that JSON made text."""
    return int(key) if isinstance(key, str) and key.lstrip("-").isdigit() else key
