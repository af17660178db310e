"""What `hfvision predict` writes: pictures of each image, COCO's documents, and tables of all answers."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfvision.errors import ImageWriteError
from hfvision.writing import new_file

if TYPE_CHECKING:
    from PIL.Image import Image

TABLES = (".json", ".csv", ".parquet")
EDGES = ("xmin", "ymin", "xmax", "ymax")


class PictureFiles:
    """Pictures of each image in a folder, and one document for all where objects were found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stems = Counter[str]()
        self.ids: set[int | str] = set()
        self.name = ""  # of the document
        self.detections: list[dict[str, Any]] = []  # COCO's results
        self.segments: list[dict[str, Any]] = []  # COCO's panoptic annotations
        self.categories: dict[int, str] = {}

    def add(self, image: str, stem: str, answer: Any) -> dict[str, str]:
        """Where the pictures of an image are. `stem` names them, with folders below this one."""
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
        file = self.folder / name
        with new_file(file, ImageWriteError) as work:
            if name.endswith(".json"):
                work.write_text(json.dumps(content) + "\n", encoding="utf-8")
            else:
                content.save(work)
        return str(file)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """All answers in one file that appears whole or not at all.

    A .json file holds the rows as `--json` prints them. A .csv or .parquet file has a line for each label, class,
    segment or object of an image; an image without any, or that failed, has one line.
    """
    with new_file(path, ImageWriteError) as work:
        if path.suffix.lower() == ".json":
            work.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            return
        lines = [line for row in rows for line in _lines(row)]
        columns = list(dict.fromkeys(name for line in lines for name in line))
        columns = [name for name in columns if name != "error"] + ["error"]
        if path.suffix.lower() == ".csv":
            with work.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(lines)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            arrays = {name: pa.array([line.get(name) for line in lines]) for name in columns}
            arrays["error"] = arrays["error"].cast(pa.string())
            pq.write_table(pa.table(arrays), work)


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    about = {"image": row["image"]}
    lines = []
    for entry in row.get("predictions", []):
        flat = {name: value for name, value in entry.items() if name != "box"}
        lines.append(about | flat | {edge: entry["box"][edge] for edge in EDGES if "box" in entry})
    return lines or [about | ({"error": row["error"]} if "error" in row else {})]


def entries_of(answer: Any) -> list[dict[str, Any]]:
    """The labels, classes, segments or objects of an image, ready for JSON."""
    if isinstance(answer, dict):
        return answer["segments_info"] if "segments_info" in answer else answer["labels"]
    return answer if isinstance(answer, list) else answer.to_list(masks=False)


def _pictures(image: str, answer: Any) -> dict[str, "Image"]:
    """What there is to see of an answer: the overlay, and the map where there is one."""
    from hfvision.plots import detection_overlay, panoptic_overlay, segmentation_overlay

    if not isinstance(answer, dict):
        return {"overlay": detection_overlay(image, answer)}
    if "segments_info" in answer:
        overlay = panoptic_overlay(image, answer)
        return {"map": _coded(answer["segmentation"]), "overlay": overlay}
    overlay = segmentation_overlay(image, answer)
    return {"map": answer["map"], "overlay": overlay}


def _coded(ids: Any) -> "Image":
    """Ids as the colours of COCO's panoptic maps: id = red + 256 green + 65536 blue."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))
