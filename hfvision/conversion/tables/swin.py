"""microsoft/Swin-Transformer (.pth, an entry "model") <-> the Hub's `swin`, or `microsoft_swin` without patch norm.

Paper:  Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Source: microsoft/Swin-Transformer (MIT), its published classification models and what its training writes.

The original builds each window for the maps of one image size: on a map that is not larger than the window, its table
of relative positions has that map's size, while the Hub's has that of the window in every stage. The smaller one then
lies in the middle of the larger one. What can be computed from the sizes, the index into the table and the mask of
shifted windows, is stored in the original's files; it is compared, dropped, and made anew on the way back.

Shapes: D width, p patch, C channels, M places per side of a window, N = M * M, n windows, K labels.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hfvision.conversion.engine import Add, AnyRule, Drop, Rule
from hfvision.conversion.formats import BackPlan, Format, Plan, computed_otherwise, settable, settle, unseen
from hfvision.conversion.ops import Op, same, split
from hfvision.conversion.report import RECORD_FIELD
from hfvision.conversion.shapes import (
    block_count,
    check_stages,
    checked_size,
    most_frequent,
    position_grids,
    rank_of,
    resampling,
)
from hfvision.conversion.tables.timm_vit import PROCESSOR, preprocessing_of
from hfvision.errors import ConversionError, numbered
from hfvision.layers.patch_embedding import by, pair
from hfvision.layers.position import Grid, PositionRule, fit_bias_table
from hfvision.models.swin.model import SwinConfig
from hfvision.models.swin.windows import halved, shrunk_windows, window_plan

CLASSIFICATION = "AutoModelForImageClassification"
TABLE, INDEX, MASK = "attn.relative_position_bias_table", "attn.relative_position_index", "attn_mask"
RECOMPUTED = "follows from the sizes of map and window"

# What the original's code fixes and no tensor shows.
CODE = {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}
UNCROPPED = 384  # pixels per side from which the published models are evaluated without a crop

# Parts that models of similar names can have and the formats here cannot say: part of a key -> why not.
FOREIGN = {
    "attn.logit_scale": "it is a Swin V2, whose attention is another one",
    "attn.cpb_mlp.": "it is a Swin V2, whose relative positions come from a network",
    ".spatial_mlp": "it is a Swin-MLP, which has no attention",
    "mlp._moe_layer.": "it is a mixture of experts",
    "mask_token": "it was trained on masked images and has no head",
}


def rules(
    prefix: str, config: Mapping[str, Any], ops: Mapping[int, Op], positions: Op, merges_last: bool
) -> tuple[AnyRule, ...]:
    """The table of the trunk. `prefix` is "swin." where the model has a head around it; `ops` are those of the tables
    of relative positions by stage. With `merges_last` a merging layer ends its stage, else it begins the next.
    """
    layer, block = f"{prefix}encoder.layers.{{s}}.blocks.{{i}}", "layers.{s}.blocks.{i}"
    attention = f"{layer}.attention.self"
    table: list[AnyRule] = [Rule("patch_embed.proj.{p}", f"{prefix}embeddings.patch_embeddings.projection.{{p}}")]
    if config.get("patch_norm", True):
        table.append(Rule("patch_embed.norm.{p}", f"{prefix}embeddings.norm.{{p}}"))
    if config["use_absolute_embeddings"]:
        table.append(Rule("absolute_pos_embed", f"{prefix}embeddings.position_embeddings", positions))
    table.append(Rule(f"{block}.norm1.{{p}}", f"{layer}.layernorm_before.{{p}}"))
    for part in ("weight", "bias") if config["qkv_bias"] else ("weight",):
        parts = (f"{attention}.query.{part}", f"{attention}.key.{part}", f"{attention}.value.{part}")
        table.append(Rule(f"{block}.attn.qkv.{part}", parts, split(3)))
    for stage, op in ops.items():
        blocks = f"layers.{stage}.blocks.{{i}}"
        table.append(
            Rule(f"{blocks}.{TABLE}", f"{prefix}encoder.{blocks}.attention.self.relative_position_bias_table", op)
        )
    table += [
        Rule(f"{block}.attn.proj.{{p}}", f"{layer}.attention.output.dense.{{p}}"),
        Rule(f"{block}.norm2.{{p}}", f"{layer}.layernorm_after.{{p}}"),
        Rule(f"{block}.mlp.fc1.{{p}}", f"{layer}.intermediate.dense.{{p}}"),
        Rule(f"{block}.mlp.fc2.{{p}}", f"{layer}.output.dense.{{p}}"),
    ]
    for stage, following in pairwise(ops):
        theirs = f"layers.{stage if merges_last else following}.downsample"
        table.append(Rule(f"{theirs}.norm.{{p}}", f"{prefix}encoder.layers.{stage}.downsample.norm.{{p}}"))
        table.append(Rule(f"{theirs}.reduction.{{p}}", f"{prefix}encoder.layers.{stage}.downsample.reduction.{{p}}"))
    return (*table, Rule("norm.{p}", f"{prefix}layernorm.{{p}}"))


HEAD = "head."  # the beginning of its keys
STORED_BUFFERS = (
    Drop(f"layers.{{s}}.blocks.{{i}}.{INDEX}", because=RECOMPUTED),
    Drop(f"layers.{{s}}.blocks.{{i}}.{MASK}", because=RECOMPUTED),
)


def head_rules(head: str, has_head: bool) -> tuple[AnyRule, ...]:
    return (Rule(f"{head}{{p}}", "classifier.{p}"),) if has_head else ()


def matches(keys: Iterable[str]) -> bool:
    """Stages of blocks with a table of relative positions, a merging layer at the end of the first."""
    keys = set(keys)
    merges = any(".downsample." in key for key in keys)
    last = not merges or any(key.startswith("layers.0.downsample.") for key in keys)
    return has_stages(keys) and last and not any(key.startswith("head.fc.") for key in keys)


def has_stages(keys: set[str]) -> bool:
    pattern = rf"layers\.\d+\.blocks\.\d+\.{re.escape(TABLE)}"
    return "patch_embed.proj.weight" in keys and any(re.fullmatch(pattern, key) for key in keys)


@cache
def fields() -> tuple[str, ...]:
    """What can be set: the fields of a Swin's config, and num_labels."""
    return settable(SwinConfig, {"_out_features", "_out_indices"})


