"""The same model twice: as transformers (or timm) has it, and as hfvision has it, with the same random weights."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hfvision
from hfvision.bench.case import Setting
from hfvision.conversion import convert_back

DEEP = 20  # norms with statistics


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its remarks on random weights."""
    level, bars = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def their_class(reference: str) -> Any:
    """transformers' own class, whatever is registered: "vit.modeling_vit:ViTForImageClassification"."""
    module, name = reference.split(":")
    return getattr(import_module(f"transformers.models.{module}"), name)


def our_class(reference: str) -> Any:
    """hfvision's class of the same name."""
    return getattr(hfvision, reference.split(":")[1])


def twins(reference: str, setting: Setting, training: bool = False, **fields: Any) -> tuple[Any, Any]:
    """transformers' class with random weights, and ours with the same ones, loaded from its folder.

    hfvision is registered with transformers afterwards, as ours may be made of parts that are looked up.
    """
    model_class = their_class(reference)
    hfvision.unregister()  # parts that a model looks up by the name of their config are its own package's
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = randomised(model_class(model_class.config_class(**fields)))
    finally:
        hfvision.register()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = our_class(reference).from_pretrained(folder)
    return placed(theirs, setting, training), placed(ours, setting, training)


def timm_twins(reference: str, timm_name: str, setting: Setting, **fields: Any) -> tuple[Any, Any]:
    """timm's model with the weights of ours, written in timm's format."""
    timm = import_module("timm")
    _, ours = twins(reference, Setting(), **fields)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        checkpoint = Path(folder) / "timm.safetensors"
        convert_back(folder, checkpoint, family="timm")
        theirs = timm.create_model(timm_name, pretrained=False, num_classes=ours.config.num_labels)
        theirs.load_state_dict(load_file(checkpoint), strict=True)
    return placed(theirs, setting), placed(ours, setting)


@torch.no_grad()
def randomised(model: Any) -> Any:
    """Its weights, biases, norms' gains and running statistics moved at random, such that each of them shows.

    Matrices keep the spread that the model begins with, so that values stay of order one through its depth.
    """
    deep = sum(hasattr(module, "running_var") for module in model.modules()) > DEEP
    gain = 0.7 if deep else 1.0  # of a trunk's frozen norms: of one, values would double at each of many blocks
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                parameter.normal_()  # DETR's queries begin so alike that they would all find the same
            elif parameter.ndim > 1:
                spread = 0.5 * float(parameter.std()) if parameter.numel() > 1 else 0.0
                parameter.add_(torch.randn_like(parameter), alpha=max(spread, 0.02))
            elif name == "weight":
                parameter.copy_(torch.empty_like(parameter).uniform_(0.7, 1.3))
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if hasattr(module, "running_var"):
            _randomise_statistics(module, gain)
    return model


def _randomise_statistics(norm: nn.Module, gain: float) -> None:
    for name, values in norm.named_buffers(recurse=False):
        if name in ("running_mean", "bias"):
            values.normal_(std=0.1)
        elif name == "running_var":
            values.uniform_(0.7, 1.3)
        elif name == "weight":  # of a frozen norm
            values.uniform_(0.7, 1.3).mul_(gain)


def placed(model: Any, setting: Setting, training: bool = False) -> Any:
    """On the device, in the dtype and memory format of the setting; for training or for use."""
    model = model.to(device=setting.device, dtype=getattr(torch, setting.dtype))
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.train(training)


def gradients_by_stored_name(model: Any) -> dict[str, Tensor]:
    """Gradients under the names that weights have in files, which both sides agree on; statistics as they are."""
    with torch.no_grad():
        kept = [(parameter, parameter.data) for parameter in model.parameters()]
        try:
            for parameter, _ in kept:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.data = gradient.contiguous()
            with quiet(), tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                stored: dict[str, Tensor] = load_file(Path(folder) / "model.safetensors")
        finally:
            for parameter, values in kept:
                parameter.data = values
    return stored


def images(setting: Setting, batch: int, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W), normal noise from a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    return setting.tensor(torch.randn(batch, 3, *size, generator=generator))


def smooth_noise(channels: int, size: tuple[int, int], coarse: int, rough: float) -> Tensor:
    """(channels, H, W): blobs about H / coarse pixels wide, plus `rough` times white noise: like a photo's answers."""
    generator = torch.Generator().manual_seed(2)
    blobs = torch.randn(1, channels, coarse, coarse, generator=generator)
    smooth = nn.functional.interpolate(blobs, size=size, mode="bicubic", align_corners=False)[0]
    return 3 * smooth + rough * torch.randn(channels, *size, generator=generator)


def with_weights(model_class: Any, config: Any, tensors: Mapping[str, Tensor], **options: Any) -> Any:
    """A model of transformers from tensors under their names in files."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(stored, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        return model_class.from_pretrained(folder, **options)
