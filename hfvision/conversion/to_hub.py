"""An original checkpoint becomes a folder that `from_pretrained` loads."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

import hfvision
from hfvision import checkpoints
from hfvision.cards import model_card, write_card
from hfvision.conversion.engine import Converted, Shape, apply, reverse
from hfvision.conversion.formats import Format, Plan, check_fields
from hfvision.conversion.report import RECORD_FIELD, RECORD_FILE, ConversionReport
from hfvision.conversion.tables import recognise
from hfvision.conversion.writing import check_folder, new_folder
from hfvision.errors import ConfigError, ConversionError, HfvisionError, numbered
from hfvision.layers.position import PositionRule
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    load,
)

TASKS = {  # on the Hub
    IMAGE_CLASSIFICATION: "image-classification",
    SEMANTIC_SEGMENTATION: "image-segmentation",
    OBJECT_DETECTION: "object-detection",
    IMAGE_SEGMENTATION: "image-segmentation",
}
COUNTER = ".num_batches_tracked"  # of batch norm: a whole number, which stays one

Labels = str | Path | Sequence[str] | Mapping[int, str] | Mapping[str, str]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    family: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    position_rule: PositionRule | None = None,
    labels: Labels | None = None,
    license: str | None = None,
    entry: str | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert the original checkpoint `source` to the Hugging Face folder `out`.

    `family` names the format where the keys do not; `overrides` sets config fields that tensors cannot tell;
    `position_rule` says how position tables are resampled for another image_size, by default as the original does it;
    `labels` names the classes: a list, a mapping from ids, or a JSON file with either. `license` is the Hub's
    identifier of the weights' licence, by default that of the files which the format's authors published. `entry`
    chooses among the weights of a training file, "model_ema" for one; see `checkpoints.read`.

    Raises CheckpointReadError, ConversionError, UnknownNameError (family, config field) and ConfigError; `out` is then
    as it was.
    """
    out = Path(out)
    check_folder(out, overwrite)
    if position_rule is not None and position_rule not in get_args(PositionRule):
        raise ConfigError(f"position_rule is {' or '.join(get_args(PositionRule))}; got {position_rule!r}.")
    if (Path(source) / "config.json").is_file():
        raise ConversionError(
            f"{source} is a Hugging Face folder already; for the way back use convert_back (--to original)."
        )
    checkpoint = checkpoints.read(source, entry)
    format = recognise(checkpoint.tensors, family, checkpoint.entry)
    overrides = dict(overrides or {})
    check_fields(overrides, format.fields(), "config field")
    facts = () if format.facts is None else (format.facts(checkpoint),)
    plan = format.plan(checkpoint.tensors, overrides, position_rule, *facts)
    labels = labels or plan.labels or None
    converted, dtype, config = convert_tensors(checkpoint.tensors, format, plan, labels)
    architecture = ARCHITECTURES[plan.model_type]
    name, sha256 = checkpoint.name, checkpoint.sha256
    task = TASKS.get(plan.auto_class, "image-feature-extraction")
    with new_folder(out) as folder:
        config.save_pretrained(folder)
        save_torch_state_dict(converted.tensors, folder)
        if processor := plan.processor or architecture.processor:
            load(processor)(**plan.preprocessing).save_pretrained(folder)
        card = model_card(
            config,
            name=out.resolve().name,
            license=license or format.license,
            license_name=None if license else format.license_name,
            task=task,
            provenance={
                "source file": name,
                "sha256": sha256,
                **({"entry": checkpoint.entry} if checkpoint.entry else {}),
                "format": format.title,
                "converted by": f"hfvision {hfvision.__version__}",
                "date": datetime.now(timezone.utc).date().isoformat(),
            },
            notes=[
                *plan.notes,
                *(f"Changed at conversion: {line}." for line in plan.changed),
                *_license_note(license, format),
            ],
            preprocessing=plan.preprocessing,
        )
        write_card(folder, card)
        checked = _check_written(folder, converted, checkpoint.tensors, plan)
        report = ConversionReport(
            direction="to huggingface",
            format=format.name,
            source=name,
            sha256=sha256,
            out=str(out),
            model_type=plan.model_type,
            model_class=config.architectures[0],
            config=config.to_dict(),
            tensors=len(checkpoint.tensors),
            used=len(converted.used),
            parameters=sum(tensor.numel() for tensor in converted.tensors.values()),
            dropped=converted.dropped,
            added=converted.added,
            left_out=checkpoint.left_out,
            assumed=plan.assumed,
            changed=plan.changed + _dtype_changes(checkpoint.tensors, converted, dtype),
            notes=plan.notes,
            checked=checked,
            entry=checkpoint.entry,
            files=(*sorted(path.name for path in folder.iterdir()), RECORD_FILE),
        )
        (folder / RECORD_FILE).write_text(report.record(), encoding="utf-8")
    return report


