"""Whether a card is one that the Hub takes, and that says what it must: licence, task, tags, marked figures, snippet.

The Hub checks cards itself when they arrive, over the network; this says the same beforehand, without it.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hfvision.cards.existing import split_sections
from hfvision.cards.figures import MEASURED
from hfvision.cards.model_card import CARD
from hfvision.cards.tasks import NAMES
from hfvision.errors import CheckpointReadError
from hfvision.licences import Licence, carries, on_hub, trace

_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def check_card(folder: str | Path, repository: str | None = None) -> list[str]:
    """The problems of a model folder's card, one line each; none where all is well.

    `repository` is the Hub id that the snippet must load; without it the snippet must load what the title says.

    Example:
        >>> import tempfile, hfvision
        >>> folder = tempfile.mkdtemp()
        >>> hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1).save_pretrained(folder)
        >>> path = hfvision.write_folder_card(folder, name="me/my-deit")
        >>> hfvision.check_card(folder)
        ["license is 'unknown': ask the authors of what it was made from, and state it with --license"]
    """
    path = Path(folder) / CARD
    if not path.is_file():
        return [f"{folder} has no card ({CARD}): write one with `hfvision card {folder}`"]
    text = path.read_text(encoding="utf-8", errors="replace")
    front, problems = read_front(text)
    if front is None:
        return problems
    config = _config(Path(folder))
    wanted = config.get("model_type")
    problems += [
        *check_front(front),
        *([f"tags lack the model type {wanted!r}"] if wanted and wanted not in front.get("tags", ()) else []),
        *_figures(text),
        *_snippet(text, repository),
        *_licence(Path(folder), text),
    ]
    return problems


def read_front(text: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The front matter as huggingface_hub reads it, or None and why not."""
    try:
        data = ModelCard(text).data
    except Exception as error:  # of YAML, and of huggingface_hub for a model-index that is none
        return None, [f"the front matter cannot be read: {' '.join(str(error).split())}"]
    front = data.to_dict()
    return (front, []) if front else (None, ["the card has no front matter: lines between two lines of ---"])


def check_front(front: Mapping[str, Any]) -> list[str]:
    """What the Hub, or a reader, would not take of the front matter."""
    return [*_stated_licence(front), *_fields(front), *_model_index(front.get("model-index"))]


def _stated_licence(front: Mapping[str, Any]) -> Iterator[str]:
    license = front.get("license")
    if not license:
        yield "license is missing: state it with `hfvision card FOLDER --license ...`"
    elif not isinstance(license, str) or not on_hub(license):
        yield f"license is {license!r}, which the Hub does not know: one of its identifiers, or other with license_name"
    elif license == "unknown":
        yield "license is 'unknown': ask the authors of what it was made from, and state it with --license"
    elif license == "other" and not front.get("license_name"):
        yield "license is 'other' without license_name (and license_link): the Hub and readers need both"


def _fields(front: Mapping[str, Any]) -> Iterator[str]:
    if front.get("library_name") != "transformers":
        yield f"library_name is {front.get('library_name')!r}; models that transformers loads have 'transformers'"
    if front.get("pipeline_tag") not in NAMES.values():
        yield f"pipeline_tag is {front.get('pipeline_tag')!r}; one of {', '.join(dict.fromkeys(NAMES.values()))}"
    tags = front.get("tags")
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) and tag for tag in tags):
        yield "tags are missing: a list of words"
    for field in ("base_model", "datasets"):
        stated = front.get(field, [])
        for name in [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else [stated]:
            if not isinstance(name, str) or _ID.fullmatch(name) is None:
                yield f"{field} has {name!r}, which is no id of the Hub"


def _model_index(index: Any) -> Iterator[str]:
    """huggingface_hub's parser has been through it; what it lets pass and the Hub or a reader would not."""
    for model in index or ():
        for result in model.get("results", ()):
            source = result.get("source")
            if source is not None and not (source.get("name") and str(source.get("url", "")).startswith("https://")):
                yield f"a quoted result of {model.get('name')} lacks the name or the https address of its source"
            for metric in result.get("metrics", ()):
                value = metric.get("value")
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    yield f"{metric.get('type')} on {result['dataset'].get('name')} is {value!r}: no finite number"
                elif source is None and not (metric.get("args") or {}).get("samples"):
                    yield (
                        f"{metric.get('type')} on {result['dataset'].get('name')} is neither measured (with its number "
                        "of samples) nor quoted (with its source)"
                    )


def _figures(text: str) -> Iterator[str]:
    """Rows of the table of results that do not say where they come from."""
    for line in split_sections(text)[1].get("Results", "").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) < 3 or cells[-1] in ("source", "---"):
            continue
        if not cells[-1].startswith((MEASURED, "quoted from ")):
            yield f"a result is neither measured nor quoted: {' '.join(cells)}"


def _snippet(text: str, repository: str | None) -> Iterator[str]:
    title, sections = split_sections(text)
    code = _CODE.findall(sections.get("Use", ""))
    wanted = repository or title
    if not code:
        yield "there is no snippet: a section Use with a block of python"
    elif wanted is not None and all(json.dumps(wanted, ensure_ascii=False) not in one for one in code):
        yield f"the snippet does not load {wanted!r}: refresh the card with `hfvision card FOLDER --name {wanted}`"


def _licence(folder: Path, text: str) -> Iterator[str]:
    """What the terms of the weights, and of those that they were made from, want to be there."""
    try:
        report = trace(folder, download=False)
    except CheckpointReadError as error:
        yield str(error)
        return
    if report.overruled:
        yield (
            f"the card says {report.own.key}, and the terms of a parent are stricter: {report.licence.key}. Refresh "
            "the card with `hfvision card FOLDER`"
        )
    if report.conflict:
        yield report.conflict
    for licence in report.all():
        yield from _lacking(folder, text, licence)


def _lacking(folder: Path, text: str, licence: Licence) -> Iterator[str]:
    if licence.banner and " ".join(licence.banner.split()) not in " ".join(text.split()):
        yield f"the banner of {licence.name} is missing: refresh the card with `hfvision card FOLDER`"
    if licence.banner and not carries(folder, licence):
        yield f"the folder lacks the text of {licence.name}, which its terms want in every copy (LICENSE)"


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
