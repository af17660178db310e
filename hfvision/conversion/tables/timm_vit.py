"""timm's ViT and DeiT (.pth, .safetensors, keys joined by ".") <-> the Hub's `vit` and `deit`, or `google_vit`.

Paper:  Dosovitskiy et al. 2020, arXiv 2010.11929; Touvron et al. 2020, arXiv 2012.12877.
Source: huggingface/pytorch-image-models (Apache-2.0), names of state dicts of its VisionTransformer.

A class token makes a `vit`, a distillation token beside it a `deit`; without either, and with the norm before the mean
of the tokens, it is a `google_vit` with classifier "gap". facebookresearch/deit uses the same names: see `deit`.

Shapes: D width, p patch, C channels, N tokens, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion.engine import AnyRule, Drop, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, same, split
from hfvision.conversion.shapes import (
    block_count,
    checked_size,
    most_frequent,
    position_grids,
    rank_of,
    resampling,
)
from hfvision.errors import ConversionError, numbered
from hfvision.layers.patch_embedding import pair
from hfvision.models.google_vit import GoogleViTConfig
from hfvision.models.vit import ViTConfig
from hfvision.processing.protocols import protocol_options

CLASSIFICATION = "AutoModelForImageClassification"
TEACHER = "DeiTForImageClassificationWithTeacher"
PROCESSOR = "hfvision.processing.classification:BitImageProcessor"  # crops in every version of transformers

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu"}
MOST_HEADS = 16  # of the published models from 1,024 wide on; below, heads are 64 wide

# Parts that models of these names can have and the formats here cannot say: part of a key -> why not.
FOREIGN = {
    "fc_norm.": "the mean of the tokens is normalised, and no format here has the norm after the mean",
    "reg_token": "register tokens have no place",
    "register_tokens": "register tokens have no place",
    "mask_token": "it was trained on masked images, whose token no image classifier has",
    "norm_pre.": "a norm before the blocks has no place",
    "attn_pool.": "pooling by attention has no place",
    ".ls1.": "layer scale has no place",
    ".gamma_1": "layer scale has no place",
    ".q_norm.": "norms of queries and keys have no place",
    "patch_embed.backbone.": "patches come from a convolutional network: it is a hybrid",
}


def rules(
    prefix: str, *, class_token: bool, distilled: bool, qkv_bias: bool, positions: Op = same
) -> tuple[AnyRule, ...]:
    """The table of the trunk. `prefix` is "vit." or "deit." where the model has a head of its own around it."""
    table: list[AnyRule] = []
    if class_token:
        table.append(Rule("cls_token", f"{prefix}embeddings.cls_token"))
    if distilled:
        table.append(Rule("dist_token", f"{prefix}embeddings.distillation_token"))
    table += [
        Rule("pos_embed", f"{prefix}embeddings.position_embeddings", positions),
        Rule("patch_embed.proj.{p}", f"{prefix}embeddings.patch_embeddings.projection.{{p}}"),
    ]
    return (
        *table,
        *block_rules(f"{prefix}encoder.layer.{{i}}", qkv_bias),
        Rule("norm.{p}", f"{prefix}layernorm.{{p}}"),
    )


def block_rules(layer: str, qkv_bias: bool, or_zeros: bool = False) -> tuple[Rule, ...]:
    """The table of the blocks, where `layer` names one of the model's; `or_zeros` where that has biases at any rate."""
    attention = f"{layer}.attention.attention"
    table = [Rule("blocks.{i}.norm1.{p}", f"{layer}.layernorm_before.{{p}}")]
    for part in ("weight", "bias") if qkv_bias else ("weight",):
        parts = (f"{attention}.query.{part}", f"{attention}.key.{part}", f"{attention}.value.{part}")
        table.append(Rule(f"blocks.{{i}}.attn.qkv.{part}", parts, split(3), or_zeros=or_zeros and part == "bias"))
    return (
        *table,
        Rule("blocks.{i}.attn.proj.{p}", f"{layer}.attention.output.dense.{{p}}"),
        Rule("blocks.{i}.norm2.{p}", f"{layer}.layernorm_after.{{p}}"),
        Rule("blocks.{i}.mlp.fc1.{p}", f"{layer}.intermediate.dense.{{p}}"),
        Rule("blocks.{i}.mlp.fc2.{p}", f"{layer}.output.dense.{{p}}"),
    )


