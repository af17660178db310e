"""What of a model folder goes to the Hub, and whether it works: copied to a place of its own, loaded, run once."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import transformers

from hfvision.cards import check_card
from hfvision.cards.existing import split_sections
from hfvision.cards.model_card import CARD
from hfvision.errors import PublishError, numbered
from hfvision.licences import LicenceReport, trace, write_licence_files
from hfvision.publishing.code import (
    CONFIG,
    MODULE,
    PROCESSOR_FILES,
    add_code,
    auto_map_of,
    read_json,
    row_of,
    settings_of,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
RECORDS = ("hfvision_conversion.json",)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pyth", ".npz", ".h5", ".msgpack")
LINKED = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp", ".json", ".md", ".txt", ".csv")  # where the card names them
LICENCE = re.compile(r"(licen[cs]e|notice|copying)([._-].*)?", re.IGNORECASE)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")
SIDES = (48, 64)  # pixels of the image that is tried


@dataclass
class Staged:
    """A folder that holds exactly what is to be pushed."""

    folder: Path
    licence: LicenceReport
    model_type: str = ""
    model_class: str = ""
    left_out: dict[str, str] = field(default_factory=dict)  # file of the source -> reason
    changed: list[str] = field(default_factory=list)  # what differs from the source

    def files(self) -> dict[str, Path]:
        """Path in the repository -> file."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}


@contextmanager
def staged(folder: str | Path, repo_id: str, with_code: bool = False) -> Iterator[Staged]:
    """What a push of `folder` to `repo_id` sends, checked; `folder` itself stays as it is.

    Raises PublishError that lists everything wrong: no card or an invalid one, weights that are pickled or not there,
    a model or image processor that does not load, results that are not finite.
    """
    source = Path(folder)
    if not source.is_dir():
        raise PublishError(f"{source} is no folder; push takes one that holds a model, as convert and train write it.")
    if not (source / CONFIG).is_file():
        raise PublishError(
            f"{source} has no {CONFIG}, so it holds no model; push a folder that convert or train wrote."
        )
    row_of(read_json(source / CONFIG), source)
    with tempfile.TemporaryDirectory(prefix="hfvision-push-") as place:
        stage = Staged(Path(place), trace(source))
        problems = _copy(source, stage)
        stage.changed += _address(stage.folder, repo_id)
        if with_code:
            stage.changed += [f"{name}: written for trust_remote_code=True" for name in add_code(stage.folder)]
        else:
            stage.changed += _without_dangling_code(stage.folder)
        problems += _add_licences(source, stage)
        if _text(stage.folder / CARD) is not None:
            problems += [f"{CARD}: {fault}" for fault in check_card(stage.folder, repo_id)]
        if not problems:  # else half of it would be said twice
            problems += _try(stage)
        if problems:
            raise PublishError(f"{source} is not ready for the Hub; {numbered('problem', problems)}\nNothing was sent.")
        yield stage


def _copy(source: Path, stage: Staged) -> list[str]:
    """Copy the model's files (weights are linked) and note the others; what is missing."""
    card = _text(source / CARD)
    linked = set(LINK.findall(card or ""))
    weights, problems = _weight_files(source)
    wanted = {CONFIG, CARD, *PROCESSOR_FILES, *RECORDS, *weights} | _code_files(source)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        own = name in wanted or LICENCE.fullmatch(name) is not None
        if own or (name in linked and path.suffix.lower() in LINKED):
            target = stage.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target) if name in weights else shutil.copyfile(path, target)
        else:
            _leave_out(name, stage.left_out)
    if card is None:
        problems.append(f"it has no {CARD} of UTF-8 text; write a model card with `hfvision card {source}`")
    if not any((source / name).is_file() for name in PROCESSOR_FILES):
        problems.append(
            f"it has no {PROCESSOR_FILES[0]}, so nobody knows how images are prepared; save the image processor there"
        )
    return problems


def _text(path: Path) -> str | None:
    """A file's text; None where there is no such file, or no text in it."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _weight_files(source: Path) -> tuple[set[str], list[str]]:
    """The names of the safetensors files that `from_pretrained` would take, and what is wrong with them."""
    if (source / WEIGHTS).is_file():
        return {WEIGHTS}, []
    if not (source / INDEX).is_file():
        pickled = sorted(path.name for path in source.iterdir() if path.suffix in PICKLES)
        beside = f" (only {', '.join(pickled)}, which run code when opened)" if pickled else ""
        return set(), [f"it has no {WEIGHTS}{beside}; load the model and save it again with save_pretrained"]
    where = read_json(source / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        return set(), [f"{INDEX} has no weight_map; load the model and save it again with save_pretrained"]
    shards = set(map(str, where.values()))
    lacking = sorted(name for name in shards if Path(name).name != name or not (source / name).is_file())
    return {INDEX, *shards} - set(lacking), [f"{INDEX} names {name}, which is not there" for name in lacking]


def _code_files(source: Path) -> set[str]:
    """The modules of the folder that `auto_map` points to."""
    found = set()
    for name in (CONFIG, *PROCESSOR_FILES):
        if (source / name).is_file():
            contents = read_json(source / name)
            for reference in auto_map_of(contents).values():
                named = reference if isinstance(reference, list) else [reference]
                found |= {f"{one.split('.')[0]}.py" for one in map(str, named) if "--" not in one}
    return found


def _leave_out(name: str, left_out: dict[str, str]) -> None:
    """Note a file, or once the folder that it lies in."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        left_out[next(part for part in path.parts if part.startswith("."))] = "hidden"
    elif len(path.parts) > 1:
        left_out[f"{path.parts[0]}/"] = "a folder, of training checkpoints for one"
    elif path.suffix in PICKLES:
        left_out[name] = "not safetensors"
    elif path.suffix == ".safetensors":
        left_out[name] = f"not part of the model: from_pretrained takes {WEIGHTS} or what {INDEX} names"
    else:
        left_out[name] = f"not part of a model; a file that {CARD} links to goes along"


