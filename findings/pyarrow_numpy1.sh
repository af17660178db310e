#!/usr/bin/env bash
# pyarrow 26.0.1 cannot be imported beside NumPy 1.26, though pip installs the two together without a word.
#
# Guess: a package that needs NumPy 2 says so in its metadata, and pip then refuses or upgrades NumPy.
# Behavior: the wheel of pyarrow 26.0.1 names no dependency at all. An environment with numpy 1.26.4 resolves, and
# `import pyarrow` ends in "ImportError: pyarrow requires NumPy 2.0 or newer, found 1.26.4".
# Whom it meets: everyone whose constraints keep NumPy 1 and who installs `datasets`, which imports pyarrow at once.
# What hfvision does: it asks for numpy>=2.0 itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --only-binary :all: pyarrow==26.0.1 numpy==1.26.4

"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import requires, version

print("pyarrow", version("pyarrow"), "requires", requires("pyarrow"), "| numpy", version("numpy"))
assert not [line for line in requires("pyarrow") or [] if line.lower().startswith("numpy")]
try:
    import pyarrow
except ImportError as error:
    print("ImportError:", error)
    assert "NumPy 2.0 or newer" in str(error)
else:
    raise SystemExit(f"this has changed: pyarrow {pyarrow.__version__} was imported")
PYTHON
