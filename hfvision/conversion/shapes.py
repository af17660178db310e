"""What the shapes of a checkpoint's tensors say about the model, and what resampling its position table takes.

Shapes: a position table is (1, P + h * w, D): P prefix tokens, then h x w patches.
"""

from collections import Counter
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from hfvision.conversion.ops import Op
from hfvision.errors import ConfigError, ConversionError
from hfvision.layers.patch_embedding import by, grid_of, pair
from hfvision.layers.position import Grid, PositionRule, resample_position_table


def rank_of(tensors: Mapping[str, Tensor], key: str) -> int:
    """The number of axes; -1 for a tensor that is not there."""
    return tensors[key].ndim if key in tensors else -1


def most_frequent(tensors: Mapping[str, Tensor], places: Mapping[str, tuple[int, int]], otherwise: int) -> int:
    """The most frequent size among {ending of a key: (rank, axis)}; tensors of another rank have no say.

    `otherwise` only stands in where all that could tell is missing, which the rules then report.
    """
    sizes = [
        tensor.shape[axis]
        for key, tensor in tensors.items()
        for ending, (rank, axis) in places.items()
        if key.endswith(ending) and tensor.ndim == rank and tensor.numel()
    ]
    return Counter(sizes).most_common(1)[0][0] if sizes else otherwise


def block_count(numbers: list[int]) -> int:
    """The depth, from the numbers in the keys: gaps are named as missing; one stray number makes no million blocks."""
    return min(max(numbers, default=-1) + 1, 2 * len(set(numbers)))


def check_stages(depths: list[int], part: str, key: str) -> None:
    """Raises ConversionError for a `part` without stages, or with one that has no blocks, whose keys are as `key`."""
    if not depths:
        raise ConversionError(f"the file has no blocks of {part}: wanted keys such as {key}.")
    if empty := [str(stage + 1) for stage, depth in enumerate(depths) if not depth]:
        raise ConversionError(
            f"the blocks of {part} have gaps: stage {' and '.join(empty)} of {len(depths)} has none; wanted keys such "
            f"as {key}."
        )


def checked_size(size: Any) -> int | list[int]:
    """An image size that somebody set. Raises ConfigError."""
    numbers = size if isinstance(size, list | tuple) else [size, size]
    if len(numbers) != 2 or not all(type(number) is int and number > 0 for number in numbers):
        raise ConfigError(f"image_size is a positive number of pixels or [height, width]; got {size!r}.")
    return numbers[0] if numbers[0] == numbers[1] else list(numbers)


def position_grids(
    tensors: Mapping[str, Tensor], key: str, config: Mapping[str, Any], prefix_tokens: int, class_token: str
) -> tuple[Grid, Grid, Any]:
    """The patch grid of the stored table, that of the model, and the model's image_size.

    `key` names the table, `class_token` that token, for errors. As many patches as the table has rows means another
    geometry of the same table; another number means resampling, for which the stored grid has to be a square.
    Raises ConversionError where the grid cannot be told.
    """
    size = config.get("image_size")
    if rank_of(tensors, key) != 3:  # missing or misshapen: the rules say so
        grid = grid_of(size or 224, config["patch_size"])
        return grid, grid, size or 224
    rows = tensors[key].shape[1] - prefix_tokens
    side = isqrt(max(rows, 0))
    if size is None:
        if not is_square(rows):
            wrong_prefix = rows + 1 if prefix_tokens else rows - 1
            hint = f", or check why the file has {'a' if prefix_tokens else 'no'} class token ({class_token!r})"
            raise ConversionError(
                f"{key} has rows for {rows} patches, which make no square, so the shape of the images is "
                f"unknown; set image_size=[height, width] in pixels{hint if is_square(wrong_prefix) else ''}."
            )
        patch_height, patch_width = pair(config["patch_size"])
        square = patch_height == patch_width
        return (side, side), (side, side), side * patch_height if square else [side * patch_height, side * patch_width]
    grid = grid_of(size, config["patch_size"])
    if grid[0] < 1 or grid[1] < 1:
        raise ConversionError(f"image_size {size} is smaller than one patch of {config['patch_size']}.")
    if grid[0] * grid[1] == rows:
        return grid, grid, size
    if not is_square(rows):
        raise ConversionError(
            f"image_size {size} makes {by(grid)} = {grid[0] * grid[1]} patches, and {key} has rows for {rows}, "
            "which make no square, so they cannot be resampled. Set the image_size that the checkpoint was trained "
            "with, and resize the converted model with resize_input."
        )
    return (side, side), grid, size


def is_square(rows: int) -> bool:
    return rows > 0 and isqrt(rows) ** 2 == rows


def resampling(source: Grid, grid: Grid, prefix_tokens: int, rule: PositionRule) -> tuple[Op, str]:
    """The one step that the way back cannot undo (it leaves the resampled table as it is), and how to say it."""
    op = Op(
        f"resampling {by(source)} to {by(grid)}",
        lambda table: resample_position_table(table, source, grid, prefix_tokens, rule),
        lambda table: table,
        exact=False,
    )
    return op, f"the position table of {by(source)} patches was resampled to {by(grid)} ({rule})"
