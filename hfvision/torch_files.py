"""Read the weights of a torch file, whatever a training has put around them, never executing what it contains.

The weights lie in an entry of WRAPPERS, or deeper, or are the whole content. Classes that the file names are never
imported: inert placeholders stand for them, and only tensors leave the reader.
"""

import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from hfvision.errors import CheckpointReadError

# Entries that hold the weights, in the order in which they are taken: those of training loops, of Lightning and
# mmsegmentation (state_dict), DeepSpeed (module), self-distillation (teacher); averaged weights come last.
WRAPPERS: tuple[str, ...] = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network")
WRAPPERS += ("weights", "teacher", "student", "ema", "ema_state_dict", "model_ema", "state_dict_ema")
SETTINGS = ("cfg", "config", "args", "hyper_parameters")  # entries beside the weights that trainings keep settings in
MOST_TEXT = 2**20  # characters of one of these
DEEPEST_SETTINGS = 20  # lists and mappings inside others
DEEPEST = 4  # entries inside entries
PREFIXES = ("module.", "_orig_mod.")  # of all keys, where the model was saved inside torch's parallel or compiled one

# A pickle that names one of these wants to run code, not to describe a training state.
CODE_MODULES = {"os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "pty", "socket", "ctypes"}
CODE_MODULES |= {"builtins", "commands", "pickle", "marshal", "code", "webbrowser", "operator"}
PLAIN_TYPES = {"set", "frozenset", "list", "dict", "tuple", "bytearray", "bytes", "str", "int", "float", "bool"}
PLAIN_TYPES |= {"complex", "slice", "range", "object"}
PYTHON_2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in which pickles of torch's are written


class Contents(NamedTuple):
    """What a reader finds in a file; see `checkpoints.Checkpoint`."""

    tensors: dict[str, Tensor]
    left_out: Sequence[str] = ()
    entry: str | None = None
    meta: Mapping[str, Any] = MappingProxyType({})
    settings: Mapping[str, Any] = MappingProxyType({})


def read_torch(path: Path, entry: str | None) -> Contents:
    """`entry` names the entry with the weights, "ema.module" one inside another; by default the first of WRAPPERS.

    Raises CheckpointReadError for a file that would run code, holds no weights or such that are not plain and dense;
    whatever torch raises for a damaged one.
    """
    content, met = _load(path)
    left_out = [f"objects of {name}, a class that was not imported" for name in sorted(met)]
    found = _find(content, WRAPPERS) if entry is None else _follow(content, entry)
    if found is None:
        raise CheckpointReadError(_nothing_found(path, content, met, entry))
    weights, places = found
    meta: Mapping[str, Any] = {}
    inside = content
    for depth, place in enumerate(places):
        before = "".join(f"{name}." for name in places[:depth])
        left_out = [f"entry {before + str(key)!r} of the file" for key in inside if key != place] + left_out
        inside = inside[place]
    if places and isinstance(content.get("meta"), Mapping):
        meta = _plain(content["meta"])
    settings = {name: _plain(content[name]) for name in SETTINGS if places and _is_short(content.get(name))}
    tensors = {str(key): value.detach() for key, value in weights.items() if isinstance(value, Tensor)}
    left_out += [f"{key}, which is no tensor" for key, value in weights.items() if not isinstance(value, Tensor)]
    while tensors and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        left_out.append(f"{prefix!r} at the beginning of every key")
    if odd := sorted(key for key, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized):
        raise CheckpointReadError(
            f"{path} has sparse or quantized tensors: {', '.join(odd)}. Save them dense and unquantized."
        )
    return Contents(tensors, left_out, ".".join(places) or None, meta, settings)


def _load(path: Path) -> tuple[Any, set[str]]:
    """The content, and the names of the classes that placeholders stand for."""
    names = _pickled_names(path)
    if runs := sorted(name for name in names if _runs_code(name)):
        raise CheckpointReadError(
            f"{path} tries to run code when it is opened: it calls {', '.join(runs)}. Nothing was run; do not trust it."
        )
    met: set[str] = set()
    inert: list[Any] = [(_placeholder(name, met), name) for name in sorted(names)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
        warnings.simplefilter("ignore")  # about the pickle protocol and old storages; the result is checked later
        try:
            with path.open("rb") as stream:  # a path would be read by its suffix
                return torch.load(stream, map_location="cpu", weights_only=True), met
        except pickle.UnpicklingError as error:  # torch's advice to run the code of the file is left out
            raise ValueError(str(error).rpartition("WeightsUnpickler error: ")[2]) from error


Found = tuple[Mapping[Any, Any], tuple[str, ...]]  # the weights, and the entries that lead to them


def _find(content: Any, wrappers: Sequence[str], depth: int = 0) -> Found | None:
    """A wrapper's weights come before single tensors beside it, such as a best score."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return None
    for name in wrappers:
        if isinstance(content.get(name), Mapping) and (found := _find(content[name], wrappers, depth + 1)):
            return found[0], (name, *found[1])
    return (content, ()) if any(isinstance(value, Tensor) for value in content.values()) else None


def _follow(content: Any, entry: str) -> Found | None:
    """The entry that is called so, or whose path of entries is."""
    if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
        inner = _find(content[entry], WRAPPERS)
        return None if inner is None else (inner[0], (entry, *inner[1]))
    outer, dot, rest = entry.partition(".")
    inner = _follow(content.get(outer), rest) if dot and isinstance(content, Mapping) else None
    return None if inner is None else (inner[0], (outer, *inner[1]))


def _nothing_found(path: Path, content: Any, met: set[str], entry: str | None) -> str:
    if not isinstance(content, Mapping):
        return (
            f"{path} holds a {type(content).__name__}, not a mapping of weights; save model.state_dict() instead."
            if not met
            else f"{path} holds an object of {' or '.join(sorted(met))}, not a mapping of weights; load it where its "
            "code is, and save model.state_dict()."
        )
    bare = any(isinstance(value, Tensor) for value in content.values())
    entries = "the weights themselves" if bare else ", ".join(map(str, content))
    entries = entries or f"an object of {' or '.join(sorted(met)) or 'no class'}"
    wanted = WRAPPERS if entry is None else (entry,)
    return f"{path} has no entry {' or '.join(wanted)} with weights; it has {entries}. Save model.state_dict()."


def _is_short(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, str) and len(value) <= MOST_TEXT)


def _plain(value: Any, depth: int = 0) -> Any:
    """Text, numbers, and lists and mappings of them; None in the place of anything else, and too far inside."""
    if isinstance(value, Mapping) and depth < DEEPEST_SETTINGS:
        return {str(key): _plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple) and depth < DEEPEST_SETTINGS:
        return [_plain(part, depth + 1) for part in value]
    return value if isinstance(value, str | int | float) else None


def _pickled_names(path: Path) -> set[str]:
    """All "module.name" that the pickles of a torch file refer to, found without unpickling."""
    names: set[str] = set()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".pkl"):
                    with archive.open(entry) as stream:
                        names |= _global_names(stream)
    else:  # magic number, protocol, system information, content: one pickle each, and then the raw storages
        with path.open("rb") as stream:
            for _ in range(4):
                names |= _global_names(stream)
                if not stream.peek(1):
                    break
    return names


def _global_names(stream: IO[bytes]) -> set[str]:
    names, strings = set(), ["", ""]
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            module, name = str(argument).split(" ", 1)
            names.add(f"{PYTHON_2_NAMES.get(module, module)}.{name}")
        elif opcode.name == "STACK_GLOBAL":  # module and name are the strings that came last
            names.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def _runs_code(name: str) -> bool:
    module, _, function = name.rpartition(".")
    return module.split(".")[0] in CODE_MODULES and not (
        module in ("builtins", "__builtin__") and function in PLAIN_TYPES
    )


def _placeholder(name: str, met: set[str]) -> type:
    """A class to put in the place of `name`: it takes any arguments and keeps none of NumPy's.

    Other classes become ordered dictionaries, because torch's reader lets only those take items.
    """

    def make(cls: type, *args: object, **kwargs: object) -> object:
        met.add(name)
        return object.__new__(cls) if name.startswith("numpy") else OrderedDict()

    return type("Placeholder", (), {"__new__": make, "__setstate__": lambda self, state: None})
