"""rstrudel/segmenter (checkpoint.pth beside variant.yml) <-> our `segmenter`.

Paper:  Strudel et al. 2021, "Segmenter: Transformer for Semantic Segmentation", arXiv 2105.05633.
Source: rstrudel/segmenter (MIT), its published files and what its training writes.

The encoder has timm's names. Of what the tensors do not show, `variant.yml` says heads, normalisation and evaluation;
without it these are assumed to be those of the published models. The way back writes both files.

Shapes: D width, E width of the decoder, N tokens, K labels.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hfvision import checkpoints
from hfvision.conversion.engine import AnyRule, Drop, Rule, Unused, within
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, same
from hfvision.conversion.report import RECORD_FIELD
from hfvision.conversion.shapes import checked_size, most_frequent, position_grids, resampling
from hfvision.conversion.tables import timm_vit
from hfvision.errors import ConversionError, numbered
from hfvision.layers.patch_embedding import pair
from hfvision.models.segmenter import SegmenterConfig
from hfvision.processing.label_map import LabelMap
from hfvision.processing.protocols import segmentation_options
from hfvision.registry import SEMANTIC_SEGMENTATION

VARIANT = "variant.yml"
CODE = {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}  # what the original's code fixes and no tensor shows
DATASETS = {"ade20k": "ade20k-150", "cityscapes": "cityscapes-19", "pascal_context": "pascal-context-60"}
BACKBONES = {192: "vit_tiny_patch16_384", 384: "vit_small_patch16_384", 1024: "vit_large_patch16_384"}
PRETRAINED_CLASSES = 1000  # of the head that is stored and never called
HEAD_SIZE = 64  # width of a head in the original's decoder
NORMALIZATIONS = ("vit", "deit")


def rules(config: Mapping[str, Any], positions: Op = same) -> tuple[AnyRule, ...]:
    distilled, qkv_bias = config["distilled"], config["qkv_bias"]
    trunk = timm_vit.rules("segmenter.", class_token=True, distilled=distilled, qkv_bias=qkv_bias, positions=positions)
    unused = (Drop("head.{p}", because=UNUSED), Drop("head_dist.{p}", because=UNUSED))
    decoder = LINEAR if config["decoder_type"] == "linear" else MASK_TRANSFORMER
    return (*within("encoder.", (*trunk, *unused)), *within("decoder.", decoder))


UNUSED = "the backbone's classifier from its pre-training, stored and never called"
LINEAR = (Rule("head.{p}", "decoder.classifier.{p}"),)
MASK_TRANSFORMER = (
    Rule("proj_dec.{p}", "decoder.projection.{p}"),
    Rule("cls_emb", "decoder.class_tokens"),
    *timm_vit.block_rules("decoder.layer.{i}", qkv_bias=True, or_zeros=True),
    Rule("decoder_norm.{p}", "decoder.layernorm.{p}"),
    Rule("proj_patch", "decoder.patch_projection"),
    Rule("proj_classes", "decoder.class_projection"),
    Rule("mask_norm.{p}", "decoder.mask_norm.{p}"),
)


def matches(keys: Iterable[str]) -> bool:
    """timm's names inside an encoder, beside one of the two decoders."""
    keys = set(keys)
    return "encoder.pos_embed" in keys and not keys.isdisjoint({"decoder.cls_emb", "decoder.head.weight"})


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of a Segmenter's config that go into config.json, and num_labels."""
    fixed = {"drop_path_rate", "_out_features", "_out_indices", "pooler_act", "pooler_output_size", "encoder_stride"}
    return settable(SegmenterConfig, fixed)


def facts(checkpoint: checkpoints.Checkpoint) -> dict[str, Any]:
    """What variant.yml beside the file says; nothing if it is not there. Raises CheckpointReadError."""
    path = None if checkpoint.path is None else checkpoint.path.with_name(VARIANT)
    return {} if path is None or not path.is_file() else checkpoints.read_yaml(path)


