"""Does a converted model give the numbers of the original? One tolerance for all of hfvision."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfvision import checkpoints
from hfvision.conversion.tables import recognise_folder
from hfvision.conversion.to_original import read_config
from hfvision.errors import ConfigError, ConversionError, UnknownNameError, numbered
from hfvision.models.detr.model import DetrPreTrainedModel
from hfvision.models.semantic import SemanticModel
from hfvision.registry import architecture, load

Arrays = Mapping[str, Tensor | np.ndarray[Any, Any]]  # by name

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
    expected: Arrays,
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

    Example:
        >>> import tempfile, torch, hfvision
        >>> model = hfvision.create("segformer-b0-ade20k-512", depths=(1, 1, 1, 1)).eval()
        >>> folder, pixels = tempfile.mkdtemp(), torch.zeros(1, 3, 64, 64)
        >>> model.save_pretrained(folder)
        >>> hfvision.verify(folder, pixels, {"coarse_logits": model(pixels).logits.detach()})
        {'coarse_logits': 0.0}
    """
    ours = outputs(load_model(folder), pixel_values, pixel_mask)
    return _compare(folder, ours, expected, rounding or {})


def _compare(
    folder: str | Path,
    ours: Mapping[str, Tensor],
    expected: Arrays,
    rounding: Mapping[str, float],
) -> dict[str, float]:
    if unknown := [name for name in expected if name not in ours]:
        raise UnknownNameError(f"the model has no output {', '.join(unknown)}; it has {', '.join(ours)}.")
    differences, problems = {}, []
    for name, values in expected.items():
        theirs = torch.as_tensor(values)
        if ours[name].shape != theirs.shape:
            problems.append(f"{name} is {tuple(ours[name].shape)}, expected is {tuple(theirs.shape)}")
            continue
        allowed = tolerance(theirs, rounding.get(name))
        difference = float((ours[name].double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
        differences[name] = difference
        if not difference <= allowed:  # NaN is not
            problems.append(f"{name} differs by {difference:.3g}, allowed is {allowed:.3g}")
    if problems:
        raise ConversionError(f"{folder} does not compute what the original does, {numbered('mismatch', problems)}")
    return differences


@dataclass(frozen=True)
class Example:
    """What the original was given, pixel values (B, C, H, W), and what it answered."""

    pixel_values: Tensor
    expected: Mapping[str, Tensor]
    pixel_mask: Tensor | None = None  # (B, H, W), 0 where images are padded


def read_example(inputs: str | Path | Arrays | None, expected: str | Path | Arrays | None) -> Example | None:
    """From a .npy or .npz file each, or arrays by name: "pixel_values" and, for detectors, "pixel_mask"; the outputs by
    the names of `verify`. One array alone is the pixel values, or the logits.

    Raises ConfigError where one is given without the other, CheckpointReadError for files that cannot be read.
    """
    if inputs is None and expected is None:
        return None
    if inputs is None or expected is None:
        raise ConfigError(
            "what the original was given and what it answered belong together: give inputs and expected (--input and "
            "--expected), or neither."
        )
    given, answered = _arrays(inputs, "pixel_values"), _arrays(expected, "logits")
    if "pixel_values" not in given or given["pixel_values"].ndim != 4:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items()) or "nothing"
        raise ConfigError(f"the input is pixel_values of shape (images, channels, height, width); got {shapes}.")
    return Example(given["pixel_values"].float(), answered, given.get("pixel_mask"))


def compare_example(folder: str | Path, example: Example | None, model_class: Any = None) -> tuple[str, ...]:
    """Lines about each output that was compared, of a converted model or one of `model_class`.

    Raises ConversionError where the model computes something else, UnknownNameError where it has none of the outputs.
    """
    if example is None:
        return ()
    model = load_model(folder) if model_class is None else model_class.from_pretrained(folder).eval()
    named = outputs(model, example.pixel_values, example.pixel_mask)
    known = {name: values for name, values in example.expected.items() if name in named}
    if not known:
        raise UnknownNameError(
            f"none of the expected outputs, {', '.join(example.expected)}, is one of this model's: {', '.join(named)}. "
            "Rename them in the file."
        )
    differences = _compare(folder, named, known, {})
    lines = [f"{name} differ{'s' * (name[-1] != 's')} by at most {value:.2g}" for name, value in differences.items()]
    left = [name for name in example.expected if name not in known]
    return (
        f"the original's outputs on {len(example.pixel_values)} images are reproduced: {', '.join(lines)}",
        *((f"not compared, since the model has no such output: {', '.join(left)}",) if left else ()),
    )


def _arrays(given: str | Path | Arrays, alone: str) -> dict[str, Tensor]:
    if isinstance(given, Mapping):
        return {name: torch.as_tensor(values) for name, values in given.items()}
    if not isinstance(given, str | Path):  # one array or tensor
        return {alone: torch.as_tensor(given)}
    path = Path(given)
    if path.suffix == ".npy":
        return {alone: checkpoints.read_npy(path)}
    return checkpoints.read(path).tensors


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
