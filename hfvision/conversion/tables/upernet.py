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

from hfvision.conversion.engine import Add, AnyRule, Drop, Rule, Shape
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settle
from hfvision.conversion.ops import Op, split
from hfvision.conversion.shapes import block_count, checked_size, most_frequent, rank_of
from hfvision.errors import ConversionError
from hfvision.layers.position import Grid
from hfvision.models.upernet import AUXILIARY_MAP, UperNetConfig
from hfvision.processing.protocols import segmentation_options

SEGMENTATION = "AutoModelForSemanticSegmentation"
PROCESSOR = "hfvision.processing.segmentation:SegmentationImageProcessor"
PHOTO = (2048, 512)  # long and short side that photos are resized to lie in

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}
POOL_SCALES = [1, 2, 3, 6]
TRUNK_FIELDS = (*CODE, "image_size")


def window_index(shape: Shape, dtype: torch.dtype) -> Tensor:
    """(M * M, M * M): the row in the table of relative positions for each query and key, counted down, then across."""
    side = isqrt(shape[0])
    apart = torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1  # (M, M)
    rows = apart[:, None, :, None] * (2 * side - 1) + apart[None, :, None, :]
    return rows.reshape(shape).to(dtype)


def table_of_map(grid: Grid) -> Op:
    """(1, D, h, w) <-> (1, h * w, D)."""
    return Op("table_of_map", lambda table: table.flatten(2).mT, lambda table: table.mT.unflatten(2, grid))


def rules(stages: int, width: int, qkv_bias: bool, positions: Grid | None) -> tuple[AnyRule, ...]:
    """The whole table. `positions` is the grid of an absolute position table, where there is one."""
    return (*_trunk(stages, width, qkv_bias, positions), *_heads())