def plan(
    tensors: Mapping[str, Tensor],
    overrides: Mapping[str, Any],
    position_rule: str | None,
    variant: Mapping[str, Any] | None = None,
) -> Plan:
    """`variant`: what variant.yml says. Raises ConversionError for settings that the tensors contradict, and for parts
    and sizes that cannot be told.
    """
    variant = variant or {}
    net = _section(variant, "net_kwargs")
    known = known_sizes(tensors)
    _check_variant(net, known)
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed = CODE | _heads(known, net, overrides)
    told = {"image_size": checked_size(net["image_size"])} if "image_size" in net else {}
    config = settle(known, {**assumed, **told}, overrides)
    tokens = 1 + known["distilled"]
    source_grid, grid, config["image_size"] = position_grids(
        tensors, "encoder.pos_embed", config, tokens, "encoder.cls_token"
    )
    positions, changed = same, []
    if source_grid != grid:
        rule: Any = position_rule or "bilinear"
        positions, said = resampling(source_grid, grid, tokens, rule)
        changed.append(said)
    preprocessing, prepared = _evaluation(config, variant)
    said_by_variant = {"num_attention_heads": "n_heads", "image_size": "image_size"}
    names = (name for name in (*assumed, "image_size") if name in overrides or said_by_variant.get(name) not in net)
    hidden = unseen(names, config, overrides)
    notes = [
        f"The architecture follows the code of {FORMAT.repository}: layer norm epsilon {config['layer_norm_eps']}, "
        f"activation {config['hidden_act']}, {config['num_attention_heads']} attention heads."
    ]
    if config["num_attention_heads"] != net.get("n_heads", config["num_attention_heads"]):
        notes.append(f"{VARIANT} beside the file says {net['n_heads']} attention heads.")
    labels = DATASETS.get(str(_section(variant, "dataset_kwargs").get("dataset")))
    label_map = LabelMap.named(labels) if labels else None
    if label_map is not None and label_map.num_labels == config["num_labels"]:
        preprocessing["label_map"] = labels
    else:
        label_map = None
    return Plan(
        model_type="segmenter",
        auto_class=SEMANTIC_SEGMENTATION,
        config=config,
        rules=rules(config, positions),
        preprocessing=preprocessing,
        assumed=(*hidden.assumed, *prepared),
        given=hidden.given,
        changed=tuple(changed),
        labels=() if label_map is None else tuple(label_map.id2label.values()),
        kept={"variant": variant} if variant else {},
        notes=tuple(notes),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for an encoder alone."""
    assert isinstance(config, SegmenterConfig)
    if not any(key.startswith("decoder.") for key in keys):
        raise ConversionError("the original has no file of an encoder without a decoder; convert the whole model.")
    told: list[tuple[str, Any, Any]] = [(name, value, getattr(config, name)) for name, value in CODE.items()]
    told.append(("intermediate_size", 4 * config.hidden_size, config.intermediate_size))
    if config.decoder_type == "mask_transformer":
        width = config.hidden_size
        told += [
            ("decoder_hidden_size", width, config.decoder_hidden_size),
            ("decoder_num_attention_heads", width // HEAD_SIZE, config.decoder_num_attention_heads),
            ("decoder_intermediate_size", 4 * width, config.decoder_intermediate_size),
        ]
    return BackPlan(
        auto_class=SEMANTIC_SEGMENTATION,
        model_options={},
        rules=rules(vars(config)),
        stored=_pretrained_heads(config),
        beside={VARIANT: checkpoints.yaml_text(_variant_of(config))},
        notes=computed_otherwise(told),
    )


def _pretrained_heads(config: SegmenterConfig) -> dict[str, Unused]:
    """The original's encoder is a classifier with its head, and its loader wants that in the file."""
    shapes = {"weight": (PRETRAINED_CLASSES, config.hidden_size), "bias": (PRETRAINED_CLASSES,)}
    heads = ("head", "head_dist") if config.distilled else ("head",)
    return {f"encoder.{head}.{part}": Unused(shape, torch.float32) for head in heads for part, shape in shapes.items()}


def known_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say; what is misshapen, the rules then name."""
    trunk = {key.removeprefix("encoder."): tensor for key, tensor in tensors.items() if key.startswith("encoder.")}
    known = timm_vit.known_sizes(trunk)
    known |= {"distilled": "dist_token" in trunk, "decoder_type": "linear"}
    if "decoder.cls_emb" not in tensors:
        return known | {"num_labels": most_frequent(tensors, {"decoder.head.bias": (1, 0)}, 1)}
    decoder = {key.removeprefix("decoder."): tensor for key, tensor in tensors.items() if key.startswith("decoder.")}
    blocks = timm_vit.known_sizes(decoder)
    return known | {
        "decoder_type": "mask_transformer",
        "num_labels": most_frequent(decoder, {"cls_emb": (3, 1), "mask_norm.bias": (1, 0)}, 2),
        "decoder_hidden_size": most_frequent(decoder, {"proj_dec.bias": (1, 0), "decoder_norm.bias": (1, 0)}, 768),
        "decoder_layers": blocks["num_hidden_layers"],
        "decoder_intermediate_size": blocks["intermediate_size"],
    }


def _heads(known: Mapping[str, Any], net: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, int]:
    """Raises ConversionError where neither variant.yml nor a published width tells the number of heads."""
    said = net.get("n_heads")
    count = said if type(said) is int else timm_vit.published_heads(known["hidden_size"], overrides)
    heads = {"num_attention_heads": count}
    if known["decoder_type"] == "linear":
        return heads
    width = known["decoder_hidden_size"]
    if "decoder_num_attention_heads" not in overrides and (width < HEAD_SIZE or width % HEAD_SIZE):
        raise ConversionError(
            f"neither the tensors nor {VARIANT} show the decoder's number of attention heads, and a width of {width} "
            f"has no heads of {HEAD_SIZE}, as the original's; set decoder_num_attention_heads."
        )
    return {**heads, "decoder_num_attention_heads": max(width // HEAD_SIZE, 1)}


def _section(variant: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = variant.get(name, {})
    if not isinstance(section, Mapping):
        raise ConversionError(f"{VARIANT} should hold settings under {name!r}; got {section!r}.")
    return section


def _check_variant(net: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises ConversionError that lists everything in which variant.yml contradicts the tensors beside it."""
    decoder = _section(net, "decoder")
    said = {
        "d_model": (net, "hidden_size"),
        "n_layers": (net, "num_hidden_layers"),
        "n_cls": (net, "num_labels"),
        "patch_size": (net, "patch_size"),
        "distilled": (net, "distilled"),
        "decoder.name": (decoder, "decoder_type"),
        "decoder.n_layers": (decoder, "decoder_layers"),
    }
    wrong = [
        f"{name} is {section[key]!r} in {VARIANT}, the tensors say {known[field]!r}"
        for name, (section, field) in said.items()
        if (key := name.rpartition(".")[2]) in section and field in known and section[key] != known[field]
    ]
    if wrong:
        raise ConversionError(
            f"{numbered('mismatch', wrong)}\nPut the {VARIANT} of this checkpoint beside it, or none."
        )


def _evaluation(config: Mapping[str, Any], variant: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of the image processor, and what of them is assumed because variant.yml does not say it."""
    inference, side = _section(variant, "inference_kwargs"), min(pair(config["image_size"]))
    assumed = []
    normalization = _section(variant, "net_kwargs").get("normalization")
    if normalization not in NORMALIZATIONS:
        normalization = "deit" if config["distilled"] else "vit"
        assumed.append(f"images normalised as for {normalization!r}")
    settings = {"im_size": side, "window_size": side, "window_stride": side}
    for name, otherwise in settings.items():
        if type(inference.get(name)) is int and inference[name] > 0:
            settings[name] = inference[name]
        else:
            assumed.append(f"{name} = {otherwise}")
    size, window, stride = settings.values()
    options = segmentation_options(
        f"segmenter-{normalization}", (4 * size, size), window_size=window, window_stride=stride
    )
    if config["num_channels"] != 3:
        options |= {name: [0.5] * config["num_channels"] for name in ("image_mean", "image_std")}
        assumed.append(f"mean and deviation 0.5 for {config['num_channels']} channels")
    return options, assumed


def _variant_of(config: SegmenterConfig) -> dict[str, Any]:
    """What the original reads beside the weights: as it was, but for what the model has meanwhile become."""
    record = getattr(config, RECORD_FIELD, None) or {}
    kept: dict[str, Any] = (record.get("kept") or {}).get("variant") or {}
    normalization = "deit" if config.distilled else "vit"
    size = min(pair(config.image_size))
    backbone = "deit_base_distilled_patch16_384" if config.distilled else BACKBONES.get(config.hidden_size)
    net: dict[str, Any] = {"backbone": backbone or "vit_base_patch16_384", "normalization": normalization}
    net |= {"dropout": float(config.hidden_dropout_prob), "drop_path_rate": 0.1, **kept.get("net_kwargs", {})}
    decoder: dict[str, Any] = {}
    if config.decoder_type == "mask_transformer":
        decoder = {"drop_path_rate": 0.0, "dropout": float(config.decoder_dropout_prob), **net.get("decoder", {})}
        decoder["n_layers"] = config.decoder_layers
    net |= {
        "d_model": config.hidden_size,
        "decoder": decoder | {"name": config.decoder_type},
        "distilled": config.distilled,
        "image_size": pair(config.image_size),
        "n_cls": config.num_labels,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "patch_size": config.patch_size,
    }
    return {
        "dataset_kwargs": {"normalization": normalization, "image_size": size, "crop_size": size},
        "inference_kwargs": {"im_size": size, "window_size": size, "window_stride": size},
        **kept,
        "net_kwargs": net,
    }


FORMAT = Format(
    name="segmenter",
    family="segmenter",
    title=f"rstrudel/segmenter (checkpoint.pth beside {VARIANT})",
    repository="rstrudel/segmenter",
    license="mit",
    container="pth",
    entries=("model",),
    model_types=("segmenter",),
    fields=fields,
    tells_heads=True,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
    facts=facts,
)
