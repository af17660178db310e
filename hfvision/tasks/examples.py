"""Code that uses a model for a task, as cards and the Hub's pages show it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Example:
    """Code for one task; in braces, what the page or card fills in."""

    card: str  # a whole script with {name}, a Python literal
    call: str | None = None  # the pipeline's name on a page; None: a page shows no pipeline
    use: str = ""  # on a page: what follows {call}'s creation, with `image` at hand


CLASSIFY = Example(
    call="classify",
    use="print({call}(image))",
    card="""\
import hfvision
from transformers import pipeline

predict = pipeline("image-classification", model={name})
print(predict("image.png"))  # a path, an address, a PIL image or an array""",
)

SEGMENT = Example(
    call="segment",
    use='for part in {call}(image):\n    print(part["label"], part["mask"].size)',
    card="""\
import hfvision
from transformers import pipeline

segment = pipeline("image-segmentation", model={name})
for part in segment("image.png"):  # a path, an address, a PIL image or an array
    print(part["label"], part["mask"].size)  # the mask: a PIL image, 255 where the label is""",
)

DETECT = Example(
    call="detect",
    use='for found in {call}(image):\n    print(found["label"], round(found["score"], 2), found["box"])',
    card="""\
import hfvision
from transformers import pipeline

detect = pipeline("object-detection", model={name})
for found in detect("image.png"):  # a path, an address, a PIL image or an array
    print(found["label"], f"{{found['score']:.2f}}", found["box"])  # the box: xmin, ymin, xmax, ymax in pixels""",
)

FEATURES = Example(
    card="""\
import hfvision
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModel.from_pretrained({name})
features = model(**processor(Image.open("image.png"), return_tensors="pt")).last_hidden_state
print(features.shape)""",
)
