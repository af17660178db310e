"""The wheel and the source distribution: they build, hold every file of the package, and the wheel works by itself."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
LARGEST = 10 * 1024 * 1024  # bytes of the wheel
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with both, made of a copy of the sources."""
    work = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work)
    shutil.copytree(ROOT / "hfvision", work / "hfvision", ignore=shutil.ignore_patterns("__pycache__"))
    (work / "out").mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=work, check=True, capture_output=True)
    return work / "out"


def sources():
    found = (path for path in (ROOT / "hfvision").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_holds_every_file_of_the_package_and_stays_small(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("hfvision/")} == sources()
    assert wheel.stat().st_size < LARGEST


def test_the_source_distribution_holds_every_file_of_the_package(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert sources() | {"pyproject.toml", "README.md", "LICENSE"} <= held


def test_the_wheel_runs_without_the_sources(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    where = "import hfvision; print(hfvision.__file__)"
    for command in (["-c", where], ["-m", "hfvision", "list"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if command[0] == "-c":
            assert done.stdout.strip() == str(tmp_path / "site" / "hfvision" / "__init__.py")
