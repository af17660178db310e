"""SwinTransformer/Swin-Transformer-Semantic-Segmentation (.pth of mmcv, an entry "state_dict") <-> `upernet` on `swin`.

Paper:  Liu et al. 2021, "Swin Transformer", arXiv 2103.14030, section 4.3; Xiao et al. 2018, arXiv 1807.10221.
Source: SwinTransformer/Swin-Transformer-Semantic-Segmentation (Apache-2.0), its published files.

The trunk has a norm for each stage's map and none at its end, and stores no masks of shifted windows.

Shapes: D width of the first stage, M places per side of a window, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion import mmseg
from hfvision.conversion.engine import Add, AnyRule, Drop, Rule, Shape, Unused, within
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settle, unseen
from hfvision.conversion.ops import Op, same
from hfvision.conversion.shapes import block_count, checked_size, most_frequent
from hfvision.conversion.tables import swin
from hfvision.errors import ConversionError, numbered
from hfvision.layers.patch_embedding import pair
from hfvision.layers.position import Grid
from hfvision.models.upernet import AUXILIARY_MAP, UperNetConfig
from hfvision.registry import SEMANTIC_SEGMENTATION

PROCESSOR = "hfvision.processing.segmentation:SegmentationImageProcessor"
PHOTO = (2048, 512)  # long and short side that photos are resized to lie in

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}
POOL_SCALES = [1, 2, 3, 6]
TRUNK_FIELDS = (*CODE, "image_size")


def table_of_map(grid: Grid) -> Op:
    """(1, D, h, w) <-> (1, h * w, D)."""
    return Op("table_of_map", lambda table: table.flatten(2).mT, lambda table: table.mT.unflatten(2, grid))


def rules(trunk: Mapping[str, Any], positions: Op) -> tuple[AnyRule, ...]:
    """The whole table. `trunk` has the fields of a Swin's config, `positions` is for its absolute position table."""
    stages = len(trunk["depths"])
    blocks = swin.rules("backbone.", trunk, dict.fromkeys(range(stages), same), positions, merges_last=True)
    last, unused = trunk["embed_dim"] * 2 ** (stages - 1), "a norm that transformers stores and never uses"
    inside = [
        *(rule for rule in blocks if rule != Rule("norm.{p}", "backbone.layernorm.{p}")),
        *(
            Rule(f"norm{stage}.{{p}}", f"backbone.hidden_states_norms.stage{stage + 1}.{{p}}")
            for stage in range(stages)
        ),
        Drop(f"layers.{{s}}.blocks.{{i}}.{swin.INDEX}", swin.RECOMPUTED, stored_index),
        Add("backbone.swin.layernorm.weight", unused, lambda: torch.ones(last)),
        Add("backbone.swin.layernorm.bias", unused, lambda: torch.zeros(last)),
    ]
    return (*within("backbone.", inside), *_heads())


def stored_index(shape: Shape, dtype: torch.dtype) -> Tensor:
    """(M * M, M * M): the row in the table of relative positions for each query and key."""
    return swin.relative_position_index(isqrt(shape[0])).to(dtype)


def _heads() -> tuple[AnyRule, ...]:
    table: list[AnyRule] = []
    for part, optional in (
        ("decode_head.psp_modules.{i}.1", False),
        ("decode_head.bottleneck", False),
        ("decode_head.lateral_convs.{i}", True),  # none for a trunk of one stage
        ("decode_head.fpn_convs.{i}", True),
        ("decode_head.fpn_bottleneck", False),
        ("auxiliary_head.convs.{i}", True),
        ("auxiliary_head.conv_cat", True),
    ):
        table += [
            Rule(f"{part}.conv.{{p}}", f"{part}.conv.{{p}}", optional=optional),
            Rule(f"{part}.bn.{{p}}", f"{part}.batch_norm.{{p}}", optional=optional),
        ]
    return (
        *table,
        Rule("decode_head.conv_seg.{p}", "decode_head.classifier.{p}"),
        Rule("auxiliary_head.conv_seg.{p}", "auxiliary_head.classifier.{p}", optional=True),
    )


def matches(keys: Iterable[str]) -> bool:
    """Stages of blocks inside a backbone, and a pyramid of pooled maps."""
    keys = set(keys)
    return "backbone.layers.0.blocks.0.attn.qkv.weight" in keys and "decode_head.psp_modules.0.1.conv.weight" in keys


@cache
def fields() -> tuple[str, ...]:
    """What can be set: what the tensors do not show, of the trunk and of the decoder."""
    return (*TRUNK_FIELDS, "pool_scales", "auxiliary_loss_weight", "loss_ignore_index")


