"""A Hugging Face folder becomes a checkpoint of the original format again."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfvision import checkpoints
from hfvision.catalog import facts_of
from hfvision.conversion.engine import Converted, Unused, apply, reverse
from hfvision.conversion.formats import BackPlan, Format
from hfvision.conversion.heads import notes_of_the_way_back
from hfvision.conversion.report import RECORD_FIELD, ConversionReport
from hfvision.conversion.tables import recognise_folder
from hfvision.conversion.tensors import config_errors, expected_shapes, unequal
from hfvision.conversion.writing import check_file
from hfvision.errors import ConversionError, numbered
from hfvision.registry import ARCHITECTURES, architecture, class_name, load
from hfvision.termination import uninterrupted
from hfvision.writing import new_file


def convert_back(
    source: str | Path, out: str | Path, *, family: str | None = None, overwrite: bool = False
) -> ConversionReport:
    """Convert the folder (or Hub id) `source` to the file `out` in the format of the original repository.

    Every tensor that the model uses is written as it is, bit for bit. What the original stored and never used comes
    back as zeros, named in `ConversionReport.added`: the folder's config remembers its names and shapes, and a model
    that was never converted gets what the original's own files have, so that its code loads the file.

    Raises CheckpointReadError, ConversionError, UnknownNameError and ConfigError; `out` is then as it was.

    Example:
        >>> import tempfile, hfvision
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> hfvision.create("segformer-b0-ade20k-512", depths=(1, 1, 1, 1)).save_pretrained(folder / "model")
        >>> hfvision.convert_back(folder / "model", folder / "original.pth").format
        'segformer'
    """
    out = Path(out)
    folder = checkpoints.download(str(source)) if checkpoints.looks_like_repo_id(source) else Path(source)
    checkpoint = checkpoints.read_folder(folder)
    format = recognise_folder(checkpoint.config, family, out.suffix)
    check_file(out, format.suffixes, overwrite)
    config = read_config(checkpoint)
    converted, plan = revert_tensors(checkpoint.tensors, config, format)
    besides = {out.with_name(name): text for name, text in plan.beside.items()}
    for path in besides:
        check_file(path, (path.suffix,), overwrite)
    with ExitStack() as stack:
        path = stack.enter_context(new_file(out, ConversionError))
        for further, text in besides.items():
            stack.enter_context(new_file(further, ConversionError)).write_text(text, encoding="utf-8")
        WRITERS[out.suffix](path, converted.tensors, None if plan.bare else format.entries[0])
        again = checkpoints.read(path).tensors
        forth = apply({**again, **converted.absent}, plan.rules).tensors
        problems = [f"{key} was not written as converted" for key in unequal(converted.tensors, again)]
        used = {key: checkpoint.tensors[key] for key in converted.used}
        problems += [
            f"{key} does not come back as it was"
            for key in unequal(used, {key: forth[key].to(used[key].dtype) for key in used})
        ]
        if problems:
            raise ConversionError(
                f"{numbered('mismatch', problems)}\nNothing was kept. The disk may be full or faulty."
            )
        with uninterrupted():  # all files or none
            stack.pop_all().close()
    told = [line for line in notes_of_the_way_back(config.to_dict(), format) if not _said(line, plan.notes)]
    model_class = class_name(ARCHITECTURES[config.model_type].model(plan.auto_class, plan.model_name))
    return ConversionReport(
        direction="to original",
        format=format.name,
        source=checkpoint.name,
        sha256=checkpoint.sha256,
        out=str(out),
        model_type=config.model_type,
        model_class=model_class,
        config=facts_of(config.to_dict()),
        tensors=len(checkpoint.tensors),
        used=len(converted.used),
        parameters=sum(tensor.numel() for tensor in converted.tensors.values()),
        dropped={**converted.dropped, **dict.fromkeys(converted.absent, LEFT_OUT)},
        added={key: f"{_filling(converted.tensors[key])}: {why}" for key, why in converted.added.items()},
        left_out=checkpoint.left_out,
        changed=tuple(f"not undone: {line}" for line in _record(config).get("changed", ())),
        notes=(*plan.notes, *told, *_biases_kept(config, converted)),
        checked=(
            f"{len(again)} tensors in the file equal those converted",
            f"{len(used)} tensors converted forth again equal the folder's bit for bit",
        ),
        files=(out.name, *plan.beside),
    )


def read_config(checkpoint: checkpoints.Checkpoint) -> Any:
    """The config object of a folder. Raises UnknownNameError for a model_type that hfvision does not have."""
    config_class = load(architecture(str(checkpoint.config.get("model_type"))).config)
    with config_errors():
        return config_class.from_dict(checkpoint.config)


def revert_tensors(tensors: Mapping[str, Tensor], config: Any, format: Format) -> tuple[Converted, BackPlan]:
    """The original's tensors and the plan that made them; nothing is written. Works on the meta device.

    Raises ConversionError that lists every mismatch.
    """
    plan = format.plan_back(config, tensors)
    model_class = load(architecture(config.model_type).model(plan.auto_class, plan.model_name))
    expected = expected_shapes(model_class, config, plan.model_options)
    problems = []
    for key, shape in expected.items():
        if key not in tensors:
            problems.append(f"{key} {shape} is missing")
        elif tuple(tensors[key].shape) != shape:
            problems.append(f"{key} is {tuple(tensors[key].shape)}, the config wants {shape}")
    problems += [f"{key} {tuple(t.shape)} is not in the model" for key, t in tensors.items() if key not in expected]
    if problems:
        raise ConversionError(f"the weights do not fit the config.json beside them, {numbered('mismatch', problems)}")
    record = _record(config)
    with _reading_record():
        unused = {
            key: Unused(tuple(map(int, stored["shape"])), _dtype(stored["dtype"]))
            for key, stored in record.get("unused", {}).items()
        }
        dtypes = {key: _dtype(name) for key, name in record.get("dtypes", {}).items()}
        absent = [str(key) for key in record.get("absent", ())]
        if sum(math.prod(was.shape) for was in unused.values()) > MOST_ZEROS:
            raise ValueError(f"more than {MOST_ZEROS:,} zeros to fill in")
    unused = _stored_besides(plan, unused, format, record, tensors)
    converted = apply(tensors, (*reverse(plan.rules, unused), *plan.extra))
    _leave_out(absent, converted)
    for key in dtypes.keys() & converted.tensors.keys():
        tensor = converted.tensors[key]
        narrow = tensor.to(dtypes[key])
        if tensor.is_meta or torch.equal(narrow.to(tensor.dtype), tensor):  # not after training in the wider type
            converted.tensors[key] = narrow
    return converted, plan


def _said(line: str, notes: Iterable[str]) -> bool:
    """Whether one of the notes is about the same config field."""
    field = line.partition(" = ")[0].rpartition(" ")[2]
    return any(f" {field} = " in note for note in notes)


def _leave_out(keys: Iterable[str], converted: Converted) -> None:
    """Write no biases that the source came without, unless one was trained since: the original has all or none."""
    zeros = {key: converted.tensors[key] for key in keys if key in converted.tensors}
    if not any(not tensor.is_meta and bool(tensor.any()) for tensor in zeros.values()):
        converted.absent = zeros
        converted.tensors = {key: tensor for key, tensor in converted.tensors.items() if key not in zeros}


def _biases_kept(config: Any, converted: Converted) -> tuple[str, ...]:
    """A line for biases that the source did not have and the file has now."""
    kept = sum(key in converted.tensors for key in _record(config).get("absent", ()))
    return (f"{kept} biases that the source came without were trained since, and are kept",) if kept else ()


def _stored_besides(
    plan: BackPlan,
    recorded: Mapping[str, Unused],
    format: Format,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> dict[str, Unused]:
    """What to fill in: what the file had that the model comes from, else what the original's own files have.

    What has a row for each label has as many as the model has labels by now, else the original could not load it.
    """
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    if record.get("format") != format.name:
        return {
            key: replace(wanted, dtype=dtype if wanted.dtype.is_floating_point else wanted.dtype)
            for key, wanted in plan.stored.items()
        }
    stored = dict(recorded)
    for key, wanted in plan.stored.items():
        if key in stored and wanted.shape:
            stored[key] = replace(stored[key], shape=(wanted.shape[0], *stored[key].shape[1:]))
    return stored


def _record(config: Any) -> Mapping[str, Any]:
    """What the way there left in config.json; nothing for models that were never converted."""
    record = getattr(config, RECORD_FIELD, None)
    return record if isinstance(record, dict) else {}


def _filling(tensor: Tensor) -> str:
    return "computed" if bool(tensor.any()) else "zeros"


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return dtype


@contextmanager
def _reading_record() -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConversionError(
            f"the field {RECORD_FIELD!r} of config.json is damaged ({type(error).__name__}: {error}); remove it to "
            "convert without it."
        ) from error


LEFT_OUT = "zeros, and the source came without such biases"
MOST_ZEROS = 2**31  # a record that asks for more is damaged: the largest head published has 28 million numbers
Writer = Callable[[Path, Mapping[str, Tensor], str | None], None]  # path, tensors, entry around them
WRITERS: dict[str, Writer] = {
    ".npz": lambda path, tensors, entry: checkpoints.write_npz(path, tensors),
    ".pth": checkpoints.write_torch,
    ".safetensors": lambda path, tensors, entry: checkpoints.write_safetensors(path, tensors),
}
