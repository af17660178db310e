"""facebookresearch/detr (.pth, an entry "model") <-> the Hub's `detr`, or `facebook_detr` for what that cannot say.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872.
Source: facebookresearch/detr (Apache-2.0), its published models and what its training writes.

The detector of a panoptic model lies under "detr.". A trunk of torchvision's sizes keeps its names, in the layout of
the published Hub files (which transformers itself reads with timm alone); `use_timm_backbone=False` gives it the layout
of transformers' own ResNet, which other sizes always get. No tensor shows the number of attention heads of a detector,
or that the last stage is dilated ("DC5"): the first is that of the published models unless it is set, the second is
taken from the file's name unless it is set.

Shapes: D width, Q queries, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, ResNetConfig
from transformers.models.timm_backbone.configuration_timm_backbone import TimmBackboneConfig

from hfvision.checkpoints import Checkpoint
from hfvision.conversion.engine import AnyRule, Rule, within
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import split
from hfvision.conversion.shapes import block_count, check_stages, most_frequent
from hfvision.errors import ConversionError
from hfvision.labels import label_set
from hfvision.models.detr.facebook import FacebookDetrConfig
from hfvision.models.detr.resnet import TIMM_RESNETS, resnet_sizes
from hfvision.registry import IMAGE_SEGMENTATION, OBJECT_DETECTION

CODE = {"activation_function": "relu", "encoder_attention_heads": 8, "decoder_attention_heads": 8}
SEGMENTER = "detr."  # the beginning of the detector's keys in a panoptic model
LABELS = {91: "coco-detection-91", 250: "coco-panoptic-133"}  # of the published models, by K
TIMM, HUB = "timm", "hub"  # layouts of the trunk
EVALUATION = {"size": {"shortest_edge": 800, "longest_edge": 1333}}  # pixels; the rest is the processor's default


def rules(config: Mapping[str, Any], layout: str, masks: bool) -> tuple[AnyRule, ...]:
    """`config`: what `known_sizes` tells of the model."""
    prefix = SEGMENTER if masks else ""
    model = f"{prefix}model"
    inside = [
        *(timm_rules(model) if layout == TIMM else hub_rules(model, config)),
        *transformer_rules(model, config["pre_norm"]),
        Rule("input_proj.{p}", f"{model}.input_projection.{{p}}"),
        Rule("query_embed.weight", f"{model}.query_position_embeddings.weight"),
        Rule("class_embed.{p}", f"{prefix}class_labels_classifier.{{p}}"),
        Rule("bbox_embed.layers.{i}.{p}", f"{prefix}bbox_predictor.layers.{{i}}.{{p}}"),
    ]
    if config["position_embedding_type"] == "learned":
        inside += [
            Rule("backbone.1.row_embed.weight", f"{model}.position_embedding.row_embeddings.weight"),
            Rule("backbone.1.col_embed.weight", f"{model}.position_embedding.column_embeddings.weight"),
        ]
    if not masks:
        return tuple(inside)
    return (
        *within(SEGMENTER, inside),
        Rule("mask_head.{part}.{p}", "mask_head.{part}.{p}"),
        Rule("bbox_attention.{part}.{p}", "bbox_attention.{part}.{p}"),
    )


def timm_rules(model: str) -> list[AnyRule]:
    theirs, ours = "backbone.0.body", f"{model}.backbone.conv_encoder.model"
    endings = ("{a}.{p}", "{s}.{i}.{a}.{p}", "{s}.{i}.downsample.{n}.{p}")
    return [Rule(f"{theirs}.{ending}", f"{ours}.{ending}") for ending in endings]


def hub_rules(model: str, config: Mapping[str, Any]) -> list[AnyRule]:
    theirs, ours = "backbone.0.body", f"{model}.backbone.conv_encoder.model"
    pairs = [("conv1", "bn1", "embedder.embedder")]
    for stage in range(len(config["depths"])):
        block, ours_block = f"layer{stage + 1}.{{i}}", f"encoder.stages.{stage}.layers.{{i}}"
        steps = 3 if config["layer_type"] == "bottleneck" else 2
        pairs += [
            (f"{block}.conv{step + 1}", f"{block}.bn{step + 1}", f"{ours_block}.layer.{step}") for step in range(steps)
        ]
        pairs.append((f"{block}.downsample.0", f"{block}.downsample.1", f"{ours_block}.shortcut"))
    table: list[AnyRule] = []
    for conv, norm, unit in pairs:
        optional = unit.endswith("shortcut")  # where a stage keeps width and stride it has none
        table += [
            Rule(f"{theirs}.{conv}.weight", f"{ours}.{unit}.convolution.weight", optional=optional),
            Rule(f"{theirs}.{norm}.{{p}}", f"{ours}.{unit}.normalization.{{p}}", optional=optional),
        ]
    return table


def transformer_rules(model: str, pre_norm: bool) -> list[AnyRule]:
    table: list[AnyRule] = []
    for part, attentions, norms in (
        ("encoder", {"self_attn": "self_attn"}, ("self_attn_layer_norm", "final_layer_norm")),
        (
            "decoder",
            {"self_attn": "self_attn", "multihead_attn": "encoder_attn"},
            ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        ),
    ):
        theirs, ours = f"transformer.{part}.layers.{{i}}", f"{model}.{part}.layers.{{i}}"
        for name, attention in attentions.items():
            for part in ("weight", "bias"):
                parts = tuple(f"{ours}.{attention}.{one}_proj.{part}" for one in ("q", "k", "v"))
                fused, joined = f"{theirs}.{name}.in_proj_{part}", f"{theirs}.{name}.out_proj.{part}"
                table += [
                    Rule(fused, parts, split(3), or_zeros=part == "bias"),
                    Rule(joined, f"{ours}.{attention}.out_proj.{part}", or_zeros=part == "bias"),
                ]
        table += [Rule(f"{theirs}.linear{step}.{{p}}", f"{ours}.fc{step}.{{p}}") for step in (1, 2)]
        table += [
            Rule(f"{theirs}.norm{step}.{{p}}", f"{ours}.{norm}.{{p}}") for step, norm in enumerate(norms, start=1)
        ]
    if pre_norm:
        table.append(Rule("transformer.encoder.norm.{p}", f"{model}.encoder.layernorm.{{p}}"))
    return [*table, Rule("transformer.decoder.norm.{p}", f"{model}.decoder.layernorm.{{p}}")]


def matches(keys: Iterable[str]) -> bool:
    """Queries, a ResNet, and a decoder with torch's attention, in a panoptic model behind its prefix."""
    keys = {key.removeprefix(SEGMENTER) for key in keys}
    return keys >= {
        "query_embed.weight",
        "backbone.0.body.conv1.weight",
        "transformer.decoder.layers.0.multihead_attn.in_proj_weight",
    }


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of the config, num_labels, and the trunk's layout."""
    told_by_the_trunk = {"backbone_config", "num_channels", "is_encoder_decoder"}
    return (*settable(FacebookDetrConfig, told_by_the_trunk), "use_timm_backbone")


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the name of the file says."""
    return {"dilation": re.search(r"dc5", checkpoint.name, re.IGNORECASE) is not None}


def plan(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    said: Mapping[str, Any] | None = None,
) -> Plan:
    """`said`: see `facts`. Position tables stay as they are stored, so `position_rule` is not read.

    Raises ConversionError for settings that the tensors contradict, and for parts that no model here has.
    """
    masks = any(key.startswith("mask_head.") for key in tensors)
    inside = {key.removeprefix(SEGMENTER): tensor for key, tensor in tensors.items()}
    known, trunk = known_sizes(inside), trunk_sizes(inside)
    if masks:
        joined = most_frequent(tensors, {"mask_head.lay1.weight": (4, 1)}, known["d_model"] + 8)
        known["encoder_attention_heads"] = joined - known["d_model"]  # the mask head sees the attention of each
    name = timm_name(trunk)
    assumed = CODE | {"dilation": bool((said or {}).get("dilation")), "use_timm_backbone": name is not None}
    config = settle(known, assumed, overrides)
    by_timm = config.pop("use_timm_backbone")
    if by_timm and name is None:
        raise ConversionError(
            f"use_timm_backbone=True is for trunks that timm has by a name, {', '.join(TIMM_RESNETS)}; this one has "
            f"stages of {trunk['depths']} blocks, {trunk['hidden_sizes']} wide. Leave it out."
        )
    ours = config["pre_norm"] or (config["dilation"] and not by_timm)
    settings = {field: value for field, value in config.items() if ours or field != "pre_norm"}
    if by_timm:
        settings |= {"backbone": name, "use_timm_backbone": True, "num_channels": trunk["num_channels"]}
    else:
        features = [f"stage{stage + 1}" for stage in range(len(trunk["depths"]))]
        settings["backbone_config"] = {**trunk, "model_type": "resnet", "out_features": features}
    hidden = unseen([field for field in (*CODE, "dilation") if field not in known], config, overrides)
    return Plan(
        model_type="facebook_detr" if ours else "detr",
        auto_class=IMAGE_SEGMENTATION if masks else OBJECT_DETECTION,
        config=settings,
        rules=rules({**config, **trunk}, TIMM if by_timm else HUB, masks),
        preprocessing=EVALUATION,
        assumed=hidden.assumed,
        given=hidden.given,
        labels=labels_of(config["num_labels"]),
        notes=(
            f"The architecture follows the code of {FORMAT.repository}: activation {config['activation_function']}.",
        ),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model without heads, and for a trunk that is no ResNet of torchvision's kind."""
    keys = set(keys)
    told, masks = config.to_dict(), any(key.startswith("mask_head.") for key in keys)
    trunk: Any = config.backbone_config
    by_timm = trunk.model_type == "timm_backbone" and trunk.backbone in TIMM_RESNETS
    like_torchvision = isinstance(trunk, ResNetConfig) and (
        (trunk.downsample_in_first_stage, trunk.downsample_in_bottleneck, trunk.hidden_act) == (False, False, "relu")
    )
    if not by_timm and not like_torchvision:
        raise ConversionError(
            f"{FORMAT.repository} has ResNets of torchvision's kind as trunks; this model's is of model_type "
            f"{trunk.model_type!r}{' with another placing of strides' if isinstance(trunk, ResNetConfig) else ''}."
        )
    if not any(key.endswith("class_labels_classifier.weight") for key in keys):
        raise ConversionError(
            f"{FORMAT.repository} stores detectors, with a class and a box for each query; this model has no heads. "
            "Convert the detector that it belongs to."
        )
    sizes = {
        "pre_norm": told.get("pre_norm", False),
        "position_embedding_type": told["position_embedding_type"],
        **({} if by_timm else {"depths": trunk.depths, "layer_type": trunk.layer_type}),
    }
    renormed = config.model_type == "detr" and told["auxiliary_loss"]
    return BackPlan(
        auto_class=IMAGE_SEGMENTATION if masks else OBJECT_DETECTION,
        model_options={},
        rules=rules(sizes, TIMM if by_timm else HUB, masks),
        notes=computed_otherwise(
            [
                ("activation_function", CODE["activation_function"], told["activation_function"]),
                ("a norm between the decoder's layers (auxiliary_loss)", False, bool(renormed)),
            ]
        ),
    )


