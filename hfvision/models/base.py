"""What every hfvision model can do beyond transformers' PreTrainedModel: take other inputs, show its depth."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hfvision.errors import ConfigError
from hfvision.layers.drop_path import set_linear_rates
from hfvision.layers.patch_embedding import ChannelInit
from hfvision.layers.position import PositionRule
from hfvision.losses.counts import StepCounts
from hfvision.losses.problem_types import problem_type_loss
from hfvision.reporting import report

_SOURCE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass(frozen=True)
class InputGeometry:
    """What a model is to take in; every field is the value wanted, changed or not."""

    num_channels: int
    image_size: int | list[int] = 0  # pixels: one side, or [height, width]; 0: no weight depends on it
    patch_size: int | list[int] = 0  # pixels, likewise
    channel_init: ChannelInit = "mean"
    position_rule: PositionRule = "bicubic"
    window_size: int | None = None  # patches per side of an attention window; None: the model has no windows


class InputPart:
    """Mixed into a module whose own weights depend on the input's geometry."""

    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """Make the weights fit the geometry; returns a line for each change."""
        raise NotImplementedError


class LayerGroup(NamedTuple):
    """Parameters at one depth of a model."""

    name: str
    parameters: list[nn.Parameter]


class VisionModel(PreTrainedModel):
    """Base class of all models here.

    `from_pretrained` also takes the `geometry_fields`, `image_size=` and `num_channels=` among them: the checkpoint is
    loaded as it is stored and `resize_input` then makes it fit, with `channel_init=` and `position_rule=`.
    """

    geometry_fields: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels")

    position_rule: ClassVar[PositionRule] = "bicubic"  # of images that have another size than the position table

    # For transformers' Trainer: losses divide by its `num_items_in_batch`, a count over all batches of a step.
    accepts_loss_kwargs: ClassVar[bool] = True

    @classmethod
    def input_config(cls, config: Any) -> Any:
        """The config that has the geometry fields: the model's own, or that of the part which takes the images."""
        return config

    @property
    def loss_function(self) -> Any:
        """The loss of classifiers by `config.problem_type`, or the one that was set."""
        replaced = "_loss_function" in self.__dict__ or getattr(self.config, "loss_type", None) is not None
        return super().loss_function if replaced else problem_type_loss

    @loss_function.setter
    def loss_function(self, value: Any) -> None:
        self._loss_function = value

    def step_counts(self, batch: Mapping[str, Any]) -> StepCounts | None:
        """What a batch adds to the counts that the loss divides by over all batches of a step (see `losses.counts`).

        None where Trainer's own count is the right one.
        """
        return None

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers looks for its interface in the module's source text; ours is in layers.attention

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        channel_init: ChannelInit = "mean",
        position_rule: PositionRule | None = None,
        **kwargs: Any,
    ) -> Self:
        """As transformers' own; see the class for the arguments that resize. Raises as `resize_input` does."""
        wanted = {field: kwargs.pop(field) for field in cls.geometry_fields if field in kwargs}
        if isinstance(config, PreTrainedConfig) and pretrained_model_name_or_path is not None:
            # An Auto class has already put such arguments into the config; the file says what is stored.
            try:
                where = {key: kwargs[key] for key in _SOURCE_ARGUMENTS if key in kwargs}
                stored = type(config).from_pretrained(pretrained_model_name_or_path, **where)
            except OSError:  # weights without a config.json: the given config describes them
                stored = config
            config = copy.deepcopy(config)
            given, stored = cls.input_config(config), cls.input_config(stored)
            for field in cls.geometry_fields:
                if getattr(given, field, None) != getattr(stored, field, None):
                    wanted.setdefault(field, getattr(given, field))
                    setattr(given, field, getattr(stored, field))
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        if wanted:
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
            model.resize_input(channel_init=channel_init, position_rule=position_rule, **wanted)
        return loaded

    @torch.no_grad()
    def resize_input(
        self,
        *,
        image_size: int | list[int] | None = None,
        patch_size: int | list[int] | None = None,
        num_channels: int | None = None,
        window_size: int | None = None,
        channel_init: ChannelInit = "mean",
        position_rule: PositionRule | None = None,
    ) -> None:
        """Change what the model takes in; what is not given stays. The config follows, and one report says what moved.

        image_size resamples position tables by `position_rule` (None: as `forward` does it), patch_size the patch
        kernel, num_channels inflates or reduces it by `channel_init` (see `layers.patch_embedding.with_channels`),
        window_size resamples the tables of relative positions. Raises ConfigError for sizes below 1, for what this
        model has not got, and for weights that are quantized or offloaded.
        """
        given = {
            "image_size": image_size,
            "patch_size": patch_size,
            "num_channels": num_channels,
            "window_size": window_size,
        }
        wanted = {field: self._whole_numbers(field, value) for field, value in given.items() if value is not None}
        config: Any = self.input_config(self.config)
        fields = [field for field in self.geometry_fields if hasattr(config, field)]  # a trunk inside may lack some
        if strange := sorted(set(wanted) - set(fields)):
            known = ", ".join(fields)
            raise ConfigError(f"{type(self).__name__} has no {' or '.join(strange)} to change; it has {known}.")
        wanted = {field: value for field, value in wanted.items() if value != getattr(config, field)}
        if not wanted:
            return
        parts = [module for module in self.modules() if isinstance(module, InputPart)]
        self._check_weights_can_change()
        values = {field: wanted.get(field, getattr(config, field)) for field in fields}
        rule = position_rule or self.position_rule
        geometry = InputGeometry(**values, channel_init=channel_init, position_rule=rule)
        changes = [line for part in parts for line in part.resize_input_part(geometry)]
        configs = {id(m.config): m.config for m in self.modules() if isinstance(m, PreTrainedModel)}
        configs[id(config)] = config
        for part_config in configs.values():
            for field, value in wanted.items():
                if hasattr(part_config, field):
                    setattr(part_config, field, value)
        report(f"{type(self).__name__} was made to fit {_listed(wanted)}: {'; '.join(changes) or 'no weight depends'}.")

    @staticmethod
    def _whole_numbers(field: str, value: Any) -> int | list[int]:
        numbers = [value] if isinstance(value, int) else list(value)
        pair_allowed = field in ("image_size", "patch_size")
        if not all(isinstance(n, int) and n > 0 for n in numbers) or len(numbers) not in (
            (1, 2) if pair_allowed else (1,)
        ):
            form = "a positive whole number" + (" or a pair [height, width] of them" if pair_allowed else "")
            raise ConfigError(f"{field} is {form}; got {value!r}.")
        return numbers[0] if len(numbers) == 1 else numbers

    def _check_weights_can_change(self) -> None:
        for name, tensor in self.named_parameters():
            if tensor.is_meta:
                reason = "device_map has put it on disk. Load without offloading"
            elif not tensor.is_floating_point():
                reason = f"it is quantized to {tensor.dtype}. Load in a floating-point dtype"
            else:
                continue
            raise ConfigError(
                f"cannot resize the input while {name} is out of reach: {reason}, resize, save, load again."
            )

    def blocks(self) -> list[nn.Module]:
        """The residual blocks in the order of depth."""
        raise NotImplementedError

    def layer_groups(self) -> list[LayerGroup]:
        """Every parameter once, by depth: the embeddings, each block, then norms and heads ("head")."""
        blocks = self.blocks()
        depth = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
        groups = [LayerGroup(name, []) for name in ("embeddings", *(f"block {i}" for i in range(len(blocks))), "head")]
        blocks_begun = False
        for parameter in self.parameters():
            if id(parameter) in depth:
                blocks_begun = True
                groups[1 + depth[id(parameter)]].parameters.append(parameter)
            else:
                groups[-1 if blocks_begun else 0].parameters.append(parameter)
        return groups

    def set_drop_path_rate(self, rate: float) -> None:
        """Stochastic depth for training: 0 at the first block, `rate` at the last, linear between. Never saved."""
        set_linear_rates(self.blocks(), rate)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{field} {value}" for field, value in values.items())
