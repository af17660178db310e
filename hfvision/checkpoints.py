"""Read checkpoints into flat {key: tensor} mappings, never executing what they contain; write checkpoints.

The container is recognised by the first bytes of a file, not by its name. A reader lets tensors out and nothing else;
whatever else a file holds is listed in `Checkpoint.left_out`. Every defect ends in one CheckpointReadError.
"""

import hashlib
import json
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfvision.errors import CheckpointReadError, numbered

FORMATS = "a NumPy .npz archive, a torch .pth/.pt/.bin file or a .safetensors file"
# Entries of training files that hold the weights, in the order in which they are taken; averaged weights come last.
WRAPPERS = ("model", "state_dict", "model_state", "model_ema", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.")  # of all keys, where the model was saved inside torch's parallel or compiled one

# A pickle that names one of these wants to run code, not to describe a training state.
CODE_MODULES = {"os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "pty", "socket", "ctypes"}
CODE_MODULES |= {"builtins", "commands", "pickle", "marshal", "code", "webbrowser", "operator"}
PLAIN_TYPES = {"set", "frozenset", "list", "dict", "tuple", "bytearray", "bytes", "str", "int", "float", "bool"}
PLAIN_TYPES |= {"complex", "slice", "range", "object"}
PYTHON_2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in which pickles of torch's are written

MOST_SETTINGS = 2**20  # bytes of a YAML file
BOMB_BYTES, BOMB_RATIO = 2**30, 100  # an archive that unpacks to more than both is refused before it is unpacked


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file or folder, and what identifies it."""

    tensors: dict[str, Tensor]
    name: str  # file or folder name, without the path
    container: str  # "npz", "torch", "safetensors" or "folder"
    sha256: str  # of the file; of a folder's weight files, one after the other
    left_out: tuple[str, ...] = ()  # what else was there, one line each
    config: dict[str, Any] = field(default_factory=dict)  # a folder's config.json
    entry: str | None = None  # of the training file, that held the weights; None: they were the file's content
    meta: Mapping[str, Any] = field(default_factory=dict)  # a torch file's entry "meta": text, numbers, lists of them
    path: Path | None = None  # of the file, for what lies beside it; None for a folder


def read(source: str | Path, entry: str | None = None) -> Checkpoint:
    """Read a checkpoint file, or a folder as `from_pretrained` takes it.

    `entry` chooses among the weights of a training file ("model_ema"), by default the first of WRAPPERS that is there.
    Raises CheckpointReadError.
    """
    path = Path(source)
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise CheckpointReadError(f"{path} does not exist; give the path of {FORMATS}.")
    with _reading(path, "a checkpoint"):
        with path.open("rb") as stream:
            start = stream.read(9)
            stream.seek(0)
            digest = hashlib.sha256()
            while block := stream.read(2**20):
                digest.update(block)
        container, reader = _container(path, start, entry)
    if entry is not None and container != "torch":
        raise CheckpointReadError(f"{path} is a {container} file, which has no entry {entry!r} around its weights.")
    with _reading(path, f"a {container} file"):
        tensors, left_out, entry, meta = reader(path)
    if not tensors:
        raise CheckpointReadError(f"{path} holds no tensors; wanted the weights of a model.")
    return Checkpoint(
        tensors, path.name, container, digest.hexdigest(), tuple(left_out), entry=entry, meta=meta, path=path
    )


def read_folder(folder: Path) -> Checkpoint:
    """Read `config.json` and the weights beside it: one safetensors file, its shards, or an older pytorch_model.bin.

    Raises CheckpointReadError.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointReadError(
            f"{folder} has no config.json; wanted a folder written by save_pretrained, or {FORMATS}."
        )
    with _reading(folder / "config.json", "JSON"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a JSON object is wanted, got {type(config).__name__}")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            one = read(folder / name)
            return Checkpoint(one.tensors, folder.name, "folder", one.sha256, one.left_out, config)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder, folder / f"{name}.index.json", config)
    raise CheckpointReadError(f"{folder} has a config.json but no model.safetensors; save the model there again.")


def download(repo_id: str) -> Path:
    """The local folder of a Hub model: config and weights. Raises CheckpointReadError."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=["config.json", "model*.safetensors*"]))
        if not any(folder.glob("model*.safetensors")):  # uploads from before 2023
            folder = Path(snapshot_download(repo_id, allow_patterns=["config.json", "pytorch_model*.bin*"]))
        return folder
    except (OSError, ValueError) as error:  # HTTP errors, offline mode and malformed ids are among these
        raise CheckpointReadError(f"{repo_id} is no folder here, and the Hub did not give it: {error}") from error


def looks_like_repo_id(source: str | Path) -> bool:
    """Whether this reads "owner/name" and nothing of that name is here."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) is not None and not Path(source).exists()


class _SettingsLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Plain data, and the tuples that Python's own writer marks as such."""


_SettingsLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings beside a checkpoint; nothing in them is executed. Raises CheckpointReadError."""
    with _reading(path, "YAML settings"):
        if path.stat().st_size > MOST_SETTINGS:
            raise ValueError(f"{path.stat().st_size:,} bytes, where settings take at most {MOST_SETTINGS:,}")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SettingsLoader)
        if not isinstance(content, dict):
            raise ValueError(f"a mapping is wanted, got {type(content).__name__}")
        return content


def yaml_text(settings: Mapping[str, Any]) -> str:
    """As Python's YAML writer has it, keys sorted and tuples marked: what `read_yaml` reads."""
    return yaml.dump(dict(settings))


def write_npz(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write an uncompressed `.npz`, keys sorted. bfloat16, which NumPy lacks, goes out as JAX stores it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(tensors):
            tensor = tensors[key].detach().cpu().contiguous()
            array = tensor.view(torch.int16).numpy().view("V2") if tensor.dtype == torch.bfloat16 else tensor.numpy()
            entry = zipfile.ZipInfo(f"{key}.npy")  # the fixed date of ZipInfo keeps equal weights in equal files
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def write_torch(path: Path, tensors: Mapping[str, Tensor], entry: str | None = None) -> None:
    """Write a file as torch.save does, keys sorted, the weights inside an `entry` if one is named."""
    weights = {key: tensors[key].detach().cpu().clone(memory_format=torch.contiguous_format) for key in sorted(tensors)}
    with path.open("wb") as stream:  # given a path, torch would write its name into the file
        torch.save(weights if entry is None else {entry: weights}, stream)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}, path)


class Contents(NamedTuple):
    """What a reader finds in a file; see Checkpoint."""

    tensors: dict[str, Tensor]
    left_out: Sequence[str] = ()
    entry: str | None = None
    meta: Mapping[str, Any] = MappingProxyType({})


Reader = Callable[[Path], Contents]


def _container(path: Path, start: bytes, entry: str | None) -> tuple[str, Reader]:
    if not start:
        raise CheckpointReadError(f"{path} is empty (0 bytes); download or copy it again.")
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return "npz", _read_npz
        if any(name.endswith("/data.pkl") for name in names):
            return "torch", partial(_read_torch, entry=entry)
        raise CheckpointReadError(
            f"{path} is a ZIP archive of other things ({', '.join(names[:3])}); wanted {FORMATS}."
        )
    if len(start) > 8 and start[8:9] == b"{":
        return "safetensors", _read_safetensors
    if start[0] == 0x80 and start[1] <= 5:  # a pickle, as torch wrote before version 1.6
        return "torch", partial(_read_torch, entry=entry)
    known = {
        b"\x93NUMPY": "a single NumPy array",
        b"\x89HDF": "an HDF5 file",
        b"\x1f\x8b": "a gzip file",
        b"\x89PNG": "a PNG",
    }
    kind = next((kind for magic, kind in known.items() if start.startswith(magic)), f"bytes that begin with {start!r}")
    raise CheckpointReadError(f"{path} is {kind}; wanted {FORMATS}.")


def _read_shards(folder: Path, index: Path, config: dict[str, Any]) -> Checkpoint:
    with _reading(index, "JSON"):
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("it points outside of its folder")
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    digest = hashlib.sha256()
    for name in files:
        shard = read(folder / name)
        tensors |= shard.tensors
        left_out += shard.left_out
        digest.update(shard.sha256.encode())
    if lacking := sorted(where.keys() - tensors.keys()):
        raise CheckpointReadError(
            f"{folder} lacks tensors that {index.name} lists: {', '.join(lacking)}. Copy it again."
        )
    return Checkpoint(tensors, folder.name, "folder", digest.hexdigest(), tuple(left_out), config)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a parser makes of a broken or hostile file becomes one CheckpointReadError."""
    try:
        yield
    except CheckpointReadError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        raise CheckpointReadError(
            f"{path} cannot be read as {kind}: it is damaged, incomplete or not what it seems "
            f"({type(error).__name__}: {said[0] if said else 'no message'}). Download or copy it again."
        ) from error


def _read_safetensors(path: Path) -> Contents:
    return Contents(load_file(path))


def _read_npz(path: Path) -> Contents:
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
            raise CheckpointReadError(
                f"{path} has {path.stat().st_size:,} bytes and claims to unpack to {unpacked:,}: a decompression bomb. "
                "It was not unpacked."
            )
        for entry in entries:
            key = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                try:
                    tensors[key] = _read_array(stream, entry.file_size)
                except _ForeignArrayError as error:
                    problems.append(f"{key} {error}")
        if len({entry.filename for entry in entries}) < len(entries):
            problems.append("a key occurs twice")
    if problems:
        raise CheckpointReadError(
            f"{path} has {numbered('unusable array', problems)}\nSave plain arrays of numbers only."
        )
    return Contents(tensors)


class _ForeignArrayError(Exception):
    """An array that is no plain block of numbers; the message continues the array's name."""


def _read_array(stream: IO[bytes], size: int) -> Tensor:
    """One `.npy` member. Its header is checked against the member's size before memory is taken."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise _ForeignArrayError(f"has the .npy version {version[0]}.{version[1]}, that of arrays with named fields")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise _ForeignArrayError("holds pickled Python objects, which could run code")
    bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
    if (dtype.kind not in "fiub" and not bfloat16) or dtype.itemsize > 8:
        raise _ForeignArrayError(f"is of type {dtype}, not plain numbers")
    wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if wanted != there:
        raise _ForeignArrayError(f"says {shape} of {dtype}, which takes {wanted:,} bytes, and has {there:,}")
    data = bytearray(stream.read())  # to the end: the archive's checksum is compared there
    if len(data) != wanted:
        raise EOFError(f"{len(data):,} of {wanted:,} bytes")
    dtype = np.dtype("<i2") if bfloat16 else dtype
    array = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(shape)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if bfloat16 else tensor


def _read_torch(path: Path, entry: str | None) -> Contents:
    names = _pickled_names(path)
    if runs := sorted(name for name in names if _runs_code(name)):
        raise CheckpointReadError(
            f"{path} tries to run code when it is opened: it calls {', '.join(runs)}. Nothing was run; do not trust it."
        )
    met: set[str] = set()
    inert: list[Any] = [(_placeholder(name, met), name) for name in sorted(names)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
        warnings.simplefilter("ignore")  # about the pickle protocol and old storages; the result is checked below
        try:
            with path.open("rb") as stream:  # a path would be read by its suffix
                content = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's advice to run the code of the file is left out
            raise ValueError(str(error).rpartition("WeightsUnpickler error: ")[2]) from error
    left_out = [f"objects of {name}, a class that was not imported" for name in sorted(met)]
    weights, meta = content, {}
    bare = not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values())
    if entry is not None or not bare:
        wanted = WRAPPERS if entry is None else (entry,)
        entry = None if bare else next((key for key in wanted if isinstance(content.get(key), Mapping)), None)
        if entry is None:
            entries = "the weights themselves" if bare else ", ".join(map(str, content))
            entries = entries or f"an object of {' or '.join(sorted(met)) or 'no class'}"
            raise CheckpointReadError(
                f"{path} has no entry {' or '.join(wanted)} with weights; it has {entries}. Save model.state_dict()."
            )
        weights = content[entry]
        if isinstance(content.get("meta"), Mapping):
            meta = _plain(content["meta"])
        left_out = [f"entry {key!r} of the file" for key in content if key != entry] + left_out
    if not isinstance(weights, Mapping):
        raise CheckpointReadError(
            f"{path} holds a {type(weights).__name__}, not a mapping of weights; save model.state_dict() instead."
        )
    tensors = {str(key): value.detach() for key, value in weights.items() if isinstance(value, Tensor)}
    left_out += [f"{key}, which is no tensor" for key, value in weights.items() if not isinstance(value, Tensor)]
    while tensors and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        left_out.append(f"{prefix!r} at the beginning of every key")
    if odd := sorted(key for key, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized):
        raise CheckpointReadError(
            f"{path} has sparse or quantized tensors: {', '.join(odd)}. Save them dense and unquantized."
        )
    return Contents(tensors, left_out, entry, meta)


def _plain(value: Any) -> Any:
    """Text, numbers, and lists and mappings of them; None in the place of anything else."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
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
