"""fudan-zvg/SETR (.pth of mmcv, an entry "state_dict") <-> `setr`.

Paper:  Zheng et al. 2020, "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
        arXiv 2012.15840.
Source: fudan-zvg/SETR (MIT), its configurations and the files that they give.

The trunk has timm's names inside "backbone.", without a final norm. A decoder with levels is MLA, one with five
convolutions PUP, one with two naive. The files do not show which blocks are read: that is assumed as published.

Shapes: D width, c width of a convolution, K labels.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion import mmseg
from hfvision.conversion.engine import AnyRule, Drop, Rule, within
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, same
from hfvision.conversion.shapes import checked_size, most_frequent, position_grids, resampling
from hfvision.conversion.tables import timm_vit
from hfvision.errors import ConversionError
from hfvision.layers.patch_embedding import pair
from hfvision.models.setr import MLA_LEVELS, Decoder, SetrConfig, auxiliary_inputs, decoder_blocks
from hfvision.registry import SEMANTIC_SEGMENTATION

UNUSED = "the head's base class makes this classifier and the head never calls it"
UNUSED_CHANNELS = 512  # that it reads
PUP_CONVOLUTIONS = 4
AUXILIARY = ("auxiliary_head.{i}", "auxiliary_heads.{i}")

# Of the released configurations: (long, short) side of the resized photo, by labels and crop.
PUBLISHED_SIZES = {(19, 768): (2049, 1025), (60, 480): (520, 520), (150, 512): (2048, 512)}


def rules(decoder: Decoder, qkv_bias: bool, positions: Op = same) -> tuple[AnyRule, ...]:
    trunk = timm_vit.rules("backbone.", class_token=True, distilled=False, qkv_bias=qkv_bias, positions=positions)
    inside = within("backbone.", (rule for rule in trunk if rule != Rule("norm.{p}", "backbone.layernorm.{p}")))
    auxiliary = _head(*AUXILIARY, optional=True)
    mla_auxiliary = Rule(f"{AUXILIARY[0]}.aux.{{p}}", f"{AUXILIARY[1]}.classifier.{{p}}", optional=True)
    heads: dict[Decoder, tuple[AnyRule, ...]] = {
        "naive": (*_head("decode_head", "decode_head"), *auxiliary),
        "pup": (*_pup_head(), *auxiliary),
        "mla": (*_neck(), *_mla_head(), mla_auxiliary),
    }
    return (
        *inside,
        *heads[decoder],
        Drop("decode_head.conv_seg.{p}", because=UNUSED),
        Drop("auxiliary_head.{i}.conv_seg.{p}", because=UNUSED),
    )


def _head(source: str, target: str, optional: bool = False) -> tuple[AnyRule, ...]:
    """Norm, one convolution, classifier."""
    return (
        Rule(f"{source}.norm.{{p}}", f"{target}.norm.{{p}}", optional=optional),
        Rule(f"{source}.conv_0.{{p}}", f"{target}.conv.conv.{{p}}", optional=optional),
        Rule(f"{source}.syncbn_fc_0.{{p}}", f"{target}.conv.batch_norm.{{p}}", optional=optional),
        Rule(f"{source}.conv_1.{{p}}", f"{target}.classifier.{{p}}", optional=optional),
    )


def _pup_head() -> tuple[AnyRule, ...]:
    table: list[AnyRule] = [Rule("decode_head.norm.{p}", "decode_head.norm.{p}")]
    for number in range(PUP_CONVOLUTIONS):
        table += [
            Rule(f"decode_head.conv_{number}.{{p}}", f"decode_head.convs.{number}.conv.{{p}}"),
            Rule(f"decode_head.syncbn_fc_{number}.{{p}}", f"decode_head.convs.{number}.batch_norm.{{p}}"),
        ]
    return (*table, Rule(f"decode_head.conv_{PUP_CONVOLUTIONS}.{{p}}", "decode_head.classifier.{p}"))


def _neck() -> tuple[AnyRule, ...]:
    """The original counts its levels from 2, and its norms from 0."""
    table: list[AnyRule] = []
    for level in range(MLA_LEVELS):
        source = f"backbone.mla.mla_p{level + 2}"
        table += [
            Rule(f"backbone.norm_{level}.{{p}}", f"neck.norms.{level}.{{p}}"),
            Rule(f"{source}_1x1.0.{{p}}", f"neck.reductions.{level}.conv.{{p}}"),
            Rule(f"{source}_1x1.1.{{p}}", f"neck.reductions.{level}.batch_norm.{{p}}"),
            Rule(f"{source}.0.{{p}}", f"neck.convs.{level}.conv.{{p}}"),
            Rule(f"{source}.1.{{p}}", f"neck.convs.{level}.batch_norm.{{p}}"),
        ]
    return tuple(table)


def _mla_head() -> tuple[AnyRule, ...]:
    table: list[AnyRule] = []
    for level in range(MLA_LEVELS):
        for step, number in enumerate((0, 3)):  # convolution, norm, activation; then once more
            source, target = f"decode_head.mlahead.head{level + 2}", f"decode_head.levels.{level}.{step}"
            table += [
                Rule(f"{source}.{number}.{{p}}", f"{target}.conv.{{p}}"),
                Rule(f"{source}.{number + 1}.{{p}}", f"{target}.batch_norm.{{p}}"),
            ]
    return (*table, Rule("decode_head.cls.{p}", "decode_head.classifier.{p}"))


def matches(keys: Iterable[str]) -> bool:
    """timm's names inside a backbone, and a decoder's own norm or levels."""
    keys = set(keys)
    heads = {"decode_head.norm.weight", "decode_head.mlahead.head2.0.weight"}
    return "backbone.pos_embed" in keys and not keys.isdisjoint(heads)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of a SETR's config that go into config.json, and num_labels."""
    fixed = {"drop_path_rate", "_out_features", "_out_indices", "pooler_act", "pooler_output_size", "encoder_stride"}
    return settable(SetrConfig, fixed)


