"""How models are made: every weight once, and every property of a part has an answer or says that there is none."""

import pytest
import torch
from torch import nn

import hfvision
from hfvision.errors import ConfigError, MissingPartError
from hfvision.models.detr.backbone import load_trunk
from hfvision.registry import ARCHITECTURES, load
from tests.models import WHOLE, tiny_config, tiny_model

ROWS_AND_OTHERS = [
    *((model_type, reference) for model_type, row in ARCHITECTURES.items() for reference in row.models.values()),
    ("deit", "hfvision.models.deit:DeiTForImageClassificationWithTeacher"),
    ("deit", "hfvision.models.deit:DeiTForMaskedImageModeling"),
]
VARIANTS = {  # fields with which a model type has other parts than with the tiny ones
    "google_vit": [{"classifier": "token"}, {"classifier": "gap"}],
    "google_vit_hybrid": [{"classifier": "token"}],
    "microsoft_swin": [{"patch_norm": True}],
    "facebook_detr": [{"pre_norm": False}, {"pre_norm": False, "auxiliary_loss": True}],
    "detr": [{"auxiliary_loss": True}, {"position_embedding_type": "learned"}],
    "segmenter": [{"distilled": True}, {"decoder_type": "linear"}],
    "setr": [{"decoder_type": "naive"}, {"decoder_type": "mla", "num_hidden_layers": 4}],
}
CASES = [
    (reference, model_type, fields)
    for model_type, reference in ROWS_AND_OTHERS
    for fields in ({}, *VARIANTS.get(model_type, ()))
]


def parameters_made(model_class, config):
    """The model, and how many numbers all parameters have that were allocated on the way, kept or not."""
    made = {}
    register = nn.Module.register_parameter

    def counted(module, name, parameter):
        if parameter is not None and not parameter.is_meta:
            made[id(parameter)] = parameter  # held, so that no other one gets its id
        register(module, name, parameter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "register_parameter", counted)
        model = model_class(config)
    return model, sum(parameter.numel() for parameter in made.values())


@pytest.mark.parametrize(("reference", "model_type", "fields"), CASES)
def test_no_weight_is_made_that_is_not_kept(reference, model_type, fields):
    fields = (
        {"auxiliary_indices": [0, 1, 2, 3] if fields.get("decoder_type") == "mla" else None, **fields}
        if model_type == "setr"
        else fields
    )
    model, made = parameters_made(load(reference), tiny_config(model_type, **fields))
    assert made == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # transformers' own
@pytest.mark.parametrize("row", WHOLE, ids="-".join)
def test_no_property_of_a_part_fails_in_another_way_than_by_being_absent(row):
    """Tools ask modules for all that they have, torch.jit.trace among them."""
    for module in tiny_model(*row).modules():
        for name in dir(type(module)):
            if isinstance(getattr(type(module), name, None), property):
                getattr(module, name, None)


@pytest.mark.parametrize("family", ["Detr", "FacebookDetr"])
def test_encoder_and_decoder_have_blocks_and_no_trunk(family):
    model_type = {"Detr": "detr", "FacebookDetr": "facebook_detr"}[family]
    model = getattr(hfvision, f"{family}Model")(tiny_config(model_type))
    for part in (model.encoder, model.decoder):
        assert part.blocks() == list(part.layers)
        assert next(name for name, _ in part.layer_groups()) == "embeddings"
        assert not hasattr(part, "padding_rule")
        with pytest.raises(MissingPartError, match=f"{type(part).__name__} has no trunk"):
            part.padding_rule = "seen"
        with pytest.raises(MissingPartError, match="ask the model that it is a part of"):
            part.resize_input(num_channels=4)
    assert model.blocks() == [*model.encoder.layers, *model.decoder.layers]
    assert model.padding_rule == "hidden"


def test_a_trunk_is_loaded_into_a_detr_alone():
    with pytest.raises(ConfigError, match="got a Linear, which is none"):
        load_trunk(nn.Linear(2, 2), {})


def test_variants_keep_the_kinds_of_their_parts():
    kinds = {
        "DeiTBackbone": ("deit", "embeddings", "DeiTEmbeddings"),
        "DeiTModel": ("deit", "embeddings", "DeiTEmbeddings"),
        "GoogleViTModel": ("google_vit", "embeddings", "PatchOnlyEmbeddings"),
        "ViTHybridModel": ("vit-hybrid", "embeddings.patch_embeddings", "ViTHybridPatchEmbeddings"),
        "MicrosoftSwinModel": ("microsoft_swin", "embeddings.norm", "Identity"),
        "MicrosoftSwinForImageClassification": ("microsoft_swin", "swin", "MicrosoftSwinModel"),
        "MicrosoftSwinBackbone": ("microsoft_swin", "embeddings.norm", "Identity"),
        "FacebookDetrModel": ("facebook_detr", "decoder.layers.0", "FacebookDetrDecoderLayer"),
        "FacebookDetrForObjectDetection": ("facebook_detr", "model.encoder", "FacebookDetrEncoder"),
        "FacebookDetrForSegmentation": ("facebook_detr", "detr.model", "FacebookDetrModel"),
    }
    for name, (model_type, part, kind) in kinds.items():
        with torch.device("meta"):
            model = getattr(hfvision, name)(tiny_config(model_type))
        assert type(model.get_submodule(part)).__name__ == kind, name
