"""Read checkpoints into flat {key: tensor} mappings, never executing what they contain; write checkpoints.

The container is recognised by the first bytes of a file, not by its name. A reader lets tensors out and nothing else;
whatever else a file holds is listed in `Checkpoint.left_out`. Every defect ends in one CheckpointReadError.
"""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfvision.containers import ENOUGH, FORMATS, foreign, foreign_archive, foreign_folder
from hfvision.errors import CheckpointReadError, numbered
from hfvision.torch_files import Contents, read_torch

MOST_SETTINGS = 2**20  # bytes of a YAML file
INDEX = ".index.json"  # the end of the name of a file that lists shards
SUFFIXES = (".npz", ".pth", ".pt", ".bin", ".ckpt", ".pyth", ".safetensors")  # of originals in a folder
SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<of>\d+)(?P<suffix>\.\w+)")
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
    settings: Mapping[str, Any] = field(default_factory=dict)  # of a training, that a torch file keeps in other entries
    path: Path | None = None  # of the file, for what lies beside it; None for a folder


def read(source: str | Path, entry: str | None = None) -> Checkpoint:
    """Read a checkpoint: a file, the index of its shards, a folder as `from_pretrained` takes it, or a folder with the
    shards or the one file of an original.

    `entry` chooses among the weights of a training file ("model_ema"), by default the first of `torch_files.WRAPPERS`
    that is there. Raises CheckpointReadError.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "config.json").is_file():
            return read_folder(path)
        found = _weights_in(path)
        return _read_together(path, found) if isinstance(found, list) else read(found, entry)
    if not path.exists():
        raise CheckpointReadError(f"{path} does not exist; give the path of {FORMATS}.")
    if path.name.endswith(INDEX):
        return _read_shards(path.parent, path, {})
    with _reading(path, "a checkpoint"):
        with path.open("rb") as stream:
            start = stream.read(ENOUGH)
            stream.seek(0)
            digest = hashlib.sha256()
            while block := stream.read(2**20):
                digest.update(block)
        container, reader = _container(path, start, entry)
    if entry is not None and container != "torch":
        raise CheckpointReadError(f"{path} is a {container} file, which has no entry {entry!r} around its weights.")
    with _reading(path, f"a {container} file"):
        tensors, left_out, entry, meta, settings = reader(path)
    if not tensors:
        raise CheckpointReadError(f"{path} holds no tensors; wanted the weights of a model.")
    return Checkpoint(
        tensors,
        path.name,
        container,
        digest.hexdigest(),
        tuple(left_out),
        entry=entry,
        meta=meta,
        settings=settings,
        path=path,
    )


def read_folder(folder: Path) -> Checkpoint:
    """Read `config.json` and the weights beside it: one safetensors file, its shards, or an older pytorch_model.bin.

    Raises CheckpointReadError.
    """
    config = read_config_file(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            one = read(folder / name)
            return Checkpoint(one.tensors, folder.name, "folder", one.sha256, one.left_out, config)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder, folder / f"{name}.index.json", config)
    raise CheckpointReadError(f"{folder} has a config.json but no model.safetensors; save the model there again.")


def read_config_file(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises CheckpointReadError."""
    if not (folder / "config.json").is_file():
        raise CheckpointReadError(
            f"{folder} has no config.json; wanted a folder written by save_pretrained, or {FORMATS}."
        )
    with _reading(folder / "config.json", "JSON"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a JSON object is wanted, got {type(config).__name__}")
    return config


def _weights_in(folder: Path) -> Path | list[Path]:
    """What a folder without a config.json is read by: the index of shards, one file, or shards without an index."""
    with _reading(folder, "a folder"):
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        if kind := foreign_folder(folder):
            raise CheckpointReadError(f"{folder} is {kind}")
    if indices := [path for path in paths if path.name.endswith(INDEX)]:
        found = indices
    else:
        found = [path for path in paths if path.suffix in SUFFIXES]
        shards = [SHARD.fullmatch(path.name) for path in found]
        if found and all(shards):
            sets = {(shard["stem"], int(shard["of"]), shard["suffix"]) for shard in shards if shard}
            if len(sets) == 1 and len(found) == next(iter(sets))[1]:
                return found
            raise CheckpointReadError(
                f"{folder} has {len(found)} shards of {' and '.join(str(of) for _, of, _ in sorted(sets))}: "
                f"{', '.join(path.name for path in found)}. Copy all of one checkpoint there."
            )
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in found) or "none"
    raise CheckpointReadError(
        f"{folder} has no config.json, and of checkpoint files: {there}. Give the one file that is meant, {FORMATS}, "
        "or a folder written by save_pretrained."
    )


