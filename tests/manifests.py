"""Published files by their names and shapes, without storage."""

import re

import torch


def meta_tensors(manifest):
    """The tensors of a manifest: `{0-2,4}` in a key stands for those numbers, `["int64", ...]` for another dtype."""
    tensors = {}
    for pattern, shape in manifest["tensors"].items():
        dtype = getattr(torch, shape[0]) if shape and isinstance(shape[0], str) else torch.float32
        sizes = [size for size in shape if not isinstance(size, str)]
        for key in _filled(pattern):
            tensors[key] = torch.empty(sizes, dtype=dtype, device="meta")
    return tensors


def _filled(pattern):
    hole = re.search(r"\{([\d,-]+)\}", pattern)
    if hole is None:
        return [pattern]
    ends = [[int(end) for end in run.split("-")] for run in hole[1].split(",")]
    numbers = [number for run in ends for number in range(run[0], run[-1] + 1)]
    return [f"{pattern[: hole.start()]}{number}{pattern[hole.end() :]}" for number in numbers]
