"""The lowest supported release of every dependency, as constraints for pip: `python -m tests.lowest > .ci/lowest.txt`.

They are read from pyproject.toml, so that what is tested is what is promised.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
OWN = "hfvision"
TOOLS = ("dev",)  # extras of which the newest release counts: they check this package and are never imported by it


def requirements() -> Iterator[Requirement]:
    """Everything that the package and its extras ask for, but for the package itself and the tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in TOOLS]
    for line in (*project["dependencies"], *(line for lines in extras for line in lines)):
        requirement = Requirement(line)
        if requirement.name != OWN:
            yield requirement


def lower_bound(requirement: Requirement) -> str:
    """The release that `>=` names. Raises ValueError where there is none."""
    for specifier in requirement.specifier:
        if specifier.operator == ">=":
            return specifier.version
    raise ValueError(f"{requirement} has no lower bound")


def constraints() -> str:
    """The lines of the constraints file, sorted."""
    lines = {f"{one.name}=={lower_bound(one)}" + (f" ; {one.marker}" if one.marker else "") for one in requirements()}
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    print(constraints(), end="")
