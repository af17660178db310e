"""Adapters (PEFT's: LoRA and others) between the names of modules here and those of plain transformers 5.

Files hold weights by the names that they have here and in transformers 4. Plain transformers 5 renames modules when it
loads a file, and an adapter trained there holds its own names, in the keys of its tensors and in the list of modules
that it targets. PEFT's key mapping reaches the keys alone, so here the whole folder is written anew.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hfvision import checkpoints
from hfvision.conversion.writing import check_folder, new_folder
from hfvision.errors import CheckpointReadError, ConfigError, ConversionError, numbered
from hfvision.registry import ARCHITECTURES, class_name

Names = Literal["hfvision", "transformers5"]

CONFIG_FILE, WEIGHTS_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
KEPT = ("README.md", "LICENSE*", "NOTICE*")
PREFIX = "base_model.model."  # of every key

# What follows the name of a module in the keys of its adapter's tensors.
OF_ADAPTERS = r"\.(?:lora_|hada_|lokr_|ia3_|vera_|oft_|boft_|ln_tuning_|randlora_|fourierft_|miss_|bone_)"

# Fields that say in another way which modules `target_modules` means; once these are listed one by one, they are empty.
SELECTING = ("exclude_modules", "layers_to_transform", "layers_pattern")
BY_MODULE = ("rank_pattern", "alpha_pattern")  # {pattern of modules: value}

_PROJECTIONS = ("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")
_SEGFORMER_BLOCK = ("encoder.block.{}.{}", "stages.{}.blocks.{}")

# (name here, name in plain transformers 5), a hole for each number. The tables are applied one after another, backwards
# on the way back; in a table the longest name that fits counts.
TABLES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("backbone.encoder.layers", "backbone.swin.encoder.layers"), ("backbone.embeddings", "backbone.swin.embeddings")),
    (
        *((f"blocks.{{}}.attention.self.{ours}", f"blocks.{{}}.attention.{theirs}") for ours, theirs in _PROJECTIONS),
        ("blocks.{}.attention.output.dense", "blocks.{}.attention.o_proj"),
        ("blocks.{}.intermediate.dense", "blocks.{}.mlp.fc1"),
        ("blocks.{}.output.dense", "blocks.{}.mlp.fc2"),
        *(
            (f"{_SEGFORMER_BLOCK[0]}.{ours}", f"{_SEGFORMER_BLOCK[1]}.{theirs}")
            for ours, theirs in (
                *((f"attention.self.{ours}", f"attention.{theirs}") for ours, theirs in _PROJECTIONS),
                ("attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
                ("attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
                ("attention.output.dense", "attention.o_proj"),
                ("mlp.dense1", "mlp.fc1"),
                ("mlp.dense2", "mlp.fc2"),
                ("mlp.dwconv", "mlp.dwconv"),
                ("layer_norm_1", "layernorm_before"),
                ("layer_norm_2", "layernorm_after"),
            )
        ),
        ("encoder.patch_embeddings.{}", "stages.{}.patch_embeddings"),
        ("encoder.layer_norm.{}", "stages.{}.layer_norm"),
        ("decode_head.linear_c", "decode_head.linear_projections"),
    ),
    (
        *(
            (f"encoder.layer.{{}}.{ours}", f"layers.{{}}.{theirs}")
            for ours, theirs in (
                *((f"attention.attention.{ours}", f"attention.{theirs}") for ours, theirs in _PROJECTIONS),
                ("attention.output.dense", "attention.o_proj"),
                ("intermediate.dense", "mlp.fc1"),
                ("output.dense", "mlp.fc2"),
                ("layernorm_before", "layernorm_before"),
                ("layernorm_after", "layernorm_after"),
            )
        ),
    ),
    (
        ("backbone.conv_encoder.model", "backbone.model"),
        *(
            (f"{part}.layers.{{}}.{ours}", f"{part}.layers.{{}}.{theirs}")
            for part in ("encoder", "decoder")
            for ours, theirs in (
                ("self_attn.out_proj", "self_attn.o_proj"),
                ("encoder_attn.out_proj", "encoder_attn.o_proj"),
                ("fc1", "mlp.fc1"),
                ("fc2", "mlp.fc2"),
            )
        ),
        ("bbox_attention.q_linear", "bbox_attention.q_proj"),
        ("bbox_attention.k_linear", "bbox_attention.k_proj"),
        *((f"mask_head.lay{step}", f"mask_head.conv{step}.conv") for step in (1, 2)),
        *((f"mask_head.gn{step}", f"mask_head.conv{step}.norm") for step in (1, 2)),
        *((f"mask_head.lay{step}", f"mask_head.fpn_stages.{step - 3}.refine.conv") for step in (3, 4, 5)),
        *((f"mask_head.gn{step}", f"mask_head.fpn_stages.{step - 3}.refine.norm") for step in (3, 4, 5)),
        *((f"mask_head.adapter{step}", f"mask_head.fpn_stages.{step - 1}.fpn_adapter") for step in (1, 2, 3)),
        ("mask_head.out_lay", "mask_head.output_conv"),
    ),
)

# A further table of a model class, which an adapter's config names.
OF_CLASSES = {"SwinBackbone": (("encoder.layers", "swin.encoder.layers"), ("embeddings", "swin.embeddings"))}


@dataclass(frozen=True)
class AdapterReport:
    """Folder written, and the names that changed, of tensors: {before: after}."""

    folder: str
    to: Names
    renamed: dict[str, str]
    tensors: int
    files: tuple[str, ...]

    def text(self) -> str:
        lines = [f"{self.folder}: {self.tensors} tensors of an adapter, {len(self.renamed)} renamed for {self.to}."]
        lines += [f"  {before} -> {after}" for before, after in list(self.renamed.items())[:4]]
        return "\n".join(lines + ([f"  and {len(self.renamed) - 4} more"] if len(self.renamed) > 4 else []))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_adapter(folder: str | Path) -> bool:
    """Whether this is a folder that PEFT's save_pretrained wrote."""
    return (Path(folder) / CONFIG_FILE).is_file()


