"""The code of a card that runs as it stands."""

import json

PIPELINE = """\
import hfvision
from transformers import pipeline

predict = pipeline("{task}", model={name})
print(predict("image.png"))  # a path, an address, a PIL image or an array"""

SEGMENTATION = """\
import hfvision
from transformers import pipeline

segment = pipeline("image-segmentation", model={name})
for part in segment("image.png"):  # a path, an address, a PIL image or an array
    print(part["label"], part["mask"].size)  # the mask: a PIL image, 255 where the label is"""

DETECTION = """\
import hfvision
from transformers import pipeline

detect = pipeline("object-detection", model={name})
for found in detect("image.png"):  # a path, an address, a PIL image or an array
    print(found["label"], f"{{found['score']:.2f}}", found["box"])  # the box: xmin, ymin, xmax, ymax in pixels"""

FEATURES = """\
import hfvision
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModel.from_pretrained({name})
features = model(**processor(Image.open("image.png"), return_tensors="pt")).last_hidden_state
print(features.shape)"""

SNIPPETS = {
    "image-segmentation": SEGMENTATION,
    "object-detection": DETECTION,
    "image-feature-extraction": FEATURES,
}
INSTALL = "`pip install hfvision`, then:"


def snippet(name: str, task: str) -> str:
    """The code that loads `name`, a folder or Hub id, and uses it on an image."""
    return SNIPPETS.get(task, PIPELINE).format(name=json.dumps(name, ensure_ascii=False), task=task)


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"
