"""What was said of how data is read, as it is kept beside a model and holds when the model is measured later."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hfvision.data.class_names import names_in_file
from hfvision.data.mask_values import label_map_given
from hfvision.reading_options import ReadingOptions

SHOWN = 40  # characters of a value that is written out


def remembered(options: ReadingOptions) -> dict[str, Any]:
    """JSON values of the options that say something and are remembered; files become what they hold."""
    said = {
        option.name: getattr(options, option.name)
        for option in fields(ReadingOptions)
        if option.metadata["remembered"] and getattr(options, option.name) != option.default
    }
    if "names" in said:
        names = said["names"]
        said["names"] = names_in_file(Path(names)) if isinstance(names, str | os.PathLike) else names
        if isinstance(said["names"], Mapping):
            said["names"] = {str(key): name for key, name in said["names"].items()}
    if "label_map" in said:
        given = said["label_map"]
        is_name = isinstance(given, str) and not given.endswith(".json")
        said["label_map"] = given if is_name else label_map_given(given).to_dict()
    return json.loads(json.dumps(said, default=list))


def in_words(reading: Mapping[str, Any]) -> str:
    """The same in one line: "box_form=xyxy, names (11)"."""
    return ", ".join(
        f"{name}={value}" if _is_short(value) else f"{name} ({_size(value)})" for name, value in reading.items()
    )


def _is_short(value: Any) -> bool:
    return not isinstance(value, Mapping) and len(str(value)) <= SHOWN


def _size(value: Any) -> int:
    return len(value["labels"]) if isinstance(value, Mapping) and "labels" in value else len(value)
