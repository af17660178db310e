"""NVlabs/SegFormer (.pth): MiT classifiers and SegFormers <-> `nvlabs_segformer`, the Hub's `segformer` but for a norm.

Paper:  Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
        arXiv 2105.15203.
Source: the keys and shapes of the files that NVlabs/SegFormer publishes; its code (non-commercial) was not used.

A file `mit_b*.pth` holds the trunk, trained to classify by a `head`; one `segformer.*.pth` is a training file whose
"state_dict" holds `backbone` and `decode_head`. The norms in the blocks and behind the stages have the epsilon 1e-6;
transformers computes the Hub's `segformer` with 1e-5 whatever the config says, so a model that shall compute what the
original does has a model_type of its own. With layer_norm_eps set to 1e-5 it becomes a plain `segformer`.

Shapes: D width of a stage, E that of the decoder, K labels, r reduction ratio.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion import mmseg
from hfvision.conversion.engine import AnyRule, Drop, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import split
from hfvision.conversion.shapes import block_count, most_frequent, rank_of
from hfvision.conversion.tables import timm_vit
from hfvision.errors import ConversionError
from hfvision.models.segformer.model import SegformerConfig
from hfvision.registry import IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION

CODE = {"layer_norm_eps": 1e-6, "hidden_act": "gelu"}  # what the original's code fixes and no tensor shows
PLAIN_EPS = 1e-5  # with which the Hub's format is computed
PVT_RATIOS = [8, 8, 4, 4]  # of a PVT v2, widths of its MLPs to those of its stages; all of a MiT are 4
HEADS, STRIDES = [1, 2, 5, 8], [4, 2, 2, 2]  # of all published models, for each stage
PROCESSOR = "hfvision.processing.segmentation:SegmentationImageProcessor"
UNUSED_CHANNELS = 128  # of the classifier that is stored and never called
PRETRAINED_SIZE = 224  # pixels, of the classifiers

# How the published files are evaluated, by number of classes: protocol, (long, short) sides, window and stride.
PUBLISHED = {150: ("mmseg-aligned", (2048, 512), None, None), 19: ("mmseg", (2048, 1024), (1024, 1024), (768, 768))}
OTHERS = ("mmseg", (2048, 512), None, None)


def rules(prefix: str, target: str, ratios: Iterable[int]) -> tuple[AnyRule, ...]:
    """The table of the trunk: `prefix` is "backbone." inside a SegFormer, `target` "segformer." inside a model."""
    table: list[AnyRule] = []
    for stage, ratio in enumerate(ratios):
        block, layer = f"{prefix}block{stage + 1}.{{i}}", f"{target}encoder.block.{stage}.{{i}}"
        attention = f"{layer}.attention.self"
        patches, norm = f"{target}encoder.patch_embeddings.{stage}", f"{target}encoder.layer_norm.{stage}"
        table += [
            Rule(f"{prefix}patch_embed{stage + 1}.proj.{{p}}", f"{patches}.proj.{{p}}"),
            Rule(f"{prefix}patch_embed{stage + 1}.norm.{{p}}", f"{patches}.layer_norm.{{p}}"),
            Rule(f"{block}.norm1.{{p}}", f"{layer}.layer_norm_1.{{p}}"),
            Rule(f"{block}.attn.q.weight", f"{attention}.query.weight"),
            Rule(f"{block}.attn.q.bias", f"{attention}.query.bias", or_zeros=True),
            Rule(f"{block}.attn.kv.weight", (f"{attention}.key.weight", f"{attention}.value.weight"), split(2)),
            Rule(
                f"{block}.attn.kv.bias", (f"{attention}.key.bias", f"{attention}.value.bias"), split(2), or_zeros=True
            ),
            Rule(f"{block}.attn.proj.{{p}}", f"{layer}.attention.output.dense.{{p}}"),
        ]
        if ratio > 1:
            table += [
                Rule(f"{block}.attn.sr.{{p}}", f"{attention}.sr.{{p}}"),
                Rule(f"{block}.attn.norm.{{p}}", f"{attention}.layer_norm.{{p}}"),
            ]
        table += [
            Rule(f"{block}.norm2.{{p}}", f"{layer}.layer_norm_2.{{p}}"),
            Rule(f"{block}.mlp.fc1.{{p}}", f"{layer}.mlp.dense1.{{p}}"),
            Rule(f"{block}.mlp.dwconv.dwconv.{{p}}", f"{layer}.mlp.dwconv.dwconv.{{p}}"),
            Rule(f"{block}.mlp.fc2.{{p}}", f"{layer}.mlp.dense2.{{p}}"),
            Rule(f"{prefix}norm{stage + 1}.{{p}}", f"{norm}.{{p}}"),
        ]
    return tuple(table)


def decoder(stages: int) -> tuple[AnyRule, ...]:
    projections = (
        Rule(f"decode_head.linear_c{stage + 1}.proj.{{p}}", f"decode_head.linear_c.{stage}.proj.{{p}}")
        for stage in range(stages)
    )
    return (
        *projections,
        Rule("decode_head.linear_fuse.conv.weight", "decode_head.linear_fuse.weight"),
        Rule("decode_head.linear_fuse.bn.{p}", "decode_head.batch_norm.{p}"),
        Rule("decode_head.linear_pred.{p}", "decode_head.classifier.{p}"),
        Drop(
            "decode_head.conv_seg.{p}", because="a classifier that every mmsegmentation head stores, unused in this one"
        ),
    )


PVT = (
    f"MLPs of {PVT_RATIOS} times the width are those of a PVT v2, which has a MiT's tensors: compare with its own "
    "outputs (--input, --expected) before you rely on it."
)
CLASSIFIER = (Rule("head.{p}", "classifier.{p}"),)


def matches(keys: Iterable[str]) -> bool:
    """Stages numbered in the names, with a convolution between the layers of the MLP."""
    keys = set(keys)
    return any(
        {f"{prefix}patch_embed1.proj.weight", f"{prefix}block1.0.mlp.dwconv.dwconv.weight"} <= keys
        for prefix in ("", "backbone.")
    )


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of a SegFormer's config that go into config.json, and num_labels."""
    return settable(SegformerConfig, {"_out_features", "_out_indices"})


