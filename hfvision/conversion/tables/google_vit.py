"""google-research/vision_transformer ViT (.npz, Flax paths joined by "/") <-> the Hub's `vit`, or `google_vit`.

Paper:  Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929.
Source: google-research/vision_transformer, files of gs://vit_models (Apache-2.0).

The shared `vit` format says what the published files need: a class token and a linear head, or no head; a dense tanh
layer ("pre_logits") where the head behind it is all zeros, as in the imagenet21k files, becomes the pooler. What it
cannot say (mean pooling, a trained head behind pre_logits, a head on every token) becomes `google_vit`.

Shapes: D width, p patch, C channels, N tokens, K labels, R width of pre_logits.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion.engine import Add, AnyRule, Drop, Rule, groups
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, hwio_to_oihw, join_heads, join_heads_bias, join_heads_out, same, transpose
from hfvision.conversion.report import RECORD_FIELD
from hfvision.conversion.shapes import (
    block_count,
    checked_size,
    most_frequent,
    position_grids,
    rank_of,
    resampling,
)
from hfvision.errors import ConversionError
from hfvision.layers.patch_embedding import pair
from hfvision.models.google_vit import CLASSIFIERS, GoogleViTConfig

CLASSIFICATION = "AutoModelForImageClassification"
POSITIONS = "Transformer/posembed_input/pos_embedding"
BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "pooler_act": "tanh"}
PREPROCESSING = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}

EMPTY_BIAS = "the original's code always has this bias, this model does not"
ZERO_HEAD = "all zeros: published without its trained values, so the model ends at pre_logits"


def rules(prefix: str, heads: int, qkv_bias: bool, positions: Op = same) -> tuple[AnyRule, ...]:
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
        ours = f"{layer}.attention.attention.{part}"
        table.append(Rule(f"{ATTENTION}/{part}/kernel", f"{ours}.weight", join_heads(heads)))
        if qkv_bias:
            table.append(Rule(f"{ATTENTION}/{part}/bias", f"{ours}.bias", join_heads_bias(heads)))
    return (
        *table,
        Rule(f"{ATTENTION}/out/kernel", f"{layer}.attention.output.dense.weight", join_heads_out(heads)),
        Rule(f"{ATTENTION}/out/bias", f"{layer}.attention.output.dense.bias", or_zeros=not qkv_bias),
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


_BIASES = tuple(f"{ATTENTION}/{part}/bias" for part in ("query", "key", "value"))
NO_BIASES = tuple(Drop(bias, because=EMPTY_BIAS) for bias in _BIASES)  # what `stored_biases` has filled in


def stored_biases(config: PreTrainedConfig, format: str) -> tuple[AnyRule, ...]:
    """For a model without query, key and value biases, the zeros that the original's code wants in their place; none
    where the model comes from a file of this format, which had none either.
    """
    record = getattr(config, RECORD_FIELD, None) or {}
    if config.qkv_bias or record.get("format") == format:
        return ()
    shape = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    zeros = partial(torch.zeros, shape, dtype=config.dtype or torch.float32)
    keys = (bias.format(i=block) for block in range(config.num_hidden_layers) for bias in _BIASES)
    return tuple(Add(key, because=EMPTY_BIAS, make=zeros) for key in keys)


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
    return settable(GoogleViTConfig, fixed={"drop_path_rate", "_out_features", "_out_indices", "pooler_act"})


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict and for a patch grid that nothing tells."""
    has_head = _has(tensors, "head")
    classifier = classifier_of("cls" in tensors, overrides)
    known = known_sizes(tensors) | {"classifier": classifier}
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed: dict[str, Any] = dict(CODE)
    if isinstance(known["patch_size"], int):
        assumed["encoder_stride"] = known["patch_size"]  # a masked-image decoder would paint whole patches
    config = settle(known, assumed, overrides)
    prefix_tokens = int(CLASSIFIERS[classifier][0])
    source_grid, grid, config["image_size"] = position_grids(tensors, POSITIONS, config, prefix_tokens, "cls")
    changed: tuple[str, ...] = ()
    positions = same
    if source_grid != grid:
        rule: Any = position_rule or "corner_aligned"
        positions, how = resampling(source_grid, grid, prefix_tokens, rule)
        changed = (how,)

    zero_head = has_zero_head(tensors, known)
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
    code = [name for name in CODE if pre_logits or name != "pooler_act"]
    said = unseen((*code, "image_size", "classifier"), config, overrides)
    channels = known["num_channels"]
    height, width = pair(config["image_size"])
    return Plan(
        model_type="vit" if shared else "google_vit",
        auto_class=CLASSIFICATION if keeps_head else "AutoModel",
        config=config,
        rules=rules("vit." if keeps_head else "", config["num_attention_heads"], config["qkv_bias"], positions)
        + (HEAD if keeps_head else NO_HEAD),
        preprocessing=PREPROCESSING
        | {"size": {"height": height, "width": width}}
        | {"image_mean": [0.5] * channels, "image_std": [0.5] * channels},
        model_options={"add_pooling_layer": pre_logits} if shared and not keeps_head else {},
        assumed=said.assumed,
        given=said.given,
        changed=changed,
        notes=notes,
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    keys = list(keys)
    google = isinstance(config, GoogleViTConfig)
    has_head, painter = (any(key.startswith(f"{head}.") for key in keys) for head in ("classifier", "decoder"))
    prefix = "vit." if has_head or painter else ""
    pooler = any(key.startswith(f"{prefix}pooler.") for key in keys)
    masks = [key for key in keys if key.startswith("decoder.") or key == f"{prefix}embeddings.mask_token"]
    code = {field: value for field, value in CODE.items() if pooler or field != "pooler_act"}
    notes = list(computed_otherwise((field, value, getattr(config, field)) for field, value in code.items()))
    if google and config.classifier not in ("token", "gap"):
        notes.append(f"the original keeps classifier = {config.classifier!r} in its code, not in the file")
    return BackPlan(
        auto_class=CLASSIFICATION if has_head else "AutoModelForMaskedImageModeling" if painter else "AutoModel",
        model_options={} if google or prefix else {"add_pooling_layer": pooler, "use_mask_token": bool(masks)},
        rules=(
            *rules(prefix, config.num_attention_heads, config.qkv_bias),
            *(HEAD if has_head else NO_HEAD),
            *(() if config.qkv_bias else NO_BIASES),
        ),
        extra=(
            *(Drop(key, because="only for training on masked images, unknown to the original") for key in masks),
            *stored_biases(config, FORMAT.name),
        ),
        notes=tuple(notes),
    )


def known_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say. Where they disagree the most frequent answer counts, and the rules then name the others."""
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"Transformer/encoderblock_(\d+)/", key))]
    height, width, channels = 16, 16, 3
    if rank_of(tensors, "embedding/kernel") == 4 and tensors["embedding/kernel"].numel():
        height, width, channels = tensors["embedding/kernel"].shape[:3]
    widths = {"encoder_norm/bias": (1, 0), "LayerNorm_0/bias": (1, 0), "embedding/bias": (1, 0)}
    heads = {f"Attention_1/{part}/kernel": (3, 1) for part in ("query", "key", "value")}
    hidden_size = most_frequent(tensors, widths, 768)
    known: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": block_count(blocks),
        "num_attention_heads": most_frequent(tensors, heads, max(1, hidden_size // 64)),
        "intermediate_size": most_frequent(
            tensors, {"Dense_0/bias": (1, 0), "Dense_0/kernel": (2, 1), "Dense_1/kernel": (2, 0)}, 4 * hidden_size
        ),
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
        "qkv_bias": any(groups(_BIASES, tensors)),
        "representation_size": None,
    }
    if _has(tensors, "pre_logits"):
        known["representation_size"] = most_frequent(
            tensors, {"pre_logits/bias": (1, 0), "pre_logits/kernel": (2, 1), "head/kernel": (2, 0)}, hidden_size
        )
        known["pooler_output_size"] = known["representation_size"]
    if _has(tensors, "head"):
        known["num_labels"] = most_frequent(tensors, {"head/bias": (1, 0), "head/kernel": (2, 1)}, 1000)
    return known


def classifier_of(has_class_token: bool, overrides: Mapping[str, Any]) -> str:
    """What the head reads. The class token shows; whether tokens are pooled does not."""
    classifier = overrides.get("classifier", "token" if has_class_token else "gap")
    possible = [name for name, (needs_token, _) in CLASSIFIERS.items() if needs_token == has_class_token]
    if classifier not in possible:
        there = "has a class token ('cls')" if has_class_token else "has no class token ('cls')"
        raise ConversionError(f"the checkpoint {there}, so classifier is {' or '.join(possible)}; got {classifier!r}.")
    return str(classifier)


def _has(tensors: Mapping[str, Tensor], module: str) -> bool:
    return any(key.startswith(f"{module}/") for key in tensors)


def has_zero_head(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> bool:
    """Whether the head is whole and nothing but zeros. On the meta device that is unknown: no."""
    labels, width = known.get("num_labels"), known["representation_size"] or known["hidden_size"]
    head = {"head/kernel": (width, labels), "head/bias": (labels,)}
    return all(key in tensors and tuple(tensors[key].shape) == shape for key, shape in head.items()) and not any(
        tensors[key].is_meta or not tensors[key].is_floating_point() or bool(tensors[key].any()) for key in head
    )


FORMAT = Format(
    name="google_vit",
    family="vit",
    title="google-research/vision_transformer ViT (.npz)",
    repository="google-research/vision_transformer",
    license="apache-2.0",
    container="npz",
    model_types=("vit", "google_vit"),
    fields=fields,
    tells_heads=True,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
