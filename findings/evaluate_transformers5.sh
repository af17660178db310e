#!/usr/bin/env bash
# evaluate 0.4.6 with transformers 5: an evaluator takes no pipeline.
#
# Guess: `evaluator(...).compute(model_or_pipeline=pipeline(...))` works, as its documentation shows.
# Behavior: it asks for `transformers.TFPreTrainedModel`, which transformers 5 no longer has, and ends in AttributeError.
# A `PreTrainedModel` or the name of one still works, since these are asked for first.
# Whom it meets: everyone who measures a pipeline with `evaluate`; pip installs the two together without a word.
# What hfvision does: the README says what replaces it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.24.0 evaluate==0.4.6 scikit-learn==1.9.1 pillow==13.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$folder"

"$folder/env/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

warnings.simplefilter("ignore")
import datasets
import numpy as np
from evaluate import evaluator
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
model = ViTForImageClassification(ViTConfig(**size, image_size=16, patch_size=8))
classify = pipeline("image-classification", model=model, image_processor=ViTImageProcessor(size={"height": 16, "width": 16}))
images = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (0, 255)]
data = datasets.Dataset.from_dict(
    {"image": images, "label": [0, 1]},
    features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["LABEL_0", "LABEL_1"])}),
)
print("evaluate", version("evaluate"), "transformers", version("transformers"))
assert len(classify(images)) == 2
try:
    evaluator("image-classification").prepare_pipeline(classify)
except AttributeError as error:
    print("AttributeError:", error)
    assert "TFPreTrainedModel" in str(error)
else:
    raise SystemExit("this has changed: the evaluator takes a pipeline")
PYTHON
