"""How far two answers differ: one number for tensors, arrays, pictures, numbers, and lists and dicts of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DIFFERENT = float("inf")  # in kind, in shape, or in what is no number


def difference(theirs: Any, ours: Any) -> float:
    """The largest difference as a share of their largest value; of whole numbers, the share of places that differ.

    Of lists and dicts, that of the worst entry.
    """
    if isinstance(theirs, Tensor | np.ndarray | Image.Image):
        return _of_arrays(_tensor(theirs), _tensor(ours))
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or theirs.keys() != ours.keys():
            return DIFFERENT
        return max((difference(value, ours[key]) for key, value in theirs.items()), default=0.0)
    if isinstance(theirs, list | tuple):
        if not isinstance(ours, list | tuple) or len(theirs) != len(ours):
            return DIFFERENT
        return max(map(difference, theirs, ours), default=0.0)
    if isinstance(theirs, float):
        return _of_arrays(torch.tensor(theirs), torch.tensor(ours))
    return 0.0 if theirs == ours else DIFFERENT


def cosine_distance(theirs: Tensor, ours: Tensor) -> float:
    """1 - cosine of all values as one vector."""
    theirs, ours = theirs.detach().double().flatten(), ours.detach().double().flatten()
    return float(1 - torch.nn.functional.cosine_similarity(theirs, ours, dim=0))


def gradient_difference(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], left_out: tuple[str, ...]) -> float:
    """The worst |theirs - ours| / |theirs| (lengths) of the parameters, by name.

    Names that end as one of `left_out` have gradients that are zero in exact arithmetic: both sides hold noise there.
    """
    if theirs.keys() != ours.keys():
        return DIFFERENT
    names = [name for name in theirs if not name.endswith(left_out)]
    return max(
        float((theirs[name].double() - ours[name].double()).norm() / theirs[name].double().norm().clamp(min=1e-30))
        for name in names
    )


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    return torch.from_numpy(np.array(values))


def _of_arrays(theirs: Tensor, ours: Tensor) -> float:
    if theirs.shape != ours.shape:
        return DIFFERENT
    if not theirs.numel():
        return 0.0
    if not theirs.is_floating_point():
        return float((theirs != ours).double().mean())
    theirs, ours = theirs.double(), ours.double()
    largest, worst = float(theirs.abs().max()), float((theirs - ours).abs().max())
    if worst == 0:
        return 0.0
    return worst / largest if largest > 0 and worst == worst else DIFFERENT  # NaN is equal to nothing
