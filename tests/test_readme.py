"""Snippets of README and documents run, their commands are the ones checked, and they name what there is."""

import re
from pathlib import Path

import pytest

from hfvision.cli import COMMANDS
from hfvision.registry import ARCHITECTURES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NEEDS_A_SERVED_HUB = {"hub.md"}  # its snippet loads from one that is being served
MANUALS = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in NEEDS_A_SERVED_HUB)
SNIPPETS = re.findall(
    r"```python\n(.*?)```",
    "\n".join([README, *(path.read_text(encoding="utf-8") for path in MANUALS)]),
    flags=re.DOTALL,
)


def command(name):
    return re.search(rf"<!-- run: {name} -->\n```sh\n(.*?)\n```", README, flags=re.DOTALL).group(1)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_a_snippet_runs_by_itself_as_it_stands(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[index], f"README snippet {index + 1}", "exec"), {"__name__": "readme"})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 4


def test_ci_runs_the_test_command_of_the_readme():
    assert command("tests") in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_two_commands_set_up_alike():
    main, tests = command("main").split(" && "), command("tests").split(" && ")
    assert main[0] == tests[0]
    assert main[1] == tests[1].replace('".[dev]"', ".")
    assert main[2:] == [".venv/bin/hfvision demo"]


def test_every_family_and_command_has_its_line():
    assert [name for name in ARCHITECTURES if f"`{name}`" not in README] == []
    assert [name for name in COMMANDS if f"`hfvision {name}" not in README] == []


def test_its_pictures_exist():
    assert [path for path in re.findall(r"!\[.*?\]\((.*?)\)", README) if not (ROOT / path).exists()] == []
