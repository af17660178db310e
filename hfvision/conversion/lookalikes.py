"""Models of other families whose files look like those of ours: told by a tensor that none of ours has, by the settings
that a training kept in the file, or by the file's name.

A model that only looks like one of ours would load and answer, with something else than what it was trained for. Names
of tensors are those of the published files; of code nothing is used.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hfvision.checkpoints import Checkpoint
from hfvision.conversion.formats import Plan
from hfvision.errors import ConversionError
from hfvision.registry import IMAGE_CLASSIFICATION

SHOWN = 3  # keys that an error writes out
FRAMES = ("num_frames", "n_frames", "clip_len", "clip_length", "tubelet_size")  # settings of models of videos
SPACE_ATTENTION = ("attention_type", "space_only")
LINE = re.compile(r"^[ \t]*(\w+)[ \t]*:[ \t]*['\"]?([\w.-]*)", re.MULTILINE)  # of YAML
DEEPEST = 8  # mappings inside mappings
SPACE_ONLY = "one that looks at each frame by itself and averages has the tensors of an image classifier"
VIDEO_CLASSES = {174: "Something-Something v2", 400: "Kinetics-400", 600: "Kinetics-600", 700: "Kinetics-700"}


@dataclass(frozen=True)
class Kind:
    """One such family; `signs` are regular expressions, of which one finds a part of a key that no file of ours has."""

    name: str  # as in "it is a TimeSformer"
    why: str  # what it does that none of ours does
    signs: tuple[str, ...]


KINDS = (
    Kind(
        "a TimeSformer",
        "it attends to the frames of a video",
        (r"(^|\.)time_embed$", r"\.temporal_(attn|norm1|fc)\."),
    ),
    Kind("a VisTR", "it finds objects in the frames of a video", (r"(^|\.)insmask_head\.",)),
    Kind(
        "a masked autoencoder",
        "its decoder paints what was masked",
        (r"(^|\.)decoder_(blocks|embed|pos_embed|pred)\b",),
    ),
    Kind(
        "a BEiT or a model after it",
        "its attention has biases by relative position, and none of keys",
        (
            r"\.attn\.[qv]_bias$",
            r"(^|\.)rel_pos_bias\.",
            r"(^|(?<!\d)\.)blocks\.\d+\.attn\.relative_position_bias_table$",
        ),
    ),
    Kind(
        "an EVA or DINOv3", "its positions are rotations of queries and keys", (r"(^|\.)rope(_embed)?\.", r"freqs_cos$")
    ),
    Kind(
        "a CLIP",
        "it compares images with texts",
        (r"(^|\.)(visual|text|textual)\.\w", r"^logit_scale$", r"(^|\.)(text_projection|class_embedding)$"),
    ),
    Kind(
        "a DINO in training",
        "its head is for comparing views",
        (r"(^|\.)(head|dino_head|ibot_head)\.(mlp|last_layer)\.",),
    ),
    Kind("a CaiT", "its last blocks are for the class token alone", (r"(^|\.)blocks_token_only\.",)),
    Kind(
        "a Segment Anything",
        "its answers follow prompts",
        (r"(^|\.)(prompt_encoder|mask_decoder)\.", r"\.rel_pos_[hw]$"),
    ),
    Kind("a PVT", "each of its stages has a table of positions", (r"(^|\.)pos_embed[1-4]$",)),
    Kind("a Deformable DETR or a model after it", "its attention samples places", (r"\.sampling_offsets\.",)),
    Kind(
        "a Conditional DETR or a model after it",
        "its queries carry places",
        (r"\.ca_qcontent_proj\.", r"refpoint_embed"),
    ),
    Kind("a UP-DETR", "its queries carry patches", (r"(^|\.)patch2query\.",)),
    Kind("a MaskFormer or Mask2Former", "it classifies masks", (r"(^|\.)sem_seg_head\.",)),
)
PATCHES = re.compile(
    r"(^|[./])(patch_embed\w*\.proj\.weight|embedding/kernel|conv_root/kernel|patch_embed\w*\.weight)$"
)
NAMES = {"timesformer": "a TimeSformer", "vivit": "a ViViT", "videomae": "a VideoMAE", "video_?swin": "a Video Swin"}


def check_said(checkpoint: Checkpoint) -> None:
    """Raises ConversionError for what the file's settings or its name call a model of videos."""
    if (said := video_settings(checkpoint.settings)) is not None:
        raise ConversionError(
            f"{checkpoint.name} holds a model of videos: the settings that its training kept there say {said}. There "
            f"is no such model here, and {SPACE_ONLY}, for which it would be taken. To use it on single images "
            f"nevertheless, save its state dict (entry {checkpoint.entry!r}) in a file of its own."
        )
    for pattern, name in NAMES.items():
        if re.search(pattern, checkpoint.name, re.IGNORECASE):
            raise ConversionError(
                f"{checkpoint.name} is called after {name}, a model of videos. There is no such model here, and "
                f"{SPACE_ONLY}, for which it would be taken. Give the file another name if it holds something else."
            )


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raises ConversionError for a family that has no place here, which names the tensors that tell it."""
    if (kind := kind_of(checkpoint.tensors)) is not None:
        raise ConversionError(f"{checkpoint.name} is not converted: {kind} There is no such model here.")


def kind_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The kind by a tensor that none of ours has, and which tensors those are; None where there is none."""
    for key, tensor in tensors.items():
        if PATCHES.search(key) and tensor.ndim == 5:
            return f"{key} {tuple(tensor.shape)} cuts patches out of several frames, so it is a model of videos."
    for kind in KINDS:
        found = [key for key in tensors if any(re.search(sign, key) for sign in kind.signs)]
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            return f"it is {kind.name} by its {', '.join(found[:SHOWN])}{more}; {kind.why}."
    return None


def video_settings(settings: Mapping[str, Any]) -> str | None:
    """A setting that only models of videos have, "NUM_FRAMES = 8"; None where the file has none."""
    for name, value in _settings(settings):
        word = name.lower()
        if (word in FRAMES and str(value).isdecimal() and int(value) > 1) or (word, value) == SPACE_ATTENTION:
            return f"{name} = {value}"
        if word == "timesformer":
            return name
    return None


def note_on_classes(plan: Plan) -> tuple[str, ...]:
    """A sentence for a classifier with as many classes as a data set of videos: no tensor tells the two apart."""
    labels = plan.config.get("num_labels")
    if plan.auto_class != IMAGE_CLASSIFICATION or labels not in VIDEO_CLASSES:
        return ()
    return (
        f"{labels} classes are as many as {VIDEO_CLASSES[labels]} has, and of models of videos {SPACE_ONLY}: nothing "
        "in the file says which of the two this is.",
    )


def _settings(content: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All settings by their names, of mappings inside others and of the lines of texts."""
    for name, value in content.items():
        if isinstance(value, str):
            yield from ((line[1], line[2]) for line in LINE.finditer(value))
        if isinstance(value, Mapping) and depth < DEEPEST:
            yield from _settings(value, depth + 1)
        yield name, value
