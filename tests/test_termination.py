"""SIGTERM ends work as Ctrl-C does: half-written things go, what can be resumed stays, exit code 143."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hfvision.conversion.writing import new_folder
from hfvision.data.cells import in_threads
from hfvision.errors import ConfigError, ConversionError
from hfvision.termination import TERMINATED, Terminated, default_sigterm, sigterm_exits, uninterrupted
from hfvision.writing import new_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
COMMAND = "from hfvision.cli import main; main()"


def send(number=signal.SIGTERM):
    signal.raise_signal(number)


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    """From Python's own handlers on, whatever started the tests has set: background jobs ignore SIGINT."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    left = {number: signal.getsignal(number) for number in usual}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert left == usual


@pytest.mark.parametrize("writer", [lambda out: new_file(out, ConfigError), new_folder], ids=["file", "folder"])
def test_what_is_being_written_goes_and_what_was_there_stays(writer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end, writer(out) as work:
        (work / "part" if work.is_dir() else work).write_text("half")
        send()
    assert end.value.code == TERMINATED == 143
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_does_not_disturb_the_cleaning_up():
    cleaned = []
    with pytest.raises(Terminated), sigterm_exits():
        try:
            send()
        finally:
            send()
            cleaned.append(True)
    assert cleaned == [True]


def test_a_handler_of_the_program_goes_first():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(True))
    try:
        with sigterm_exits():
            send()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [True]


def test_outside_the_main_thread_nothing_changes(tmp_path):
    def write():
        with new_file(tmp_path / "out", ConversionError) as work, uninterrupted():
            work.write_text("whole")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert (tmp_path / "out").read_text() == "whole"


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_several_files_take_their_names_without_interruption(number, raised):
    done = []
    with pytest.raises(raised), sigterm_exits(), uninterrupted():
        send(number)
        done.append(True)
    assert done == [True]


def test_servers_that_shut_down_by_signals_keep_the_usual_handler():
    with sigterm_exits():
        with default_sigterm():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(Terminated):
            send()


def test_images_whose_turn_has_not_come_are_not_read_after_an_interruption():
    read = []

    def look(row):
        read.append(row)
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        for number, _ in enumerate(in_threads(look, range(5000), "train")):
            if number == 3:
                raise KeyboardInterrupt
    assert len(read) < 2500


def run_until(ready, number, *command):
    """The exit code and stderr of a command that gets a signal as soon as `ready()`; fails where it ends before."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(3000):
            if ready() or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_training_ends_resumable(number, code, tmp_path):
    out = tmp_path / "out"
    command = ["train", "classification", "--model", "new:vit-digits", "--dataset", "digits", "--output", out]
    command += ["--save-every", 2, "--max-steps", 100_000]
    got, errors = run_until(lambda: len(list(out.glob("checkpoint-*/trainer_state.json"))) > 0, number, *command)
    assert got == code
    assert "nothing half-written was kept" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    names = {path.name.partition("-")[0] for path in out.iterdir()}
    assert names == {"checkpoint", "training_run.json"}
    assert all((path / "trainer_state.json").exists() for path in out.glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_that_has_no_checkpoint_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    command = ["train", "classification", "--model", "new:vit-digits", "--dataset", "digits", "--output", out]
    code, errors = run_until(lambda: (out / "training_run.json").exists(), signal.SIGTERM, *command)
    assert code == 143, errors
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "convert"])
def test_other_commands_leave_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    out = tmp_path / "results"
    out.mkdir()
    words = {
        "evaluate": ["evaluate", "vit-digits", "--dataset", "digits", "--batch-size", 1, "--record", out / "record"],
        "convert": ["convert", _large_checkpoint(tmp_path), out / "model"],
    }[command]
    begun = (tmp_path / "scratch").iterdir if command == "evaluate" else out.iterdir
    code, errors = run_until(lambda: any(begun()), signal.SIGTERM, *words)
    assert code == 143, errors
    assert list(out.iterdir()) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def _large_checkpoint(folder: Path) -> Path:
    """A model that takes a moment to be written."""
    import torch

    from hfvision.models.vit import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_hidden_layers=8)).save_pretrained(folder / "source")
    return folder / "source"
