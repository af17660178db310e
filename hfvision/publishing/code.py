"""What `trust_remote_code=True` needs, so that a model loads where hfvision is installed but was not imported.

A module of the repository names hfvision's classes, which it imports, and `auto_map` in the configs points there. The
module holds no code of its own; without hfvision, transformers says which package to install.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfvision.errors import PublishError
from hfvision.registry import ARCHITECTURES, OWN_PROCESSORS, Architecture, class_name

MODULE = "hfvision_classes"
CONFIG = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is transformers 5's, nested
NESTED = "image_processor"


def add_code(folder: str | Path) -> tuple[str, ...]:
    """Add the module and the `auto_map` entries to a model folder; the names of the files written.

    The model stays one that hfvision loads without any of this. Raises PublishError for a folder that holds no model
    of hfvision's.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    row = row_of(config, folder)
    auto_classes = {"AutoConfig": class_name(row.config), **_model_classes(row, config.get("architectures") or [])}
    written = {CONFIG: {**config, "auto_map": {auto: f"{MODULE}.{name}" for auto, name in auto_classes.items()}}}
    names = set(auto_classes.values())
    for file in PROCESSOR_FILES:
        if (folder / file).is_file():
            contents = read_json(folder / file)
            settings = settings_of(contents)
            processor = processor_class(settings, row)
            if processor is not None:
                names.add(processor)
                settings["auto_map"] = {"AutoImageProcessor": f"{MODULE}.{processor}"}
                written[file] = contents
    for file, contents in written.items():
        (folder / file).write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / f"{MODULE}.py").write_text(_module(sorted(names)), encoding="utf-8")
    return (*written, f"{MODULE}.py")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PublishError."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(
            f"{path.name} of {path.parent} cannot be read as JSON: {error}. Save the model again."
        ) from None
    if not isinstance(contents, dict):
        raise PublishError(f"{path} should hold a JSON object; got {type(contents).__name__}.")
    return contents


def row_of(config: Mapping[str, Any], folder: Path) -> Architecture:
    """The registry's row of a config. Raises PublishError for a model that is not hfvision's."""
    row = ARCHITECTURES.get(str(config.get("model_type")))
    if row is None:
        raise PublishError(
            f"{folder} holds a model of type {config.get('model_type')!r}, which hfvision cannot check; it has "
            f"{', '.join(ARCHITECTURES)}. Other models go up with `hf upload`."
        )
    return row


def settings_of(contents: dict[str, Any]) -> dict[str, Any]:
    """The image processor's part of a file, or the whole of it."""
    nested = contents.get(NESTED)
    return nested if isinstance(nested, dict) else contents


def auto_map_of(contents: dict[str, Any]) -> dict[str, Any]:
    """Auto class -> "module.Class", or a list of such."""
    found = settings_of(contents).get("auto_map")
    return found if isinstance(found, dict) else {}


def processor_class(settings: Mapping[str, Any], row: Architecture) -> str | None:
    """Our class for what a processor's file names, in any spelling of any version; else the architecture's own."""
    ours = [one.processor for one in ARCHITECTURES.values() if one.processor] + list(OWN_PROCESSORS)
    named = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    named = named.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if named in map(class_name, ours):
        return named
    return class_name(row.processor) if row.processor else None


def _model_classes(row: Architecture, architectures: list[str]) -> dict[str, str]:
    """Auto class -> class, for the trunk and for what the checkpoint's own class is found behind."""
    found = {}
    for auto_class in row.models:
        offered = [class_name(one) for one in row.offered(auto_class)]
        named = [name for name in offered if name in architectures]
        if named or auto_class == "AutoModel":
            found[auto_class] = named[0] if named else offered[0]
    return found


def _module(names: list[str]) -> str:
    lines = "".join(f"    {name},\n" for name in names)
    return (
        '"""Loads this model with hfvision, a Python package (pip install hfvision). No code of its own."""\n\n'
        f"from hfvision import (\n{lines})\n"
        "from hfvision.remote import keep_installed\n\n"
        f"keep_installed(\n{lines})\n"
    )
