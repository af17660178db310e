"""Everything of other libraries that hfvision uses though it is private there, and what happens when it is gone.

A release may change such a part without notice. Each is listed here with the releases that it was seen in; the module
fails where one is missing, and where the package uses one that is not listed. `.ci/run` runs it on the lowest and on
the newest supported releases.
"""

import ast
import importlib
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hfvision

PACKAGE = Path(hfvision.__file__).parent
TORCH, TRANSFORMERS = "torch 2.6 to 2.15", "transformers 5.23 to 5.24"


@dataclass(frozen=True)
class Part:
    """A private part of another library."""

    seen: str  # library and releases
    where: str  # "module:path" of what has it
    names: tuple[str, ...]
    gone: str  # what hfvision does without it


def part(seen: str, where: str, names: str, gone: str) -> Part:
    return Part(seen, where, tuple(names.split()), gone)


# Attributes and functions that are read or called.
READ = (
    part(TORCH, "torch:nn.Module()", "_forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks "
         "_parameters _buffers _modules _compiled_call_impl",
         "an AttributeError at the first forward: nothing else tells whether a module is watched, and guessing would "
         "skip hooks"),
    part(TORCH, "torch.nn.modules.module", "_global_forward_hooks _global_forward_pre_hooks _global_backward_hooks "
         "_global_backward_pre_hooks", "an AttributeError at the first forward, as above"),
    part(TORCH, "torch", "_C", "an AttributeError at the first forward"),
    part(TORCH, "torch:_C", "_are_functorch_transforms_active _len_torch_dispatch_stack",
         "an AttributeError at the first forward: without them transforms and tracers would meet operators that they "
         "have no rule for"),
    part(TORCH, "torch.autograd.forward_ad", "_current_level", "an AttributeError at the first forward"),
    part(TORCH, "torch:ops.mkldnn", "_linear_pointwise",
         "linear layers run through torch's own product (`onednn_fault` tries the operator before it is used)"),
    part(TORCH, "torch:ops.mkldnn", "_reorder_linear_weight _is_mkldnn_bf16_supported",
         "`optimize(dtype=\"bfloat16\")` converts the model without packing its weights"),
    part(TORCH, "torch:ops.aten.relu.default", "_overloadpacket", "the benchmark's count of operations fails"),
    part(TORCH, "torch.utils._python_dispatch", "TorchDispatchMode", "the benchmark's count of operations fails"),
    part(TORCH, "torch:Tensor()", "_version", "an AttributeError when a packed bfloat16 model runs"),
    part(TRANSFORMERS, "transformers:AutoModel", "_model_mapping", "registration fails at import and says where"),
    part(TRANSFORMERS, "transformers:AutoModel._model_mapping", "_extra_content",
         "registration fails at import: an AttributeError that names it; HFVISION_REGISTER=0 imports without"),
    part(TRANSFORMERS, "transformers:ViTConfig()", "_name_or_path _attn_implementation",
         "a card does not name the parent; attention cannot be chosen by name"),
    part(TRANSFORMERS, "transformers:PreTrainedModel", "_from_config",
         "`hfvision.create` fails with an AttributeError"),
    part(TRANSFORMERS, "transformers:BaseImageProcessor", "_set_attributes",
         "an image processor cannot be made: an AttributeError that names it"),
    part(TRANSFORMERS, "transformers:Trainer", "_prepare_inputs",
         "evaluation of segmentation and detection fails with an AttributeError at its first batch"),
)  # fmt: skip

# Set on an instance by the library itself, and so not to be seen on a class.
ON_INSTANCES = {
    "_batch_size": f"{TRANSFORMERS}, Pipeline: without it a detection pipeline runs one image at a time",
    "_num_workers": f"{TRANSFORMERS}, Pipeline: without it images are read by the calling thread",
    "_preprocess_params": f"{TRANSFORMERS}, Pipeline: options of the construction are not seen in a call",
    "_postprocess_params": f"{TRANSFORMERS}, Pipeline: options of the construction are not seen in a call",
    "_weight_conversions": f"{TRANSFORMERS}, models after loading: a detector's new head is saved under v5's names",
    "_orig_mod": f"{TORCH}, compiled modules: their checkpoints keep the prefix and are not recognised",
    "_iterator": f"{TORCH}, DataLoader: a run with workers that stay is resumed with other random numbers",
    "_commit_hash": f"{TRANSFORMERS}: only left out where a config is compared",
}

