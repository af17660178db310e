#!/usr/bin/env bash
# datumaro 1.13.12 writes the first class of a KITTI segmentation export as the background.
#
# Guess: `semantic/*.png` tells every class from pixels of no object.
# Behavior: where the data set's categories name no background (labels only, no mask categories), the map holds the
# index of the label counted from 0, and pixels of no object hold 0 as well: an object of the first class leaves no
# trace in `semantic/`. `instance/*.png` (256 * label + id) still tells them apart, unless the id is 0, too.
# Whom it meets: everyone who trains on such an export; the first class is then learned as background.
# What hfvision does: the reader asks `instance/` whether there is an object, and says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q datumaro==1.13.12
cd "$folder"

"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from datumaro import Dataset, DatasetItem, Image, Mask
from PIL import Image as Picture

cat = np.zeros((8, 8), bool)
cat[2:6, 2:6] = True
item = DatasetItem(
    "a",
    media=Image.from_numpy(np.zeros((8, 8, 3), np.uint8)),
    annotations=[Mask(cat, label=0, id=1, group=1)],
)
Dataset.from_iterable([item], categories=["cat", "dog"]).export("out", "kitti_segmentation", save_media=True)
semantic = np.asarray(Picture.open("out/default/semantic/a.png"))
instance = np.asarray(Picture.open("out/default/instance/a.png"))
print("datumaro", version("datumaro"))
print("values in semantic/:", np.unique(semantic), "in instance/:", np.unique(instance))
assert np.unique(semantic).tolist() == [0], "this has changed: the first class is told from the background"
assert (instance > 0).sum() == 16
PYTHON
