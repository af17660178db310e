"""Weights of classes in a loss: given one by one or by name, or by how rare each class is.

Paper: Eigen and Fergus 2015, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
       Convolutional Architecture", arXiv 1411.4734 (median frequency balancing).

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import numpy as np

from hfvision.errors import ConfigError, numbered
from hfvision.options import numbers_by_name, option

ClassWeights: TypeAlias = Sequence[float] | Mapping[str, float] | Literal["balanced"]


def read_class_weights(text: str) -> ClassWeights:
    """Those that a command line says. Raises ValueError."""
    if text == "balanced":
        return "balanced"
    try:
        return numbers_by_name(text) if "=" in text else [float(part) for part in text.split(",")]
    except ValueError:
        what = 'numbers with commas between them, names with numbers ("cat=2,dog=0.5"), or "balanced"'
        raise ValueError(f"{what}; got {text!r}") from None


CLASS_WEIGHTS: ClassWeights | None = option(
    'One for each class: "1,2.5,1"; or by name: "cat=2,dog=0.5"; or "balanced", by how rare each is.',
    parse=read_class_weights,
)


def class_weights_of(given: ClassWeights | None, names: Sequence[str], counts: Any) -> tuple[float, ...] | None:
    """A weight for each of the named classes; 1 for those that a mapping does not name.

    counts: (K,) images or pixels of each class in training, or (2,) without and with a single class. Raises ConfigError
    for another number of weights, names of no class, weights below 0, and where nothing was counted.
    """
    if given is None:
        return None
    if isinstance(given, str):
        if given != "balanced":
            raise ConfigError(
                f'class_weights are a weight for each class, {{name: weight}}, or "balanced"; got {given!r}'
            )
        return tuple(float(weight) for weight in balanced_weights(np.asarray(counts))[-len(names) :])
    problems = []
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                near = get_close_matches(str(name), names, n=1)
                problems.append(f"class_weights name {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        weights = [float(given.get(name, 1.0)) for name in names]
    else:
        weights = [float(weight) for weight in given]
    if len(weights) != len(names):
        problems.append(f"class_weights has {len(weights)} values for {len(names)} classes")
    if not all(0 <= weight < np.inf for weight in weights) or not any(weights):
        problems.append(f"class_weights are numbers from 0, one at least above it; got {list(weights)}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    return tuple(weights)


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """The median of the classes' numbers of images or pixels over each one's; 1 for a class without any."""
    present = counts > 0
    if not present.any():
        raise ConfigError("balanced class weights need the masks to be counted; let check_images be above 0.")
    return np.divide(np.median(counts[present]), counts, out=np.ones(len(counts)), where=present)
