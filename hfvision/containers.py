"""What a file is by its first bytes, where it is no checkpoint that hfvision reads, and what to do about it."""

from collections.abc import Callable, Sequence
from pathlib import Path

FORMATS = "a NumPy .npz archive, a torch .pth/.pt/.bin file or a .safetensors file"

AGAIN = "Download it again: what arrived is not the file."
TENSORFLOW = (
    "TensorFlow's weights are not read here. For a model of transformers load it in an environment with "
    "transformers 4 (from_pretrained(..., from_tf=True)) and save it with save_pretrained; else take the authors' "
    f"file as {FORMATS}."
)
KERAS = "For others read its arrays with h5py and write them with numpy.savez under the original's names."
FLAX = (
    "Read it in Python with flax.serialization.msgpack_restore, join the names of nested mappings with '/' and write "
    "the arrays with numpy.savez; for a model of transformers, transformers 4 loads it with from_flax=True."
)
ONNX = (
    "It is a graph for inference, whose names are no longer those of the weights; give the checkpoint from which "
    "it was exported."
)
TORCHSCRIPT = (
    "It holds a program. Load it with torch.jit.load where you trust it, and save the weights alone: "
    "torch.save(model.state_dict(), FILE)."
)

# The first bytes that decide, what such a file is, and what to do.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write weights (.h5)", f"{TENSORFLOW} {KERAS}"),
    (b"\x93NUMPY", "a single NumPy array", "Save all weights of the model in one archive with numpy.savez."),
    (b"GGUF", "a GGUF file, quantised for language model runtimes", "Give the weights that it was made from."),
    (b"\x1f\x8b", "a gzip file", "Unpack it first, and give what lies inside."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first, and give what lies inside."),
    (b"version https://git-lfs", "a Git LFS pointer, which only names the file", "Run `git lfs pull` there."),
    (b"<!DOCTYPE", "a web page", AGAIN),
    (b"<!doctype", "a web page", AGAIN),
    (b"<html", "a web page", AGAIN),
    (b"<?xml", "XML, as a server writes errors", AGAIN),
    (b"\x89PNG", "a PNG image", f"Give the checkpoint: {FORMATS}."),
    (b"\x08\x01\x12", "a TensorFlow graph or SavedModel (.pb)", TENSORFLOW),
)
ENOUGH = 512  # bytes that `foreign` may want to see
SSTABLE_END = bytes.fromhex("57fb808b247547db")  # of the tables that TensorFlow's index files are
ONNX_VERSIONS = range(2, 32)  # of its intermediate representation, the file's first field


def foreign(path: Path, start: bytes) -> str:
    """What the file is and what to do, "it is ... ; wanted ...": `start` is its first ENOUGH bytes or all of them."""
    for magic, kind, advice in (*MAGIC, *_by_structure(path, start)):
        if start.startswith(magic):
            return f"{kind}; wanted {FORMATS}. {advice}"
    return f"bytes that begin with {start[:9]!r}; wanted {FORMATS}."


def foreign_archive(names: Sequence[str]) -> str | None:
    """The same for a ZIP archive with members of these names; None for archives that torch or NumPy writes."""
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return f"a TorchScript program; wanted {FORMATS}. {TORCHSCRIPT}"
    if "model.weights.h5" in names:
        return f"a Keras model (.keras); wanted {FORMATS}. {TENSORFLOW} {KERAS}"
    if any(name.startswith("META-INF/") or name.endswith(".mlmodel") for name in names):
        return f"a packaged model of another program ({', '.join(names[:3])}); wanted {FORMATS}."
    return None


def foreign_folder(folder: Path) -> str | None:
    """The same for a folder of another framework's; None for others."""
    names = {path.name for path in folder.iterdir()}
    if "saved_model.pb" in names or ("checkpoint" in names and any(name.endswith(".index") for name in names)):
        return f"a TensorFlow checkpoint. {TENSORFLOW}"
    if "_CHECKPOINT_METADATA" in names or {"_METADATA", "manifest.ocdbt"} & names:
        return (
            "a checkpoint of Orbax (JAX). Restore it with orbax.checkpoint, join the names of nested mappings with '/' "
            "and write the arrays with numpy.savez."
        )
    return None


def _by_structure(path: Path, start: bytes) -> list[tuple[bytes, str, str]]:
    """Formats without a magic number: each rule that holds, in the form of MAGIC."""
    rules: tuple[tuple[Callable[[], bool], str, str], ...] = (
        (lambda: start[4:8] == b"TFL3", "a TensorFlow Lite model", TENSORFLOW),
        (lambda: start[257:262] == b"ustar", "a tar archive", "Unpack it first, and give what lies inside."),
        (lambda: _is_onnx(start), "an ONNX model", ONNX),
        (lambda: _is_msgpack(start), "msgpack, as Flax writes weights (.msgpack)", FLAX),
        (lambda: _ends_as_sstable(path), "the index of a TensorFlow checkpoint", TENSORFLOW),
        (lambda: ".data-0" in path.name, "a part of a TensorFlow checkpoint", TENSORFLOW),
    )
    return [(b"", kind, advice) for holds, kind, advice in rules if holds()]


def _is_onnx(start: bytes) -> bool:
    """A protocol buffer: the version of the representation, then the producer's name or the graph."""
    return start[:1] == b"\x08" and len(start) > 2 and start[1] in ONNX_VERSIONS and start[2] in (0x12, 0x3A)


def _is_msgpack(start: bytes) -> bool:
    """A mapping of at most 15 entries or one with a counted size, whose first key is text."""
    if not start:
        return False
    key = {0xDE: 3, 0xDF: 5}.get(start[0], 1 if 0x81 <= start[0] <= 0x8F else None)
    return key is not None and len(start) > key + 1 and (0xA1 <= start[key] <= 0xBF or start[key] == 0xD9)


def _ends_as_sstable(path: Path) -> bool:
    if path.stat().st_size < len(SSTABLE_END):
        return False
    with path.open("rb") as stream:
        stream.seek(-len(SSTABLE_END), 2)
        return stream.read() == SSTABLE_END