def _link(path: Path, target: Path) -> None:
    """A second name for large files; a copy where the system has no such thing."""
    try:
        os.symlink(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _address(folder: Path, repo_id: str) -> list[str]:
    """Have the card's code name the repository, where it names the folder that the model came from."""
    path = folder / CARD
    card = _text(path)
    name = None if card is None else split_sections(card)[0]
    if card is None or name is None or name == repo_id:
        return []
    old, new = json.dumps(name, ensure_ascii=False), json.dumps(repo_id)

    def readdressed(block: re.Match[str]) -> str:
        return re.sub(rf"((?:model=|from_pretrained\()\s*){re.escape(old)}", rf"\g<1>{new}", block.group(0))

    addressed = re.sub(r"^```.*?^```", readdressed, card, flags=re.DOTALL | re.MULTILINE)
    if addressed == card:
        return []
    path.write_text(addressed, encoding="utf-8")
    return [f"{CARD}: its code names {repo_id} instead of {name}"]


def _add_licences(source: Path, stage: Staged) -> list[str]:
    """Lay the texts that must travel beside the model; a problem where the card says less than a parent asks for.

    What the card alone tells `check_card` says; `source` may hold a record of the training besides.
    """
    licence = stage.licence
    for path in write_licence_files(stage.folder, licence.all(), licence.repositories()):
        if not (source / path.name).is_file():
            stage.changed.append(f"{path.name}: added, the text of a licence that these weights come under")
    if not licence.overruled or trace(stage.folder, download=False).overruled:
        return []
    return [
        f"{CARD} says {licence.own.key}, and these weights come from others under {licence.licence.key}, which holds "
        f"for them too; refresh it with `hfvision card {source}`"
    ]


def _without_dangling_code(folder: Path) -> list[str]:
    """Take `auto_map` out where the module it names is not in the folder, as in fine-tunes of models with code."""
    changed = []
    for name in (CONFIG, *PROCESSOR_FILES):
        if (folder / name).is_file():
            contents = read_json(folder / name)
            ours = [one for one in auto_map_of(contents).values() if f"{MODULE}." in str(one)]
            if ours and not (folder / f"{MODULE}.py").is_file():
                del settings_of(contents)["auto_map"]
                (folder / name).write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                changed.append(f"{name}: auto_map taken out, as {MODULE}.py is not there; --with-code adds both")
    return changed


def _try(stage: Staged) -> list[str]:
    """Load the staged model through the Auto classes and run one image through it; what went wrong."""
    config = read_json(stage.folder / CONFIG)
    architectures = config.get("architectures") or []
    found = row_of(config, stage.folder).named(architectures)
    if found is None:
        return [f"{CONFIG} names no class of {config['model_type']} in architectures (got {architectures})"]
    stage.model_type, stage.model_class = config["model_type"], architectures[0]
    auto_class, _ = found
    auto: Any = getattr(transformers, auto_class)
    if auto_class == "AutoBackbone":  # whose from_pretrained takes no folders
        auto = transformers.AutoBackbone._model_mapping[type(transformers.AutoConfig.from_pretrained(stage.folder))]
    problems: list[str] = []
    processor = _attempt("the image processor", problems, transformers.AutoImageProcessor.from_pretrained, stage.folder)
    loaded = _attempt("the model", problems, auto.from_pretrained, stage.folder, output_loading_info=True)
    if loaded is None or processor is None:
        return problems
    model, info = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(map(str, info[kind]))
        if keys:
            problems.append(f"the weights have {kind.replace('_', ' ')}: {', '.join(keys[:5])} ({len(keys)} in all)")
    outputs = None if problems else _attempt("one image", problems, _forward, model.eval(), processor)
    if outputs is not None and not all(torch.isfinite(one).all() for one in outputs):
        problems.append("the model's answer to one image is not finite (NaN or infinity): its weights are damaged")
    return problems


def _attempt(what: str, problems: list[str], call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The call's result, or None and a line for what it raised: a folder can be wrong in any way."""
    try:
        return call(*arguments, **options)
    except Exception as error:
        said = str(error).strip().splitlines()
        problems.append(f"{what} fails: {type(error).__name__}: {said[0] if said else 'no message'}")
        return None


@torch.no_grad()
def _forward(model: Any, processor: Any) -> list[torch.Tensor]:
    """The floating-point outputs for one image of noise, of as many channels as the model takes."""
    channels = getattr(type(model).input_config(model.config), "num_channels", 3)
    image = np.random.default_rng(0).integers(0, 256, (*SIDES, channels), np.uint8)
    inputs = processor(images=image, input_data_format="channels_last", return_tensors="pt")
    given = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    outputs = model(**given)
    return [one for one in outputs.to_tuple() if isinstance(one, torch.Tensor) and one.is_floating_point()]
