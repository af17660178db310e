"""The files that must travel with weights: a licence's full text, with the copyright lines of its source.

Texts: apache.org and opensource.org; NVIDIA's is worded as in licenses/LICENSE_nvidia of segmentation_models.pytorch, a
copy of the LICENSE file of github.com/NVlabs/SegFormer that its terms ask for.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hfvision.licences.known import Licence

TEXTS = Path(__file__).with_name("texts")

# The copyright lines of the sources whose licence wants them in every copy, as their LICENSE files have them.
COPYRIGHTS = {
    "microsoft/Swin-Transformer": "Copyright (c) Microsoft Corporation.",
    "rstrudel/segmenter": "Copyright (c) 2021 Robin Strudel",
    "fudan-zvg/SETR": "Copyright (c) Zhang Vision Group, Fudan University.",
}
_COPYRIGHT = "{copyright}"


def licence_files(licences: Iterable[Licence], repositories: Mapping[str, str] | None = None) -> dict[str, str]:
    """{file name: text}: LICENSE for the first licence whose text has to travel, LICENSE.name for further ones.

    `repositories` are where the weights come from, by the key of a licence. An MIT text without its copyright line
    would be none: where the line is not known there is no file.
    """
    files: dict[str, str] = {}
    for licence in licences:
        if licence.text is None:
            continue
        text = (TEXTS / f"{licence.text}.txt").read_text(encoding="utf-8")
        if _COPYRIGHT in text:
            line = COPYRIGHTS.get((repositories or {}).get(licence.key, ""))
            if line is None:
                continue
            text = text.replace(_COPYRIGHT, line)
        if text not in files.values():
            files["LICENSE" if not files else f"LICENSE.{licence.key}"] = text
    return files


def write_licence_files(
    folder: str | Path, licences: Iterable[Licence], repositories: Mapping[str, str] | None = None
) -> list[Path]:
    """Write them beside a model, and return their paths. A LICENSE that says something else stays; the text is then in
    LICENSE.name.
    """
    written = []
    for licence in licences:
        for text in licence_files([licence], repositories).values():
            path = Path(folder, "LICENSE")
            if path.exists() and not _same(path, text):
                path = Path(folder, f"LICENSE.{licence.key}")
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def carries(folder: str | Path, licence: Licence) -> bool:
    """Whether the folder has the text of a licence that must travel; of others nothing is asked."""
    if licence.text is None:
        return True
    text = (TEXTS / f"{licence.text}.txt").read_text(encoding="utf-8")
    key = _words(text.partition(_COPYRIGHT)[2])[:200] if _COPYRIGHT in text else _words(text)[:200]
    return any(
        key in _words(path.read_text(encoding="utf-8", errors="replace")) for path in Path(folder).glob("LICEN*")
    )


def _same(path: Path, text: str) -> bool:
    return _words(path.read_text(encoding="utf-8", errors="replace")) == _words(text)


def _words(text: str) -> str:
    """Without line breaks, which copies differ in."""
    return " ".join(text.split())
