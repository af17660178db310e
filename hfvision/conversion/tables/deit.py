"""facebookresearch/deit (.pth, an entry "model") <-> the Hub's `deit`, or `vit` for the models without distillation.

Paper:  Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention",
        arXiv 2012.12877.
Source: facebookresearch/deit (Apache-2.0), its published files and what its training writes.

The names are those of timm, whose classes the original builds on, so the table is `timm_vit`'s. What differs: weights
lie in an entry "model" (in training files beside "model_ema"), and images are prepared as the paper's evaluation does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hfvision.conversion.formats import Format, Plan
from hfvision.conversion.tables import timm_vit


def matches(keys: Iterable[str]) -> bool:
    """timm's names with a class token, which all models of this repository have."""
    keys = list(keys)
    return "cls_token" in keys and timm_vit.matches(keys)


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    return timm_vit.plan_for(tensors, overrides, position_rule, "deit", FORMAT.repository)


FORMAT = Format(
    name="deit",
    family="deit",
    title="facebookresearch/deit (.pth)",
    repository="facebookresearch/deit",
    license="apache-2.0",
    container="pth",
    entries=("model", "model_ema"),
    model_types=("deit", "vit"),
    fields=timm_vit.fields,
    matches=matches,
    plan=plan,
    plan_back=timm_vit.plan_back,
)
