"""Models of the catalogue with random weights, and what they cost."""

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hfvision.arithmetic import ArithmeticCounter
from hfvision.catalog import CatalogRow, row
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.models.catalog_config import LABEL_FIELDS
from hfvision.registry import architecture, class_name, load
from hfvision.tasks import TASKS, tasks_named


class Costs(NamedTuple):
    parameters: int  # numbers in the model's parameters; buffers do not count
    flops: int  # of one image; see `costs_of`


def create(
    name: str,
    *,
    task: str | None = None,
    kind: str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """The model of the catalogue's row `name` with random weights, as `from_config` makes one: in training mode.

    `overrides` are fields of the config (see `CatalogConfig.from_catalog`), num_labels=7 for one. `task`, by
    the Hub's name as cards and pipelines have it, asks for another model of the same architecture than the row's, a
    classifier of a row without head for one; the row's own where it does that task. `kind` is that of segmentation:
    semantic, panoptic or instance.

    Raises UnknownNameError for a row, task or field that does not exist, and ConfigError for values that cannot work.

    Example:
        >>> import hfvision
        >>> model = hfvision.create("deit-tiny-patch16-224", num_labels=7, num_hidden_layers=2)
        >>> type(model).__name__, model.config.num_labels
        ('ViTForImageClassification', 7)
    """
    found = row(name)
    reference = _model(found, task, kind)
    own = class_name(reference) == found.model_class
    if own and found.num_labels is None and (given := [field for field in LABEL_FIELDS if field in overrides]):
        raise ConfigError(
            f"{name} has no head, so {' and '.join(given)} cannot be used; ask for one with "
            "task='image-classification'."
        )
    config: PreTrainedConfig = load(architecture(found.model_type).config).from_catalog(name, **overrides)
    model_class = load(reference)
    options = dict(found.model_options) if own else {}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if dtype is not None:
        options["dtype"] = dtype
    model: PreTrainedModel = model_class._from_config(config, **options)
    return model


def create_processor(name: str, **options: Any) -> Any:
    """The image processor that the converted file of the catalogue's row `name` has; `options` replace its own.

    Raises UnknownNameError for a row that does not exist.

    Example:
        >>> import hfvision
        >>> hfvision.create_processor("deit-tiny-patch16-224").crop_size["height"]
        224
    """
    found = row(name)
    return load(found.processor)(**{**found.preprocessing, **options})


def costs_of(name: str) -> Costs:
    """Parameters and FLOPs of the catalogue's row `name`, from building its model without storage.

    FLOPs are those of the products of matrices and the convolutions in one forward pass of one image of the row's
    input_size, in evaluation mode; a multiply-add counts as two. They are what this package computes: where it has
    rewritten a layer into an equal one that needs less, fewer than the authors' code. Raises UnknownNameError for a
    row that does not exist, ConfigError for a model that cannot run.
    """
    found = row(name)
    with torch.device("meta"):
        model: Any = create(name).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with ArithmeticCounter() as counter, torch.no_grad():
        channels = type(model).input_config(model.config).num_channels
        model(torch.empty(1, channels, *found.input_size, device="meta"))
    return Costs(parameters, counter.flop)


def _model(found: CatalogRow, task: str | None, kind: str | None) -> str:
    """The reference of the model class. Raises UnknownNameError."""
    models = architecture(found.model_type)
    wanted = [found.task_row] if task is None else tasks_named(task, kind)
    if found.task_row in wanted:
        return models.model(found.auto_class, found.model_class)
    possible = [(one, auto) for auto in models.models for one in TASKS if one.auto_class == auto]
    auto_class = next((auto for one, auto in possible if one in wanted), None)
    if auto_class is None:
        names = ", ".join(dict.fromkeys(one.name for one, _ in possible))
        raise UnknownNameError(f"the architecture of {found.name} has no model for {task!r}; it has {names}.")
    return models.model(auto_class)
