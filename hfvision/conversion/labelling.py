"""Names for the outputs of a converted model: those of a label set, of a file, or what the caller gives."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hfvision.conversion.formats import Plan
from hfvision.errors import ConfigError, ConversionError
from hfvision.labels import label_set, label_sets, numbers_of
from hfvision.processing.label_map import LabelMap
from hfvision.registry import ARCHITECTURES, SEMANTIC_SEGMENTATION

Labels = str | Path | Sequence[str] | Mapping[int, str] | Mapping[str, str]
SHARED_PROCESSOR = "SegformerImageProcessor"  # other programs read it, and would not see a label map in it


def with_labels(plan: Plan, labels: Labels) -> Plan:
    """The plan with these names: of a label set ("ade20k-150"), of a JSON file, a list, or a mapping from ids.

    A file holds a list of names, {id: name}, either of these under "labels", or the rows of a `LabelMap`, whose
    colours then go along, as those of a data set do. Raises ConversionError unless there is one name for each of the
    head's outputs, UnknownNameError for a set or file that does not exist.
    """
    label_map: Any = None
    content: Any = labels
    if isinstance(labels, str | Path):
        path = Path(labels)
        if isinstance(labels, str) and not path.is_file() and path.suffix != ".json" and len(path.parts) == 1:
            known = label_set(labels)
            content, label_map = known.names, labels if known.is_label_map else None
        else:
            content, label_map = _read(path)
    wanted = plan.config.get("num_labels")
    if wanted is None:
        raise ConversionError("labels were given, but the converted model has no head that could use them.")
    names = dict(enumerate(content)) if not isinstance(content, Mapping) else _by_number(content)
    if sorted(names) != list(range(wanted)):
        fitting = [name for name in label_sets() if len(label_set(name).names) == wanted]
        hint = f" Sets of that size: {', '.join(fitting)}." if fitting else ""
        raise ConversionError(
            f"the head has {wanted} outputs, so labels have ids 0 to {wanted - 1}; "
            f"got {len(names)} labels with ids {min(names, default=None)} to {max(names, default=None)}.{hint}"
        )
    plan = replace(plan, labels=tuple(str(names[index]) for index in range(wanted)))
    return _coloured(plan, label_map) if label_map is not None else plan


def label_fields(plan: Plan) -> dict[str, Any]:
    """id2label and label2id."""
    if not plan.labels:
        return {}
    id2label = dict(enumerate(plan.labels))
    return {"id2label": id2label, "label2id": numbers_of(id2label)}


def _coloured(plan: Plan, label_map: Any) -> Plan:
    """With the label map in the image processor's file, where that is one of ours for maps of classes."""
    processor = plan.processor or ARCHITECTURES[plan.model_type].processor or ""
    if plan.auto_class != SEMANTIC_SEGMENTATION or processor.endswith(f":{SHARED_PROCESSOR}"):
        return plan
    return replace(plan, preprocessing={**plan.preprocessing, "label_map": label_map})


def _read(path: Path) -> tuple[Any, Any]:
    """The names in a file, and the label map that it is, if it is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"{path} cannot be read as a JSON list of labels: {error}. A label set's name is one of "
            f"{', '.join(label_sets())}."
        ) from error
    inner = content["labels"] if isinstance(content, dict) and "labels" in content else content
    if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in inner):
        try:
            label_map = LabelMap.of(content if isinstance(content, dict) else {"labels": inner})
        except ConfigError as error:
            raise ConversionError(f"{path}: {error}") from error
        return label_map.id2label, label_map.to_dict()
    if not isinstance(inner, list | dict):
        raise ConversionError(f"{path} should hold a JSON list of labels or an object {{id: label}}.")
    return inner, None


def _by_number(names: Mapping[Any, Any]) -> dict[int, Any]:
    try:
        return {int(key): name for key, name in names.items()}
    except (TypeError, ValueError):
        raise ConversionError(
            f"labels are given by id, from 0; got {', '.join(repr(key) for key in list(names)[:3])} as ids."
        ) from None
