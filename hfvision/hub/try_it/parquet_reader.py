"""Some rows of a parquet file for a page, read over a pipe in a process with limits.

    python -m hfvision.hub.try_it.parquet_reader '{"size": BYTES, "start": ROW, "rows": N, "memory": BYTES, ...}'

It asks for bytes by a line {"read": [OFFSET, LENGTH]} and gets exactly so many; at the end it says {"columns", "rows",
"total"} or {"error": one sentence}. A cell is {"text"} or {"image": data address, "size": [W, H]}.
"""

import base64
import colorsys
import io
import json
import sys
from typing import Any, BinaryIO

from hfvision.confinement import confine, own_pipes

SIDE = 160  # pixels of the longer side of a thumbnail
MOST_PIXELS = 50_000_000
MOST_COLUMNS = 20
LONGEST_TEXT = 200  # characters of a cell
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
CODES = 64  # grey images whose values are all below are maps of classes
BUFFER = 1 << 16  # bytes of a column that are read at once
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


class PipeFile(io.RawIOBase):
    """A file whose bytes come from the other end of the pipe, `most` of them altogether."""

    def __init__(self, size: int, most: int, source: BinaryIO, sink: BinaryIO) -> None:
        self._size, self._left = size, most
        self._source, self._sink = source, sink
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = {0: 0, 1: self._at, 2: self._size}[whence] + offset
        return self._at

    def read(self, length: int = -1) -> bytes:
        wanted = max(0, self._size - self._at)
        wanted = wanted if length < 0 else min(length, wanted)
        if wanted == 0:
            return b""
        self._left -= wanted
        if self._left < 0:
            raise ValueError("its row groups are too large for a preview")
        self._sink.write(json.dumps({"read": [self._at, wanted]}).encode() + b"\n")
        data = self._source.read(wanted)
        if len(data) != wanted:
            raise ValueError("its bytes could not be read")
        self._at += wanted
        return data


def main() -> None:
    options = json.loads(sys.argv[1])
    confine(options["memory"], file_size=1 << 20, cpu_seconds=options["seconds"])
    source, sink = own_pipes()
    try:
        answer = _table(PipeFile(options["size"], options["most"], source, sink), options["start"], options["rows"])
    except MemoryError:
        answer = {"error": "The file needs more memory than a preview may take."}
    except Exception as error:  # whatever a damaged file makes the decoder raise
        answer = {"error": f"The file cannot be shown: {str(error).splitlines()[0][:200] if str(error) else 'damaged'}"}
    sink.write(json.dumps(answer).encode() + b"\n")


def _table(file: PipeFile, start: int, count: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    opened = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=BUFFER, pre_buffer=False)
    total = opened.metadata.num_rows
    schema = opened.schema_arrow
    columns = schema.names[:MOST_COLUMNS]
    labels = _class_names(schema.metadata or {})
    rows: list[dict[str, Any]] = []
    before = 0
    for group in range(opened.num_row_groups):
        length = opened.metadata.row_group(group).num_rows
        if before + length > start and len(rows) < count:
            skipped = max(0, start - before)
            at = 0
            for batch in opened.iter_batches(count, [group], columns=columns, use_threads=False):
                for row in batch.slice(max(0, skipped - at)).to_pylist() if at + len(batch) > skipped else ():
                    if len(rows) < count:
                        rows.append({name: _cell(row[name], labels.get(name)) for name in columns})
                at += len(batch)
                if len(rows) >= count:
                    break
        before += length
    return {"columns": columns, "rows": rows, "total": total}


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its classes, as `datasets` writes them into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: [str(one) for one in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _cell(value: Any, names: list[str] | None) -> dict[str, Any]:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes) and data.startswith(BEGINNINGS):
        return _thumbnail(data)
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return {"text": names[value] if names[value] == str(value) else f"{names[value]} ({value})"}
    if isinstance(data, bytes):
        return {"text": f"{len(data):,} bytes"}
    text = value if isinstance(value, str) else json.dumps(_short(value), ensure_ascii=False, default=str)
    return {"text": text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 4] + " ..."}


def _short(value: Any) -> Any:
    """Long lists by their first entries."""
    if isinstance(value, list):
        return [_short(one) for one in value[:8]] + (["..."] if len(value) > 8 else [])
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


def _thumbnail(data: bytes) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.size
            if size[0] * size[1] > MOST_PIXELS:
                return {"text": f"image of {size[0]} x {size[1]} pixels"}
            image.draft("RGB", (SIDE * 2, SIDE * 2))
            counts = image.histogram() if image.mode == "L" else []
            if any(counts[1:CODES]) and not any(counts[CODES:]):
                return _picture(_coloured(image), size)
            image.thumbnail((SIDE, SIDE))
            return _picture(image, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {"text": f"damaged image of {len(data):,} bytes"}


def _picture(image: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A thumbnail as a data address: exact where it is small or has few colours, else a JPEG."""
    exact = image.mode in ("1", "L", "P") or max(size) <= SIDE
    out = io.BytesIO()
    if exact:
        (image if image.mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGBA")).save(out, "PNG")
    else:
        image.convert("RGB").save(out, "JPEG", quality=82)
    kind = "png" if exact else "jpeg"
    return {"image": f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", "size": list(size)}


def _coloured(image: Any) -> Any:
    """A map of small numbers, which would look black: each number in a colour of its own, 0 in black."""
    from PIL import Image

    image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    image = image.copy()
    image.putpalette(
        [round(255 * part) for code in range(256) for part in _colour(code)],
    )
    return image


def _colour(code: int) -> tuple[float, float, float]:
    """Hues that are far apart for neighbouring numbers."""
    return colorsys.hsv_to_rgb(code * 0.381966 % 1, 0.65, 0.95) if code else (0.0, 0.0, 0.0)


if __name__ == "__main__":
    main()
