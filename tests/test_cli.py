"""The command line: results on stdout, the rest on stderr, exit codes 0, 1 and 2, nothing heavy before it is needed."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hfvision import __version__, cli
from hfvision.cli import COMMANDS
from hfvision.data.digits import load_digits
from hfvision.registry import ARCHITECTURES
from hfvision.starters import STARTERS


def hfvision(*arguments):
    code = "from hfvision.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def here(monkeypatch, capfd):
    """The same in this process, for what needs no fresh one: importing takes most of the time of a command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfvision", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return SimpleNamespace(returncode=code, **dict(zip(("stdout", "stderr"), capfd.readouterr(), strict=True)))

    return run


def test_help_lists_every_command():
    done = hfvision("--help")
    assert done.returncode == 0 and not done.stderr
    assert [name for name in COMMANDS if name not in done.stdout] == []


def test_help_brings_no_heavy_module():
    code = "import sys; from hfvision.cli import build_app; build_app(); print([m for m in ('torch', 'transformers', \
        'datasets', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, here):
    done = here(command, "--help")
    assert done.returncode == 0 and not done.stderr


def test_wrong_usage_exits_with_2():
    assert hfvision("predict").returncode == 2
    assert hfvision("fly").returncode == 2


def test_the_version():
    assert hfvision("--version").stdout.strip() == f"hfvision {__version__}"


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    """A held-out digit as a file, enlarged as a user's picture would be."""
    row = load_digits()["test"][0]
    path = tmp_path_factory.mktemp("digit") / "digit.png"
    row["image"].resize((80, 80)).save(path)
    return path, row["label"]


def test_predict_answers_offline_with_the_starter_model(digit, here):
    path, label = digit
    done = hfvision("predict", path, "--model", "vit-digits", "--top-k", 3, "--json")
    (row,) = json.loads(done.stdout)
    assert done.returncode == 0 and row["image"] == str(path)
    assert len(row["predictions"]) == 3 and row["predictions"][0]["label"] == str(label)
    text = here("predict", path, path, "--model", "vit-digits", "--batch-size", 2)
    assert text.stdout.count(str(path)) == 2 and text.stdout.splitlines()[1].split()[0] == str(label)


def test_a_mistake_is_one_message_and_exit_code_1(tmp_path, here):
    (tmp_path / "notes.png").write_text("not a picture")
    done = here("predict", tmp_path / "notes.png", "--model", "vit-digits")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().splitlines()[-1].startswith("ImageReadError: ") and "Traceback" not in done.stderr


def test_list_names_every_family_and_starter(here):
    document = json.loads(here("list", "--json").stdout)
    assert [row["model_type"] for row in document["families"]] == list(ARCHITECTURES)
    assert [row["name"] for row in document["starters"]] == list(STARTERS)
    text = here("list").stdout
    assert [name for name in (*ARCHITECTURES, *STARTERS) if name not in text] == []


def test_doctor_finds_a_working_installation(here):
    done = here("doctor", "--json")
    document = json.loads(done.stdout)
    assert document["healthy"] and done.returncode == 0, document
    names = {check["name"] for check in document["checks"]}
    assert {"python", "hfvision", "compute", "linear", "torchvision", "hub", "registration", "prediction"} <= names


def test_the_hub_without_its_extra_says_what_to_install():
    code = "import sys; sys.modules['obstore'] = sys.modules['nh3'] = None\n"
    code += "from hfvision.cli import main; sys.argv[1:] = ['hub', 'serve']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "NotInstalledError: The hub needs nh3, obstore: pip install 'hfvision[hub]'\n"