def plan(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    facts: Mapping[str, Any] | None = None,
) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for sizes that cannot be told.

    `facts`: see `mmseg.facts`. A SegFormer has no positions, so `position_rule` is not read.
    """
    facts = facts or {}
    inside = "backbone.patch_embed1.proj.weight" in tensors
    prefix = "backbone." if inside else ""
    known = known_sizes(tensors, prefix)
    assumed = CODE | _usual(known, overrides)
    config = settle(known, assumed, overrides)
    classifies = any(key.startswith("head.") for key in tensors)
    auto_class = SEMANTIC_SEGMENTATION if inside else IMAGE_CLASSIFICATION if classifies else "AutoModel"
    heads = decoder(known["num_encoder_blocks"]) if inside else CLASSIFIER if classifies else ()
    preprocessing, prepared = _evaluation(config, facts) if inside else _pretraining(config)
    like_pvt = config["mlp_ratios"] == PVT_RATIOS
    labels, said = tuple(facts.get("labels", ())), unseen(assumed, config, overrides)
    return Plan(
        model_type="segformer" if config["layer_norm_eps"] == PLAIN_EPS else "nvlabs_segformer",
        auto_class=auto_class,
        config=config,
        rules=rules(prefix, "segformer." if heads else "", config["sr_ratios"]) + heads,
        preprocessing=preprocessing,
        processor=PROCESSOR if inside else timm_vit.PROCESSOR,
        assumed=(*said.assumed, *prepared),
        given=said.given,
        labels=labels if len(labels) == config.get("num_labels") else (),
        notes=(
            f"The architecture follows {FORMAT.repository}: norms in the blocks with epsilon "
            f"{config['layer_norm_eps']}, activation {config['hidden_act']}, {config['num_attention_heads']} heads.",
            "The published weights are for research and evaluation only: NVIDIA Source Code License for SegFormer.",
            *((PVT,) if like_pvt else ()),
        ),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """The original has a place for every SegFormer, but for what its code fixes."""
    assert isinstance(config, SegformerConfig)
    keys = list(keys)
    inside, classifies = (any(key.startswith(part) for key in keys) for part in ("decode_head.", "classifier."))
    stages = config.num_encoder_blocks
    heads = decoder(stages) if inside else CLASSIFIER if classifies else ()
    told: list[tuple[str, Any, Any]] = [
        ("hidden_act", CODE["hidden_act"], config.hidden_act),
        ("num_attention_heads", HEADS[:stages], list(config.num_attention_heads)),
        ("strides", STRIDES[:stages], list(config.strides)),
        ("epsilon in the blocks", CODE["layer_norm_eps"], config.block_norm_eps),
    ]
    return BackPlan(
        auto_class=SEMANTIC_SEGMENTATION if inside else IMAGE_CLASSIFICATION if classifies else "AutoModel",
        model_options={},
        bare=not inside,
        stored=mmseg.unused_classifiers(["decode_head"], config.num_labels or 0, UNUSED_CHANNELS) if inside else {},
        rules=rules("backbone." if inside else "", "segformer." if heads else "", config.sr_ratios) + heads,
        notes=computed_otherwise(told),
    )


def known_sizes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """What the shapes say; what is misshapen or missing, the rules then name."""
    numbers = [int(match[1]) for key in tensors if (match := re.match(rf"{re.escape(prefix)}patch_embed(\d+)\.", key))]
    if not numbers:
        raise ConversionError(
            f"the file has no patch embeddings: wanted keys such as {prefix}patch_embed1.proj.weight."
        )
    stages = [_stage(tensors, prefix, number) for number in range(1, min(max(numbers), 2 * len(set(numbers))) + 1)]
    known: dict[str, Any] = {"num_encoder_blocks": len(stages)}
    known |= {field: [stage[field] for stage in stages] for field in stages[0]}
    known["num_channels"] = known.pop("inputs")[0]
    head = {"head.bias": (1, 0), "linear_pred.bias": (1, 0)}
    if prefix or any(key.endswith(tuple(head)) for key in tensors):
        known["num_labels"] = most_frequent(tensors, head, 1)
    if prefix:
        known["decoder_hidden_size"] = most_frequent(tensors, {"linear_fuse.bn.bias": (1, 0)}, 256)
    return known


def _stage(tensors: Mapping[str, Tensor], prefix: str, number: int) -> dict[str, int]:
    block = f"{prefix}block{number}."
    inside = {key: tensor for key, tensor in tensors.items() if key.startswith(block)}
    width = most_frequent(inside, {"norm1.bias": (1, 0), "norm2.bias": (1, 0)}, 32)
    inner = most_frequent(inside, {"mlp.fc1.bias": (1, 0), "mlp.dwconv.dwconv.bias": (1, 0)}, 4 * width)
    if inner % width:
        raise ConversionError(
            f"the MLPs of stage {number} are {inner} wide, which is no multiple of its width {width}."
        )
    patches = f"{prefix}patch_embed{number}.proj.weight"
    inputs, patch_size = tensors[patches].shape[1:3] if rank_of(tensors, patches) == 4 else (3, 3)
    return {
        "inputs": inputs,
        "patch_sizes": patch_size,
        "hidden_sizes": width,
        "depths": block_count(
            [int(match[1]) for key in inside if (match := re.match(rf"{re.escape(block)}(\d+)\.", key))]
        ),
        "sr_ratios": most_frequent(inside, {"attn.sr.weight": (4, 2)}, 1),
        "mlp_ratios": inner // width,
    }


def _usual(known: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, list[int]]:
    """Heads and strides of the published models. Raises ConversionError where they cannot be meant and are not set."""
    usual = {"num_attention_heads": HEADS, "strides": STRIDES}
    stages = known["num_encoder_blocks"]
    fits = stages == len(HEADS) and not any(
        width % heads for width, heads in zip(known["hidden_sizes"], HEADS, strict=True)
    )
    if missing := [name for name in usual if name not in overrides and not fits]:
        raise ConversionError(
            f"the tensors do not show {' and '.join(missing)}, and stages of widths {known['hidden_sizes']} are none "
            "of a published model; set them, one number for each stage."
        )
    return usual


def _evaluation(config: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of the image processor, and what of them is assumed because the file does not say it."""
    protocol, size, window, stride = PUBLISHED.get(config["num_labels"], OTHERS)
    return mmseg.evaluation(size, window, stride, config["num_channels"], facts, protocol)


def _pretraining(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    options, said = timm_vit.preprocessing_of("deit", {**config, "image_size": PRETRAINED_SIZE})
    return options, [said]


FORMAT = Format(
    name="segformer",
    family="segformer",
    title="NVlabs/SegFormer (.pth)",
    repository="NVlabs/SegFormer",
    license="other",
    license_name="nvidia-source-code-license-segformer",
    container="pth",
    entries=("state_dict", None),
    model_types=("segformer", "nvlabs_segformer"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
    facts=mmseg.facts,
)