def plan(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], position_rule: str | None) -> Plan:
    """Raises ConversionError for settings that the tensors contradict, and for parts and sizes that cannot be told."""
    config, windows, stored_size = settled(tensors, overrides, HEAD)
    check_buffers(tensors, {**config, "image_size": stored_size.pixels, "window_size": max(windows)})
    protocol = "swin-no-crop" if min(pair(config["image_size"])) >= UNCROPPED else "swin"
    plan = plan_for(tensors, config, windows, position_rule, HEAD, True, preprocessing_of(protocol, config), FORMAT)
    names = [*CODE] if stored_size.told else [*CODE, "image_size"]
    said = unseen(names, config, overrides)
    wanted, changed = pair(config["image_size"]), plan.changed
    if stored_size.told and pair(stored_size.pixels) != wanted:
        changed += (f"what the file stores for images of {by(pair(stored_size.pixels))} comes back for {by(wanted)}",)
    return replace(plan, assumed=(*said.assumed, *plan.assumed), given=said.given, changed=changed)


def plan_for(
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    windows: list[int],
    position_rule: str | None,
    head: str,
    merges_last: bool,
    prepared: tuple[dict[str, Any], str],
    format: Format,
) -> Plan:
    """The plan for a checkpoint of these names. `windows`: the side at each stage that the stored tables are for;
    `prepared`: the options of the image processor and what of them is assumed.
    """
    rule: Any = position_rule or "bicubic"
    has_head = any(key.startswith(head) for key in tensors)
    preprocessing, said_of_images = prepared
    changed: tuple[str, ...] = ()
    positions, ops = same, {}
    if config["use_absolute_embeddings"]:
        grid, new_grid, config["image_size"] = position_grids(tensors, "absolute_pos_embed", config, 0, "cls_token")
        if grid != new_grid:
            positions, said = resampling(grid, new_grid, 0, rule)
            changed += (said,)
    for stage, (stored, used) in enumerate(zip(windows, windows_of(config), strict=True)):
        ops[stage] = placing(stored, config["window_size"], used, rule)
        if stored != used:
            changed += (
                f"the bias tables of stage {stage + 1} were resampled from windows of {stored}x{stored} to "
                f"{used}x{used} ({rule})",
            )
    smaller = [stage + 1 for stage, used in enumerate(windows_of(config)) if used < config["window_size"]]
    notes = [
        f"The architecture follows the code of {format.repository}: layer norm epsilon {config['layer_norm_eps']}, "
        f"activation {config['hidden_act']}, windows that shrink to smaller maps."
    ]
    if smaller:
        notes.append(
            f"On images larger than {by(pair(config['image_size']))} pixels, stage {', '.join(map(str, smaller))} has "
            "windows larger than those it was trained with; offsets that are new there have no bias."
        )
    return Plan(
        model_type="swin" if config.get("patch_norm", True) else "microsoft_swin",
        auto_class=CLASSIFICATION if has_head else "AutoModel",
        config=config,
        rules=(
            *rules("swin." if has_head else "", config, ops, positions, merges_last),
            *head_rules(head, has_head),
            *STORED_BUFFERS,
        ),
        preprocessing=preprocessing,
        processor=PROCESSOR if preprocessing["do_center_crop"] else None,
        model_options={} if has_head else {"add_pooling_layer": False},
        assumed=(said_of_images,),
        changed=changed,
        notes=tuple(notes),
    )


