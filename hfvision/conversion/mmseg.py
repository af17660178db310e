"""What files of mmsegmentation's training say besides tensors: class names, and how images are evaluated.

Their entry "meta" holds the class names and the text of the training's config, Python source that is parsed here for
its literal settings and never run.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from hfvision.checkpoints import Checkpoint
from hfvision.conversion.engine import Unused
from hfvision.layers.patch_embedding import by
from hfvision.processing.protocols import segmentation_options
from hfvision.upsampling import Size


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What of these is said: "labels", a list of names; "scale", (long, short) sides that images are brought into;
    "aligned", whether their sides then become multiples; "crop" and "stride", (height, width) of windows, or None each
    for whole images.
    """
    found: dict[str, Any] = {}
    names = checkpoint.meta.get("CLASSES")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        found["labels"] = names
    settings = list(_settings(checkpoint.meta.get("config")))
    for one in settings:
        scale: Any = one.get("img_scale")
        if one.get("type") == "MultiScaleFlipAug" and _is_pair(scale):
            found["scale"] = (max(scale), min(scale))
            found["aligned"] = any(other.get("type") == "AlignedResize" for other in settings)
        if one.get("mode") == "whole":
            found |= {"crop": None, "stride": None}
        if one.get("mode") == "slide" and _is_pair(one.get("crop_size")) and _is_pair(one.get("stride")):
            found |= {"crop": one["crop_size"], "stride": one["stride"]}
    return found


def evaluation(
    size: Size,
    window: Size | None,
    stride: Size | None,
    channels: int,
    facts: Mapping[str, Any],
    protocol: str = "mmseg",
) -> tuple[dict[str, Any], list[str]]:
    """The options of the image processor, from what a file says (see `facts`) or else from these usual values:
    (long, short) sides that images are brought into by a protocol, (height, width) of windows and of their steps, None
    each for whole images. And what of them is assumed because the file does not say it.
    """
    said = []
    if "scale" in facts:
        size, protocol = facts["scale"], "mmseg-aligned" if facts["aligned"] else "mmseg"
    else:
        said.append(f"images prepared by protocol {protocol!r} (hfvision.processing.protocols) inside {by(size)}")
    if "crop" in facts:
        window, stride = facts["crop"], facts["stride"]
    elif window and stride:
        said.append(f"evaluated in windows of {by(window)} pixels every {by(stride)}")
    windows = {"window_size": list(window), "window_stride": list(stride)} if window and stride else {}
    options = segmentation_options(protocol, size, **windows)
    if channels != 3:
        options |= {name: [0.5] * channels for name in ("image_mean", "image_std")}
        said.append(f"mean and deviation 0.5 for {channels} channels")
    return options, said


def unused_classifiers(heads: Iterable[str], labels: int, channels: int) -> dict[str, Unused]:
    """The classifier that every head's base class makes, of those heads that have another: see BackPlan.stored."""
    shapes = {"weight": (labels, channels, 1, 1), "bias": (labels,)}
    return {f"{head}.conv_seg.{part}": Unused(shape, torch.float32) for head in heads for part, shape in shapes.items()}


def _settings(source: Any) -> Iterator[Mapping[str, Any]]:
    """The literal entries of every `dict(...)` and `{...}` in a config's text; nothing if it is no Python."""
    try:
        tree = ast.parse(source) if isinstance(source, str) else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        entries: list[tuple[Any, ast.expr]] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            entries = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            entries = [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]
        yield {str(name): ast.literal_eval(value) for name, value in entries if _is_literal(value)}


def _is_literal(node: ast.expr) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    return all(isinstance(part, ast.Constant) for part in parts)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
