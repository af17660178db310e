"""The names at the top of the package."""

from pathlib import Path

import pytest

import hfvision
from tests.stub import stub


@pytest.mark.parametrize("name", hfvision.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hfvision, name) is not None


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(AttributeError, match=r"hfvision has no 'ViTConfg'; it offers .*ViTConfig"):
        _ = hfvision.ViTConfg
    assert set(dir(hfvision)) == set(hfvision.__all__)


def test_type_checkers_are_told_of_the_same_names():
    told = Path(hfvision.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert told == stub(), "python -m tests.stub > hfvision/__init__.pyi"


def test_all_kinds_of_errors_are_public():
    kinds, found = {hfvision.HfvisionError}, set()
    while kinds:
        found |= kinds
        kinds = {below for kind in kinds for below in kind.__subclasses__()}
    own = {kind.__name__ for kind in found if kind.__module__ == "hfvision.errors"}
    assert own <= set(hfvision.__all__) and len(own) > 10
