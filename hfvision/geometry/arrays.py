"""Any array as numpy has it, whatever holds it, and orders of numbers of any type."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def to_numpy(values: Any) -> NDArray[Any]:
    """A numpy array of the values of an array, a tensor (of any device, with or without gradients) or a sequence of
    either; floating-point formats that numpy does not have, as bfloat16, become float32, which holds them exactly.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
    elif isinstance(values, list | tuple) and any(isinstance(one, Tensor) for one in values):
        values = [to_numpy(one) for one in values]
    return np.asarray(values)


def descending(values: NDArray[Any]) -> NDArray[np.int64]:
    """(N,): the rows of values (N,) by falling value, equal ones in the order given. Nothing is negated, which unsigned
    numbers and the least signed ones do not survive.
    """
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
