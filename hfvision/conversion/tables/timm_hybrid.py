"""timm's hybrid ViT (.pth, .safetensors, keys joined by ".") <-> the Hub's `vit-hybrid`.

Paper:  Dosovitskiy et al. 2020, arXiv 2010.11929; Steiner et al. 2021, arXiv 2106.10270.
Source: huggingface/pytorch-image-models (Apache-2.0), names of state dicts of its VisionTransformer over a ResNetV2.

The encoder is that of `timm_vit`. Kernels are standardised, and norms computed, as the `vit-hybrid` format means it.

Shapes: F channels of a feature map, D width, p patch of the feature map, C channels, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor
from transformers import BitConfig, PreTrainedConfig

from hfvision.conversion.engine import AnyRule, Drop, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, settle, unseen
from hfvision.conversion.ops import Op, same
from hfvision.conversion.shapes import block_count, checked_size, rank_of, resampling
from hfvision.conversion.tables import google_hybrid, timm_vit
from hfvision.conversion.tables.timm_vit import CLASSIFICATION, ONE_HEAD
from hfvision.errors import ConversionError
from hfvision.models.vit_hybrid import ViTHybridConfig

BACKBONE = "patch_embed.backbone."

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu"}
# The same for the way back; the format has no other values.
KERNELS = {"standardization": "variance", "group_norm_eps": 1e-5}


def rules(prefix: str, *, staged: bool, qkv_bias: bool, positions: Op = same) -> tuple[AnyRule, ...]:
    """The table of the trunk. `prefix` is "vit." where the model has a head of its own around it.

    `staged`: behind the stem come stages; without any, timm keeps the stem under shorter names.
    """
    bit = f"{prefix}embeddings.patch_embeddings.backbone.bit"
    stem = f"{BACKBONE}stem" if staged else BACKBONE.rstrip(".")
    table: list[AnyRule] = [
        Rule(f"{stem}.conv.weight", f"{bit}.embedder.convolution.weight"),
        Rule(f"{stem}.norm.{{p}}", f"{bit}.embedder.norm.{{p}}"),
    ]
    if staged:
        theirs, ours = f"{BACKBONE}stages.{{s}}.blocks.{{u}}", f"{bit}.encoder.stages.{{s}}.layers.{{u}}"
        table += [
            Rule(f"{theirs}.downsample.conv.weight", f"{ours}.downsample.conv.weight"),
            Rule(f"{theirs}.downsample.norm.{{p}}", f"{ours}.downsample.norm.{{p}}"),
        ]
        for part in (1, 2, 3):
            table += [
                Rule(f"{theirs}.conv{part}.weight", f"{ours}.conv{part}.weight"),
                Rule(f"{theirs}.norm{part}.{{p}}", f"{ours}.norm{part}.{{p}}"),
            ]
    encoder = timm_vit.rules(prefix, class_token=True, distilled=False, qkv_bias=qkv_bias, positions=positions)
    return (*table, *encoder)


def matches(keys: Iterable[str]) -> bool:
    """Blocks with a fused projection at the top level, behind a ResNet."""
    keys = list(keys)
    network = any(key.startswith(BACKBONE) for key in keys)
    return network and any(re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", key) for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of the Hub's format that the tensors or the code decide, and num_labels."""
    own = {*google_hybrid.CODE, "classifier", "representation_size"}
    return tuple(name for name in google_hybrid.fields() if name not in own - set(CODE))


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    encoder = {key: tensor for key, tensor in tensors.items() if not key.startswith(BACKBONE)}
    timm_vit.check_parts(encoder)
    known = timm_vit.known_sizes(encoder)
    backbone, staged = _backbone(tensors)
    stem = f"{BACKBONE}stem.conv.weight" if staged else f"{BACKBONE}conv.weight"
    known["num_channels"] = tensors[stem].shape[1] if rank_of(tensors, stem) == 4 else 3
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed = CODE | {"num_attention_heads": timm_vit.published_heads(known["hidden_size"], overrides)}
    config = settle(known, assumed, overrides) | {"backbone_config": google_hybrid.described(backbone)}
    found = google_hybrid.grids(tensors, "pos_embed", config, backbone, 1, "cls_token")
    source_grid, grid, config["image_size"] = found
    changed: tuple[str, ...] = ()
    positions = same
    if source_grid != grid:
        rule: Any = position_rule or "bicubic"
        positions, how = resampling(source_grid, grid, 1, rule)
        changed = (how,)
    has_head = "num_labels" in known
    preprocessing, prepared = timm_vit.preprocessing_of("timm-vit", config)
    if config["num_channels"] != 3:
        preprocessing["do_convert_rgb"] = False
    said = unseen((*CODE, "num_attention_heads", "image_size"), config, overrides)
    return Plan(
        model_type=ViTHybridConfig.model_type,
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        config=config,
        rules=rules("vit." if has_head else "", staged=staged, qkv_bias=config["qkv_bias"], positions=positions)
        + (ONE_HEAD if has_head else ()),
        preprocessing=preprocessing,
        model_options={} if has_head else {"add_pooling_layer": False},
        assumed=(*said.assumed, prepared),
        given=said.given,
        changed=changed,
        notes=(
            f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
            f"activation {config['hidden_act']}, {config['num_attention_heads']} attention heads.",
        ),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    keys = list(keys)
    google_hybrid.check_back(config)
    if config.classifier != "token" or config.representation_size is not None:
        raise ConversionError(
            f"the original reads the class token, with no layer before the head; this model has classifier "
            f"{config.classifier!r} and representation_size {config.representation_size!r}."
        )
    has_head = any(key.startswith("classifier.") for key in keys)
    prefix = "vit." if has_head else ""
    pooler = [key for key in keys if key.startswith(f"{prefix}pooler.")]
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        model_options={} if has_head else {"add_pooling_layer": bool(pooler)},
        rules=rules(prefix, staged=bool(config.bit.depths), qkv_bias=config.qkv_bias) + (ONE_HEAD if has_head else ()),
        extra=tuple(Drop(key, because="the original has no pooler") for key in pooler),
        notes=google_hybrid.differences(config, CODE | KERNELS),
    )


