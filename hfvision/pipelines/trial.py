"""One model that answers images over a pipe, in a process with limits: what the pages of a hub try models with.

    python -m hfvision.pipelines.trial '{"model": FOLDER, "memory": BYTES, "pixels": MOST}'

Each line of standard input is {"image": FILE, "picture": FILE to write}; each line of standard output is the answer:
{"kind", "entries", "picture": whether there is one, "size": [W, H], "seconds"} or {"error": one sentence}.
"""

import json
import sys
import time
import traceback
from typing import Any

from hfvision.confinement import confine, own_pipes
from hfvision.errors import ConfigError, HfvisionError

ENTRIES = 50  # labels or objects of an answer
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SHOWN_SIDE = 1024  # pixels of the longer side of an image that is answered


def main() -> None:
    options = json.loads(sys.argv[1])
    confine(options["memory"])
    requests, answers = own_pipes()
    found = None
    for line in requests:
        request = json.loads(line)
        try:
            if found is None:
                from hfvision.pipelines.loading import load_pipeline

                found = load_pipeline(options["model"])
            answer = _answered(found, request["image"], request["picture"], options["pixels"])
        except HfvisionError as error:
            answer = {"error": str(error).replace(options["model"], "the model")[:500]}
        except Exception as error:  # whatever a broken checkpoint makes a library raise; the details are in the log
            traceback.print_exc()
            told = "needs more memory than a trial may take" if _is_memory(error) else "cannot be run here"
            answer = {"error": f"The model {told} ({type(error).__name__})."}
        answers.write(json.dumps(answer).encode() + b"\n")


def _is_memory(error: BaseException | None) -> bool:
    """Whether it, or what led to it, is a lack of memory: libraries have many words for that."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(word in text for word in ("memory", "failed to map", "allocat")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _answered(found: Any, image: str, picture: str, pixels: int) -> dict[str, Any]:
    from hfvision.pipelines.predict import answer_of

    shown = _read(image, pixels)
    start = time.perf_counter()
    kind, answer = answer_of(found, shown)
    seconds = time.perf_counter() - start
    drawn = _overlay(shown, answer)
    if drawn is not None:
        drawn.save(picture, format="PNG")
    return {
        "kind": kind,
        "entries": _entries(answer)[:ENTRIES],
        "picture": drawn is not None,
        "size": list(shown.size),
        "seconds": seconds,
    }


def _read(file: str, pixels: int) -> Any:
    """An image of at most `pixels`, upright and RGB, scaled down to what a page shows. Raises ConfigError."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # the limit is `pixels`
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > pixels:
                raise ConfigError(f"The image has {opened.width} x {opened.height} pixels; a trial takes {pixels:,}.")
            image = ImageOps.exif_transpose(opened.convert("RGBA" if "transparency" in opened.info else opened.mode))
            if image.mode.startswith("I"):
                raise ConfigError("The image has more than 8 bits per channel; convert it first.")
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("This is no image, or a damaged one: PNG, JPEG, WebP, GIF, BMP and TIFF are read.") from error
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return image


def _overlay(image: Any, answer: Any) -> Any:
    """The image with the answer drawn on it; None for labels of the whole image."""
    from hfvision.plots import detection_overlay, panoptic_overlay, segmentation_overlay

    if isinstance(answer, list):
        return None
    if not isinstance(answer, dict):
        return detection_overlay(image, answer)
    if "segments_info" in answer:
        return panoptic_overlay(image, answer)
    return segmentation_overlay(image, answer)


def _entries(answer: Any) -> list[dict[str, Any]]:
    """Label, score, share of the pixels and box of each entry, as far as it has them; best first."""
    if isinstance(answer, dict):
        rows = answer["segments_info"] if "segments_info" in answer else answer["labels"]
    else:
        rows = answer if isinstance(answer, list) else answer.to_list(masks=False)
    kept = [
        {name: row[name] for name in ("label", "score", "share", "box") if row.get(name) is not None} for row in rows
    ]
    return sorted(kept, key=lambda row: -row.get("share", row.get("score", 0.0)))


if __name__ == "__main__":
    main()