def plan_back(config: PreTrainedConfig, keys: Iterable[str]) -> BackPlan:
    """Raises ConversionError for a model that the original's code cannot be made to compute."""
    plan = plan_back_for(config, keys, HEAD, merges_last=True)
    record = getattr(config, RECORD_FIELD, None) or {}
    made = buffers(config.to_dict())
    as_stored = record.get("format") == FORMAT.name and not record.get("changed")
    recorded = record.get("unused", {})
    drops = tuple(Drop(key, because=RECOMPUTED, restore=lambda *_, make=make: make()) for key, make in made.items())
    adds = tuple(
        Add(key, because=RECOMPUTED, make=make) for key, make in made.items() if key not in recorded and not as_stored
    )
    return replace(plan, rules=(*plan.rules, *drops), extra=(*plan.extra, *adds))


def plan_back_for(config: Any, keys: Iterable[str], head: str, merges_last: bool) -> BackPlan:
    """The way back without buffers."""
    keys = list(keys)
    if any(key.startswith("hidden_states_norms.") for key in keys):
        raise ConversionError(
            "the original's classification models have no place for the norms of a backbone's maps "
            "(hidden_states_norms); convert the dense model that it belongs to, or save the trunk alone "
            "(backbone.base_model.save_pretrained)."
        )
    classifies, paints = (any(key.startswith(f"{part}.") for key in keys) for part in ("classifier", "decoder"))
    prefix = "swin." if classifies or paints else ""
    masks = [key for key in keys if key.startswith("decoder.") or key == f"{prefix}embeddings.mask_token"]
    fields = config.to_dict()
    ops = {stage: placing(used, config.window_size, used) for stage, used in enumerate(windows_of(fields))}
    return BackPlan(
        auto_class=CLASSIFICATION if classifies else "AutoModelForMaskedImageModeling" if paints else "AutoModel",
        model_options={} if prefix else {"add_pooling_layer": False, "use_mask_token": bool(masks)},
        rules=(*rules(prefix, fields, ops, same, merges_last), *head_rules(head, classifies)),
        extra=tuple(Drop(key, because="only for training on masked images, unknown to the original") for key in masks),
        notes=computed_otherwise((field, value, getattr(config, field)) for field, value in CODE.items()),
    )


@dataclass(frozen=True)
class StoredSize:
    """The image_size that a file was made for."""

    pixels: int | list[int]
    told: bool  # by its tensors; else it is usual


def settled(
    tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], head: str
) -> tuple[dict[str, Any], list[int], StoredSize]:
    """The config, and what the file was made for: the side of the windows at each stage, the size of the images.

    Raises ConversionError.
    """
    check_parts(tensors)
    known, windows = known_sizes(tensors, head)
    size = stored_image_size(tensors, known, windows)
    if "image_size" in overrides:
        overrides = {**overrides, "image_size": checked_size(overrides["image_size"])}
    assumed = CODE | {"window_size": max(windows), "image_size": size.pixels}
    if isinstance(known["patch_size"], int):
        assumed["encoder_stride"] = known["patch_size"] * 2 ** (len(windows) - 1)  # would paint the whole image
    config = settle(known, assumed, overrides)
    if type(config["window_size"]) is not int or config["window_size"] < 1:
        raise ConversionError(f"window_size is a number of places, at least 1; got {config['window_size']!r}.")
    return config, windows, size


