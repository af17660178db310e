"""Does a converted model give the numbers of the original? One tolerance for all of hfvision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfvision import checkpoints
from hfvision.conversion.tables import recognise_folder
from hfvision.conversion.to_original import read_config
from hfvision.errors import ConversionError, UnknownNameError, numbered
from hfvision.models.detr import DetrPreTrainedModel
from hfvision.models.semantic import SemanticModel
from hfvision.registry import architecture, load

SCALE = 1e-5  # of the largest value expected: float32 sums in another order
SCALE_WITHOUT_ROUNDING = 2e-5  # where the rounding of the expected values was not measured
ROUNDINGS = 10  # times the distance of the expected values from the same computation in float64


def tolerance(expected: Tensor, rounding: float | None = None) -> float:
    """The largest difference that is rounding and not another computation.

    `rounding` is the largest difference between the expected values and the same computation in float64, if known.
    """
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return SCALE_WITHOUT_ROUNDING * largest if rounding is None else SCALE * largest + ROUNDINGS * rounding


def verify(
    folder: str | Path,
    pixel_values: Tensor,
    expected: Mapping[str, Tensor | np.ndarray[Any, Any]],
    rounding: Mapping[str, float] | None = None,
    *,
    pixel_mask: Tensor | None = None,
) -> dict[str, float]:
    """Compare a converted model with outputs of the original on the same pixels: the largest difference of each.

    pixel_values: (B, C, H, W), normalised. Outputs are named "logits", "embeddings", "block_0" (after the first
    block; "stage_0" where maps get coarser from stage to stage) and so on, "map_0" ... (of a backbone),
    "last_hidden_state" and "pooler_output"; with two heads also "cls_logits" and "distillation_logits"; of dense models
    "logits" (at the size of the images) and "coarse_logits"; of detectors "logits", "pred_boxes", "pred_masks",
    "last_hidden_state" and "encoder_last_hidden_state", given `pixel_mask` (B, H, W), 0 where images are padded.

    Raises UnknownNameError for other names, and ConversionError that lists every output of another shape or beyond its
    tolerance.
    """
    ours = outputs(load_model(folder), pixel_values, pixel_mask)
    if unknown := [name for name in expected if name not in ours]:
        raise UnknownNameError(f"the model has no output {', '.join(unknown)}; it has {', '.join(ours)}.")
    differences, problems = {}, []
    for name, values in expected.items():
        theirs = torch.as_tensor(values)
        if ours[name].shape != theirs.shape:
            problems.append(f"{name} is {tuple(ours[name].shape)}, expected is {tuple(theirs.shape)}")
            continue
        allowed = tolerance(theirs, None if rounding is None else rounding.get(name))
        difference = float((ours[name].double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
        differences[name] = difference
        if not difference <= allowed:  # NaN is not
            problems.append(f"{name} differs by {difference:.3g}, allowed is {allowed:.3g}")
    if problems:
        raise ConversionError(f"{folder} does not compute what the original does, {numbered('mismatch', problems)}")
    return differences


def load_model(folder: str | Path) -> Any:
    """The model of a converted folder, in evaluation mode, with exactly the parts that the folder has weights for."""
    checkpoint = checkpoints.read_folder(Path(folder))
    config = read_config(checkpoint)
    plan = recognise_folder(checkpoint.config).plan_back(config, checkpoint.tensors)
    model_class = load(architecture(config.model_type).model(plan.auto_class, plan.model_name))
    return model_class.from_pretrained(folder, **plan.model_options).eval()


@torch.no_grad()
def outputs(model: Any, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Every output of a model that originals can be compared by, see `verify`."""
    if isinstance(model, DetrPreTrainedModel):
        model.padding_rule = "seen"  # as the original computes
        answer = model(pixel_values, pixel_mask=pixel_mask)
        return {name: value for name, value in answer.items() if isinstance(value, Tensor)}
    trunk = model.base_model(pixel_values, output_hidden_states=True)
    states, maps = trunk.get("hidden_states") or (), trunk.get("feature_maps") or ()
    if depths := getattr(model.base_model.config, "depths", None):
        names = [*["embeddings"] * (len(states) - len(depths)), *(f"stage_{index}" for index in range(len(depths)))]
    else:
        names = ["embeddings", *(f"block_{index}" for index in range(len(states) - 1))]
    named = dict(zip(names, states, strict=False))
    named |= {f"map_{index}": values for index, values in enumerate(maps)}
    named |= {name: trunk[name] for name in ("last_hidden_state", "pooler_output") if trunk.get(name) is not None}
    if isinstance(model, SemanticModel):
        named["logits"] = model(pixel_values, upsample=True).logits
        named["coarse_logits"] = model(pixel_values, upsample=False).logits
    elif model.base_model is not model:
        named |= {name: value for name, value in model(pixel_values).items() if name.endswith("logits")}
    return named
