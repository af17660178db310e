"""What a type checker sees from outside; `.ci/run` has mypy check it, nothing runs it."""

from typing import assert_type

from transformers import PreTrainedModel

import hfvision
from hfvision.models.vit import ViTConfig

config = hfvision.ViTConfig(image_size=(224, 160))
assert_type(config, ViTConfig)
assert_type(hfvision.create("vit-base-patch16-224"), PreTrainedModel)
assert_type(hfvision.list_models("swin-*", pretrained=True), list[str])
result = hfvision.train_classification("vit-digits", "photos/", "out")
assert_type(result.accuracy, float)
try:
    hfvision.convert("model.pth", "out")
except hfvision.CheckpointReadError as error:
    assert_type(str(error), str)
misspelt = hfvision.ViTConfg  # type: ignore[attr-defined]
