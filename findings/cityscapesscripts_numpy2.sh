#!/usr/bin/env bash
# cityscapesscripts 2.3.0 cannot match instances beside NumPy 2.4, though pip installs the two together without a word.
#
# Guess: it works with any NumPy, since it asks for `numpy` without a bound.
# Behavior: `evalInstanceLevelSemanticLabeling` ends in "module 'numpy' has no attribute 'in1d'". It also asks for PyPI's
# `typing`, of which there is only a source distribution: with --only-binary :all: it cannot be installed at all.
# Whom it meets: everyone who submits to, or compares with, the benchmark's own instance metric on a new machine.
# What hfvision does: its metrics are compared with the parts that run; the package is no dependency of hfvision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q cityscapesscripts==2.3.0 numpy==2.4.6
cd "$folder"

"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

car = 26
truth = np.zeros((8, 8), np.uint16)
truth[2:6, 2:6] = 1000 * car
Image.fromarray(truth).save("a_gtFine_instanceIds.png")
Image.fromarray(np.where(truth > 0, 255, 0).astype(np.uint8)).save("mask.png")
Path("a.txt").write_text(f"mask.png {car} 0.9\n")

from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as evaluation

evaluation.args.quiet = True
evaluation.args.JSONOutput = False
evaluation.args.gtInstancesFile = "instances.json"
print("cityscapesscripts", version("cityscapesscripts"), "numpy", np.__version__)
evaluation.args.predictionWalk = None
evaluation.setInstanceLabels(evaluation.args)
evaluation.args.predictionPath = str(Path.cwd())
try:
    evaluation.evaluateImgLists([str(Path("a.txt").resolve())], ["a_gtFine_instanceIds.png"], evaluation.args)
except AttributeError as error:
    print("AttributeError:", error)
    assert "in1d" in str(error)
else:
    raise SystemExit("this has changed: the evaluation runs")
PYTHON
