"""Small files in every original format, made from the registry's tiny models."""

from functools import cache
from tempfile import TemporaryDirectory

from hfvision.checkpoints import read
from hfvision.conversion import convert_back
from hfvision.conversion.tables import FORMATS
from hfvision.conversion.to_original import WRITERS
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
)
from tests.models import tiny_config, tiny_model

BY_NAME = {format.name: format for format in FORMATS}
HEADS = (SEMANTIC_SEGMENTATION, OBJECT_DETECTION, IMAGE_CLASSIFICATION)
COUNTS = ("num_attention_heads", "decoder_num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
UNSEEN = (
    *COUNTS,
    "strides",
    "pool_scales",
    "decoder_indices",
    "auxiliary_indices",
)  # what tensors of these sizes do not show


def fields_of(name):
    """Config fields of the tiny model: the originals' ResNets have norms of 32 groups."""
    fields = ARCHITECTURES[BY_NAME[name].model_types[0]].tiny.get("backbone_config") if "hybrid" in name else None
    groups = {"num_groups": 32, "embedding_size": 32, "hidden_sizes": [128, 128]}
    return {"backbone_config": {**fields, **groups}} if fields else {}


@cache
def tensors_of(name, panoptic=False):
    """What the file of a tiny model has in this format."""
    row = ARCHITECTURES[BY_NAME[name].model_types[0]]
    auto_class = IMAGE_SEGMENTATION if panoptic else next(head for head in HEADS if head in row.models)
    with TemporaryDirectory() as folder:
        model = tiny_model(BY_NAME[name].model_types[0], auto_class, **fields_of(name))
        model.save_pretrained(f"{folder}/model")
        path = f"{folder}/original{BY_NAME[name].suffixes[0]}"
        convert_back(f"{folder}/model", path, family=name)
        return dict(read(path).tensors)


def settings_of(name):
    """What has to be set to convert the file."""
    format = BY_NAME[name]
    config = tiny_config(format.model_types[0], **fields_of(name))
    return {field: getattr(config, field) for field in UNSEEN if field in format.fields() and hasattr(config, field)}


def write(name, tensors, folder):
    """The path of a file with these tensors, as the format keeps them."""
    path = folder / f"original{BY_NAME[name].suffixes[0]}"
    WRITERS[path.suffix](path, tensors, BY_NAME[name].entries[0])
    return path


def with_attention(name):
    return any("attn" in key or "MultiHeadDotProductAttention" in key for key in tensors_of(name))
