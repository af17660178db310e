"""What type checkers are told of the top of the package: `python -m tests.stub > hfvision/__init__.pyi`.

The names are looked up lazily there, which no type checker follows; the stub is made from the same table.
"""

import hfvision

HEAD = '"""Public names and where each is defined; written by `python -m tests.stub`."""'


def stub() -> str:
    """The text of the stub: each name imported from its home, under its own name; other packages' first."""
    homes = hfvision._HOME | {"register": "hfvision.registry", "unregister": "hfvision.registry"}
    lines = {name: f"from {home} import {name} as {name}" for name, home in homes.items()}
    kind = {name: 0 if name.isupper() else 1 if name[0].isupper() else 2 for name in homes}  # as ruff sorts imports
    order = sorted(homes, key=lambda name: (homes[name], kind[name], name))
    theirs = [lines[name] for name in order if not homes[name].startswith("hfvision")]
    ours = [lines[name] for name in order if homes[name].startswith("hfvision")]
    return "\n".join([HEAD, "", *theirs, "", *ours, "", "__version__: str"]) + "\n"


if __name__ == "__main__":
    print(stub(), end="")
