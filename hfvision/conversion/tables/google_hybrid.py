"""google-research/vision_transformer hybrid ViT (.npz, Flax paths joined by "/") <-> `google_vit_hybrid`.

Paper:  Dosovitskiy et al. 2020, arXiv 2010.11929; Steiner et al. 2021, arXiv 2106.10270.
Source: google-research/vision_transformer, files of gs://vit_models (Apache-2.0).

The encoder is that of `google_vit`. Before it comes a ResNet, whose kernels the original's code standardises with
another epsilon than the Hub's `vit-hybrid` format means; its norms have another one, too. So the result has a
model_type of our own. Models of both types go back.

Shapes: F channels of a feature map, D width, p patch of the feature map, C channels, K labels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

from torch import Tensor
from transformers import BitConfig, PreTrainedConfig

from hfvision.catalog import facts_of
from hfvision.conversion.engine import AnyRule, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, hwio_to_oihw, same
from hfvision.conversion.shapes import block_count, checked_size, position_grids, rank_of, resampling
from hfvision.conversion.tables import google_vit
from hfvision.conversion.tables.google_vit import CLASSIFICATION, HEAD, NO_HEAD, POSITIONS, PREPROCESSING
from hfvision.errors import ConversionError
from hfvision.layers.patch_embedding import pair
from hfvision.layers.position import Grid
from hfvision.models.bit import feature_size, feature_stride, stages_used
from hfvision.models.google_vit import CLASSIFIERS
from hfvision.models.vit_hybrid import GoogleViTHybridConfig

# What the original's code fixes and no tensor shows.
CODE = {
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "standardization": "deviation",
    "group_norm_eps": 1e-6,
}
BACKBONE = {"num_groups": 32, "hidden_act": "relu", "output_stride": 32, "width_factor": 1}
UNSEEN = ("num_groups", "hidden_act", "output_stride")
FORM = {"layer_type": "bottleneck", "global_padding": "SAME", "embedding_dynamic_padding": True}


def _channels(norm: Tensor) -> Tensor:
    if norm.ndim != 4 or norm.numel() != norm.shape[-1]:
        raise ValueError(f"a group norm's parameters are stored as (1, 1, 1, F), not as {tuple(norm.shape)}")
    return norm.flatten()


# (1, 1, 1, F) <-> (F): the parameters of a Flax group norm, of a torch GroupNorm
norm_vector = Op("norm_vector", _channels, lambda vector: vector.reshape(1, 1, 1, -1))


def rules(prefix: str, heads: int, depths: Sequence[int], qkv_bias: bool, positions: Op = same) -> tuple[AnyRule, ...]:
    """The table. `prefix` is "vit." where the model has a head of its own around the trunk."""
    bit = f"{prefix}embeddings.patch_embeddings.backbone.bit"
    table: list[AnyRule] = [
        Rule("conv_root/kernel", f"{bit}.embedder.convolution.weight", hwio_to_oihw),
        *_norm("gn_root", f"{bit}.embedder.norm"),
    ]
    for stage, depth in enumerate(depths):
        for unit in range(depth):
            theirs, ours = f"block{stage + 1}/unit{unit + 1}", f"{bit}.encoder.stages.{stage}.layers.{unit}"
            if unit == 0:
                table.append(Rule(f"{theirs}/conv_proj/kernel", f"{ours}.downsample.conv.weight", hwio_to_oihw))
                table += _norm(f"{theirs}/gn_proj", f"{ours}.downsample.norm")
            for part in (1, 2, 3):
                table.append(Rule(f"{theirs}/conv{part}/kernel", f"{ours}.conv{part}.weight", hwio_to_oihw))
                table += _norm(f"{theirs}/gn{part}", f"{ours}.norm{part}")
    return (*table, *google_vit.rules(prefix, heads, qkv_bias, positions))


def _norm(theirs: str, ours: str) -> list[AnyRule]:
    return [
        Rule(f"{theirs}/scale", f"{ours}.weight", norm_vector),
        Rule(f"{theirs}/bias", f"{ours}.bias", norm_vector),
    ]


def matches(keys: Iterable[str]) -> bool:
    """Blocks of Google's naming behind its ResNet stem."""
    keys = list(keys)
    stem = any(key.startswith(("conv_root/", "block1/")) for key in keys)
    return stem and any(key.startswith("Transformer/encoderblock_") for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of the config that the tensors or the code decide, and num_labels."""
    fixed = {"drop_path_rate", "_out_features", "_out_indices", "pooler_act", "pooler_output_size", "encoder_stride"}
    fixed |= {"backbone", "backbone_config", "backbone_featmap_shape", "backbone_kwargs", "standardized_stem"}
    fixed |= {"use_pretrained_backbone", "use_timm_backbone"}
    return settable(GoogleViTHybridConfig, fixed)


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict and for a patch grid that nothing tells."""
    classifier = google_vit.classifier_of("cls" in tensors, overrides)
    known = google_vit.known_sizes(tensors) | {"classifier": classifier}
    known.pop("pooler_output_size", None)
    backbone = _backbone(tensors)
    if rank_of(tensors, "conv_root/kernel") == 4:
        known["num_channels"] = tensors["conv_root/kernel"].shape[2]
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    config = settle(known, CODE, overrides) | {"backbone_config": described(backbone)}
    prefix_tokens = int(CLASSIFIERS[classifier][0])
    source_grid, grid, config["image_size"] = grids(tensors, POSITIONS, config, backbone, prefix_tokens, "cls")
    changed: tuple[str, ...] = ()
    positions = same
    if source_grid != grid:
        rule: Any = position_rule or "corner_aligned"
        positions, how = resampling(source_grid, grid, prefix_tokens, rule)
        changed = (how,)

    has_head = any(key.startswith("head/") for key in tensors)
    pre_logits = config["representation_size"] is not None
    keeps_head = has_head and not (pre_logits and google_vit.has_zero_head(tensors, known))
    if not keeps_head:
        config.pop("num_labels", None)
    notes: tuple[str, ...] = (
        f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
        f"group norm epsilon {config['group_norm_eps']}, activation {config['hidden_act']}, kernels standardised by "
        f"{config['standardization']} (see hfvision.models.bit).",
    )
    if has_head and not keeps_head:
        notes += ("The original file stores a head of zeros; it was left out.",)
    if not keeps_head and not pre_logits:
        notes += ("The original file has neither a head nor a pooler: read `last_hidden_state`.",)
    said = unseen((*CODE, "image_size", "classifier"), config, overrides)
    height, width = pair(config["image_size"])
    channels = config["num_channels"]
    return Plan(
        model_type=GoogleViTHybridConfig.model_type,
        auto_class=CLASSIFICATION if keeps_head else "AutoModel",
        config=config,
        rules=(
            *rules(
                "vit." if keeps_head else "",
                config["num_attention_heads"],
                backbone.depths,
                config["qkv_bias"],
                positions,
            ),
            *(HEAD if keeps_head else NO_HEAD),
        ),
        preprocessing=PREPROCESSING
        | {"size": {"height": height, "width": width}}
        | {"image_mean": [0.5] * channels, "image_std": [0.5] * channels},
        model_options={} if keeps_head else {"add_pooling_layer": pre_logits},
        assumed=(
            *said.assumed,
            *(f"backbone_config.{name} = {value!r}" for name, value in BACKBONE.items()),
        ),
        given=said.given,
        changed=changed,
        notes=notes,
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    keys = list(keys)
    check_back(config)
    has_head = any(key.startswith("classifier.") for key in keys)
    prefix = "vit." if has_head else ""
    pooler = any(key.startswith(f"{prefix}pooler.") for key in keys)
    notes = differences(config, CODE)
    if config.classifier not in ("token", "gap"):
        notes += (f"the original keeps classifier = {config.classifier!r} in its code, not in the file",)
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        model_options={} if has_head else {"add_pooling_layer": pooler},
        rules=(
            *rules(prefix, config.num_attention_heads, config.bit.depths, config.qkv_bias),
            *(HEAD if has_head else NO_HEAD),
            *(() if config.qkv_bias else google_vit.NO_BIASES),
        ),
        extra=google_vit.stored_biases(config, FORMAT.name),
        notes=notes,
    )


def differences(config: Any, code: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the original's code will compute something else, one line each."""
    told = [(field, value, getattr(config, field)) for field, value in code.items()]
    told += [(f"backbone_config.{field}", BACKBONE[field], getattr(config.bit, field)) for field in UNSEEN]
    return computed_otherwise(told)


def check_back(config: Any) -> None:
    """Raises ConversionError for what neither the original's code nor timm's can do."""
    if not config.standardized_stem:
        raise ConversionError(
            "the stem of this model was made for other channels and its kernel is applied as it is stored "
            "(standardized_stem=False); the original's code would standardise it and compute something else."
        )
    if stages_used(config.bit) != len(config.bit.depths):
        raise ConversionError(
            f"the original reads the feature map of the last stage; this model reads {config.bit.out_features} "
            f"of {len(config.bit.depths)} stages."
        )


def described(backbone: BitConfig) -> dict[str, Any]:
    """The field `backbone_config` of a hybrid's config."""
    return {"model_type": "bit", **facts_of(backbone.to_diff_dict())}


def grids(
    tensors: Mapping[str, Tensor],
    key: str,
    config: Mapping[str, Any],
    backbone: BitConfig,
    prefix_tokens: int,
    class_token: str,
) -> tuple[Grid, Grid, Any]:
    """As `shapes.position_grids`, for patches that are cut from a feature map."""
    patch_height, patch_width = pair(config["patch_size"])
    stride = feature_stride(backbone)
    in_pixels = {**config, "patch_size": [patch_height * stride, patch_width * stride]}
    if "image_size" not in config:
        return position_grids(tensors, key, in_pixels, prefix_tokens, class_token)
    height, width = feature_size(backbone, config["image_size"])
    grid = (height // patch_height, width // patch_width)
    if rank_of(tensors, key) == 3 and tensors[key].shape[1] - prefix_tokens == prod(grid) > 0:
        return grid, grid, config["image_size"]
    source, in_whole_strides, size = position_grids(tensors, key, in_pixels, prefix_tokens, class_token)
    return source, grid if 0 not in grid else in_whole_strides, size


def _backbone(tensors: Mapping[str, Tensor]) -> BitConfig:
    """What the shapes say about the ResNet. What is missing or misshapen is named by the rules."""
    found = [(int(m[1]), int(m[2])) for key in tensors if (m := re.match(r"block(\d+)/unit(\d+)/", key))]
    stages = block_count([stage - 1 for stage, _ in found])
    depths = [block_count([unit - 1 for stage, unit in found if stage == number + 1]) for number in range(stages)]
    root = tensors["conv_root/kernel"].shape[-1] if rank_of(tensors, "conv_root/kernel") == 4 else 64
    sizes = []
    for number in range(stages):
        kernel = f"block{number + 1}/unit1/conv3/kernel"
        sizes.append(tensors[kernel].shape[-1] if rank_of(tensors, kernel) == 4 else 4 * root * 2**number)
    return bit_config(depths, sizes, root)


def bit_config(depths: list[int], sizes: list[int], root: int) -> BitConfig:
    """A backbone of the given stages, read after the last one."""
    last = f"stage{len(depths)}" if depths else "stem"
    form: dict[str, Any] = {**FORM, **BACKBONE, "out_features": [last]}
    return BitConfig(depths=depths, hidden_sizes=sizes, embedding_size=root, **form)


FORMAT = Format(
    name="google_hybrid",
    family="hybrid",
    title="google-research/vision_transformer hybrid ViT (.npz)",
    repository=google_vit.FORMAT.repository,
    license="apache-2.0",
    container="npz",
    model_types=("google_vit_hybrid", "vit-hybrid"),
    fields=fields,
    tells_heads=True,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