def _trunk(stages: int, width: int, qkv_bias: bool, positions: Grid | None) -> tuple[AnyRule, ...]:
    block, target = "backbone.layers.{i}.blocks.{j}", "backbone.encoder.layers.{i}.blocks.{j}"
    attention = f"{target}.attention.self"
    table: list[AnyRule] = [
        Rule("backbone.patch_embed.proj.{p}", "backbone.embeddings.patch_embeddings.projection.{p}"),
        Rule("backbone.patch_embed.norm.{p}", "backbone.embeddings.norm.{p}"),
    ]
    if positions is not None:
        op = table_of_map(positions)
        table.append(Rule("backbone.absolute_pos_embed", "backbone.embeddings.position_embeddings", op))
    for part in ("weight", "bias") if qkv_bias else ("weight",):
        parts = (f"{attention}.query.{part}", f"{attention}.key.{part}", f"{attention}.value.{part}")
        table.append(Rule(f"{block}.attn.qkv.{part}", parts, split(3)))
    table += [
        Rule(f"{block}.norm1.{{p}}", f"{target}.layernorm_before.{{p}}"),
        Rule(f"{block}.attn.relative_position_bias_table", f"{attention}.relative_position_bias_table"),
        Drop(f"{block}.attn.relative_position_index", "follows from the window size", window_index),
        Rule(f"{block}.attn.proj.{{p}}", f"{target}.attention.output.dense.{{p}}"),
        Rule(f"{block}.norm2.{{p}}", f"{target}.layernorm_after.{{p}}"),
        Rule(f"{block}.mlp.fc1.{{p}}", f"{target}.intermediate.dense.{{p}}"),
        Rule(f"{block}.mlp.fc2.{{p}}", f"{target}.output.dense.{{p}}"),
        Rule(
            "backbone.layers.{i}.downsample.{part}.{p}",
            "backbone.encoder.layers.{i}.downsample.{part}.{p}",
            optional=stages == 1,
        ),
    ]
    for stage in range(stages):
        table.append(Rule(f"backbone.norm{stage}.{{p}}", f"backbone.hidden_states_norms.stage{stage + 1}.{{p}}"))
    last, unused = width * 2 ** (stages - 1), "a norm that transformers stores behind the last stage and never uses"
    return (
        *table,
        Add("backbone.swin.layernorm.weight", unused, lambda: torch.ones(last)),
        Add("backbone.swin.layernorm.bias", unused, lambda: torch.zeros(last)),
    )


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


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    in_trunk = {name: value for name, value in overrides.items() if name in TRUNK_FIELDS}
    trunk = settle(trunk_sizes(tensors), CODE | {"image_size": 512}, in_trunk)
    known = head_sizes(tensors)
    scales = part_count(tensors, r"decode_head\.psp_modules\.(\d+)\.")
    rest = {name: value for name, value in overrides.items() if name not in TRUNK_FIELDS}
    config = settle(known, {"pool_scales": POOL_SCALES}, rest)
    if len(config["pool_scales"]) != scales:
        raise ConversionError(
            f"the checkpoint pools {scales} maps; pool_scales says how many places per side each of them has, got "
            f"{config['pool_scales']}."
        )
    stages = len(trunk["depths"])
    trunk_config = {**trunk, "model_type": "swin", "out_features": [f"stage{stage + 1}" for stage in range(stages)]}
    told = trunk | config
    guessed = [name for name in (*CODE, "pool_scales") if name not in overrides]
    if "image_size" not in overrides and not trunk["use_absolute_embeddings"]:
        guessed.append("image_size")
    return Plan(
        model_type="upernet",
        auto_class=SEGMENTATION,
        config={**config, "backbone_config": trunk_config},
        rules=rules(stages, trunk["embed_dim"], trunk["qkv_bias"], position_grid(tensors)),
        preprocessing=segmentation_options("mmseg", PHOTO),
        processor=PROCESSOR,
        assumed=(
            *(f"{name} = {told[name]!r}" for name in guessed),
            f"images prepared by protocol 'mmseg' inside {PHOTO[0]}x{PHOTO[1]}",
        ),
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
    if trunk.model_type != "swin" or trunk.out_features != stages:
        raise ConversionError(
            f"{FORMAT.repository} has Swin trunks that give the map of every stage; this model's trunk is of "
            f"model_type {trunk.model_type!r} and gives {', '.join(trunk.out_features)}."
        )
    told = [(field, value, getattr(trunk, field)) for field, value in CODE.items()]
    positions = trunk.grid if trunk.use_absolute_embeddings else None
    return BackPlan(
        auto_class=SEGMENTATION,
        model_options={},
        rules=rules(len(stages), trunk.embed_dim, trunk.qkv_bias, positions),
        notes=computed_otherwise([*told, ("pool_scales", POOL_SCALES, list(config.pool_scales))]),
    )


def trunk_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say of the trunk; what is misshapen, the rules then name."""
    inside = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items() if key.startswith("backbone.")}
    stages = part_count(inside, r"layers\.(\d+)\.")
    channels, height, width = 3, 4, 4
    if rank_of(inside, "patch_embed.proj.weight") == 4:
        channels, height, width = inside["patch_embed.proj.weight"].shape[1:]
    embed_dim = most_frequent(inside, {"patch_embed.proj.bias": (1, 0)}, 96)
    table = "attn.relative_position_bias_table"
    heads = [
        most_frequent({k: t for k, t in inside.items() if k.startswith(f"layers.{stage}.")}, {table: (2, 1)}, 1)
        for stage in range(stages)
    ]
    first = {key: tensor for key, tensor in inside.items() if key.startswith("layers.0.")}
    known: dict[str, Any] = {
        "embed_dim": embed_dim,
        "depths": [part_count(inside, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
        "num_heads": heads,
        "window_size": (isqrt(most_frequent(inside, {table: (2, 0)}, 169)) + 1) // 2,
        "mlp_ratio": most_frequent(first, {"mlp.fc1.bias": (1, 0)}, 4 * embed_dim) / embed_dim,
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
        "qkv_bias": any(key.endswith(".attn.qkv.bias") for key in inside),
        "use_absolute_embeddings": "absolute_pos_embed" in inside,
    }
    if (grid := position_grid(tensors)) is not None:
        known["image_size"] = checked_size([grid[0] * height, grid[1] * width])
    return known


def head_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say of the decoder and of the auxiliary head."""
    known: dict[str, Any] = {
        "hidden_size": most_frequent(tensors, {"decode_head.bottleneck.bn.bias": (1, 0)}, 512),
        "num_labels": most_frequent(tensors, {"decode_head.conv_seg.bias": (1, 0)}, 1),
        "use_auxiliary_head": any(key.startswith("auxiliary_head.") for key in tensors),
    }
    if not known["use_auxiliary_head"]:
        return known
    width = most_frequent(tensors, {"auxiliary_head.conv_seg.weight": (4, 1)}, 256)
    embed_dim = most_frequent(tensors, {"backbone.patch_embed.proj.bias": (1, 0)}, 96)
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


def position_grid(tensors: Mapping[str, Tensor]) -> Grid | None:
    """(h, w) of the absolute position table, where there is one."""
    table = tensors.get("backbone.absolute_pos_embed")
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
)
