"""Checkpoint files are data: every container is read exactly, and broken or hostile files end in one error."""

import argparse
import collections
import json
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hfvision.checkpoints import download, looks_like_repo_id, read, write_npz
from hfvision.conversion import convert
from hfvision.errors import CheckpointReadError

WEIGHTS = {"a/kernel": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3.5)}


def assert_weights(checkpoint):
    torch.testing.assert_close(checkpoint.tensors, WEIGHTS, rtol=0, atol=0)


def refused(path, said):
    with pytest.raises(CheckpointReadError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


class RunsCode:
    """Unpickling this would make a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


# --- what can be read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read(save, tmp_path):
    save(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in WEIGHTS.items()})
    checkpoint = read(tmp_path / "w.npz")
    assert_weights(checkpoint)
    assert (checkpoint.container, checkpoint.name) == ("npz", "w.npz")


def test_arrays_of_every_layout_and_type_keep_their_values(tmp_path):
    arrays = {
        "column order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f4"),
        "half": np.arange(3, dtype=np.float16),
        "integer": np.arange(3, dtype=np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(2),
    }
    np.savez(tmp_path / "w.npz", **arrays)
    tensors = read(tmp_path / "w.npz").tensors
    for key, array in arrays.items():
        np.testing.assert_array_equal(tensors[key].numpy(), array)
        assert tensors[key].shape == array.shape


def test_npz_files_are_written_so_that_numpy_and_we_read_them_back(tmp_path):
    tensors = WEIGHTS | {"brain": torch.randn(3, 2).bfloat16(), "view": torch.randn(3, 2).mT}
    write_npz(tmp_path / "w.npz", tensors)
    torch.testing.assert_close(read(tmp_path / "w.npz").tensors, tensors, rtol=0, atol=0)
    with np.load(tmp_path / "w.npz", allow_pickle=False) as loaded:
        assert loaded.files == sorted(tensors)
        np.testing.assert_array_equal(loaded["view"], tensors["view"].numpy())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state"])
def test_a_torch_file_is_read_with_and_without_a_wrapper(wrapper, old, tmp_path):
    content = WEIGHTS if wrapper is None else {"epoch": 3, wrapper: WEIGHTS, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    checkpoint = read(tmp_path / "w.pth")
    assert_weights(checkpoint)
    left = () if wrapper is None else ("entry 'epoch' of the file", "entry 'optimizer' of the file")
    assert checkpoint.left_out == left


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_weights(read(tmp_path / "w.safetensors"))


def test_the_container_shows_in_the_content_and_not_in_the_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.npz")
    assert read(tmp_path / "w.npz").container == "safetensors"
    torch.save(WEIGHTS, tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors").container == "torch"


def test_the_sha256_is_that_of_the_file(tmp_path):
    from hashlib import sha256

    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors").sha256 == sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["one file", "shards", "pytorch_model.bin"])
def test_a_hugging_face_folder_is_read(form, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    if form == "one file":
        save_file(WEIGHTS, tmp_path / "model.safetensors")
    elif form == "pytorch_model.bin":
        torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    else:
        where = {key: f"model-0000{index}-of-00002.safetensors" for index, key in enumerate(WEIGHTS, 1)}
        for key, name in where.items():
            save_file({key: WEIGHTS[key]}, tmp_path / name)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    checkpoint = read(tmp_path)
    assert_weights(checkpoint)
    assert (checkpoint.container, checkpoint.config) == ("folder", {"model_type": "vit"})


# --- training files with objects of unknown classes -------------------------------------------------------------------


class Settings(dict):
    """A mapping class that no reader knows."""


def test_objects_of_unknown_classes_become_inert_and_are_listed(tmp_path):
    content = {
        "model": WEIGHTS,
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
        "best": np.float64(0.5),
        "settings": Settings(depth=2),
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    torch.save(content, tmp_path / "w.pth")
    checkpoint = read(tmp_path / "w.pth")
    assert_weights(checkpoint)
    listed = " ".join(checkpoint.left_out)
    for name in ("argparse.Namespace", f"{Settings.__module__}.Settings", "collections.defaultdict", "numpy"):
        assert name in listed


def test_an_unknown_class_is_never_imported(tmp_path):
    module = tmp_path / "trap_module.py"
    module.write_text("class Trap: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from trap_module import Trap

        torch.save({"model": WEIGHTS, "args": Trap()}, tmp_path / "w.pth")
        del sys.modules["trap_module"]
        module.write_text("raise SystemExit('imported')\n")
        checkpoint = read(tmp_path / "w.pth")
    finally:
        sys.path.remove(str(tmp_path))
    assert_weights(checkpoint)
    assert "trap_module" not in sys.modules
    assert "objects of trap_module.Trap, a class that was not imported" in checkpoint.left_out


def test_reading_leaves_no_class_allowed_for_later_loads(tmp_path):
    torch.save({"model": WEIGHTS, "args": argparse.Namespace()}, tmp_path / "w.pth")
    before = torch.serialization.get_safe_globals()
    read(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "alone"])
def test_a_torch_file_that_would_run_code_is_refused_and_nothing_runs(place, old, tmp_path):
    proof = tmp_path / "it_ran"
    trap = RunsCode(proof)
    content = {
        "beside the weights": {"model": WEIGHTS, "args": trap},
        "as a weight": WEIGHTS | {"c": trap},
        "alone": trap,
    }
    torch.save(content[place], tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    message = refused(tmp_path / "w.pth", "tries to run code")
    assert f"{os.system.__module__}.system" in message
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_that_would_run_code_is_refused_and_nothing_runs(protocol, tmp_path):
    proof = tmp_path / "it_ran"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(RunsCode(proof), protocol=protocol))
    refused(tmp_path / "w.pth", "tries to run code|bytes that begin with")
    with pytest.raises(CheckpointReadError):
        convert(tmp_path / "w.pth", tmp_path / "model")
    assert not proof.exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "subprocess.Popen", "runpy.run_path", "importlib.import_module"])
def test_other_ways_of_running_code_are_refused_too(name, tmp_path):
    module, function = name.split(".")
    program = b"\x80\x02" + f"c{module}\n{function}\n".encode() + b"X\x01\x00\x00\x001\x85R."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", program)
        archive.writestr("w/version", "3\n")
    assert name in refused(tmp_path / "w.pth", "tries to run code")


def test_pickled_arrays_in_an_npz_are_refused_and_nothing_runs(tmp_path):
    proof = tmp_path / "it_ran"
    objects = np.array([RunsCode(proof)], dtype=object)
    np.savez(tmp_path / "w.npz", weights=np.zeros(2), trap=objects, other=np.array([None]))
    message = refused(tmp_path / "w.npz", "2 unusable arrays")
    assert "trap holds pickled Python objects" in message
    assert "other holds pickled Python objects" in message
    assert not proof.exists()


def test_a_shard_list_that_points_elsewhere_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(CheckpointReadError, match="outside of its folder"):
        read(tmp_path)


def npy_header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", npy_header((10**9, 10**9)) + bytes(16))
    refused(tmp_path / "w.npz", r"a says \(1000000000, 1000000000\) of float32, which takes .* and has 16")


def test_a_decompression_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("hfvision.checkpoints.BOMB_BYTES", 2**20)  # the real limit would take a GiB to exceed
    np.savez_compressed(tmp_path / "w.npz", zeros=np.zeros(2**20, np.float32))
    refused(tmp_path / "w.npz", "decompression bomb")
    np.savez_compressed(tmp_path / "w.npz", noise=np.random.default_rng(0).standard_normal(2**18))
    assert read(tmp_path / "w.npz").tensors["noise"].shape == (2**18,)


# --- broken files -----------------------------------------------------------------------------------------------------


def file_of(kind, tmp_path):
    path = tmp_path / f"w.{kind}"
    if kind == "npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in WEIGHTS.items()}, big=np.arange(999.0))
    elif kind == "safetensors":
        save_file(WEIGHTS | {"big": torch.arange(999.0)}, path)
    else:
        torch.save(WEIGHTS | {"big": torch.arange(999.0)}, path, _use_new_zipfile_serialization=kind == "pth")
    return path


@pytest.mark.parametrize("part", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["npz", "pth", "pt", "safetensors"])  # pt: the form before torch 1.6
def test_a_truncated_file_is_one_error(kind, part, tmp_path):
    path = file_of(kind, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, "damaged, incomplete")


@pytest.mark.parametrize("kind", ["npz", "pth"])
def test_a_flipped_bit_in_the_weights_is_found_by_the_checksum(kind, tmp_path):
    path = file_of("npz", tmp_path)
    content = bytearray(path.read_bytes())
    place = content.find(np.arange(500.0, 510.0).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    refused(path, "damaged.*CRC")


@pytest.mark.parametrize("suffix", ["npz", "pth", "pt", "bin", "safetensors"])
def test_an_empty_file_a_text_file_and_a_missing_file_are_one_error_each(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    refused(path, "does not exist")
    path.write_bytes(b"")
    refused(path, r"is empty \(0 bytes\)")
    path.write_text("this is no checkpoint")
    refused(path, "bytes that begin with b'this is n'")


def test_other_kinds_of_files_are_named(tmp_path):
    np.save(tmp_path / "w.npy", np.zeros(3))
    refused(tmp_path / "w.npy", "a single NumPy array")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "w.zip", r"a ZIP archive of other things \(readme.txt\)")


FOREIGN = {
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file.*from_tf=True"),
    "model.msgpack": (b"\x81\xa6params\x82\xa4cls_" + bytes(64), "msgpack, as Flax writes.*from_flax=True"),
    "large.msgpack": (b"\xde\x00\x20\xa7encoder" + bytes(64), "msgpack, as Flax writes"),
    "model.onnx": (b"\x08\x08\x12\x07pytorch" + bytes(64), "an ONNX model.*from which it was exported"),
    "saved_model.pb": (b"\x08\x01\x12\xff" + bytes(64), "a TensorFlow graph or SavedModel"),
    "model.ckpt.index": (b"\x00\x00\x02" + bytes(64) + bytes.fromhex("57fb808b247547db"), "index of a TensorFlow"),
    "model.ckpt.data-00000-of-00001": (b"\x3f\x80\x00" + bytes(64), "a part of a TensorFlow checkpoint"),
    "model.tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(64), "a TensorFlow Lite model"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
    "page.pth": (b"<!DOCTYPE html><html>404", "a web page.*Download it again"),
    "model.gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
    "model.tar": (bytes([0x61]) * 257 + b"ustar\x0000" + bytes(250), "a tar archive.*Unpack"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_frameworks_are_named_with_what_to_do(name, tmp_path):
    content, said = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, said)
    (tmp_path / "renamed.pth").write_bytes(content)
    if ".data-" not in name:  # raw numbers, which only their name tells
        refused(tmp_path / "renamed.pth", said)


def test_archives_and_folders_of_other_frameworks_are_named_with_what_to_do(tmp_path):
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    refused(tmp_path / "scripted.pt", "a TorchScript program.*torch.jit.load")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    refused(tmp_path / "model.keras", "a Keras model")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    refused(tmp_path / "saved", "a TensorFlow checkpoint")
    (tmp_path / "orbax").mkdir()
    (tmp_path / "orbax" / "_METADATA").write_text("{}")
    refused(tmp_path / "orbax", "a checkpoint of Orbax")


def test_a_folder_of_several_files_or_of_some_of_the_shards_is_refused(tmp_path):
    for name in ("a.pth", "b.pth"):
        torch.save(WEIGHTS, tmp_path / name)
    refused(tmp_path, "of checkpoint files: a.pth, b.pth. Give the one file that is meant")
    (tmp_path / "shards").mkdir()
    for number in (1, 3):
        save_file(WEIGHTS, tmp_path / "shards" / f"w-0000{number}-of-00003.safetensors")
    refused(tmp_path / "shards", "has 2 shards of 3: w-00001-of-00003.safetensors")
    save_file(WEIGHTS, tmp_path / "shards" / "w-00002-of-00003.safetensors")
    refused(tmp_path / "shards", "tensors that another shard has, too .a/kernel")


def test_an_entry_can_be_chosen_by_its_path(tmp_path):
    other = {key: tensor + 1 for key, tensor in WEIGHTS.items()}
    torch.save({"model": WEIGHTS, "ema": {"module": other, "decay": 0.9}}, tmp_path / "w.pth")
    assert_weights(read(tmp_path / "w.pth"))
    for entry in ("ema", "ema.module"):
        chosen = read(tmp_path / "w.pth", entry)
        torch.testing.assert_close(chosen.tensors, other, rtol=0, atol=0)
        assert chosen.entry == "ema.module" and "entry 'ema.decay' of the file" in chosen.left_out
    with pytest.raises(CheckpointReadError, match=r"no entry shadow with weights; it has model, ema"):
        read(tmp_path / "w.pth", "shadow")


def test_arrays_that_are_no_numbers_are_all_named(tmp_path):
    np.savez(
        tmp_path / "w.npz", names=np.array(["a", "b"]), pairs=np.zeros(2, [("x", "f4")]), waves=np.zeros(2, complex)
    )
    message = refused(tmp_path / "w.npz", "3 unusable arrays")
    for name in ("names", "pairs", "waves"):
        assert name in message


def test_a_torch_file_without_weights_says_what_it_has(tmp_path):
    torch.save({"epoch": 1, "best": 0.5}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "no entry model or state_dict .* or state_dict_ema with weights; it has epoch, best")
    torch.save([torch.ones(2)], tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "holds a list, not a mapping of weights")
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(CheckpointReadError):
        read(tmp_path / "w.pth")


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "sparse or quantized tensors: a")


def test_a_folder_lacking_something_says_what(tmp_path):
    with pytest.raises(CheckpointReadError, match=r"no config\.json"):
        read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointReadError, match=r"no model\.safetensors"):
        read(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointReadError, match=r"lacks tensors that model\.safetensors\.index\.json lists: b"):
        read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointReadError, match=r"config\.json cannot be read as JSON"):
        read(tmp_path)


def test_a_hub_id_is_told_from_a_path_and_its_absence_is_one_error(tmp_path, monkeypatch):
    assert looks_like_repo_id("google/vit-base-patch16-224")
    assert not looks_like_repo_id("/srv/models/vit")
    assert not looks_like_repo_id("vit.npz")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "vit").mkdir(parents=True)
    assert not looks_like_repo_id("google/vit")
    with pytest.raises(CheckpointReadError, match="nobody/nothing is no folder here, and the Hub did not give it"):
        download("nobody/nothing")