def known_sizes(inside: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say of all but the trunk, keys without "detr."; what is misshapen, the rules then name."""
    width = most_frequent(inside, {"query_embed.weight": (2, 1), "input_proj.bias": (1, 0)}, 256)
    known: dict[str, Any] = {
        "d_model": width,
        "num_queries": most_frequent(inside, {"query_embed.weight": (2, 0)}, 100),
        "num_labels": max(1, most_frequent(inside, {"class_embed.bias": (1, 0), "class_embed.weight": (2, 0)}, 92) - 1),
        "position_embedding_type": "learned" if "backbone.1.row_embed.weight" in inside else "sine",
        "pre_norm": any(key.startswith("transformer.encoder.norm.") for key in inside),
    }
    for part in ("encoder", "decoder"):
        pattern = re.compile(rf"transformer\.{part}\.layers\.(\d+)\.")
        own = {key: tensor for key, tensor in inside.items() if pattern.match(key)}
        known[f"{part}_layers"] = block_count([int(match[1]) for key in own if (match := pattern.match(key))])
        known[f"{part}_ffn_dim"] = most_frequent(own, {"linear1.bias": (1, 0), "linear2.weight": (2, 1)}, 2048)
    return known


def trunk_sizes(inside: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say of the trunk, as the fields of a ResNetConfig. Raises ConversionError for gaps."""
    body = {key.removeprefix("backbone.0.body."): one for key, one in inside.items() if key.startswith("backbone.0.")}
    numbers = [tuple(map(int, found.groups())) for key in body if (found := re.match(r"layer(\d+)\.(\d+)\.", key))]
    stages = block_count([stage - 1 for stage, _ in numbers])
    depths = [block_count([block for at, block in numbers if at == stage + 1]) for stage in range(stages)]
    check_stages(depths, "the trunk", "backbone.0.body.layer1.0.conv1.weight")
    bottleneck = any(".conv3." in key for key in body)
    end = 3 if bottleneck else 2  # the last convolution of a block, and its norm
    widths = {f".conv{end}.weight": (4, 0), f".bn{end}.bias": (1, 0)}
    of_stages = [
        {key: tensor for key, tensor in body.items() if key.startswith(f"layer{stage + 1}.")} for stage in range(stages)
    ]
    stem = {key: tensor for key, tensor in body.items() if key in ("conv1.weight", "bn1.bias")}
    return {
        "num_channels": most_frequent(stem, {"conv1.weight": (4, 1)}, 3),
        "embedding_size": most_frequent(stem, {"conv1.weight": (4, 0), "bn1.bias": (1, 0)}, 64),
        "depths": depths,
        "hidden_sizes": [most_frequent(own, widths, 64 * 2**stage) for stage, own in enumerate(of_stages)],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }


def timm_name(trunk: Mapping[str, Any]) -> str | None:
    """What timm calls a trunk of these sizes; None for others."""
    for name in TIMM_RESNETS:
        sizes = resnet_sizes(TimmBackboneConfig(backbone=name))
        assert sizes is not None
        kind = "bottleneck" if sizes.bottleneck else "basic"
        theirs = (list(sizes.depths), list(sizes.widths), sizes.stem_width, kind)
        if theirs == tuple(trunk[field] for field in ("depths", "hidden_sizes", "embedding_size", "layer_type")):
            return name
    return None


def labels_of(count: int) -> tuple[str, ...]:
    """COCO's names, where there are as many classes as in the published models: category ids are class indices."""
    return label_set(LABELS[count]).names if count in LABELS else ()


FORMAT = Format(
    name="detr",
    family="detr",
    title="facebookresearch/detr (.pth)",
    repository="facebookresearch/detr",
    license="apache-2.0",
    container="pth",
    entries=("model",),
    model_types=("detr", "facebook_detr"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
    facts=facts,
)
