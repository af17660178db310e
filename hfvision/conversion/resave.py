"""A model in transformers' format, of any version, is loaded and saved anew: with our processor, card and checks."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from hfvision import checkpoints
from hfvision.cards.records import of_these_weights
from hfvision.catalog import facts_of
from hfvision.conversion.formats import Plan
from hfvision.conversion.labelling import Labels, label_fields, with_labels
from hfvision.conversion.recognition import compare_sizes
from hfvision.conversion.report import RECORD_FILE, ConversionReport
from hfvision.conversion.tensors import config_errors, dtype_name, unequal
from hfvision.conversion.to_original import read_config
from hfvision.conversion.verify import Example, compare_example
from hfvision.conversion.writing import check_folder, new_folder, write_record
from hfvision.errors import ConfigError, ConversionError, numbered
from hfvision.registry import (
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    Architecture,
    architecture,
    class_name,
    load,
)

FORMAT = "transformers"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
KEPT = ("README.md", "LICENSE*", "NOTICE*", "hfvision_*.json")  # go along; card and record are then brought up to date
HEADS = (IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION, OBJECT_DETECTION, IMAGE_SEGMENTATION)  # with classes
SEEN = (*PROCESSOR_FILES, *KEPT)


def resave(
    folder: Path,
    out: str | Path,
    unused: Mapping[str, Any],
    *,
    name: str | None = None,
    labels: Labels | None = None,
    license: str | None = None,
    overwrite: bool = False,
    example: Example | None = None,
) -> ConversionReport:
    """Load the model in `folder`, and write the same model to the folder `out`; the report says what changed.

    `name` is what the source is called, a Hub id; by default as the folder is.
    `unused` are arguments of `convert` that such a source leaves no room for. Raises ConfigError where one of them is
    set, CheckpointReadError, UnknownNameError for a model_type that hfvision does not have, and ConversionError for
    weights that are missing or of other shapes, which transformers would fill with random numbers; `out` is then as it
    was.
    """
    if given := [name for name, value in unused.items() if value]:
        raise ConfigError(
            f"{name or folder} is in transformers' format and says itself what it is: {', '.join(given)} cannot be "
            "set. Leave that out, or load it with from_pretrained, which takes image_size, num_channels and others."
        )
    check_folder(Path(out), overwrite)
    if folder.resolve() == Path(out).resolve():
        raise ConfigError(f"{out} is the source itself. Name another folder.")
    checkpoint = checkpoints.read_folder(folder)
    row = architecture(str(checkpoint.config.get("model_type")))
    auto_class, reference = _model_of(row, checkpoint.config)
    config = read_config(checkpoint)
    sizes = {**facts_of(config.to_dict()), "num_labels": config.num_labels if auto_class in HEADS else None}
    plan = Plan(config.model_type, auto_class, sizes, (), {})
    if labels is not None:
        plan = with_labels(plan, labels)
        for name, value in label_fields(plan).items():
            setattr(config, name, value)
    before = _record(folder)
    model, dropped = _loaded(load(reference), folder, config)
    recognition = compare_sizes(plan, [config.model_type], "it is in transformers' format")
    with new_folder(Path(out)) as work:
        for pattern in KEPT:
            for path in folder.glob(pattern):
                shutil.copyfile(path, work / path.name)
        model.save_pretrained(work)
        changed = _save_processor(folder, work, row, plan)
        written = checkpoints.read_folder(work)
        if wrong := unequal(model.state_dict(), written.tensors):
            raise ConversionError(
                f"{numbered('mismatch', (f'{key} was not written as loaded' for key in wrong))}\nNothing was kept. The "
                "disk may be full or faulty."
            )
        moved = sorted(written.tensors.keys() - checkpoint.tensors.keys())
        kept = {key: checkpoint.tensors[key] for key in written.tensors.keys() & checkpoint.tensors.keys()}
        same = len(kept) - len(unequal(kept, written.tensors))
        if moved:
            changed.append(f"{len(moved)} tensors have other names than in the source: {', '.join(moved[:3])}")
        if not (folder / "model.safetensors").is_file() and not any(folder.glob("model*.safetensors")):
            changed.append("the weights were in torch's own format and are in safetensors now")
        report = ConversionReport(
            direction="to huggingface",
            format=FORMAT,
            source=name or checkpoint.name,
            sha256=checkpoint.sha256,
            out=str(out),
            model_type=config.model_type,
            model_class=class_name(reference),
            config=facts_of(model.config.to_dict()),
            tensors=len(checkpoint.tensors),
            used=len(checkpoint.tensors) - len(dropped),
            parameters=sum(tensor.numel() for tensor in written.tensors.values()),
            dropped=dict.fromkeys(dropped, "the model has no such tensor"),
            left_out=checkpoint.left_out,
            changed=(*changed, *_config_changes(checkpoint.config, written.config)),
            checked=(
                f"{len(written.tensors)} tensors on disk equal those loaded",
                f"{same} of them equal the source's bit for bit",
                *compare_example(work, example, load(reference)),
            ),
            dtype=dtype_name(model.dtype),
            recognised=str(before.get("recognised") or recognition.line()),
            recognition=before.get("recognition") or recognition.to_dict(),
            catalog_row=before.get("catalog_row") if same == len(checkpoint.tensors) else None,
        )
        return write_record(work, report, Path(out).resolve().name, license)


def _record(folder: Path) -> dict[str, Any]:
    """What an earlier conversion found out, {} where there was none or the weights were trained since: a second one
    knows no more."""
    try:
        found = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and of_these_weights(folder, found) else {}


def _model_of(row: Architecture, config: Mapping[str, Any]) -> tuple[str, str]:
    """The auto class and the class of the name in `architectures`. Raises ConversionError for a name that is none."""
    names = config.get("architectures") or []
    if found := row.named(names):
        return found
    known = sorted({class_name(reference) for reference in row.models.values()})
    raise ConversionError(
        f"config.json names {', '.join(names) or 'no class'} under architectures; of this model_type there are "
        f"{', '.join(known)}. Write the one that the weights are of there."
    )


def _loaded(model_class: Any, folder: Path, config: Any) -> tuple[Any, list[str]]:
    """The model, and the keys of the source that it has no place for."""
    with config_errors():
        model, loading = model_class.from_pretrained(folder, config=config, dtype="auto", output_loading_info=True)
    problems = [f"{key} is missing" for key in sorted(loading["missing_keys"])]
    problems += [f"{key} is {got}, the config wants {wanted}" for key, got, wanted in loading["mismatched_keys"]]
    if problems:
        raise ConversionError(
            f"the weights do not fit the config.json beside them, {numbered('mismatch', problems)}\nThose parts would "
            "be random. Save the model again where it was trained."
        )
    return model.eval(), sorted(loading["unexpected_keys"])


def _save_processor(folder: Path, work: Path, row: Architecture, plan: Plan) -> list[str]:
    """Ours of the same settings; where the source has none, the architecture's with its defaults. Says what changed."""
    extra = dict(plan.preprocessing)
    if any((folder / name).is_file() for name in PROCESSOR_FILES):
        processor = AutoImageProcessor.from_pretrained(folder, **extra)
        said = []
    elif row.processor is None:
        return ["it has no image processor, and none was added"]
    else:
        processor = load(row.processor)(**extra)
        said = [f"it had no image processor; {class_name(row.processor)} was added with its defaults, check them"]
    processor.save_pretrained(work)
    return said


def _config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Fields that are there on both sides with other values; new ones are defaults made explicit."""
    before, after = facts_of(before), facts_of(after)
    return [
        f"config.json: {name} was {before[name]!r} and is {after[name]!r}"
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name] and len(repr(after[name])) < 200
    ]
