"""`hfvision list`: what can be built, loaded, converted and used."""

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from hfvision.catalog import CatalogRow

HEAD = ("name", "size", "parameters", "FLOPs", "input", "labels", "figure", "licence", "file")
TO_THE_RIGHT = ("parameters", "FLOPs", "input")
LEGEND = (
    "Figures are quoted from their sources, in per cent; * under other conditions than the row's, which --json tells. "
    "FLOPs count a multiply-add as two, for one image of the input size."
)


def run(
    task: Annotated[
        str | None, typer.Option(help="Only models for this task: image-classification, image-segmentation, ...")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Of segmentation only this kind: semantic or panoptic.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Only models of this family or model_type: swin, deit, ...")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also architectures of which no weights are published under a name.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """With a filter only the checkpoints, else also the model families and the starters."""
    from hfvision.catalog import rows

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # names of 0.4.0 hold in scripts
        found = rows(task, family, kind)
    shown = [row for row in found if all_ or row.published]
    result: dict[str, Any] = {"checkpoints": [{**asdict(row), "task": row.task, "kind": row.kind} for row in shown]}
    head: list[str] = []
    if task is None and family is None and kind is None:
        from hfvision.registry import families
        from hfvision.starters import starters

        result = {"families": families(), "starters": starters(), **result}
        head = _families(result["families"], result["starters"])
    hidden = len(found) - len(shown)
    more = f"{hidden} more architectures have no published file with a name: --all" if hidden else ""
    emit(result, "\n".join([*head, *_table(shown), *filter(None, [LEGEND, more])]), as_json)


def _families(families: list[dict[str, Any]], starters: list[dict[str, Any]]) -> list[str]:
    lines = ["Model families (model_type: classes)"]
    for row in families:
        classes = ", ".join(name for names in row["models"].values() for name in names)
        processor = row["processor"] or "transformers' image processor"
        lines.append(f"    {row['model_type']}: {classes}; {processor}")
    lines.append("Starter models (hfvision predict IMAGE --model NAME)")
    for row in starters:
        lines.append(
            f"    {row['name']}: {row['architecture']}, {row['parameters']:,} parameters, {row['labels']} labels"
        )
    return lines


def _table(rows: "list[CatalogRow]") -> list[str]:
    """The checkpoints by repository, in columns."""
    lines = [f"Checkpoints of their authors: {len(rows)} (hfvision convert FILE OUT; hfvision.create(NAME))"]
    cells = {row.name: _cells(row) for row in rows}
    widths = [max(map(len, column)) for column in zip(HEAD, *cells.values(), strict=True)]
    for repository in dict.fromkeys(row.repository for row in rows):
        lines += [f"{repository}", f"    {_line(HEAD, widths)}"]
        lines += [f"    {_line(cells[row.name], widths)}" for row in rows if row.repository == repository]
    return lines


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    columns = zip(HEAD, cells, widths, strict=True)
    padded = (f"{cell:>{width}}" if name in TO_THE_RIGHT else f"{cell:<{width}}" for name, cell, width in columns)
    return "  ".join(padded).rstrip()


def _cells(row: "CatalogRow") -> tuple[str, ...]:
    height, width = row.input_size
    return (
        row.name,
        row.size,
        f"{row.parameters / 1e6:.1f} M",
        "-" if row.flops is None else f"{row.flops / 1e9:.1f} G",
        f"{height}x{width}",
        row.labels or "-",
        _figure(row),
        row.license_name or row.license,
        row.file or "-",
    )


def _figure(row: "CatalogRow") -> str:
    if not row.figures:
        return "-"
    figure = row.figures[0]
    metric, *conditions = figure.metric.split(" (")
    return f"{figure.value:g} {metric}{' *' if conditions else ''}, {figure.dataset}"