def plan(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    facts: Mapping[str, Any] | None = None,
) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told.

    `facts`: see `mmseg.facts`. Position tables stay as they are stored, so `position_rule` is not read.
    """
    facts = facts or {}
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    inside = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items() if key.startswith("backbone.")}
    in_trunk = {name: value for name, value in overrides.items() if name in TRUNK_FIELDS}
    trunk = settle(trunk_sizes(inside), CODE | {"image_size": 512}, in_trunk)
    rest = {name: value for name, value in overrides.items() if name not in TRUNK_FIELDS}
    config = settle(head_sizes(tensors, trunk["embed_dim"]), {"pool_scales": POOL_SCALES}, rest)
    scales = part_count(tensors, r"decode_head\.psp_modules\.(\d+)\.")
    if len(config["pool_scales"]) != scales:
        raise ConversionError(
            f"the checkpoint pools {scales} maps; pool_scales says how many places per side each of them has, got "
            f"{config['pool_scales']}."
        )
    features = [f"stage{stage + 1}" for stage in range(len(trunk["depths"]))]
    names = [*CODE, "pool_scales"]
    grid = position_grid(inside)
    if "image_size" not in overrides and grid is None:
        names.append("image_size")
    model_type = "swin" if trunk.get("patch_norm", True) else "microsoft_swin"
    preprocessing, prepared = mmseg.evaluation(PHOTO, None, None, trunk["num_channels"], facts)
    labels, told = tuple(facts.get("labels", ())), trunk | config
    said = unseen(names, told, overrides)
    return Plan(
        model_type="upernet",
        auto_class=SEMANTIC_SEGMENTATION,
        config={**config, "backbone_config": {**trunk, "model_type": model_type, "out_features": features}},
        rules=rules(trunk, same if grid is None else table_of_map(grid)),
        preprocessing=preprocessing,
        processor=PROCESSOR,
        assumed=(*said.assumed, *prepared),
        given=said.given,
        labels=labels if len(labels) == config["num_labels"] else (),
        notes=(
            f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {told['layer_norm_eps']}, "
            f"activation {told['hidden_act']}, pyramid of {told['pool_scales']} places per side.",
        ),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a trunk that is no Swin, or not read after each of its stages."""
    assert isinstance(config, UperNetConfig)
    trunk: Any = config.backbone_config
    stages = [f"stage{stage + 1}" for stage in range(len(getattr(trunk, "depths", ())))]
    if trunk.model_type not in ("swin", "microsoft_swin") or trunk.out_features != stages:
        raise ConversionError(
            f"{FORMAT.repository} has Swin trunks that give the map of every stage; this model's trunk is of "
            f"model_type {trunk.model_type!r} and gives {', '.join(trunk.out_features)}."
        )
    told = [(field, value, getattr(trunk, field)) for field, value in CODE.items()]
    return BackPlan(
        auto_class=SEMANTIC_SEGMENTATION,
        model_options={},
        rules=rules(trunk.to_dict(), table_of_map(trunk.grid) if trunk.use_absolute_embeddings else same),
        stored={
            f"backbone.layers.{stage}.blocks.{block}.{swin.INDEX}": Unused((trunk.window_size**2,) * 2, torch.int64)
            for stage, depth in enumerate(trunk.depths)
            for block in range(depth)
        },
        notes=computed_otherwise([*told, ("pool_scales", POOL_SCALES, list(config.pool_scales))]),
    )


def trunk_sizes(inside: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say of the trunk, keys without "backbone."; what is misshapen, the rules then name."""
    swin.check_parts(inside)
    known, windows = swin.known_sizes(inside, swin.HEAD)
    known["window_size"] = max(windows)
    if wrong := [
        key
        for key, tensor in inside.items()
        if key.endswith(swin.INDEX)
        and not tensor.is_meta
        and not torch.equal(tensor, stored_index(tensor.shape, tensor.dtype))
    ]:
        raise ConversionError(
            numbered("mismatch", (f"backbone.{key} does not follow from the window" for key in wrong))
        )
    if (grid := position_grid(inside)) is not None:
        (height, width), patch = grid, pair(known["patch_size"])
        known["image_size"] = checked_size([height * patch[0], width * patch[1]])
    return known


def head_sizes(tensors: Mapping[str, Tensor], embed_dim: int) -> dict[str, Any]:
    """What the shapes say of the decoder and of the auxiliary head."""
    known: dict[str, Any] = {
        "hidden_size": most_frequent(tensors, {"decode_head.bottleneck.bn.bias": (1, 0)}, 512),
        "num_labels": most_frequent(tensors, {"decode_head.conv_seg.bias": (1, 0)}, 1),
        "use_auxiliary_head": any(key.startswith("auxiliary_head.") for key in tensors),
    }
    if not known["use_auxiliary_head"]:
        return known
    width = most_frequent(tensors, {"auxiliary_head.conv_seg.weight": (4, 1)}, 256)
    inputs = embed_dim * 2**AUXILIARY_MAP
    read = most_frequent(tensors, {"auxiliary_head.convs.0.conv.weight": (4, 1)}, inputs)
    if read != inputs:
        raise ConversionError(
            f"the auxiliary head reads a map of {read} channels; in the 'upernet' format it reads the third map, which "
            f"has {inputs} here."
        )
    return known | {
        "auxiliary_in_channels": inputs,
        "auxiliary_channels": width,
        "auxiliary_num_convs": part_count(tensors, r"auxiliary_head\.convs\.(\d+)\."),
        "auxiliary_concat_input": any(key.startswith("auxiliary_head.conv_cat.") for key in tensors),
    }


def position_grid(inside: Mapping[str, Tensor]) -> Grid | None:
    """(h, w) of the absolute position table, where there is one."""
    table = inside.get("absolute_pos_embed")
    return None if table is None or table.ndim != 4 else (table.shape[2], table.shape[3])


def part_count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many of a numbered part there are."""
    return block_count([int(match[1]) for key in tensors if (match := re.match(pattern, key))])


FORMAT = Format(
    name="swin_upernet",
    family="upernet",
    title="Swin-Transformer-Semantic-Segmentation (.pth)",
    repository="SwinTransformer/Swin-Transformer-Semantic-Segmentation",
    license="apache-2.0",
    container="pth",
    entries=("state_dict",),
    model_types=("upernet",),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
    facts=mmseg.facts,
)
