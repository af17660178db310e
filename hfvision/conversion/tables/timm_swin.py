"""timm's Swin (.pth, .safetensors, keys joined by ".") <-> the Hub's `swin`, or `microsoft_swin` without patch norm.

Paper:  Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Source: huggingface/pytorch-image-models (Apache-2.0), names of state dicts of its SwinTransformer since version 0.9.

The names are those of microsoft/Swin-Transformer (see `swin`), but a merging layer begins a stage where there it ends
the one before, the head is "head.fc", and nothing is stored that can be computed. Files of earlier versions have the
original's names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion.formats import BackPlan, Format, Plan, unseen
from hfvision.conversion.tables import swin
from hfvision.conversion.tables.timm_vit import preprocessing_of
from hfvision.errors import ConversionError
from hfvision.layers.patch_embedding import by, grid_of, pair
from hfvision.models.swin.windows import halved

HEAD = "head.fc."  # the beginning of its keys


def matches(keys: Iterable[str]) -> bool:
    """Stages of blocks with a table of relative positions, and a merging layer at the beginning of the second."""
    keys = set(keys)
    first = any(key.startswith("layers.0.downsample.") for key in keys)
    merges = any(".downsample." in key for key in keys)
    return swin.has_stages(keys) and not first and (merges or any(key.startswith(HEAD) for key in keys))


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    config, windows, size = swin.settled(tensors, overrides, HEAD)
    swin.check_buffers(tensors, {**config, "image_size": size.pixels, "window_size": max(windows)})
    check_shape(config)
    preprocessing, said = preprocessing_of("timm-deit", config)
    height, width = pair(config["image_size"])
    if height == width >= swin.UNCROPPED:
        preprocessing["size"] = {"shortest_edge": height}
        said += ", with all of the short side kept"
    plan = swin.plan_for(tensors, config, windows, position_rule, HEAD, False, (preprocessing, said), FORMAT)
    hidden = unseen(swin.CODE if size.told else (*swin.CODE, "image_size"), config, overrides)
    return replace(plan, assumed=(*hidden.assumed, *plan.assumed), given=hidden.given)


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that timm's code cannot be made to compute."""
    check_shape(config.to_dict())
    plan = swin.plan_back_for(config, keys, HEAD, merges_last=False)
    return replace(plan, rules=(*plan.rules, *swin.STORED_BUFFERS))


def check_shape(config: Mapping[str, Any]) -> None:
    """Raises ConversionError where timm's windows are not the original's: it shrinks each side by itself."""
    height, width = grid_of(config["image_size"], config["patch_size"])
    for _ in config["depths"]:
        if min(height, width) <= config["window_size"] and height != width:
            raise ConversionError(
                f"images of {by(pair(config['image_size']))} pixels come to a map of {by((height, width))} places, not "
                f"larger than windows of {config['window_size']}; there timm computes something else than the "
                "original, because each side of its windows shrinks and shifts by itself. Set a square image_size."
            )
        height, width = halved((height, width))


FORMAT = Format(
    name="timm_swin",
    family="timm",
    title="timm Swin (.pth, .safetensors)",
    repository="huggingface/pytorch-image-models",
    license="mit",
    container="pth",
    other_containers=("safetensors",),
    entries=(None, "state_dict", "state_dict_ema"),
    model_types=("swin", "microsoft_swin"),
    fields=swin.fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
