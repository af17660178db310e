"""A new head for new classes, on any model whose head depends on the number of labels."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from hfvision.errors import ConfigError
from hfvision.labels.outputs import output_names


def class_names(model: PreTrainedModel) -> list[str]:
    """The model's classes in the order of its outputs."""
    return output_names(model)


@torch.no_grad()
def replace_head(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Give the model classes of these names; returns the tensors made anew (by the model's own initialisation).

    The head is what changes shape with the number of labels, found by building the model without storage: whole layers,
    and single parameters of larger parts. Everything else is kept. Raises ConfigError where a model has no such part.
    """
    wanted, one_more = (_without_storage(model, len(names) + extra) for extra in (0, 1))
    shapes = {name: tensor.shape for name, tensor in one_more.named_parameters()}
    head = [name for name, tensor in wanted.named_parameters() if tensor.shape != shapes[name]]
    if not head:
        raise ConfigError(f"{type(model).__name__} has no layer that depends on the number of labels: no classifier.")
    for path in dict.fromkeys(name.rpartition(".")[0] for name in head):
        module = wanted.get_submodule(path)
        is_layer = path and not list(module.children())
        module.to_empty(device=model.device, recurse=False).to(model.dtype)
        model._init_weights(module)
        if is_layer:
            model.set_submodule(path, module)
            continue
        for name in (name for name in head if name.rpartition(".")[0] == path):
            parameter = name.rpartition(".")[2]
            setattr(model.get_submodule(path), parameter, getattr(module, parameter))
    set_class_names(model, names)
    return head


def set_class_names(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Write the classes into the config; the head must have as many outputs."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and "num_labels" in vars(part):  # models keep a copy
            vars(part)["num_labels"] = len(names)


def _without_storage(model: PreTrainedModel, num_labels: int) -> nn.Module:
    config = copy.deepcopy(model.config)
    config.num_labels = num_labels
    with torch.device("meta"):
        return type(model)(config)