def _backbone(tensors: Mapping[str, Tensor]) -> tuple[BitConfig, bool]:
    """What the shapes say about the ResNet, and whether it has stages."""
    numbers = re.compile(re.escape(f"{BACKBONE}stages.") + r"(\d+)\.blocks\.(\d+)\.")
    found = [(int(m[1]), int(m[2])) for key in tensors if (m := numbers.match(key))]
    depths = [
        block_count([unit for stage, unit in found if stage == number])
        for number in range(block_count([stage for stage, _ in found]))
    ]
    staged = bool(depths) or any(key.startswith(f"{BACKBONE}stem.") for key in tensors)
    stem = f"{BACKBONE}stem.conv.weight" if staged else f"{BACKBONE}conv.weight"
    root = tensors[stem].shape[0] if rank_of(tensors, stem) == 4 else 64
    sizes = []
    for number in range(len(depths)):
        kernel = f"{BACKBONE}stages.{number}.blocks.0.conv3.weight"
        sizes.append(tensors[kernel].shape[0] if rank_of(tensors, kernel) == 4 else 4 * root * 2**number)
    return google_hybrid.bit_config(depths, sizes, root), staged


FORMAT = Format(
    name="timm_hybrid",
    family="timm",
    title="timm hybrid ViT (.pth, .safetensors)",
    repository=timm_vit.FORMAT.repository,
    license="apache-2.0",
    container="pth",
    other_containers=("safetensors",),
    entries=timm_vit.FORMAT.entries,
    model_types=("vit-hybrid", "google_vit_hybrid"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