def check_parts(tensors: Mapping[str, Tensor]) -> None:
    """Raises ConversionError that names every part which no model here has, once each."""
    problems = []
    for part, reason in FOREIGN.items():
        found = [key for key in tensors if part in key]
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            problems.append(f"{found[0]} {tuple(tensors[found[0]].shape)}{others}: {reason}")
    if problems:
        raise ConversionError(f"this variant cannot be converted, {numbered('mismatch', problems)}")


def known_sizes(tensors: Mapping[str, Tensor], head: str) -> tuple[dict[str, Any], list[int]]:
    """What the shapes say, and the side of the windows at each stage. Where shapes disagree the most frequent answer
    counts, and the rules then name the others.
    """
    numbers = [tuple(map(int, match.groups())) for key in tensors if (match := _BLOCK.match(key))]
    stages = block_count([stage for stage, _ in numbers])
    depths = [block_count([block for at, block in numbers if at == stage]) for stage in range(stages)]
    check_stages(depths, "the stages", "layers.0.blocks.0.norm1.weight")
    channels, height, width, embed_dim = 3, 4, 4, 96
    kernel = "patch_embed.proj.weight"
    if rank_of(tensors, kernel) == 4 and tensors[kernel].numel():
        embed_dim, channels, height, width = tensors[kernel].shape
    heads, windows = [], []
    for stage in range(stages):
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"layers.{stage}.blocks.")}
        heads.append(most_frequent(own, {TABLE: (2, 1)}, 1))
        windows.append(_window_of(most_frequent(own, {TABLE: (2, 0)}, 1), stage))
    inner = {"mlp.fc1.bias": (1, 0), "mlp.fc1.weight": (2, 0), "mlp.fc2.weight": (2, 1)}
    first = {key: tensor for key, tensor in tensors.items() if key.startswith("layers.0.blocks.")}
    known: dict[str, Any] = {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "mlp_ratio": most_frequent(first, inner, 4 * embed_dim) / embed_dim,
        "patch_size": height if height == width else [height, width],
        "num_channels": channels,
        "qkv_bias": any(key.endswith(".attn.qkv.bias") for key in tensors),
        "use_absolute_embeddings": "absolute_pos_embed" in tensors,
    }
    if not any(key.startswith("patch_embed.norm.") for key in tensors):
        known["patch_norm"] = False
    if any(key.startswith(head) for key in tensors):
        known["num_labels"] = most_frequent(tensors, {f"{head}bias": (1, 0), f"{head}weight": (2, 0)}, 1000)
    return known, windows


_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")


def _window_of(rows: int, stage: int) -> int:
    side = isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise ConversionError(
            f"the tables of relative positions in stage {stage + 1} have {rows} rows; those of windows of M x M places "
            "have (2 * M - 1)^2. Windows that are not square have no place here."
        )
    return (side + 1) // 2


def stored_image_size(tensors: Mapping[str, Tensor], known: Mapping[str, Any], windows: list[int]) -> StoredSize:
    """From a mask, a position table or a shrunk window; else the size at which the last map is one window."""
    patch_height, patch_width = pair(known["patch_size"])

    def pixels(rows: int, columns: int, stage: int) -> int | list[int]:
        return checked_size([rows * patch_height * 2**stage, columns * patch_width * 2**stage])

    masks = sorted(
        (int(key.split(".")[1]), key) for key in tensors if key.endswith(MASK) and rank_of(tensors, key) == 3
    )
    for stage, key in masks:
        if stage < len(windows) and (rows := _rows_of_windows(tensors[key], windows[stage])):
            columns = tensors[key].shape[0] // rows
            return StoredSize(pixels(rows * windows[stage], columns * windows[stage], stage), told=True)
    if rank_of(tensors, "absolute_pos_embed") == 3:
        count = tensors["absolute_pos_embed"].shape[1]
        if isqrt(count) ** 2 == count:
            return StoredSize(pixels(isqrt(count), isqrt(count), 0), told=True)
    stage = next((stage for stage, side in enumerate(windows) if side < max(windows)), len(windows) - 1)
    return StoredSize(pixels(windows[stage], windows[stage], stage), told=windows[stage] < max(windows))


