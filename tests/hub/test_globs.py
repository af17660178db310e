"""Patterns of .gitignore and .gitattributes mean what they mean to git, and none of them takes long."""

import os
import random
import shutil
import subprocess

import pytest

from hfvision.hub.globs import ignore_rules, is_ignored, is_large, large_rules

PATTERNS = [
    "*.log",
    "!keep.log",
    "build/",
    "/top",
    "a/b",
    "a/**",
    "**/x",
    "a/**/c",
    "d?g",
    "[ab].txt",
    "[!ab].txt",
    "*",
]
PATTERNS += [
    "!*/",
    "!*.txt",
    "\\!bang",
    "\\#hash",
    "# comment",
    "x\\ ",
    "a*b*c",
    "**",
    "/*/c",
    "c/",
    "!a/b",
    "doc/*.txt",
]
NAMES = [
    "a",
    "b",
    "c",
    "x",
    "keep.log",
    "y.log",
    "build",
    "top",
    "dog",
    "a.txt",
    "z.txt",
    "!bang",
    "#hash",
    "doc",
    "axbxc",
]


@pytest.fixture
def git(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def run(*arguments, data=""):
        command = ["git", *arguments]
        return subprocess.run(command, cwd=tmp_path, input=data, capture_output=True, text=True, env=environment).stdout

    run("init", "-q")
    return run


def test_ignoring_agrees_with_git(git, tmp_path):
    dice = random.Random(0)
    paths = sorted({"/".join(dice.choices(NAMES, k=dice.randint(1, 4))) for _ in range(300)})
    for _ in range(60):
        text = "\n".join(dice.choices(PATTERNS, k=dice.randint(1, 4)))
        (tmp_path / ".gitignore").write_text(text + "\n")
        theirs = git("check-ignore", "--no-index", "--stdin", "-z", data="\0".join(paths))
        rules = ignore_rules(text)
        known = {}
        assert {path for path in paths if is_ignored(rules, path, known)} == set(theirs.split("\0")) - {""}, text


def test_large_files_agree_with_git(git, tmp_path):
    lines = ["*.bin filter=lfs diff=lfs merge=lfs -text", "saved/**/* filter=lfs", "d/small.bin -filter", "*.txt text"]
    text = "\n".join([*lines, "/top filter=lfs", ""])
    (tmp_path / ".gitattributes").write_text(text)
    paths = [
        "a.bin",
        "d/a.bin",
        "d/small.bin",
        "saved/x/y",
        "saved/z",
        "x/saved/z",
        "a.txt",
        "top",
        "x/top",
        "bin",
        "a.BIN",
    ]
    said = git("check-attr", "--stdin", "-z", "filter", data="\0".join(paths)).split("\0")
    theirs = {path: value == "lfs" for path, value in zip(said[::3], said[2::3], strict=False)}
    rules = large_rules(text)
    assert {path: is_large(rules, path) for path in paths} == theirs
    assert any(theirs.values())


def test_no_pattern_takes_long():
    """A regular expression made from the first of these would not end in anybody's lifetime."""
    rules = ignore_rules("*a" * 100 + "b\n" + "**/a/" * 100 + "b\n" + "[" * 1000 + "\n!\n/\n\\\n")
    assert not is_ignored(rules, "/".join(["a" * 250] * 4), {})