def download(repo_id: str, also: Sequence[str] = ()) -> Path:
    """The local folder of a Hub model: config and weights, and files of the patterns in `also`.

    Raises CheckpointReadError.
    """
    from huggingface_hub import snapshot_download

    small = ["config.json", *also]
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[*small, "model*.safetensors*"]))
        if not any(folder.glob("model*.safetensors")):  # uploads from before 2023
            folder = Path(snapshot_download(repo_id, allow_patterns=[*small, "pytorch_model*.bin*"]))
        return folder
    except (OSError, ValueError) as error:  # HTTP errors, offline mode and malformed ids are among these
        raise CheckpointReadError(f"{repo_id} is no folder here, and the Hub did not give it: {error}") from error


def looks_like_repo_id(source: str | Path) -> bool:
    """Whether this reads "owner/name" and nothing of that name is here."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) is not None
    return named and Path(source).suffix not in SUFFIXES and not Path(source).exists()


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


Reader = Callable[[Path], Contents]


def _container(path: Path, start: bytes, entry: str | None) -> tuple[str, Reader]:
    if not start:
        raise CheckpointReadError(f"{path} is empty (0 bytes); download or copy it again.")
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return "npz", _read_npz
        if kind := foreign_archive(names):
            raise CheckpointReadError(f"{path} is {kind}")
        if any(name.endswith("/data.pkl") for name in names):
            return "torch", partial(read_torch, entry=entry)
        raise CheckpointReadError(
            f"{path} is a ZIP archive of other things ({', '.join(names[:3])}); wanted {FORMATS}."
        )
    if len(start) > 8 and start[8:9] == b"{":
        return "safetensors", _read_safetensors
    if start[0] == 0x80 and start[1] <= 5:  # a pickle, as torch wrote before version 1.6
        return "torch", partial(read_torch, entry=entry)
    raise CheckpointReadError(f"{path} is {foreign(path, start)}")


def _read_shards(folder: Path, index: Path, config: dict[str, Any]) -> Checkpoint:
    with _reading(index, "JSON"):
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("it points outside of its folder")
    whole = _read_together(folder, [folder / name for name in files], config)
    if lacking := sorted(where.keys() - whole.tensors.keys()):
        raise CheckpointReadError(
            f"{folder} lacks tensors that {index.name} lists: {', '.join(lacking)}. Copy it again."
        )
    return whole


def _read_together(folder: Path, shards: list[Path], config: dict[str, Any] | None = None) -> Checkpoint:
    """Raises CheckpointReadError for a shard that cannot be read, and for a tensor that two of them have."""
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    digest = hashlib.sha256()
    for path in shards:
        shard = read(path)
        if double := sorted(tensors.keys() & shard.tensors.keys()):
            raise CheckpointReadError(
                f"{path} has {len(double)} tensors that another shard has, too ({double[0]}); "
                "the shards are of several checkpoints. Keep those of one."
            )
        tensors |= shard.tensors
        left_out += shard.left_out
        digest.update(shard.sha256.encode())
    return Checkpoint(tensors, folder.name, "folder", digest.hexdigest(), tuple(left_out), config or {})


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


def read_npy(path: Path) -> Tensor:
    """The one array of a `.npy` file. Raises CheckpointReadError."""
    if not path.is_file():
        raise CheckpointReadError(f"{path} does not exist; give the path of a .npy file.")
    with _reading(path, "a .npy file"), path.open("rb") as stream:
        try:
            return _read_array(stream, path.stat().st_size)
        except _ForeignArrayError as error:
            raise CheckpointReadError(f"{path} {error}. Save plain arrays of numbers only.") from error


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
