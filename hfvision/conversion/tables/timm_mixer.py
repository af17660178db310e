"""timm's MLP-Mixer (.pth, .safetensors, keys joined by ".") <-> `mlp_mixer`.

Paper:  Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.
Source: huggingface/pytorch-image-models (Apache-2.0), names of state dicts of its MlpMixer.

Shapes: D width, p patch, C channels, N patches, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hfvision.conversion.engine import AnyRule, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, settle, unseen
from hfvision.conversion.shapes import block_count, most_frequent, rank_of
from hfvision.conversion.tables import google_mixer, timm_vit
from hfvision.conversion.tables.timm_vit import CLASSIFICATION, ONE_HEAD
from hfvision.errors import ConfigError
from hfvision.models.mlp_mixer import MlpMixerConfig

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu"}


def rules(prefix: str) -> tuple[AnyRule, ...]:
    """The table of the trunk. `prefix` is "mixer." where the model has a head of its own around it."""
    layer = f"{prefix}layers.{{i}}"
    return (
        Rule("stem.proj.{p}", f"{prefix}patch_embedding.projection.{{p}}"),
        Rule("blocks.{i}.norm1.{p}", f"{layer}.token_norm.{{p}}"),
        Rule("blocks.{i}.mlp_tokens.fc1.{p}", f"{layer}.token_mlp.fc1.{{p}}"),
        Rule("blocks.{i}.mlp_tokens.fc2.{p}", f"{layer}.token_mlp.fc2.{{p}}"),
        Rule("blocks.{i}.norm2.{p}", f"{layer}.channel_norm.{{p}}"),
        Rule("blocks.{i}.mlp_channels.fc1.{p}", f"{layer}.channel_mlp.fc1.{{p}}"),
        Rule("blocks.{i}.mlp_channels.fc2.{p}", f"{layer}.channel_mlp.fc2.{{p}}"),
        Rule("norm.{p}", f"{prefix}norm.{{p}}"),
    )


def matches(keys: Iterable[str]) -> bool:
    return any(re.fullmatch(r"blocks\.\d+\.mlp_tokens\.fc1\.weight", key) for key in keys)


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for an image size that they do not fit."""
    if position_rule is not None:
        raise ConfigError("a Mixer has no position table, so position_rule cannot be used; leave it out.")
    config = settle(_known(tensors), CODE, overrides)
    rows = most_frequent(tensors, {"mlp_tokens.fc1.weight": (2, 1)}, 0)
    config["image_size"] = google_mixer.image_size_of(rows, config)
    has_head = "num_labels" in config
    preprocessing, prepared = timm_vit.preprocessing_of("timm-mixer", config)
    said = unseen((*CODE, "image_size"), config, overrides)
    return Plan(
        model_type=MlpMixerConfig.model_type,
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        config=config,
        rules=rules("mixer.") + ONE_HEAD if has_head else rules(""),
        preprocessing=preprocessing,
        processor=timm_vit.PROCESSOR,
        assumed=(*said.assumed, prepared),
        given=said.given,
        notes=(
            f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
            f"activation {config['hidden_act']}.",
        ),
    )


def plan_back(config: Any, keys: Iterable[str]) -> BackPlan:
    has_head = any(key.startswith("classifier.") for key in keys)
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        model_options={},
        rules=rules("mixer.") + ONE_HEAD if has_head else rules(""),
        notes=google_mixer.differences(config, CODE),
    )


def _known(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say. Where they disagree the most frequent answer counts, and the rules then name the others."""
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))]
    channels, height, width = 3, 16, 16
    if rank_of(tensors, "stem.proj.weight") == 4 and tensors["stem.proj.weight"].numel():
        channels, height, width = tensors["stem.proj.weight"].shape[1:]
    hidden_size = most_frequent(tensors, {"norm.bias": (1, 0), "norm1.bias": (1, 0), "stem.proj.bias": (1, 0)}, 768)
    known: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": block_count(blocks),
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
    }
    for theirs, ours, otherwise in (("tokens", "token", hidden_size // 2), ("channels", "channel", 4 * hidden_size)):
        places = {f"mlp_{theirs}.fc1.bias": (1, 0), f"mlp_{theirs}.fc1.weight": (2, 0)}
        known[f"{ours}_mlp_size"] = most_frequent(tensors, places, otherwise)
    if any(key.startswith("head.") for key in tensors):
        known["num_labels"] = most_frequent(tensors, {"head.bias": (1, 0), "head.weight": (2, 0)}, 1000)
    return known


FORMAT = Format(
    name="timm_mixer",
    family="timm",
    title="timm MLP-Mixer (.pth, .safetensors)",
    repository=timm_vit.FORMAT.repository,
    license="apache-2.0",
    container="pth",
    other_containers=("safetensors",),
    entries=timm_vit.FORMAT.entries,
    model_types=("mlp_mixer",),
    fields=google_mixer.fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