def convert_adapter(
    source: str | Path, out: str | Path, to: str = "hfvision", *, overwrite: bool = False
) -> AdapterReport:
    """Write the adapter in the folder `source` for hfvision's models and those of transformers 4 (`to="hfvision"`), or
    for plain transformers 5 (`to="transformers5"`), to the folder `out`.

    Tensors keep their numbers; an adapter that has the names already keeps them. Of ViT, DeiT, Swin, SegFormer, DETR,
    and UPerNet over a Swin. Raises ConfigError for another `to` and an `out` that is taken, CheckpointReadError for a
    folder that holds no adapter, and ConversionError for an adapter whose tensors do not name their modules.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.convert_adapter("no/such/adapter", "out", to="transformers5")
        ... except hfvision.CheckpointReadError as error:
        ...     print(type(error).__name__)
        CheckpointReadError
    """
    source, out = Path(source), Path(out)
    if to not in get_args(Names):
        raise ConfigError(f'an adapter is written to="hfvision" or to="transformers5"; got {to!r}.')
    if not is_adapter(source):
        raise CheckpointReadError(f"{source} has no {CONFIG_FILE}: give a folder that PEFT's save_pretrained wrote.")
    check_folder(out, overwrite, described_by=CONFIG_FILE)
    if source.resolve() == out.resolve():
        raise ConfigError(f"{out} is the source itself. Name another folder.")
    weights = next((source / name for name in WEIGHTS_FILES if (source / name).is_file()), None)
    if weights is None:
        raise CheckpointReadError(f"{source} has an {CONFIG_FILE} and no weights: {' or '.join(WEIGHTS_FILES)}.")
    config = _read_config(source)
    rename = renaming(to, _class_in(config))
    tensors = checkpoints.read(weights).tensors
    renamed = {key: rename(key) for key in tensors}
    if len({*renamed.values()}) < len(renamed):
        twice = sorted(key for key in renamed if list(renamed.values()).count(renamed[key]) > 1)
        raise ConversionError(f"{source} holds both kinds of names; {numbered('name', twice, most=4)}")
    config = converted_config(config, tensors, to)
    with new_folder(out) as work:
        for path in (path for pattern in KEPT for path in source.glob(pattern)):
            shutil.copyfile(path, work / path.name)
        checkpoints.write_safetensors(
            work / WEIGHTS_FILES[0], {renamed[key]: tensor for key, tensor in tensors.items()}
        )
        (work / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        files = tuple(sorted(path.name for path in work.iterdir()))
    changed = {key: name for key, name in renamed.items() if key != name}
    return AdapterReport(str(out), "hfvision" if to == "hfvision" else "transformers5", changed, len(tensors), files)


def renaming(to: str, model_class: str = "") -> Callable[[str], str]:
    """The function that renames a module, or what belongs to one, of a model of that class."""
    further = OF_CLASSES.get(model_class, ())
    tables = [[(pair if to == "transformers5" else pair[::-1]) for pair in table] for table in (further, *TABLES)]
    if to == "hfvision":
        tables.reverse()
    substitutes = [
        [_substitute(before, after) for before, after in sorted(table, key=lambda pair: -len(pair[0]))]
        for table in tables
    ]

    def rename(name: str) -> str:
        for table in substitutes:
            for pattern, replacement in table:
                name, count = pattern.subn(replacement, name, count=1)
                if count:
                    break
        return name

    return rename


def _substitute(before: str, after: str) -> tuple[re.Pattern[str], str]:
    """Of whole parts of a dotted name; a hole holds a number."""
    pattern = re.escape(before).replace(r"\{\}", r"(\d+)")
    numbers = iter(range(1, after.count("{}") + 1))
    replacement = re.sub(r"\{\}", lambda _: rf"\{next(numbers)}", after)
    return re.compile(rf"(?<![^.]){pattern}(?![^.])"), replacement


def converted_config(config: Mapping[str, Any], keys: Iterable[str], to: str) -> dict[str, Any]:
    """An adapter's config for the new names, its modules listed one by one, as the keys of its tensors name them.

    Raises ConversionError where these do not.
    """
    rename, new = renaming(to, _class_in(config)), dict(config)
    named = (re.match(rf"{re.escape(PREFIX)}(.+?){OF_ADAPTERS}", key) for key in keys)
    modules = sorted({found[1] for found in named if found})
    if not modules and config.get("target_modules"):
        raise ConversionError(
            f"the tensors of this adapter of kind {config.get('peft_type')} do not name the modules that it is for "
            f"({config['target_modules']}); those of LoRA, LoHa, LoKr, IA3, VeRA, OFT and their like do."
        )
    if modules:
        new["target_modules"] = [rename(module) for module in modules]
        new |= {field: None for field in SELECTING if config.get(field) is not None}
    if feedforward := config.get("feedforward_modules"):
        new["feedforward_modules"] = [rename(module) for module in modules if _is_meant(module, feedforward)]
    for field in BY_MODULE:
        if patterns := config.get(field):
            values = {module: _value_for(module, patterns) for module in modules}
            new[field] = {rename(module): value for module, value in values.items() if value is not None}
    if saved := config.get("modules_to_save"):
        new["modules_to_save"] = [rename(name) for name in saved]
    if isinstance(classes := config.get("auto_mapping"), dict):
        new["auto_mapping"] = {**classes, "parent_library": _library(classes, to)}
    return new


def _class_in(config: Mapping[str, Any]) -> str:
    """The name of the model class that an adapter was made for; empty where its config does not tell."""
    classes = config.get("auto_mapping")
    return str(classes.get("base_model_class")) if isinstance(classes, dict) else ""


def _is_meant(module: str, names: str | list[str]) -> bool:
    """As PEFT reads a list of names, or one pattern."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _value_for(module: str, patterns: Mapping[str, Any]) -> Any:
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), None)


def _library(classes: Mapping[str, Any], to: str) -> str | None:
    """The module that has the model's class, for PEFT's Auto classes."""
    name, library = str(classes.get("base_model_class")), classes.get("parent_library")
    if to == "transformers5":
        import transformers

        return getattr(getattr(transformers, name, None), "__module__", library)
    ours = (one for row in ARCHITECTURES.values() for auto_class in row.models for one in row.offered(auto_class))
    return next((one.partition(":")[0] for one in ours if class_name(one) == name), library)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointReadError(f"{folder / CONFIG_FILE} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointReadError(f"{folder / CONFIG_FILE} holds a {type(config).__name__}, not an adapter's settings.")
    return config
