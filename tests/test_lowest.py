"""The lowest supported releases: pyproject.toml, README and the constraints that CI installs say the same."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.lowest import ROOT, constraints, lower_bound, requirements

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
SUPPORTED = re.search(r"<!-- supported versions -->\n(.*?)\n\n", README, flags=re.DOTALL)[1]


def test_the_constraints_are_those_of_pyproject():
    stored = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8")
    assert stored == constraints(), "write it anew: python -m tests.lowest > .ci/lowest.txt"


def test_every_dependency_has_a_lower_bound():
    without = [str(one) for one in requirements() if not any(part.operator == ">=" for part in one.specifier)]
    assert without == []


def test_the_readme_names_the_lower_bound_of_every_dependency():
    listed = SUPPORTED.replace("\n", " ").partition("and with what is newer")[0]
    text = re.sub(r"\(below \d+\)", "", listed)
    said = dict(re.findall(r"([A-Za-z][\w-]*) (\d[\d.]*)", text))
    wanted = {one.name: lower_bound(one) for one in map(Requirement, PROJECT["dependencies"])}
    (python,) = SpecifierSet(PROJECT["requires-python"])
    assert said == {"Python": python.version, **wanted}


def test_the_readme_names_the_upper_bound_of_transformers():
    (transformers,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "transformers")
    (upper,) = (part.version for part in transformers.specifier if part.operator == "<")
    assert f"(below {upper})" in SUPPORTED


def test_the_torch_that_the_readme_installs_is_a_supported_one():
    (torch,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "torch")
    named = set(re.findall(r"torch==([\d.]+)", README))
    assert len(named) == 1 and torch.specifier.contains(Version(named.pop()))


@pytest.mark.parametrize("environment", [".venv-lowest", ".venv-newest", ".venv-transformers4", ".venv"])
def test_ci_makes_an_environment_and_tests_in_it(environment):
    assert f"python3 -m venv {environment}" in CI
    assert len(re.findall(rf"{re.escape(environment)}/bin/(?:pytest|python)", CI)) >= 1


def test_the_lowest_environment_is_made_with_the_constraints():
    assert re.search(r"\.venv-lowest/bin/pip install .*-c \.ci/lowest\.txt", CI)