# Methods and class attributes of other libraries' classes that classes of hfvision define anew.
OVERRIDDEN = {
    "transformers.modeling_utils.PreTrainedModel": (
        "_can_compile_fullgraph _can_record_outputs _can_set_attn_implementation _init_weights _initialize_weights "
        "_keys_to_ignore_on_load_missing _keys_to_ignore_on_load_unexpected _no_split_modules "
        "_supports_attention_backend _supports_flash_attn _supports_flex_attn _supports_sdpa"
    ),
    "transformers.modeling_utils.EmbeddingAccessMixin": "_input_embed_layer",
    "transformers.pipelines.base.Pipeline": "_forward _sanitize_parameters",
    "transformers.trainer.Trainer": "_clip_grad_norm _get_eval_sampler _get_train_sampler _push_from_checkpoint",
}
MADE_BY_PYTHON = ("_abc_impl", "_is_protocol", "_backward_cls")  # and what enum makes: no choice of ours


@pytest.mark.parametrize("listed", READ, ids=lambda one: f"{one.where} {one.names[0]}")
def test_a_private_part_is_there(listed):
    holder = resolved(listed.where)
    missing = [name for name in listed.names if not hasattr(holder, name)]
    assert not missing, f"{listed.where} of {installed()} has no {missing}; without it: {listed.gone}"


@pytest.mark.parametrize("base", OVERRIDDEN)
def test_what_is_overridden_is_still_asked_for(base):
    module, _, name = base.rpartition(".")
    holder = getattr(importlib.import_module(module), name)
    missing = [one for one in OVERRIDDEN[base].split() if not hasattr(holder, one)]
    assert not missing, f"{base} of {installed()} has no {missing}: what hfvision defines would never be called"


def test_no_other_private_part_is_read():
    own = set().union(*(names_defined(tree) for tree in trees().values()))
    listed = {name for one in READ for name in one.names} | ON_INSTANCES.keys() | own
    unlisted = {
        f"{name} in {path.relative_to(PACKAGE)}"
        for path, tree in trees().items()
        for name in private_names(tree)
        if name not in listed
    }
    assert not unlisted


def test_no_other_private_method_is_overridden():
    for module in pkgutil.walk_packages([str(PACKAGE)], "hfvision."):
        if not module.name.endswith(("__main__", "migrations.env")):  # which run where they are imported
            importlib.import_module(module.name)
    unlisted = {
        f"{base.__module__}.{base.__name__}.{name} by {cls.__name__}"
        for cls in classes()
        for name in vars(cls)
        if name.startswith("_") and not name.startswith("__") and name not in MADE_BY_PYTHON
        for base in cls.__mro__[1:]
        if name in vars(base) and base.__module__.partition(".")[0] not in ("hfvision", "enum")
        and not any(name in OVERRIDDEN.get(f"{one.__module__}.{one.__name__}", "").split() for one in base.__mro__)
    }  # fmt: skip
    assert not unlisted


def test_nothing_is_listed_that_is_not_used():
    used = set().union(*(private_names(tree) for tree in trees().values()))
    overridden = {name for cls in classes() for name in vars(cls)}
    everything = used | overridden | {word for tree in trees().values() for word in strings(tree)}
    listed = {name for one in READ for name in one.names if name.startswith("_")} | ON_INSTANCES.keys()
    assert listed - everything == set()
    assert {name for names in OVERRIDDEN.values() for name in names.split()} - overridden == set()


def resolved(where: str) -> Any:
    """The module, or what lies in it under a dotted path; with "()" behind it, an instance."""
    module, _, path = where.partition(":")
    holder = importlib.import_module(module)
    found = attrgetter(path.removesuffix("()"))(holder) if path else holder
    return found() if path.endswith("()") else found


def installed() -> str:
    return f"torch {torch.__version__} and transformers {transformers.__version__}"


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_defined(tree: ast.Module) -> set[str]:
    """Functions, classes and variables of a module, and what its classes set on themselves."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (one for whole in targets for one in ast.walk(whole)):
                if isinstance(target, ast.Name):
                    names.add(target.id)
                elif isinstance(target, ast.Attribute) and getattr(target.value, "id", "") in ("self", "cls"):
                    names.add(target.attr)
    return names


def private_names(tree: ast.Module) -> set[str]:
    """Private attributes that are reached for, private names imported, what lies in private modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr != "_replace":  # of named tuples
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("hfvision"):
            inside = any(is_private(one) for one in node.module.split("."))
            names |= {alias.name for alias in node.names if inside or is_private(alias.name)}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "attrgetter"):
            names |= {word for argument in node.args[1:2] for word in strings(argument) if is_private(word)}
    return names


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def classes() -> set[type]:
    """Every class of the package that has been imported."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "hfvision"]
    found = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    return {one for one in found if one.__module__.startswith("hfvision")}
