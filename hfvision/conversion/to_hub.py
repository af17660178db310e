"""An original checkpoint becomes a folder that `from_pretrained` loads."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import save_torch_state_dict
from torch import Tensor

import hfvision
from hfvision import checkpoints
from hfvision.cards import model_card, write_card
from hfvision.catalog import facts_of
from hfvision.conversion.engine import Converted, apply, reverse
from hfvision.conversion.formats import Format, Plan, check_fields
from hfvision.conversion.heads import head_notes
from hfvision.conversion.labelling import Labels, with_labels
from hfvision.conversion.lookalikes import note_on_classes
from hfvision.conversion.recognition import Recognition, completed, identify, settled
from hfvision.conversion.report import ConversionReport
from hfvision.conversion.resave import SEEN, resave
from hfvision.conversion.tensors import convert_tensors, dtype_changes, dtype_name, tied, unequal
from hfvision.conversion.terms import check_stated, licence_line, licence_note, terms_of
from hfvision.conversion.unwrapping import unwrap
from hfvision.conversion.verify import Arrays, compare_example, read_example
from hfvision.conversion.writing import check_folder, new_folder, write_record
from hfvision.errors import ConfigError, ConversionError, numbered
from hfvision.layers.position import PositionRule
from hfvision.registry import ARCHITECTURES, load
from hfvision.tasks import task_of_auto_class


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
    inputs: str | Path | Arrays | None = None,
    expected: str | Path | Arrays | None = None,
) -> ConversionReport:
    """Convert the original checkpoint `source` to the Hugging Face folder `out`.

    `source` is a file, the index of its shards, or a folder with either; a folder or Hub id in transformers' own format
    is loaded and saved anew (`resave`). The report names the row of the catalogue that the checkpoint is.

    `family` names the format where the keys do not; `overrides` sets config fields that tensors cannot tell;
    `position_rule` says how position tables are resampled for another image_size, by default as the original does it;
    `labels` names the classes: a label set ("ade20k-150"), a list, a mapping from ids, or a JSON file with either; see
    `labelling.with_labels`. `license` is the Hub's identifier of the weights' licence; without it the card has that of
    a published file, and of other weights says that none was stated. `entry` chooses among the weights of a training
    file, "model_ema" for one; see `checkpoints.read`. `inputs` and `expected` are what the original was given and what
    it answered: a .npy or .npz file or arrays by name, compared by `verify`.

    Raises CheckpointReadError, ConversionError, UnknownNameError (family, config field) and ConfigError; `out` is then
    as it was.

    Example:
        >>> import tempfile, hfvision
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> hfvision.create("segformer-b0-ade20k-512", depths=(1, 1, 1, 1)).save_pretrained(folder / "model")
        >>> back = hfvision.convert_back(folder / "model", folder / "original.pth")
        >>> hfvision.convert(folder / "original.pth", folder / "converted").format
        'segformer'
    """
    out = Path(out)
    check_folder(out, overwrite)
    check_stated(license)
    if position_rule is not None and position_rule not in get_args(PositionRule):
        raise ConfigError(f"position_rule is {' or '.join(get_args(PositionRule))}; got {position_rule!r}.")
    example = read_example(inputs, expected)
    on_hub = checkpoints.looks_like_repo_id(source)
    path = checkpoints.download(str(source), SEEN) if on_hub else Path(source)
    if (path / "config.json").is_file() and "model_type" in checkpoints.read_config_file(path):
        unused = {"family": family, "config fields": overrides, "position_rule": position_rule, "entry": entry}
        name = str(source) if on_hub else None
        return resave(
            path, out, unused, name=name, labels=labels, license=license, overwrite=overwrite, example=example
        )
    checkpoint, format, presumed = unwrap(checkpoints.read(path, entry), family)
    if checkpoint.config:  # another library's, beside keys of an original
        said = "config.json, which is not of transformers: what it says of labels and images was not read"
        checkpoint = replace(checkpoint, left_out=(*checkpoint.left_out, said))
    if on_hub:
        checkpoint = replace(checkpoint, name=str(source))
    overrides = dict(overrides or {})
    check_fields(overrides, format.fields(), "config field")
    plan, recognition = recognised_plan(checkpoint, format, overrides, position_rule, labels)
    converted, dtype, config = convert_tensors(checkpoint.tensors, format, plan)
    architecture = ARCHITECTURES[plan.model_type]
    name, sha256 = checkpoint.name, checkpoint.sha256
    task = task_of_auto_class(plan.auto_class)
    with new_folder(out) as folder:
        config.save_pretrained(folder)
        save_torch_state_dict(converted.tensors, folder)
        if processor := plan.processor or architecture.processor:
            load(processor)(**plan.preprocessing).save_pretrained(folder)
        card = model_card(
            config,
            name=out.resolve().name,
            license=terms_of(out.resolve().name, license, recognition),
            task=task.name if task else "image-feature-extraction",
            provenance={
                "source file": name,
                "sha256": sha256,
                **({"entry": checkpoint.entry} if checkpoint.entry else {}),
                "format": format.title,
                "catalogue": recognition.line(),
                "converted by": f"hfvision {hfvision.__version__}",
                "date": datetime.now(UTC).date().isoformat(),
            },
            notes=[
                *plan.notes,
                *(f"Changed at conversion: {line}." for line in plan.changed),
                licence_note(recognition, format),
            ],
            preprocessing=plan.preprocessing,
        )
        write_card(folder, card)
        checked = (
            *_check_written(folder, converted, checkpoint.tensors, plan),
            *compare_example(folder, example),
        )
        report = ConversionReport(
            direction="to huggingface",
            format=format.name,
            source=name,
            sha256=sha256,
            out=str(out),
            model_type=plan.model_type,
            model_class=config.architectures[0],
            config=facts_of(config.to_dict()),
            tensors=len(checkpoint.tensors),
            used=len(converted.used),
            parameters=sum(tensor.numel() for tensor in converted.tensors.values()),
            dropped=converted.dropped,
            added=converted.added,
            left_out=checkpoint.left_out,
            assumed=(*presumed, *plan.assumed),
            given=plan.given,
            changed=plan.changed + dtype_changes(checkpoint.tensors, converted, dtype) + tied(checkpoint.tensors),
            notes=plan.notes,
            licence=licence_line(license, recognition, format),
            checked=checked,
            entry=checkpoint.entry,
            dtype=dtype_name(dtype),
            recognised=recognition.line(),
            recognition=recognition.to_dict(),
            catalog_row=recognition.rows[0].name if recognition.published else None,
        )
        report = write_record(folder, report, out.resolve().name, license)
    return report


def recognised_plan(
    checkpoint: checkpoints.Checkpoint,
    format: Format,
    overrides: Mapping[str, Any],
    position_rule: PositionRule | None = None,
    labels: Labels | None = None,
) -> tuple[Plan, Recognition]:
    """How to convert, with what the catalogue knows of this file; and which of its rows that is.

    Raises ConversionError and UnknownNameError.
    """
    facts = {} if format.facts is None else dict(format.facts(checkpoint))
    said = () if format.facts is None else (facts,)
    plan = format.plan(checkpoint.tensors, overrides, position_rule, *said)
    recognition = identify(checkpoint, format, plan)
    fields, taken = settled(recognition, format, overrides, plan)
    if fields:
        plan = format.plan(checkpoint.tensors, {**overrides, **fields}, position_rule, *said)
        recognition = replace(recognition, taken=tuple(taken))
    told = bool(facts.keys() - {"labels", "dilation"})  # how images are prepared
    plan, recognition = completed(recognition, plan, overrides, told, labels is not None)
    published = recognition.row if recognition.published else None
    notes = (*head_notes(plan, format, published), *(() if recognition.rows else note_on_classes(plan)))
    plan = replace(plan, notes=(*plan.notes, *notes))
    if published is not None:  # what was assumed is what its authors published
        plan = replace(plan, assumed=())
    return (plan if labels is None else with_labels(plan, labels)), recognition


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
