#!/usr/bin/env bash
# Pillow 13.0.0 takes other nearest neighbors in mode I;16 than in all other modes.
#
# Guess: which source pixel NEAREST takes depends on the sizes alone.
# Behavior: two pixels enlarged to seven are 0 0 0 0 1 1 1 in modes L and I, and 0 0 0 1 1 1 1 in mode I;16: the places
# are added up step by step in the one, multiplied in the other, and the middle falls on either side.
# Whom it meets: everyone who resizes label maps of 16 bits beside images or maps of 8 bits: borders move by a pixel.
# What hfvision does: one rule for every type of number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --only-binary :all: pillow==13.0.0 numpy==2.4.6

"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import PIL
from PIL import Image

found = {}
for kind in (np.uint8, np.int32, np.uint16):
    image = Image.fromarray(np.arange(2)[None].astype(kind))
    found[image.mode] = np.asarray(image.resize((7, 1), Image.Resampling.NEAREST))[0].tolist()
print("Pillow", PIL.__version__, found)
assert found["L"] == found["I"] == [0, 0, 0, 0, 1, 1, 1]
assert found["I;16"] == [0, 0, 0, 1, 1, 1, 1], "this has changed"
PYTHON
