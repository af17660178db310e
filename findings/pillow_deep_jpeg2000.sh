#!/usr/bin/env bash
# Pillow 13.0.0 shows the white of a JPEG 2000 of 16 bits a color as black.
#
# Guess: a color of 16 bits is brought to 8 bits by its upper bits, so 65,535 becomes 255.
# Behavior: values from 65,408 on are rounded up past 255 and wrap to 0: highlights turn black, without a word. Files of
# one or two bands are not concerned. GDAL reads the same file exactly.
# Whom it meets: everyone who reads deep JPEG 2000 with Pillow: Sentinel-2 composites, microscopy, film scans.
# What hfvision does: it reads the depth from the codestream, and such files through rasterio, or refuses them without it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --only-binary :all: pillow==13.0.0 rasterio==1.4.4 numpy==2.4.6

"$folder/env/bin/python" - <<'PYTHON'
import io
import warnings

import numpy as np
import PIL
import rasterio
from PIL import Image

warnings.simplefilter("ignore")  # rasterio's, of pictures without coordinates
steps = np.array([0, 32768, 65407, 65408, 65535], np.uint16)
bands = np.broadcast_to(np.repeat(steps, 8)[None, None], (3, 16, 40))
shape = {"height": 16, "width": 40, "count": 3, "dtype": "uint16"}
lossless = {"QUALITY": "100", "REVERSIBLE": "YES", "YCC": "NO"}
with rasterio.MemoryFile() as memory:
    with memory.open(driver="JP2OpenJPEG", **shape, **lossless) as target:
        target.write(bands)
    memory.seek(0)
    content = memory.read()
with rasterio.MemoryFile(content) as memory, memory.open() as source:
    assert (source.read() == bands).all()
shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[0, ::8, 0].tolist()
print("Pillow", PIL.__version__, dict(zip(steps.tolist(), shown)))
assert shown == [0, 128, 255, 0, 0], "this has changed"
PYTHON
