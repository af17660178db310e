"""google-research/vision_transformer ViT (.npz, Flax paths joined by "/") <-> the Hub's `vit`, or `google_vit`.

Paper:  Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929.
Source: google-research/vision_transformer, files of gs://vit_models (Apache-2.0).

The shared `vit` format says what the published files need: a class token and a linear head, or no head; a dense tanh
layer ("pre_logits") where the head behind it is all zeros, as in the imagenet21k files, becomes the pooler. What it
cannot say (mean pooling, a trained head behind pre_logits, a head on every token) becomes `google_vit`.

Shapes: D width, p patch, C channels, N tokens, K labels, R width of pre_logits.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from math import isqrt
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion.engine import AnyRule, Drop, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, settle
from hfvision.conversion.ops import Op, hwio_to_oihw, join_heads, join_heads_bias, join_heads_out, same, transpose
from hfvision.errors import ConfigError, ConversionError
from hfvision.layers.patch_embedding import grid_of, pair
from hfvision.layers.position import Grid, PositionRule, resample_position_table
from hfvision.models.google_vit import CLASSIFIERS, GoogleViTConfig

CLASSIFICATION = "AutoModelForImageClassification"
POSITIONS = "Transformer/posembed_input/pos_embedding"
BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "pooler_act": "tanh"}
PREPROCESSING = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}

ZERO_HEAD = "all zeros: published without its trained values, so the model ends at pre_logits"


def rules(prefix: str, heads: int, positions: Op = same) -> tuple[AnyRule, ...]:
    """The table. `prefix` is "vit." where the model has a head of its own around the trunk."""
    layer = f"{prefix}encoder.layer.{{i}}"
    table: list[AnyRule] = [
        Rule("cls", f"{prefix}embeddings.cls_token", optional=True),
        Rule("embedding/kernel", f"{prefix}embeddings.patch_embeddings.projection.weight", hwio_to_oihw),
        Rule("embedding/bias", f"{prefix}embeddings.patch_embeddings.projection.bias"),
        Rule(POSITIONS, f"{prefix}embeddings.position_embeddings", positions),
        Rule(f"{BLOCK}/LayerNorm_0/scale", f"{layer}.layernorm_before.weight"),
        Rule(f"{BLOCK}/LayerNorm_0/bias", f"{layer}.layernorm_before.bias"),
    ]
    for part in ("query", "key", "value"):
        table += [
            Rule(f"{ATTENTION}/{part}/kernel", f"{layer}.attention.attention.{part}.weight", join_heads(heads)),
            Rule(f"{ATTENTION}/{part}/bias", f"{layer}.attention.attention.{part}.bias", join_heads_bias(heads)),
        ]
    return (
        *table,
        Rule(f"{ATTENTION}/out/kernel", f"{layer}.attention.output.dense.weight", join_heads_out(heads)),
        Rule(f"{ATTENTION}/out/bias", f"{layer}.attention.output.dense.bias"),
        Rule(f"{BLOCK}/LayerNorm_2/scale", f"{layer}.layernorm_after.weight"),
        Rule(f"{BLOCK}/LayerNorm_2/bias", f"{layer}.layernorm_after.bias"),
        Rule(f"{BLOCK}/MlpBlock_3/Dense_0/kernel", f"{layer}.intermediate.dense.weight", transpose),
        Rule(f"{BLOCK}/MlpBlock_3/Dense_0/bias", f"{layer}.intermediate.dense.bias"),
        Rule(f"{BLOCK}/MlpBlock_3/Dense_1/kernel", f"{layer}.output.dense.weight", transpose),
        Rule(f"{BLOCK}/MlpBlock_3/Dense_1/bias", f"{layer}.output.dense.bias"),
        Rule("Transformer/encoder_norm/scale", f"{prefix}layernorm.weight"),
        Rule("Transformer/encoder_norm/bias", f"{prefix}layernorm.bias"),
        Rule("pre_logits/kernel", f"{prefix}pooler.dense.weight", transpose, optional=True),
        Rule("pre_logits/bias", f"{prefix}pooler.dense.bias", optional=True),
    )


HEAD = (
    Rule("head/kernel", "classifier.weight", transpose, optional=True),
    Rule("head/bias", "classifier.bias", optional=True),
)
NO_HEAD = (Drop("head/kernel", because=ZERO_HEAD), Drop("head/bias", because=ZERO_HEAD))


def matches(keys: Iterable[str]) -> bool:
    """Blocks of Google's naming, without the ResNet stem of the hybrids."""
    keys = list(keys)
    hybrid = any(key.startswith(("conv_root/", "block1/")) for key in keys)
    return not hybrid and any(key.startswith("Transformer/encoderblock_") for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of the two configs that go into config.json, and num_labels."""
    base = {entry.name for entry in dataclasses.fields(PreTrainedConfig)}
    own = [entry.name for entry in dataclasses.fields(GoogleViTConfig) if entry.name not in base]
    fixed = {"drop_path_rate", "_out_features", "_out_indices", "pooler_act"}
    return ("num_labels", *(name for name in own if name not in fixed))


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict and for a patch grid that nothing tells."""
    has_head = _has(tensors, "head")
    classifier = _classifier("cls" in tensors, overrides)
    known = _known(tensors) | {"classifier": classifier}
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": _checked_size(overrides["image_size"])}
    assumed: dict[str, Any] = dict(CODE)
    if isinstance(known["patch_size"], int):
        assumed["encoder_stride"] = known["patch_size"]  # a masked-image decoder would paint whole patches
    config = settle(known, assumed, overrides)
    prefix_tokens = int(CLASSIFIERS[classifier][0])
    source_grid, grid, config["image_size"] = _grids(tensors, config, prefix_tokens)
    changed: tuple[str, ...] = ()
    positions = same
    if source_grid != grid:
        rule: Any = position_rule or "corner_aligned"
        positions = _resample(source_grid, grid, prefix_tokens, rule)
        changed = (f"the position table of {_by(source_grid)} patches was resampled to {_by(grid)} ({rule})",)

    zero_head = _has_zero_head(tensors, known)
    pre_logits = config["representation_size"] is not None
    shared = classifier == "token" and not (pre_logits and has_head and not zero_head)
    if shared:
        del config["classifier"], config["representation_size"]
    keeps_head = has_head and not (shared and pre_logits)
    if not keeps_head:
        config.pop("num_labels", None)
    notes: tuple[str, ...] = (
        f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
        f"activation {config['hidden_act']}.",
    )
    if has_head and not keeps_head:
        notes += ("The original file stores a head of zeros; it was left out.",)
    if shared and not keeps_head and not pre_logits:
        notes += ("The original file has neither a head nor a pooler: read `last_hidden_state`.",)
    guessed = [name for name in (*CODE, "image_size", "classifier") if name not in overrides]
    if not pre_logits:
        guessed = [name for name in guessed if name != "pooler_act"]
    channels = known["num_channels"]
    height, width = pair(config["image_size"])
    return Plan(
        model_type="vit" if shared else "google_vit",
        auto_class=CLASSIFICATION if keeps_head else "AutoModel",
        config=config,
        rules=rules("vit." if keeps_head else "", config["num_attention_heads"], positions)
        + (HEAD if keeps_head else NO_HEAD),
        preprocessing=PREPROCESSING
        | {"size": {"height": height, "width": width}}
        | {"image_mean": [0.5] * channels, "image_std": [0.5] * channels},
        model_options={"add_pooling_layer": pre_logits} if shared and not keeps_head else {},
        assumed=tuple(f"{name} = {config[name]!r}" for name in guessed if name in config),
        changed=changed,
        notes=notes,
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    keys = list(keys)
    if not config.qkv_bias:
        raise ConversionError("the original format always stores query, key and value biases; this model has none.")
    google = isinstance(config, GoogleViTConfig)
    has_head, painter = (any(key.startswith(f"{head}.") for key in keys) for head in ("classifier", "decoder"))
    prefix = "vit." if has_head or painter else ""
    pooler = any(key.startswith(f"{prefix}pooler.") for key in keys)
    masks = [key for key in keys if key.startswith("decoder.") or key == f"{prefix}embeddings.mask_token"]
    notes = [
        f"the original's code computes with {field} = {value!r}, this model with {getattr(config, field)!r}"
        for field, value in CODE.items()
        if getattr(config, field) != value and (pooler or field != "pooler_act")
    ]
    if google and config.classifier not in ("token", "gap"):
        notes.append(f"the original keeps classifier = {config.classifier!r} in its code, not in the file")
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModelForMaskedImageModeling" if painter else "AutoModel",
        model_options={} if google or prefix else {"add_pooling_layer": pooler, "use_mask_token": bool(masks)},
        rules=rules(prefix, config.num_attention_heads) + (HEAD if has_head else NO_HEAD),
        extra=tuple(Drop(key, because="only for training on masked images, unknown to the original") for key in masks),
        notes=tuple(notes),
    )


def _known(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say. Where they disagree the most frequent answer counts, and the rules then name the others."""
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"Transformer/encoderblock_(\d+)/", key))]
    height, width, channels = 16, 16, 3
    if _rank(tensors, "embedding/kernel") == 4 and tensors["embedding/kernel"].numel():
        height, width, channels = tensors["embedding/kernel"].shape[:3]
    widths = {"encoder_norm/bias": (1, 0), "LayerNorm_0/bias": (1, 0), "embedding/bias": (1, 0)}
    heads = {f"Attention_1/{part}/kernel": (3, 1) for part in ("query", "key", "value")}
    hidden_size = _most(tensors, widths, 768)
    known: dict[str, Any] = {
        "hidden_size": hidden_size,
        # gaps are named as missing; one stray number does not make a million blocks
        "num_hidden_layers": min(max(blocks, default=-1) + 1, 2 * len(set(blocks))),
        "num_attention_heads": _most(tensors, heads, max(1, hidden_size // 64)),
        "intermediate_size": _most(
            tensors, {"Dense_0/bias": (1, 0), "Dense_0/kernel": (2, 1), "Dense_1/kernel": (2, 0)}, 4 * hidden_size
        ),
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
        "qkv_bias": True,
        "representation_size": None,
    }
    if _has(tensors, "pre_logits"):
        known["representation_size"] = _most(
            tensors, {"pre_logits/bias": (1, 0), "pre_logits/kernel": (2, 1), "head/kernel": (2, 0)}, hidden_size
        )
        known["pooler_output_size"] = known["representation_size"]
    if _has(tensors, "head"):
        known["num_labels"] = _most(tensors, {"head/bias": (1, 0), "head/kernel": (2, 1)}, 1000)
    return known


def _classifier(has_class_token: bool, overrides: Mapping[str, Any]) -> str:
    """What the head reads. The class token shows; whether tokens are pooled does not."""
    classifier = overrides.get("classifier", "token" if has_class_token else "gap")
    possible = [name for name, (needs_token, _) in CLASSIFIERS.items() if needs_token == has_class_token]
    if classifier not in possible:
        there = "has a class token ('cls')" if has_class_token else "has no class token ('cls')"
        raise ConversionError(f"the checkpoint {there}, so classifier is {' or '.join(possible)}; got {classifier!r}.")
    return str(classifier)


def _grids(tensors: Mapping[str, Tensor], config: Mapping[str, Any], prefix_tokens: int) -> tuple[Grid, Grid, Any]:
    """The patch grid of the stored table, that of the model, and the model's image_size.

    As many patches as the table has rows means another geometry of the same table; another number means resampling,
    for which the stored grid has to be a square.
    """
    size = config.get("image_size")
    if _rank(tensors, POSITIONS) != 3:  # missing or misshapen: the rules say so
        grid = grid_of(size or 224, config["patch_size"])
        return grid, grid, size or 224
    rows = tensors[POSITIONS].shape[1] - prefix_tokens
    side = isqrt(max(rows, 0))
    if size is None:
        if not _is_square(rows):
            wrong_prefix = rows + 1 if prefix_tokens else rows - 1
            hint = f", or check why the file has {'a' if prefix_tokens else 'no'} class token ('cls')"
            raise ConversionError(
                f"{POSITIONS} has rows for {rows} patches, which make no square, so the shape of the images is "
                f"unknown; set image_size=[height, width] in pixels{hint if _is_square(wrong_prefix) else ''}."
            )
        patch_height, patch_width = pair(config["patch_size"])
        square = patch_height == patch_width
        return (side, side), (side, side), side * patch_height if square else [side * patch_height, side * patch_width]
    grid = grid_of(size, config["patch_size"])
    if grid[0] < 1 or grid[1] < 1:
        raise ConversionError(f"image_size {size} is smaller than one patch of {config['patch_size']}.")
    if grid[0] * grid[1] == rows:
        return grid, grid, size
    if not _is_square(rows):
        raise ConversionError(
            f"image_size {size} makes {_by(grid)} = {grid[0] * grid[1]} patches, and {POSITIONS} has rows for {rows}, "
            "which make no square, so they cannot be resampled. Set the image_size that the checkpoint was trained "
            "with, and resize the converted model with resize_input."
        )
    return (side, side), grid, size


def _is_square(rows: int) -> bool:
    return rows > 0 and isqrt(rows) ** 2 == rows


def _checked_size(size: Any) -> int | list[int]:
    numbers = size if isinstance(size, list | tuple) else [size, size]
    if len(numbers) != 2 or not all(type(number) is int and number > 0 for number in numbers):
        raise ConfigError(f"image_size is a positive number of pixels or [height, width]; got {size!r}.")
    return numbers[0] if numbers[0] == numbers[1] else list(numbers)


def _resample(source: Grid, grid: Grid, prefix_tokens: int, rule: PositionRule) -> Op:
    """The one step that the way back cannot undo: it leaves the resampled table as it is."""
    return Op(
        f"resampling {_by(source)} to {_by(grid)}",
        lambda table: resample_position_table(table, source, grid, prefix_tokens, rule),
        lambda table: table,
        exact=False,
    )


def _has(tensors: Mapping[str, Tensor], module: str) -> bool:
    return any(key.startswith(f"{module}/") for key in tensors)


def _rank(tensors: Mapping[str, Tensor], key: str) -> int:
    return tensors[key].ndim if key in tensors else -1


def _most(tensors: Mapping[str, Tensor], places: Mapping[str, tuple[int, int]], otherwise: int) -> int:
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


def _has_zero_head(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> bool:
    """Whether the head is whole and nothing but zeros. On the meta device that is unknown: no."""
    labels, width = known.get("num_labels"), known["representation_size"] or known["hidden_size"]
    head = {"head/kernel": (width, labels), "head/bias": (labels,)}
    return all(key in tensors and tuple(tensors[key].shape) == shape for key, shape in head.items()) and not any(
        tensors[key].is_meta or not tensors[key].is_floating_point() or bool(tensors[key].any()) for key in head
    )


def _by(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


FORMAT = Format(
    name="google_vit",
    family="vit",
    title="google-research/vision_transformer ViT (.npz)",
    repository="google-research/vision_transformer",
    license="apache-2.0",
    container="npz",
    model_types=("vit", "google_vit"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
