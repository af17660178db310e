"""`hfvision list`: what can be built, loaded and used."""

from hfvision.cli.output import JsonOption, emit


def run(as_json: JsonOption = False) -> None:
    from hfvision.registry import families
    from hfvision.starters import starters

    result = {"families": families(), "starters": starters()}
    lines = ["Model families (model_type: classes)"]
    for row in result["families"]:
        classes = ", ".join(name for names in row["models"].values() for name in names)
        processor = row["processor"] or "transformers' image processor"
        lines.append(f"    {row['model_type']}: {classes}; {processor}")
    lines.append("Starter models (hfvision predict IMAGE --model NAME)")
    for row in result["starters"]:
        lines.append(
            f"    {row['name']}: {row['architecture']}, {row['parameters']:,} parameters, {row['labels']} labels"
        )
    emit(result, "\n".join(lines), as_json)
