"""`hfvision predict IMAGE ...`: the labels of images, of their pixels, or of the objects in them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = ("map", "overlay")


def run(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files or URLs.")],
    model: Annotated[str, typer.Option(help="A starter model (vit-digits), a folder, or a Hub id.")],
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels per image (5), of models that classify.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for overlays; for label maps, where pixels get labels; for detections.json or segments.json "
            "and maps in COCO's form, where objects are found."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of an object (0.5; of a segment 0.9).", min=0, max=1)
    ] = None,
    subtask: Annotated[
        str | None, typer.Option(help="Of models that segment objects: panoptic (default), instance, semantic.")
    ] = None,
    tile: Annotated[int | None, typer.Option(min=1, help="Side in pixels of windows to cut large images into.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a window that its neighbour repeats (0.25).")] = None,
    blend: Annotated[
        str | None, typer.Option(help="How windows are joined where pixels get labels: gauss, mean, none.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images (or windows) that run together.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    optimize: Annotated[
        str | None,
        typer.Option(
            help="Faster, not quite the same numbers: bfloat16, int8, token_merging=8, compile, or several with commas."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from hfvision.pipelines.predict import predictions

    options = {
        "top_k": top_k,
        "threshold": threshold,
        "subtask": subtask,
        "tile": tile,
        "overlap": overlap,
        "blend": blend,
    }
    answers = predictions(images, model, batch_size=batch_size, device=device, optimize=optimize, **options)
    files = None if output is None else _Files(output)
    rows = []
    for image, answer in zip(images, answers, strict=True):
        row = {"image": image, "predictions": _entries(answer)}
        if files is not None:
            if isinstance(answer, list):
                raise ConfigError(f"--output is for models that say where something is; {model!r} classifies.")
            row |= files.add(image, answer)
        rows.append(row)
    text = "\n".join(map(_text, rows))
    if files is not None and (summary := files.finish()):
        text += f"\n{summary}"
    emit(rows, text, as_json)


class _Files:
    """What is written to the folder: pictures of each image, and one document for all where objects were found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stems = Counter[str]()
        self.ids: set[int | str] = set()
        self.name = ""  # of the document
        self.detections: list[dict[str, Any]] = []  # COCO's results
        self.segments: list[dict[str, Any]] = []  # COCO's panoptic annotations
        self.categories: dict[int, str] = {}

    def add(self, image: str, answer: Any) -> dict[str, str]:
        """Where the pictures of an image are."""
        stem = Path(image).stem
        self.stems[stem] += 1
        stem = stem if self.stems[stem] == 1 else f"{stem}-{self.stems[stem]}"
        image_id = self._id(stem)
        pictures = _pictures(image, answer)
        if not isinstance(answer, dict):
            self.name = "detections.json"
            self.detections += answer.to_coco(image_id)
        elif "segments_info" in answer:
            self.name = "segments.json"
            segments = [{**row, "category_id": row["label_id"]} for row in answer["segments_info"]]
            self.categories |= {row["label_id"]: row["label"] for row in segments}
            self.segments.append({"image_id": image_id, "file_name": f"{stem}.map.png", "segments_info": segments})
        return {kind: self._write(f"{stem}.{kind}.png", picture) for kind, picture in pictures.items()}

    def _id(self, stem: str) -> int | str:
        """The number that COCO's file names are, else the name."""
        image_id = int(stem) if stem.isdecimal() and int(stem) not in self.ids else stem
        self.ids.add(image_id)
        return image_id

    def finish(self) -> str:
        """Write the document; returns where it is, "" if there is none."""
        if not self.name:
            return ""
        categories = [{"id": number, "name": name} for number, name in sorted(self.categories.items())]
        panoptic = {"annotations": self.segments, "categories": categories}
        return self._write(self.name, panoptic if self.segments else self.detections)

    def _write(self, name: str, content: Any) -> str:
        import json

        from hfvision.errors import ImageWriteError
        from hfvision.writing import new_file

        file = self.folder / name
        with new_file(file, ImageWriteError) as work:
            if name.endswith(".json"):
                work.write_text(json.dumps(content) + "\n", encoding="utf-8")
            else:
                content.save(work)
        return str(file)


def _pictures(image: str, answer: Any) -> dict[str, "Image"]:
    """What there is to see of an answer: the overlay, and the map where there is one."""
    from hfvision.plots import detection_overlay, panoptic_overlay, segmentation_overlay

    if not isinstance(answer, dict):
        return {"overlay": detection_overlay(image, answer)}
    if "segments_info" in answer:
        overlay = panoptic_overlay(image, answer["segmentation"], answer["segments_info"])
        return {"map": _coded(answer["segmentation"]), "overlay": overlay}
    names = {label["id"]: label["label"] for label in answer["labels"]}
    overlay = segmentation_overlay(image, answer["classes"], answer["colours"], names, ignore_index=None)
    return {"map": answer["map"], "overlay": overlay}


def _coded(ids: Any) -> "Image":
    """Ids as the colours of COCO's panoptic maps: id = red + 256 green + 65536 blue."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))


def _entries(answer: Any) -> list[dict[str, Any]]:
    """The labels, classes, segments or objects of an image, ready for JSON."""
    if isinstance(answer, dict):
        return answer["segments_info"] if "segments_info" in answer else answer["labels"]
    return answer if isinstance(answer, list) else answer.to_list(masks=False)


def _text(row: dict[str, Any]) -> str:
    """The image, and a line for each of its labels, segments or objects."""
    entries = row["predictions"]
    width = max((len(entry["label"]) for entry in entries), default=0)
    lines = [row["image"]] + ["    nothing was found"] * (not entries)
    for entry in entries:
        numbers = [f"{entry[name]:.4f}" for name in ("share", "score") if entry.get(name) is not None]
        if "box" in entry:
            numbers.append("  ".join(f"{edge:>5}" for edge in entry["box"].values()))
        lines.append(f"    {entry['label']:<{width}}  {'  '.join(numbers)}")
    return "\n".join(lines + [f"    {kind}: {row[kind]}" for kind in PICTURES if kind in row])