ONE_HEAD = (Rule("head.{p}", "classifier.{p}"),)
TWO_HEADS = (Rule("head.{p}", "cls_classifier.{p}"), Rule("head_dist.{p}", "distillation_classifier.{p}"))


def matches(keys: Iterable[str]) -> bool:
    """Blocks with a fused projection at the top level, behind a plain patch kernel."""
    keys = set(keys)
    hybrid = any(key.startswith("patch_embed.backbone.") for key in keys)
    plain = "patch_embed.proj.weight" in keys and "pos_embed" in keys and not hybrid
    hybrid = any(key.startswith("patch_embed.backbone.") for key in keys)
    return plain and not hybrid and any(re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", key) for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of a ViT's config that go into config.json, and num_labels."""
    fixed = {"drop_path_rate", "_out_features", "_out_indices", "pooler_act", "pooler_output_size"}
    return settable(ViTConfig, fixed)


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    protocol = "timm-deit" if "dist_token" in tensors else "timm-vit"
    return plan_for(tensors, overrides, position_rule, protocol, FORMAT.repository)


def plan_for(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    protocol: str,
    repository: str,
) -> Plan:
    """The plan for a checkpoint of these names from a repository that prepares images by a protocol of its own."""
    check_parts(tensors)
    distilled, class_token = "dist_token" in tensors, "cls_token" in tensors or "dist_token" in tensors
    known = known_sizes(tensors)
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed = CODE | {"num_attention_heads": published_heads(known["hidden_size"], overrides)}
    if isinstance(known["patch_size"], int):
        assumed["encoder_stride"] = known["patch_size"]  # a masked-image decoder would paint whole patches
    config = settle(known, assumed, overrides)
    prefix_tokens = int(class_token) + int(distilled)
    source_grid, grid, config["image_size"] = position_grids(tensors, "pos_embed", config, prefix_tokens, "cls_token")
    changed: tuple[str, ...] = ()
    positions = same
    if source_grid != grid:
        rule: Any = position_rule or "bicubic"
        positions, how = resampling(source_grid, grid, prefix_tokens, rule)
        changed = (how,)
    has_head, two_heads = _has(tensors, "head."), distilled and _has(tensors, "head_dist.")
    if not class_token:
        config["classifier"] = "gap"
    model_type = "deit" if distilled else "vit" if class_token else "google_vit"
    heads: tuple[AnyRule, ...] = () if not (has_head or two_heads) else TWO_HEADS if two_heads else ONE_HEAD
    preprocessing, prepared = preprocessing_of(protocol, config)
    said = unseen((*CODE, "num_attention_heads", "image_size"), config, overrides)
    return Plan(
        model_type=model_type,
        auto_class=CLASSIFICATION if heads else "AutoModel",
        model_name=TEACHER if two_heads else None,
        config=config,
        rules=rules(
            ("deit." if distilled else "vit.") if heads else "",
            class_token=class_token,
            distilled=distilled,
            qkv_bias=config["qkv_bias"],
            positions=positions,
        )
        + heads,
        preprocessing=preprocessing,
        processor=PROCESSOR if preprocessing["do_center_crop"] else None,
        model_options={"add_pooling_layer": False} if class_token and not heads else {},
        assumed=(*said.assumed, prepared),
        given=said.given,
        changed=changed,
        notes=(
            f"The architecture follows the code of {repository}: layer norm epsilon {config['layer_norm_eps']}, "
            f"activation {config['hidden_act']}, {config['num_attention_heads']} attention heads.",
        ),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    keys = list(keys)
    google = isinstance(config, GoogleViTConfig)
    classifier, width = (config.classifier, config.representation_size) if google else ("token", None)
    if classifier not in ("token", "gap") or width is not None:
        raise ConversionError(
            f"the original has no head on every token and no layer before it; this model has classifier "
            f"{classifier!r} and representation_size {width!r}."
        )
    distilled = config.model_type == "deit"
    base = "deit." if distilled else "vit."
    one_head, painter = (any(key.startswith(f"{head}.") for key in keys) for head in ("classifier", "decoder"))
    two_heads = any(key.startswith("distillation_classifier.") for key in keys)
    prefix = base if one_head or two_heads or painter else ""
    pooler = [key for key in keys if key.startswith(f"{prefix}pooler.")]
    masks = [key for key in keys if key.startswith("decoder.") or key == f"{prefix}embeddings.mask_token"]
    notes = list(computed_otherwise((field, value, getattr(config, field)) for field, value in CODE.items()))
    if distilled and one_head:
        notes.append("the original's distilled models average with a second head ('head_dist'), which this one lacks")
    classifies = one_head or two_heads
    return BackPlan(
        auto_class=CLASSIFICATION if classifies else "AutoModelForMaskedImageModeling" if painter else "AutoModel",
        model_name=TEACHER if two_heads else None,
        model_options={} if google or prefix else {"add_pooling_layer": bool(pooler), "use_mask_token": bool(masks)},
        rules=rules(prefix, class_token=classifier == "token", distilled=distilled, qkv_bias=config.qkv_bias)
        + (TWO_HEADS if two_heads else ONE_HEAD if one_head else ()),
        extra=(
            *(Drop(key, because="only for training on masked images, unknown to the original") for key in masks),
            *(Drop(key, because="the original has no pooler") for key in pooler),
        ),
        notes=tuple(notes),
    )


def check_parts(tensors: Mapping[str, Tensor]) -> None:
    """Raises ConversionError that names every part which no model here has, once each."""
    problems = []
    for part, reason in FOREIGN.items():
        found = [key for key in tensors if part in key]
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            problems.append(f"{found[0]} {tuple(tensors[found[0]].shape)}{others}: {reason}")
    if problems:
        raise ConversionError(f"this variant cannot be converted, {numbered('mismatch', problems)}")


def known_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say. Where they disagree the most frequent answer counts, and the rules then name the others."""
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))]
    channels, height, width = 3, 16, 16
    kernel = "patch_embed.proj.weight"
    if rank_of(tensors, kernel) == 4 and tensors[kernel].numel():
        channels, height, width = tensors[kernel].shape[1:]
    widths = {"norm.bias": (1, 0), "norm1.bias": (1, 0), "patch_embed.proj.bias": (1, 0)}
    hidden_size = most_frequent(tensors, widths, 768)
    inner = {"mlp.fc1.bias": (1, 0), "mlp.fc1.weight": (2, 0), "mlp.fc2.weight": (2, 1)}
    known: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": block_count(blocks),
        "intermediate_size": most_frequent(tensors, inner, 4 * hidden_size),
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
        "qkv_bias": any(key.endswith(".attn.qkv.bias") for key in tensors),
    }
    if _has(tensors, "head.") or _has(tensors, "head_dist."):
        known["num_labels"] = most_frequent(tensors, {"head.bias": (1, 0), "head.weight": (2, 0)}, 1000)
    return known


def published_heads(hidden_size: int, overrides: Mapping[str, Any]) -> int:
    """The published models' number of heads; queries, keys and values are fused and do not show it."""
    heads = min(hidden_size // 64, MOST_HEADS)
    if "num_attention_heads" not in overrides and (hidden_size < 64 or hidden_size % heads):
        raise ConversionError(
            f"the tensors do not show the number of attention heads, and a width of {hidden_size} is none of a "
            "published model; set num_attention_heads."
        )
    return max(heads, 1)


def preprocessing_of(protocol: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of the image processor and what of them is assumed. The crop is placed as transformers does it."""
    height, width = pair(config["image_size"])
    channels = config["num_channels"]
    said = f"images prepared by protocol {protocol!r} (hfvision.processing.protocols)"
    if height == width:
        options = protocol_options(protocol, height)
    else:
        options = protocol_options("google", (height, width)) | {"resample": 3}
        options |= {name: protocol_options(protocol)[name] for name in ("image_mean", "image_std")}
        said += f", but resized straight to {height}x{width}"
    options.pop("crop_rounding", None)
    options["do_convert_rgb"] = channels == 3
    if channels != 3:
        options |= {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
        said += f", with mean and deviation 0.5 for {channels} channels"
    return options, said


def _has(tensors: Mapping[str, Tensor], beginning: str) -> bool:
    return any(key.startswith(beginning) for key in tensors)


FORMAT = Format(
    name="timm_vit",
    family="timm",
    title="timm ViT or DeiT (.pth, .safetensors)",
    repository="huggingface/pytorch-image-models",
    license="apache-2.0",
    container="pth",
    other_containers=("safetensors",),
    entries=(None, "state_dict", "state_dict_ema"),
    model_types=("vit", "deit", "google_vit"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
