"""google-research/vision_transformer MLP-Mixer (.npz, Flax paths joined by "/") <-> `mlp_mixer`.

Paper:  Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.
Source: google-research/vision_transformer, files of gs://mixer_models (Apache-2.0).

Shapes: D width, p patch, C channels, N patches, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from math import isqrt
from typing import Any

from torch import Tensor

from hfvision.conversion.engine import AnyRule, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import hwio_to_oihw, transpose
from hfvision.conversion.shapes import block_count, checked_size, most_frequent, rank_of
from hfvision.conversion.tables.google_vit import CLASSIFICATION, PREPROCESSING
from hfvision.errors import ConfigError, ConversionError
from hfvision.layers.patch_embedding import pair
from hfvision.models.mlp_mixer import MlpMixerConfig

BLOCK = "MixerBlock_{i}"
LAYER = "layers.{i}"

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}


def rules(prefix: str) -> tuple[AnyRule, ...]:
    """The table of the trunk. `prefix` is "mixer." where the model has a head of its own around it."""
    table: list[AnyRule] = [
        Rule("stem/kernel", f"{prefix}patch_embedding.projection.weight", hwio_to_oihw),
        Rule("stem/bias", f"{prefix}patch_embedding.projection.bias"),
    ]
    for number, ours in enumerate(("token", "channel")):
        norm, mlp = f"{prefix}{LAYER}.{ours}_norm", f"{prefix}{LAYER}.{ours}_mlp"
        theirs = f"{BLOCK}/{ours}_mixing"
        table += [
            Rule(f"{BLOCK}/LayerNorm_{number}/scale", f"{norm}.weight"),
            Rule(f"{BLOCK}/LayerNorm_{number}/bias", f"{norm}.bias"),
            Rule(f"{theirs}/Dense_0/kernel", f"{mlp}.fc1.weight", transpose),
            Rule(f"{theirs}/Dense_0/bias", f"{mlp}.fc1.bias"),
            Rule(f"{theirs}/Dense_1/kernel", f"{mlp}.fc2.weight", transpose),
            Rule(f"{theirs}/Dense_1/bias", f"{mlp}.fc2.bias"),
        ]
    return (
        *table,
        Rule("pre_head_layer_norm/scale", f"{prefix}norm.weight"),
        Rule("pre_head_layer_norm/bias", f"{prefix}norm.bias"),
    )


HEAD = (Rule("head/kernel", "classifier.weight", transpose), Rule("head/bias", "classifier.bias"))


def matches(keys: Iterable[str]) -> bool:
    return any(key.startswith("MixerBlock_") for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of the config, and num_labels."""
    return settable(MlpMixerConfig, fixed={"drop_path_rate"})


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for an image size that they do not fit."""
    if position_rule is not None:
        raise ConfigError("a Mixer has no position table, so position_rule cannot be used; leave it out.")
    config = settle(_known(tensors), CODE, overrides)
    rows = _rows(tensors, "token_mixing/Dense_0/kernel", 0)
    config["image_size"] = image_size_of(rows, config)
    has_head = "num_labels" in config
    height, width = pair(config["image_size"])
    channels = config["num_channels"]
    said = unseen((*CODE, "image_size"), config, overrides)
    return Plan(
        model_type=MlpMixerConfig.model_type,
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        config=config,
        rules=rules("mixer.") + HEAD if has_head else rules(""),
        preprocessing=PREPROCESSING
        | {"size": {"height": height, "width": width}}
        | {"image_mean": [0.5] * channels, "image_std": [0.5] * channels},
        assumed=said.assumed,
        given=said.given,
        notes=(
            f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon "
            f"{config['layer_norm_eps']}, activation {config['hidden_act']}.",
        ),
    )


def plan_back(config: Any, keys: Iterable[str]) -> BackPlan:
    has_head = any(key.startswith("classifier.") for key in keys)
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        model_options={},
        rules=rules("mixer.") + HEAD if has_head else rules(""),
        notes=differences(config, CODE),
    )


def differences(config: Any, code: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the original's code will compute something else, one line each."""
    return computed_otherwise((field, value, getattr(config, field)) for field, value in code.items())


def image_size_of(rows: int, config: Mapping[str, Any]) -> int | list[int]:
    """The size of the images whose patches are as many as the token MLP has weights for.

    Raises ConversionError where that is not told or contradicts the `image_size` that was set.
    """
    if "image_size" in config:
        size = checked_size(config["image_size"])
        grid = MlpMixerConfig(image_size=size, patch_size=config["patch_size"]).grid
        if rows and grid[0] * grid[1] != rows:
            raise ConversionError(
                f"image_size {size} makes {grid[0]}x{grid[1]} = {grid[0] * grid[1]} patches, and the token MLP has "
                f"weights for {rows}: a Mixer keeps the patch grid it was trained with. Leave image_size out, and "
                "resize the images."
            )
        return size
    rows = rows or 1  # all that could tell is missing, which the rules report
    side = isqrt(rows)
    if side * side != rows:
        raise ConversionError(
            f"the token MLP has weights for {rows} patches, which make no square, so the shape of the images is "
            "unknown; set image_size=[height, width] in pixels."
        )
    height, width = pair(config["patch_size"])
    return side * height if height == width else [side * height, side * width]


def _rows(tensors: Mapping[str, Tensor], ending: str, axis: int) -> int:
    """N, the most frequent one; 0 where nothing tells, which the rules report."""
    return most_frequent(tensors, {ending: (2, axis)}, 0)


def _known(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say. Where they disagree the most frequent answer counts, and the rules then name the others."""
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"MixerBlock_(\d+)/", key))]
    height, width, channels = 16, 16, 3
    if rank_of(tensors, "stem/kernel") == 4 and tensors["stem/kernel"].numel():
        height, width, channels = tensors["stem/kernel"].shape[:3]
    hidden_size = most_frequent(tensors, {"norm/bias": (1, 0), "LayerNorm_0/bias": (1, 0), "stem/bias": (1, 0)}, 768)
    known: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": block_count(blocks),
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
    }
    for part, otherwise in (("token", hidden_size // 2), ("channel", 4 * hidden_size)):
        places = {f"{part}_mixing/Dense_0/bias": (1, 0), f"{part}_mixing/Dense_0/kernel": (2, 1)}
        known[f"{part}_mlp_size"] = most_frequent(tensors, places, otherwise)
    if any(key.startswith("head/") for key in tensors):
        known["num_labels"] = most_frequent(tensors, {"head/bias": (1, 0), "head/kernel": (2, 1)}, 1000)
    return known


FORMAT = Format(
    name="google_mixer",
    family="mixer",
    title="google-research/vision_transformer MLP-Mixer (.npz)",
    repository="google-research/vision_transformer",
    license="apache-2.0",
    container="npz",
    model_types=("mlp_mixer",),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
