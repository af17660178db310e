"""Tensors of one naming become tensors of another, in memory: the model's weights, their dtype and its config."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from hfvision.conversion.engine import Converted, Shape, apply
from hfvision.conversion.formats import Format, Plan
from hfvision.conversion.labelling import label_fields
from hfvision.conversion.report import RECORD_FIELD
from hfvision.errors import ConfigError, ConversionError, HfvisionError, numbered
from hfvision.registry import ARCHITECTURES, load

COUNTER = ".num_batches_tracked"  # of batch norm: a whole number, which stays one


def convert_tensors(tensors: Mapping[str, Tensor], format: Format, plan: Plan) -> tuple[Converted, torch.dtype, Any]:
    """The model's tensors, their dtype and the config, with nothing written. Works on the meta device.

    Raises ConversionError that lists every mismatch, ConfigError for values that no config can have.
    """
    architecture = ARCHITECTURES[plan.model_type]
    with config_errors():
        config = load(architecture.config)(**{**plan.config, **label_fields(plan)})
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
        record["unused"] = {key: {"shape": list(t.shape), "dtype": dtype_name(t.dtype)} for key, t in dropped.items()}
    if mixed := {key: tensor.dtype for key, tensor in weights.items() if tensor.dtype != dtype}:
        record["dtypes"] = {key: dtype_name(stored) for key, stored in mixed.items()}
    if converted.absent:
        record["absent"] = sorted(converted.absent)
    if plan.changed:
        record["changed"] = list(plan.changed)
    if plan.kept:
        record["kept"] = dict(plan.kept)
    converted.tensors = _apart(
        {key: tensor if key.endswith(COUNTER) else tensor.to(dtype) for key, tensor in converted.tensors.items()}
    )
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
        f"{key} is of type {dtype_name(tensor.dtype)}; weights are floating point"
        for key, tensor in tensors.items()
        if not tensor.is_floating_point()
    ]:
        raise ConversionError(numbered("mismatch", problems))
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: writers leave out one of two that share it, or write all of what one is a part."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = not tensor.is_meta and (storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes)
        result[key] = tensor.clone() if shared and tensor.numel() else tensor
        seen.add(storage.data_ptr())
    return result


def tied(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A line for tensors of a file that are one and the same."""
    same: dict[tuple[int, Shape], list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.numel():
            same.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(key)
    groups = [" = ".join(keys) for keys in same.values() if len(keys) > 1]
    if not groups:
        return ()
    return (f"tensors that are one in the file became tensors of their own: {', '.join(groups)}",)


def dtype_changes(original: Mapping[str, Tensor], converted: Converted, dtype: torch.dtype) -> tuple[str, ...]:
    widened = [key for key in converted.used if original[key].dtype != dtype and not key.endswith(COUNTER)]
    if not widened:
        return ()
    return (f"{len(widened)} tensors were widened to {dtype_name(dtype)}, because a model has one type for all",)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
