"""Every command ends a user's mistake, a full disk or a missing device in one message with the right exit code."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch

from hfvision import cli
from hfvision.errors import ConfigError, ConversionError
from hfvision.starters import STARTERS
from hfvision.writing import new_file, write_errors


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command line as the console does, in a folder of odd things: (exit code, stdout, lines of stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(cli.DEBUG, "0")  # and as it was afterwards: --traceback sets it
    (tmp_path / "empty").mkdir()
    (tmp_path / "nomodel").mkdir()
    (tmp_path / "nomodel" / "config.json").write_text("{}")
    (tmp_path / "file.txt").write_text("hello")

    def command(line):
        monkeypatch.setattr(sys, "argv", ["hfvision", *line.split()])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return code, out, [line for line in err.splitlines() if line.strip() and "Loading weights" not in line]

    return command


MISTAKES = {
    "train classification --model nomodel --dataset digits --output o": "cannot load an image classifier",
    "train segmentation --model vit-digits --dataset digit-scenes --output o": "it is a ViTForImageClassification",
    "train detection --model vit-digits --dataset digit-scenes --output o": "it is a ViTForImageClassification",
    "train panoptic --model vit-digits --dataset digit-scenes --output o": "it is a ViTForImageClassification",
    "train classification --model vit-digits --dataset ./none --output o": "there is no folder or file './none'",
    "train classification --model vit-digits --dataset file.txt --output o": "existing .parquet files",
    "train classification --model vit-digits --dataset digits --output file.txt": "file.txt is a file",
    "train classification --model vit-digits --dataset digits --output file.txt/o": "cannot be written",
    "evaluate nomodel --dataset digits": "cannot load a model from 'nomodel'",
    "evaluate file.txt --dataset digits": "cannot load a model from 'file.txt'",
    "evaluate vit-digits --dataset digits --record file.txt/r.json": "cannot be written",
    "evaluate vit-digits --dataset digits --predictions file.txt/p.csv": "cannot be written",
    "evaluate vit-digits --dataset digits --confusion c.svg": "end in .json, .csv, .png",
    "evaluate vit-digits --dataset digits --split none": "has no split",
    "check ./none --task detection": "there is no folder or file",
    "convert none.pth o": "does not exist",
    "convert file.txt o": "file.txt is bytes",
    "convert empty o": "empty has no config.json",
    "push empty user/name": "holds no model",
    "card empty": "has no config.json",
    "licence empty": "neither a model",
    "bench none": "there is no suite none",
    "demo --output file.txt": "file.txt is a file",
    "hub serve --root file.txt/hub": "cannot be made",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_1(line, run):
    code, out, err = run(line)
    assert code == 1 and out == "", err
    message = [line for line in err if "Error: " in line]
    assert len(message) == 1 and MISTAKES[line] in message[0], err
    assert not any("Traceback" in line for line in err) and not os.path.exists("o")


def test_bench_and_others_name_a_device_that_is_not_there(run, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = run("bench --device cuda")
    assert code == 1 and "needs a GPU" in " ".join(err)
    with pytest.raises(AssertionError) as error:
        torch.zeros(1, device="cuda")
    assert cli.described(error.value).startswith("the device cannot be used: ")


RAISED = {
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "out/x"), "No space left on device: 'out/x'. Free"),
    "weights on a full disk": (type("SafetensorError", (Exception,), {})("IoError(StorageFull)"), "Free some room"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "a"), "[Errno 13] Permission denied: 'a'"),
    "memory": (MemoryError(), "out of memory: the machine has no more. A smaller --batch-size"),
    "GPU memory": (torch.OutOfMemoryError("CUDA out of\nmemory."), "out of memory: CUDA out of memory."),
    "device": (RuntimeError("Found no NVIDIA driver on your system."), "the device cannot be used: Found no NVIDIA"),
    "fault": (TypeError("a\nb"), "unexpected TypeError: a b (test_cli_mistakes.py, line "),
}


@pytest.mark.parametrize("kind", RAISED)
def test_what_the_system_refuses_and_what_nobody_foresaw_is_one_line(kind, run, monkeypatch):
    error, said = RAISED[kind]

    def fails():
        raise error

    monkeypatch.setattr("hfvision.doctor.diagnose", lambda *_: fails())
    code, out, err = run("doctor")
    assert (code, out, len(err)) == (1, "", 1) and err[0].startswith("hfvision: ") and said in err[0]
    code, _, err = run("--traceback doctor")
    assert code == 1 and any("Traceback" in line for line in err) and any("in fails" in line for line in err)


def test_ctrl_c_is_one_line_and_exit_code_130(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hfvision.doctor.diagnose", interrupted)
    code, out, err = run("doctor")
    assert (code, out) == (130, "") and not any("Traceback" in line for line in err) and len(err) <= 1


def test_a_disk_that_fills_while_training_is_one_line_and_leaves_nothing_half_written(tmp_path):
    """Files may not grow above 100 kB in the process; the weights are larger."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    words = ["train", "classification", "--model", "vit-digits", "--dataset", "digits", "--max-steps", "1"]
    code = "from hfvision.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )
    lines = [line for line in done.stderr.splitlines() if "Error" in line or line.startswith("hfvision: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_write_errors_know_how_libraries_of_weights_say_that_a_disk_is_full(tmp_path):
    for error in (
        type("SafetensorError", (Exception,), {})("I/O error: 28"),
        RuntimeError("PytorchStreamWriter failed"),
    ):
        with pytest.raises(ConfigError, match="cannot be written"), new_file(tmp_path / "x", ConfigError):
            raise error
    with pytest.raises(RuntimeError, match="another"), write_errors(tmp_path / "x", ConfigError):
        raise RuntimeError("another")


FAMILIES = ("vit", "swin", "segformer", "detr", "deit", "setr", "upernet", "segmenter", "mixer", "timm_vit", "hybrid")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A classifier's file of Google's, and one of nobody's."""
    from hfvision.conversion import convert_back

    folder = tmp_path_factory.mktemp("strangers")
    convert_back(STARTERS["vit-digits"], folder / "vit.npz")
    torch.save({"stem.weight": torch.zeros(4, 3), "fc.weight": torch.zeros(10, 4)}, folder / "nobody.pth")
    return folder


@pytest.mark.parametrize("family", FAMILIES[1:-1])  # most of a hybrid is a ViT: there the rules say what is missing
def test_another_familys_file_is_named_as_such_with_what_it_lacks(family, strangers, tmp_path):
    from hfvision.conversion import convert

    with pytest.raises(ConversionError) as error:
        convert(strangers / "vit.npz", tmp_path / "out", family=family)
    text = str(error.value)
    assert text.startswith("vit.npz is no ") and "Its tensors are named as in google_vit: --family google_vit" in text
    lacking = text.partition("It has nothing that could be ")[2]
    assert "attention" in lacking or "the mixing of tokens" in lacking or "MLPs" in lacking
    assert "gaps" not in text and not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_nobodys_file_is_refused_as_every_family(family, strangers, tmp_path):
    from hfvision.conversion import convert

    with pytest.raises(ConversionError, match=r"nobody\.pth is no .* none of its 2 tensors are named as there"):
        convert(strangers / "nobody.pth", tmp_path / "out", family=family)
