#!/usr/bin/env bash
# datumaro 1.13.12 writes no objects into the *_instanceIds of a Cityscapes export.
#
# Guess: an object's pixels hold 1000 * class + number, as Cityscapes defines its instance maps.
# Behavior: they hold the number of the class alone, so two objects of one class in one image are one.
# Whom it meets: everyone who exports for instance segmentation: detectors learn all objects of a class as one.
# What hfvision does: it says so and takes each class of such an image for a crowd.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q datumaro==1.13.12
cd "$folder"

"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datumaro import Dataset, DatasetItem, Image, Mask
from PIL import Image as Picture

rows = (0, 5)  # of the two objects
masks = [np.zeros((8, 8), bool) for _ in rows]
for mask, row in zip(masks, rows):
    mask[row] = True
objects = [Mask(mask, label=0, id=place + 1, attributes={"is_crowd": False}) for place, mask in enumerate(masks)]
item = DatasetItem("a", media=Image.from_numpy(np.zeros((8, 8, 3), np.uint8)), annotations=objects)
Dataset.from_iterable([item], categories=["cat"]).export("out", "cityscapes")
(written,) = Path("out").rglob("*_instanceIds.png")
values = np.asarray(Picture.open(written))
print("datumaro", version("datumaro"), "values:", np.unique(values), "in rows 0 and 5:", values[list(rows), 0])
assert values[0, 0] == values[5, 0] < 1000, "this has changed: objects are told apart"
PYTHON
