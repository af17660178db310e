"""The names at the top of the package."""

import pytest

import hfvision


@pytest.mark.parametrize("name", hfvision.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hfvision, name) is not None


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(AttributeError, match=r"hfvision has no 'ViTConfg'; it offers .*ViTConfig"):
        _ = hfvision.ViTConfg
    assert set(dir(hfvision)) == set(hfvision.__all__)