def convert_tensors(
    tensors: Mapping[str, Tensor], format: Format, plan: Plan, labels: Labels | None = None
) -> tuple[Converted, torch.dtype, Any]:
    """The model's tensors, their dtype and the config, with nothing written. Works on the meta device.

    Raises ConversionError that lists every mismatch, ConfigError for values that no config can have.
    """
    architecture = ARCHITECTURES[plan.model_type]
    with config_errors():
        config = load(architecture.config)(**{**plan.config, **_label_fields(labels, plan)})
    model_class = load(architecture.model(plan.auto_class, plan.model_name))
    expected = expected_shapes(model_class, config, plan.model_options)
    try:
        converted = apply(tensors, plan.rules, expected)
    except ConversionError as error:
        raise ConversionError(f"{error}\nThe checkpoint was read as {format.name}: {format.title}.") from error
    weights = {key: tensors[key] for key in sorted(converted.used) if not key.endswith(COUNTER)}
    dtype = _common_dtype(weights)
    record: dict[str, Any] = {"format": format.name}
    if dropped := {key: tensors[key] for key in converted.dropped}:
        record["unused"] = {key: {"shape": list(t.shape), "dtype": _dtype_name(t.dtype)} for key, t in dropped.items()}
    if mixed := {key: tensor.dtype for key, tensor in weights.items() if tensor.dtype != dtype}:
        record["dtypes"] = {key: _dtype_name(stored) for key, stored in mixed.items()}
    if plan.changed:
        record["changed"] = list(plan.changed)
    if plan.kept:
        record["kept"] = dict(plan.kept)
    converted.tensors = {
        key: tensor if key.endswith(COUNTER) else tensor.to(dtype) for key, tensor in converted.tensors.items()
    }
    config.architectures = [model_class.__name__]
    config.dtype = dtype
    setattr(config, RECORD_FIELD, record)
    return converted, dtype, config


@contextmanager
def config_errors() -> Iterator[None]:
    """Values of the wrong type, that contradict each other or that name nothing end in ConfigError."""
    try:
        yield
    except HfvisionError:
        raise
    except (StrictDataclassError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no model can be built from these values: {' '.join(str(error).split())}") from error


def expected_shapes(model_class: Any, config: Any, options: Mapping[str, Any]) -> dict[str, Shape]:
    """The names and shapes of the model's weights; nothing is allocated. Raises ConfigError."""
    with config_errors(), torch.device("meta"):
        model = model_class(config, **options)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_written(folder: Path, converted: Converted, original: Mapping[str, Tensor], plan: Plan) -> tuple[str, ...]:
    """Read the weights again and compare: with what was to be written, and backwards with the original's tensors."""
    written = checkpoints.read_folder(folder)
    problems = [f"{key} was not written as converted" for key in unequal(converted.tensors, written.tensors)]
    back = apply(written.tensors, reverse(plan.rules)).tensors
    exact = {key: original[key] for key in converted.used - converted.inexact}
    back = {key: back[key].to(tensor.dtype) for key, tensor in exact.items()}
    problems += [f"{key} does not come back as it was" for key in unequal(exact, back)]
    if problems:
        raise ConversionError(f"{numbered('mismatch', problems)}\nNothing was kept. The disk may be full or faulty.")
    return (
        f"{len(written.tensors)} tensors on disk equal those converted",
        f"{len(exact)} tensors converted back equal the original's bit for bit",
    )


def unequal(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    """Keys whose tensors differ in one bit at least (NaN equals the same NaN)."""
    bad = []
    for key, tensor in wanted.items():
        other = got.get(key)
        same = other is not None and other.shape == tensor.shape and other.dtype == tensor.dtype
        if other is None or not same or not torch.equal(_bits(tensor), _bits(other)):
            bad.append(key)
    return bad


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The narrowest dtype that holds all tensors exactly: a model has one."""
    if problems := [
        f"{key} is of type {_dtype_name(tensor.dtype)}; weights are floating point"
        for key, tensor in tensors.items()
        if not tensor.is_floating_point()
    ]:
        raise ConversionError(numbered("mismatch", problems))
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))


def _dtype_changes(original: Mapping[str, Tensor], converted: Converted, dtype: torch.dtype) -> tuple[str, ...]:
    widened = [key for key in converted.used if original[key].dtype != dtype and not key.endswith(COUNTER)]
    if not widened:
        return ()
    return (f"{len(widened)} tensors were widened to {_dtype_name(dtype)}, because a model has one type for all",)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _license_note(license: str | None, format: Format) -> list[str]:
    published = (
        f"The licence is that of the files published at {format.repository}; weights trained elsewhere keep theirs."
    )
    return [] if license else [published]


def _label_fields(labels: Labels | None, plan: Plan) -> dict[str, Any]:
    """id2label and label2id. Raises ConversionError unless there is one label for each of the head's outputs."""
    if labels is None:
        return {}
    wanted = plan.config.get("num_labels")
    if wanted is None:
        raise ConversionError("labels were given, but the converted model has no head that could use them.")
    content: Any = _read_labels(Path(labels)) if isinstance(labels, str | Path) else labels
    names = (
        dict(enumerate(content)) if not isinstance(content, Mapping) else {int(key): content[key] for key in content}
    )
    if sorted(names) != list(range(wanted)):
        raise ConversionError(
            f"the head has {wanted} outputs, so labels have ids 0 to {wanted - 1}; "
            f"got {len(names)} labels with ids {min(names, default=None)} to {max(names, default=None)}."
        )
    id2label = {index: str(names[index]) for index in range(wanted)}
    return {"id2label": id2label, "label2id": {name: index for index, name in reversed(id2label.items())}}


def _read_labels(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as a JSON list of labels: {error}") from error
    if isinstance(content, dict) and "labels" in content:
        content = content["labels"]
    if not isinstance(content, list | dict):
        raise ConversionError(f"{path} should hold a JSON list of labels or an object {{id: label}}.")
    return content