def _rows_of_windows(mask: Tensor, window: int) -> int:
    """Rows of windows that a stored mask (n, N, N) is for; 0 if it cannot be told."""
    count = mask.shape[0]
    if mask.is_meta or mask.shape[1:] != (window * window, window * window):
        return isqrt(count) if isqrt(count) ** 2 == count else 0
    rows = int((mask[:, 0, window - 1] != 0).sum())  # in the last column, both ends of a line are from far apart
    return rows if rows and count % rows == 0 else 0


def check_buffers(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Raises ConversionError that lists the stored indices and masks which are not those of the config's sizes:
    dropping them would change what is computed.
    """
    problems = [
        f"{key} {tuple(tensors[key].shape)} is not what the sizes of map and window give"
        for key, make in buffers(config).items()
        if key in tensors and not tensors[key].is_meta and not torch.equal(tensors[key].double(), make().double())
    ]
    if problems:
        raise ConversionError(f"this variant cannot be converted, {numbered('mismatch', problems)}")


def windows_of(config: Mapping[str, Any]) -> list[int]:
    """The side of the windows at each stage for images of the config's size."""
    return shrunk_windows(config["image_size"], config["patch_size"], config["window_size"], len(config["depths"]))


def placing(stored: int, window: int, used: int, rule: PositionRule = "bicubic") -> Op:
    """A table of relative positions for windows of `stored` places per side <-> the middle of one for `window`, of
    which `used` are in use; resampled where the two differ, which the way back cannot undo.
    """
    if stored == used == window:
        return same

    def middle_of(table: Tensor) -> Tensor:
        middle = fit_bias_table(table, window, used, used, used)
        if not table.is_meta and table.count_nonzero() != middle.count_nonzero():
            raise ValueError(f"it has values for offsets that windows of {used}x{used} places have not")
        return middle

    return Op(
        f"placing a table for windows of {used}x{used} in one for {window}x{window}",
        lambda table: fit_bias_table(table, stored, stored, window, used, rule),
        middle_of,
        exact=stored == used,
    )


def buffers(config: Mapping[str, Any]) -> dict[str, Callable[[], Tensor]]:
    """What the original stores besides weights, for images of the config's size: key -> how it is made."""
    (height, width), (patch_height, patch_width) = pair(config["image_size"]), pair(config["patch_size"])
    grid, window = (-(-height // patch_height), -(-width // patch_width)), config["window_size"]
    made: dict[str, Callable[[], Tensor]] = {}
    for stage, (depth, used) in enumerate(zip(config["depths"], windows_of(config), strict=True)):
        for block in range(depth):
            made[f"layers.{stage}.blocks.{block}.{INDEX}"] = partial(relative_position_index, used)
            if block % 2 == 1 and window > 1 and min(grid) > window:
                made[f"layers.{stage}.blocks.{block}.{MASK}"] = partial(attention_mask, grid, window)
        grid = halved(grid)
    return made


def relative_position_index(window: int) -> Tensor:
    """(N, N): the row of the table for each query and key."""
    plan: Any = window_plan((window, window), window, shifted=False, shrinks=True, like=torch.empty(0))
    return plan.offsets.reshape(window**2, window**2).clone()


def attention_mask(grid: Grid, window: int) -> Tensor:
    """(n, N, N): -100 where the shift has brought together what is apart, else 0."""
    plan: Any = window_plan(grid, window, shifted=True, shrinks=True, like=torch.empty(0))
    return plan.masks[plan.kinds].reshape(-1, window**2, window**2)


FORMAT = Format(
    name="swin",
    family="swin",
    title="microsoft/Swin-Transformer (.pth)",
    repository="microsoft/Swin-Transformer",
    license="mit",
    container="pth",
    entries=("model",),
    model_types=("swin", "microsoft_swin"),
    fields=fields,
    matches=matches,
    plan=plan,
    plan_back=plan_back,
)
