"""`hfvision convert`: an original checkpoint to a Hugging Face folder, or a folder back to the original format; an
adapter between the names of modules here and in plain transformers 5."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.errors import ConfigError


class Direction(StrEnum):
    huggingface = "huggingface"
    original = "original"
    transformers5 = "transformers5"


class PositionRule(StrEnum):
    corner_aligned = "corner_aligned"
    bicubic = "bicubic"
    bilinear = "bilinear"


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="The checkpoint: a file, the index or folder of its shards, or a model in transformers' format "
            "(folder or Hub id), which is saved anew; with --to original such a model. Or the folder of an adapter."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; with --to original the file.")],
    to: Annotated[
        Direction,
        typer.Option(
            help="The format to write. Of an adapter: huggingface names its modules as hfvision and files do, "
            "transformers5 as plain transformers 5 does in memory."
        ),
    ] = Direction.huggingface,
    family: Annotated[str | None, typer.Option(help="The original's family, where its keys do not tell.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the config, the value as JSON: image_size=[30,42]. Repeatable."),
    ] = None,
    position_rule: Annotated[
        PositionRule | None,
        typer.Option(help="How a position table is resampled for another image_size; by default as the original does."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes: a label set, ade20k-150 for one, or a JSON file with a list or {id: name}."
        ),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="Pixel values that the original was given: .npy (N, C, H, W), or .npz."),
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(help="What it answered, to compare with: .npz with logits and others by name, or .npy of logits."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="The weights' licence for the model card, apache-2.0 for one; by default that of a published file and "
            "none for weights that are not known to be published."
        ),
    ] = None,
    entry: Annotated[
        str | None, typer.Option(help="Which weights of a training file, model_ema for one; by default the model's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model or file at OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The report goes to stderr, the files written to stdout; with --json the whole report goes to stdout."""
    overrides = dict(map(parse_setting, set_ or []))
    given: dict[str, object] = {"--set": set_, "--labels": labels, "--license": license}
    given |= {"--position-rule": position_rule}
    given |= {"--entry": entry, "--input": input_, "--expected": expected}
    unused = [option for option, value in given.items() if value]

    from hfvision.conversion.adapters import CONFIG_FILE, convert_adapter, is_adapter

    if is_adapter(source):
        unused += ["--family"] * (family is not None) + ["--to original"] * (to is Direction.original)
        if unused:
            raise ConfigError(f"{', '.join(unused)} cannot be used with an adapter, of which only names change.")
        names = "transformers5" if to is Direction.transformers5 else "hfvision"
        adapter = convert_adapter(source, out, names, overwrite=overwrite)
        if not as_json:
            typer.echo(adapter.text(), err=True)
        emit(adapter.to_dict(), "\n".join(str(out / name) for name in adapter.files), as_json)
        return
    if to is Direction.transformers5:
        raise ConfigError(f"--to transformers5 is for adapters of PEFT, and {source} has no {CONFIG_FILE}.")
    if to is Direction.original and unused:
        raise ConfigError(f"{', '.join(unused)} cannot be used with --to original: the folder says it all.")

    from hfvision.conversion import convert, convert_back

    if to is Direction.original:
        report = convert_back(source, out, family=family, overwrite=overwrite)
        files = [out]
    else:
        report = convert(
            source,
            out,
            family=family,
            overrides=overrides,
            position_rule=None if position_rule is None else position_rule.value,
            labels=labels,
            license=license,
            entry=entry,
            overwrite=overwrite,
            inputs=input_,
            expected=expected,
        )
        files = [out / name for name in report.files]
    if not as_json:
        typer.echo(report.text(), err=True)
    emit(report.to_dict(), "\n".join(map(str, files)), as_json)


def parse_setting(setting: str) -> tuple[str, Any]:
    """ "image_size=[30,42]" -> ("image_size", [30, 42]); text that is no JSON is taken as it is."""
    field, equals, value = setting.partition("=")
    if not equals or not field:
        raise ConfigError(f"--set takes FIELD=VALUE, for example num_attention_heads=4; got {setting!r}.")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        if value[:1] in '[{"':
            raise ConfigError(f"--set {field}: {value!r} is no JSON value; write for example [30,42].") from None
        return field, value
