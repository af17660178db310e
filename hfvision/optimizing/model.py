"""`optimize`: a model in another number format, with merged tokens, or compiled, and what that costs in accuracy.

Papers: Bolya et al. 2023, "Token Merging: Your ViT But Faster", arXiv 2210.09461.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfvision.errors import ConfigError, numbered
from hfvision.layers.linear import Linear
from hfvision.models.semantic import SemanticModel
from hfvision.optimizing.compiling import compile_model
from hfvision.optimizing.merging import check_merging, merge_tokens
from hfvision.optimizing.options import DTYPES
from hfvision.optimizing.packed import PackedLinear, can_pack, pack_linears
from hfvision.optimizing.report import OptimizationReport, compare
from hfvision.optimizing.sample import check_sample, default_sample
from hfvision.reporting import report

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

PER_CHANNEL = ("x86", "fbgemm", "onednn")  # engines of quantized products that take a scale for each output


def optimize(
    model: ModelT,
    dtype: str | torch.dtype | None = None,
    token_merging: int | None = None,
    compile: bool | str = False,
    sample: Tensor | None = None,
    sample_name: str = "",
    inplace: bool = False,
) -> ModelT:
    """A faster model for inference, whose numbers are not quite those of `model`; that one stays as it is.

    In a number format other than its own, weights no longer take gradients.

    - dtype="bfloat16": weights and products in bfloat16, half the memory. On a CPU every linear map also keeps its
      weight in the order that the processor reads.
    - dtype="int8": linear maps with weights of 8 bits, inputs quantized as they come (float32 models, on the CPU);
      convolutions and norms stay float32. Such a model cannot be saved: save the one it is made from.
    - token_merging=r: each block of a ViT merges the r pairs of tokens that look most alike. Outputs keep their shapes,
      and dense models a class for every pixel; attention maps, if asked for, are of the merged tokens. Saving writes
      the weights alone.
    - compile=True: `torch.compile` with dynamic shapes. The first images take long, and of Swin those of each size.
      Where nothing can be compiled here, or the sample takes longer compiled than uncompiled, the model runs as it is,
      and the report says so. Another of torch's backends, by name, is kept whatever it takes.

    sample: (B, C, H, W), images as the processor makes them, on which the error is measured; where there are none,
    hfvision's own digit scenes, or noise for other channels than three. sample_name: what the report calls them.
    inplace: change `model` itself, which spares the memory of a second one.

    The result's `optimization` is the OptimizationReport, which is also logged. Raises ConfigError for what cannot be
    done, before anything is changed.

    Example:
        >>> import torch, hfvision
        >>> model = hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1).eval()
        >>> faster = hfvision.optimize(model, dtype="bfloat16")
        >>> faster.dtype, model.dtype
        (torch.bfloat16, torch.float32)
    """
    asked = _checked_dtype(dtype)
    _check(model, asked, token_merging, compile)
    images, called = default_sample(model) if sample is None else check_sample(sample)
    bytes_before = _bytes(model)
    result = model if inplace else deepcopy(model)
    called_linears: list[str] = []
    with _recorded_linears(result, called_linears):
        before = _outputs(result, images)

    steps = [] if token_merging is None else merge_tokens(result, token_merging)
    if asked == "bfloat16":
        steps += _to_bfloat16(result, called_linears)
    elif asked == "int8":
        steps += _to_int8(result, called_linears)
    if compile:
        steps.append(compile_model(result, partial(_outputs, result, images), compile))
    comparison = compare(before, _outputs(result, images), result.config)
    found = OptimizationReport(
        steps=tuple(steps),
        sample=sample_name or called,
        **vars(comparison),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes_before=bytes_before,
        bytes_after=_bytes(result),
    )
    vars(result)["optimization"] = found
    report(f"{type(model).__name__} {found}")
    return result


def _checked_dtype(dtype: Any) -> str | None:
    name = {torch.bfloat16: "bfloat16", torch.int8: "int8", torch.qint8: "int8"}.get(dtype, dtype)
    if name is not None and name not in DTYPES:
        raise ConfigError(f"dtype is {' or '.join(map(repr, DTYPES))}; got {dtype!r}.")
    return name


def _check(model: Any, dtype: str | None, token_merging: Any, compile: Any) -> None:
    if not isinstance(model, PreTrainedModel) or model.main_input_name != "pixel_values":
        raise ConfigError(f"optimize takes a model of hfvision or transformers for images; got {type(model).__name__}.")
    if dtype is None and token_merging is None and not compile:
        raise ConfigError("optimize was asked for nothing; give dtype, token_merging or compile.")
    problems = []
    if "optimization" in vars(model):
        problems.append("the model is optimised already; start from the one that it was made from")
    if model.training:
        problems.append("the model is in training mode, and an optimised one is for inference; call model.eval()")
    weights = list(model.parameters())
    if any(weight.is_meta for weight in weights):
        problems.append("weights are on the meta device or offloaded; load the model without device_map")
    if getattr(model, "hf_quantizer", None) is not None:
        problems.append("the model is quantized already; load it without quantization_config")
    if dtype == "bfloat16" and all(weight.dtype == torch.bfloat16 for weight in weights):
        problems.append("the model is in bfloat16 already")
    if dtype == "int8":
        problems += _obstacles_to_int8(weights)
    if isinstance(compile, str) and compile not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(sorted(torch.compiler.list_backends(exclude_tags=())))
        problems.append(f"compile is True or one of torch's backends ({known}); got {compile!r}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    if token_merging is not None:
        check_merging(model, token_merging)


def _obstacles_to_int8(weights: list[nn.Parameter]) -> Iterator[str]:
    if elsewhere := sorted({weight.device.type for weight in weights} - {"cpu", "meta"}):
        yield f"torch multiplies in int8 on the CPU alone; the model is on {', '.join(elsewhere)}, where bfloat16 helps"
    if others := sorted({str(weight.dtype) for weight in weights if weight.dtype != torch.float32}):
        yield f"int8 is made from float32 weights; got {', '.join(others)}. Load the model with dtype='float32'"
    if torch.backends.quantized.engine == "none":
        yield "this torch has no quantized products; use bfloat16"


def _outputs(model: Any, images: Tensor) -> Any:
    """For the images; of a model that gives a class to every pixel the coarse logits."""
    weight = next(model.parameters())
    options = {"upsample": False} if isinstance(model, SemanticModel) else {}
    with torch.no_grad():
        return model(pixel_values=images.to(weight.device, weight.dtype), return_dict=True, **options)


@contextmanager
def _recorded_linears(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Adds to `names` the linear maps that are called: others' weights are read by the models, and stay as they are."""

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, args: None if name in names else names.append(name)

    linears = {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Linear)}
    handles = [module.register_forward_pre_hook(recorder(name)) for name, module in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _to_bfloat16(model: PreTrainedModel, linears: list[str]) -> list[str]:
    nn.Module.to(model, torch.bfloat16)
    model.requires_grad_(False)
    if next(model.parameters()).device.type != "cpu":
        return ["weights and products are bfloat16"]
    if not can_pack():
        return ["weights and products are bfloat16, which this CPU or torch has no fast products for"]
    pack_linears(model, linears)
    return [f"weights and products are bfloat16, with packed weights in {len(linears)} linear maps"]


def _to_int8(model: PreTrainedModel, linears: list[str]) -> list[str]:
    from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

    each_output = torch.backends.quantized.engine in PER_CHANNEL
    config = per_channel_dynamic_qconfig if each_output else default_dynamic_qconfig
    for name in linears:
        model.get_submodule(name).__class__ = nn.Linear  # the one class that is quantized
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao is to move to another package
        quantize_dynamic(model, dict.fromkeys(linears, config), dtype=torch.qint8, inplace=True)
    model.requires_grad_(False)
    vars(model)["save_pretrained"] = _refuse_to_save
    scale = "output" if each_output else "weight"
    return [
        f"{len(linears)} linear maps have int8 weights, a scale for each {scale}, and inputs quantized as they come"
    ]


def _refuse_to_save(*args: Any, **kwargs: Any) -> None:
    raise ConfigError(
        "a model in int8 has no file format that from_pretrained reads. Save the model that it was made from, and call "
        "optimize again after loading."
    )


def _bytes(model: nn.Module) -> int:
    """Of all weights, those of quantized and packed linear maps included; shared ones once."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        if isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            tensors += [part for part in (module.weight(), module.bias()) if part is not None]
    total = sum(tensor.nbytes for tensor in {tensor.data_ptr() or id(tensor): tensor for tensor in tensors}.values())
    return total + sum(module.packed_bytes for module in model.modules() if isinstance(module, PackedLinear))