def plan(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    facts: Mapping[str, Any] | None = None,
) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told.

    `facts`: see `mmseg.facts`.
    """
    facts = facts or {}
    known = known_sizes(tensors)
    decoder, depth = known["decoder_type"], known["num_hidden_layers"]
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed = timm_vit.CODE | {
        "num_attention_heads": timm_vit.published_heads(known["hidden_size"], overrides),
        "decoder_indices": decoder_blocks(decoder, depth),
        "auxiliary_indices": auxiliary_inputs(decoder, depth, _auxiliary_count(tensors)),
    }
    config = settle(known, assumed, overrides)
    if len(config["auxiliary_indices"]) != _auxiliary_count(tensors):
        raise ConversionError(
            f"the checkpoint has {_auxiliary_count(tensors)} auxiliary heads; auxiliary_indices says what each of them "
            f"reads, got {config['auxiliary_indices']}."
        )
    source_grid, grid, config["image_size"] = position_grids(
        tensors, "backbone.pos_embed", config, 1, "backbone.cls_token"
    )
    positions, changed = same, tuple[str, ...]()
    if source_grid != grid:
        rule: Any = position_rule or "bicubic"
        positions, how = resampling(source_grid, grid, 1, rule)
        changed = (how,)
    crop = pair(config["image_size"])
    usual = PUBLISHED_SIZES.get((config["num_labels"], crop[0]), (4 * min(crop), min(crop)))
    stride = (crop[0] * 2 // 3, crop[1] * 2 // 3)
    preprocessing, prepared = mmseg.evaluation(usual, crop, stride, config["num_channels"], facts)
    labels = tuple(facts.get("labels", ()))
    said = unseen((*assumed, "image_size"), config, overrides)
    notes = [
        f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
        f"activation {config['hidden_act']}, {config['num_attention_heads']} attention heads, {decoder!r} decoder."
    ]
    if config["decoder_input_size"] != config["hidden_size"]:
        notes.append(
            f"The heads are made for tokens {config['decoder_input_size']} wide, the trunk gives "
            f"{config['hidden_size']}: neither this model nor the original can run."
        )
    return Plan(
        model_type="setr",
        auto_class=SEMANTIC_SEGMENTATION,
        config=config,
        rules=rules(decoder, config["qkv_bias"], positions),
        preprocessing=preprocessing,
        assumed=(*said.assumed, *prepared),
        given=said.given,
        changed=changed,
        labels=labels if len(labels) == config["num_labels"] else (),
        notes=tuple(notes),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """The original has a place for everything that a SETR can be, but for what its code fixes."""
    assert isinstance(config, SetrConfig)
    told = [(field, value, getattr(config, field)) for field, value in timm_vit.CODE.items()]
    auxiliary = [AUXILIARY[0].format(i=number) for number in range(len(config.auxiliary_indices or []))]
    heads = ["decode_head", *auxiliary]
    return BackPlan(
        auto_class=SEMANTIC_SEGMENTATION,
        model_options={},
        rules=rules(config.decoder_type, config.qkv_bias),
        stored=mmseg.unused_classifiers(heads, config.num_labels or 0, UNUSED_CHANNELS),
        notes=computed_otherwise(told),
    )


def known_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say; what is misshapen, the rules then name."""
    trunk = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items() if key.startswith("backbone.")}
    known = timm_vit.known_sizes({key: tensor for key, tensor in trunk.items() if not key.startswith("mla.")})
    known |= {"decoder_input_size": known["hidden_size"], "decoder_type": _decoder(tensors)}

    def size(key: str, rank: int, axis: int, otherwise: int) -> int:
        return most_frequent(tensors, {key: (rank, axis)}, otherwise)

    if known["decoder_type"] == "mla":
        return known | {
            "num_labels": size("decode_head.cls.bias", 1, 0, 1),
            "decoder_channels": size("backbone.mla.mla_p2.1.bias", 1, 0, 256),
            "level_channels": size("decode_head.mlahead.head2.1.bias", 1, 0, 128),
        }
    last = PUP_CONVOLUTIONS if known["decoder_type"] == "pup" else 1
    known |= {
        "num_labels": size(f"decode_head.conv_{last}.bias", 1, 0, 1),
        "decoder_channels": size("decode_head.conv_0.bias", 1, 0, 256),
        "decoder_input_size": size("decode_head.norm.bias", 1, 0, known["hidden_size"]),
    }
    if known["decoder_type"] == "naive":
        known["naive_kernel_size"] = size("decode_head.conv_0.weight", 4, 2, 1)
    return known


def _decoder(tensors: Mapping[str, Tensor]) -> Decoder:
    if any(key.startswith("decode_head.mlahead.") for key in tensors):
        return "mla"
    return "pup" if any(key.startswith(f"decode_head.conv_{PUP_CONVOLUTIONS}.") for key in tensors) else "naive"


def _auxiliary_count(tensors: Mapping[str, Tensor]) -> int:
    numbers = {match[1] for key in tensors if (match := re.match(r"auxiliary_head\.(\d+)\.", key))}
    return len(numbers)


FORMAT = Format(
    name="setr",
    family="setr",
    title="fudan-zvg/SETR (.pth)",
    repository="fudan-zvg/SETR",
    license="mit",
    container="pth",
    entries=("state_dict",),
    model_types=("setr",),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
    facts=mmseg.facts,
)
