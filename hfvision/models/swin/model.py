"""Swin: a transformer whose attention stays inside windows, which move from block to block, on maps that get coarser.

Paper:  Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Source: microsoft/Swin-Transformer (MIT), re-expressed in PyTorch. Names of weights and config fields are those of the
        Hub's "swin" files.

Shapes: B images, C channels, H x W pixels, h x w places of a map (at first the patches), D width, which doubles from
        stage to stage as h and w are halved, n windows of N places each, K labels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.attention import SelfAttention
from hfvision.layers.dense import Dense
from hfvision.layers.drop_path import DropPath, linear_rates
from hfvision.layers.in_place import in_strips
from hfvision.layers.linear import Linear
from hfvision.layers.masked_image import hide_patches
from hfvision.layers.patch_embedding import PatchEmbedding, by, grid_of, pair
from hfvision.layers.position import Grid, fit_bias_table, resample_position_table
from hfvision.models.base import InputGeometry, InputPart, LayerGroup, VisionModel
from hfvision.models.catalog_config import CatalogConfig
from hfvision.models.swin.windows import Windows, halved, merging_plan, shrunk_windows, window_plan
from hfvision.reporting import report_once
from hfvision.tracing import fix_size, sizes_are_symbols


@strict
class SwinConfig(CatalogConfig, BackboneConfigMixin, PreTrainedConfig):
    """Sizes of a Swin; the defaults are Swin-T at 224 pixels (28 M parameters).

    A published example:
    [microsoft/swin-tiny-patch4-window7-224](https://huggingface.co/microsoft/swin-tiny-patch4-window7-224).

    Example:
        >>> import hfvision
        >>> config = hfvision.SwinConfig.from_catalog("swin-tiny-patch4-window7-224", num_labels=7)
        >>> config.embed_dim, config.depths
        (96, [2, 2, 6, 2])
    """

    model_type = "swin"
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}

    image_size: int | list[int] | tuple[int, int] = 224  # pixels: one side, or [height, width]
    patch_size: int | list[int] | tuple[int, int] = 4  # pixels, likewise
    num_channels: int = 3
    embed_dim: int = 96  # D of the first stage
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    num_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)  # of each stage
    window_size: int = 7  # places per side
    mlp_ratio: float | int = 4.0  # hidden width of the MLP over D
    qkv_bias: bool = True
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1  # of the last block, in training
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False  # a position table besides the relative ones
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    encoder_stride: int = 32  # pixels per side that the masked-image head paints for each place of the last map
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_layers = len(self.depths)  # stages; transformers saves these three fields, too
        self.hidden_size = self.widths[-1]
        self.stage_names = ["stem", *(f"stage{stage}" for stage in range(1, len(self.depths) + 1))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def validate_stages_fit_together(self) -> None:
        if not self.depths or len(self.depths) != len(self.num_heads) or min(self.depths) < 1:
            raise ConfigError(
                f"depths and num_heads have one number, at least 1, for each stage; got depths {list(self.depths)} "
                f"and num_heads {list(self.num_heads)}."
            )
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if heads < 1 or width % heads:
                raise ConfigError(
                    f"a width of {width} cannot be split among {heads} attention heads; choose num_heads so that they "
                    f"divide the widths of the stages, {self.widths}."
                )
        if self.window_size < 1:
            raise ConfigError(f"window_size is at least 1 place per side; got {self.window_size}.")

    @property
    def widths(self) -> list[int]:
        """D of each stage."""
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]

    @property
    def normalizes_patches(self) -> bool:
        """Before the first block: always, as in transformers."""
        return True

    @property
    def grid(self) -> Grid:
        """(h, w): the patches that an absolute position table has rows for."""
        return grid_of(self.image_size, self.patch_size)


@dataclass
class SwinModelOutput(BaseModelOutputWithPooling):
    """reshaped_hidden_states: the hidden states as maps, each (B, D, h, w)."""

    reshaped_hidden_states: tuple[Tensor | None, ...] | None = None


def as_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, h * w, D) -> (B, D, h, w), a view."""
    return x.mT.unflatten(2, grid)


def as_maps(states: Iterable[Tensor | None], grids: Iterable[Grid]) -> tuple[Tensor | None, ...]:
    """The same for several; None stands for one that was not asked for."""
    return tuple(None if x is None else as_map(x, grid) for x, grid in zip(states, grids, strict=True))


class SwinEmbeddings(nn.Module, InputPart):
    """(B, C, H, W) -> (B, h * w, D): patches, normalised, and positions where the config wants a table of them."""

    def __init__(self, config: SwinConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        self.grid = config.grid
        self.image_size = pair(config.image_size)
        height, width = self.grid
        self.patch_embeddings = PatchEmbedding(config.num_channels, config.embed_dim, config.patch_size)
        self.norm: nn.Module = nn.LayerNorm(config.embed_dim) if config.normalizes_patches else nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if use_mask_token else None
        self.position_embeddings = (
            nn.Parameter(torch.zeros(1, height * width, config.embed_dim)) if config.use_absolute_embeddings else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, Grid]:
        """Returns the tokens and the grid of these images. See SwinModel.forward."""
        fix_size(pixel_values)  # windows of unknown sizes compile slowly, and to slow code
        patches = self.patch_embeddings(pixel_values)
        height, width = patches.shape[-2:]
        tokens = self.norm(patches.flatten(2).mT)  # (B, D, h, w) -> (B, h * w, D)
        if bool_masked_pos is not None:
            tokens = hide_patches(tokens, self.mask_token, bool_masked_pos)
        if self.position_embeddings is not None:
            tokens = tokens + self.positions((height, width), interpolate_pos_encoding)
        self._report_size(tuple(pixel_values.shape[-2:]), (height, width))
        return self.dropout(tokens), (height, width)

    def positions(self, grid: Grid, interpolate_pos_encoding: bool | None = None) -> Tensor:
        """(1, h * w, D): the position table for this grid, resampled unless it is the stored one."""
        table: Any = self.position_embeddings
        if not sizes_are_symbols() and grid == self.grid:
            return table
        if interpolate_pos_encoding is False:
            raise ImageShapeError(
                f"with interpolate_pos_encoding=False images have the checkpoint's {by(self.grid)} patches; these have "
                f"{by(grid)}. Leave the argument out and the position table is resampled."
            )
        return resample_position_table(table, self.grid, grid, 0)

    def _report_size(self, size: tuple[int, ...], grid: Grid) -> None:
        if sizes_are_symbols() or size == self.image_size:
            return
        self.patch_embeddings.report_padding(size, grid)
        if self.position_embeddings is not None and grid != self.grid:
            report_once(f"the position table of {by(self.grid)} patches is resampled (bicubic) to {by(grid)}.")

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        patch_size = pair(geometry.patch_size)
        kernel, changes = self.patch_embeddings.kernel_for(geometry.num_channels, patch_size, geometry.channel_init)
        table, grid = self.position_embeddings, grid_of(geometry.image_size, patch_size)
        if table is not None and grid != self.grid:
            changes.append(
                f"the position table of {by(self.grid)} patches became {by(grid)} ({geometry.position_rule})"
            )
            new = resample_position_table(table, self.grid, grid, 0, geometry.position_rule)
            self.position_embeddings = nn.Parameter(new, requires_grad=table.requires_grad)
        self.patch_embeddings.set_kernel(kernel)
        self.grid, self.image_size = grid, pair(geometry.image_size)
        return changes


class SwinSelfAttention(SelfAttention):
    """Inside windows: (B * n, N, D) -> (B * n, N, D) and maps or None.

    Its mask is added to the scores, (1 or B * n, heads, N, N): the bias of `relative_position_bias_table` and what a
    place may not see.
    """

    def __init__(self, config: SwinConfig, width: int, heads: int) -> None:
        super().__init__(config, width, heads, config.qkv_bias)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * config.window_size - 1) ** 2, heads))


class SwinLastSelfAttention(SwinSelfAttention):
    """That of a stage's last block: the one whose maps `output_attentions` gives."""


class SwinAttention(nn.Module):
    """(B, h * w, D) -> (B, h * w, D), through the windows of a plan."""

    def __init__(self, config: SwinConfig, width: int, heads: int, is_last: bool) -> None:
        super().__init__()
        self.self = (SwinLastSelfAttention if is_last else SwinSelfAttention)(config, width, heads)
        self.output = Dense(width, width, nn.Dropout(config.hidden_dropout_prob))

    def forward(self, x: Tensor, plan: Windows, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        batch = x.shape[0]
        bias = plan.bias(self.self, self.self.relative_position_bias_table, batch)
        mixed, _ = self.self(plan.cut(x), bias, **kwargs)
        return self.output(plan.join(mixed, batch))


class SwinLayer(GradientCheckpointingLayer):
    """A pre-norm block: attention, then MLP, each added to its input. (B, h * w, D) -> (B, h * w, D)."""

    def __init__(self, config: SwinConfig, width: int, heads: int, is_last: bool, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        inner = int(config.mlp_ratio * width)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = SwinAttention(config, width, heads, is_last)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = Dense(width, inner, ACT2FN[config.hidden_act])
        self.output = Dense(inner, width, nn.Dropout(config.hidden_dropout_prob))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, plan: Windows, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        x = x + self.drop_path(self.attention(self.layernorm_before(x), plan, **kwargs))
        return x + self.drop_path(in_strips(self.layernorm_after(x), self.intermediate, self.output))


class SwinPatchMerging(nn.Module):
    """(B, h * w, D) -> (B, ceil(h / 2) * ceil(w / 2), 2 * D): four neighbours become one place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.reduction(self.norm(merging_plan(grid, x).gather(x)))


class SwinStage(nn.Module):
    """Blocks on one map, then perhaps a merging layer. Returns the tokens behind and before that."""

    def __init__(
        self, config: SwinConfig, stage: int, merges: bool, shrinks: bool, drop_path_rates: list[float]
    ) -> None:
        super().__init__()
        self.config = config
        self.shrinks = shrinks
        width, heads, depth = config.widths[stage], config.num_heads[stage], config.depths[stage]
        self.blocks = nn.ModuleList(
            SwinLayer(config, width, heads, block == depth - 1, rate) for block, rate in enumerate(drop_path_rates)
        )
        self.downsample = SwinPatchMerging(width) if merges else None

    def forward(self, x: Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]) -> tuple[Tensor, Tensor]:
        for number, block in enumerate(self.blocks):
            x = block(x, window_plan(grid, self.config.window_size, number % 2 == 1, self.shrinks, x), **kwargs)
        return (x if self.downsample is None else self.downsample(x, grid)), x


class SwinEncoder(nn.Module, InputPart):
    """All stages. `shrinks`: windows shrink to maps that are smaller, as in the classifiers of the source; in its
    segmentation models every map is padded to whole windows instead.
    """

    def __init__(self, config: SwinConfig, shrinks: bool) -> None:
        super().__init__()
        self.shrinks = shrinks
        self.window_size = config.window_size
        self.windows = self._windows(config.image_size, config.patch_size, config.window_size, len(config.depths))
        rates = iter(linear_rates(config.drop_path_rate, sum(config.depths)))
        last = len(config.depths) - 1
        self.layers = nn.ModuleList(
            SwinStage(config, stage, stage < last, shrinks, [next(rates) for _ in range(depth)])
            for stage, depth in enumerate(config.depths)
        )

    def _windows(self, image_size: Any, patch_size: Any, window_size: int, stages: int) -> list[int]:
        """The side of the windows that the config's own images have at each stage."""
        return shrunk_windows(image_size, patch_size, window_size, stages) if self.shrinks else [window_size] * stages

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """Bias tables are resampled for windows of another size, also for those that shrink to another map."""
        new_window: Any = geometry.window_size
        windows = self._windows(geometry.image_size, geometry.patch_size, new_window, len(self.layers))
        sides: Any = zip(self.layers, self.windows, windows, strict=True)
        changes = []
        for number, (stage, used, new_used) in enumerate(sides, start=1):
            if (self.window_size, used) == (new_window, new_used):
                continue
            for block in stage.blocks:
                table = block.attention.self.relative_position_bias_table
                new = fit_bias_table(table, self.window_size, used, new_window, new_used, geometry.position_rule)
                block.attention.self.relative_position_bias_table = nn.Parameter(new, requires_grad=table.requires_grad)
            if used != new_used:
                changes.append(
                    f"the bias tables of stage {number} for windows of {used}x{used} became {new_used}x{new_used} "
                    f"({geometry.position_rule})"
                )
        self.window_size, self.windows = new_window, windows
        return changes


class SwinPreTrainedModel(VisionModel):
    config: SwinConfig
    config_class = SwinConfig
    base_model_prefix = "swin"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected = [r"relative_position_index$"]  # a buffer in files of older versions
    _no_split_modules = ["SwinEmbeddings", "SwinStage"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(SwinStage),  # with the merging layer; before the first: the embeddings
        "attentions": SwinLastSelfAttention,
    }
    _input_embed_layer = "patch_embeddings"

    geometry_fields: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels", "window_size")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SwinEmbeddings):
            if module.position_embeddings is not None:
                init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.mask_token is not None:
                init.zeros_(module.mask_token)
        elif isinstance(module, SwinSelfAttention):
            init.zeros_(module.relative_position_bias_table)  # also for offsets that maps of this size never have

    def _stages(self) -> list[SwinStage]:
        trunk: Any = self.base_model
        return list(trunk.encoder.layers)

    def blocks(self) -> list[nn.Module]:
        return [block for stage in self._stages() for block in stage.blocks]

    def layer_groups(self) -> list[LayerGroup]:
        """Every parameter once, by depth: the embeddings, each block, then norms and heads ("head"). A merging layer
        belongs to the block before it.
        """
        groups = super().layer_groups()
        head, depth = groups[-1].parameters, 0
        for stage in self._stages():
            depth += len(stage.blocks)
            if stage.downsample is not None:
                merging = list(stage.downsample.parameters())
                groups[depth].parameters.extend(merging)
                ids = {id(parameter) for parameter in merging}
                head[:] = [parameter for parameter in head if id(parameter) not in ids]
        return groups


class SwinModel(SwinPreTrainedModel):
    """The trunk: pixels to the tokens of the last map, and optionally their mean.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
        ... )
        >>> model = hfvision.SwinModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 64, 16)
    """

    def __init__(self, config: SwinConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config)
        self.num_features = config.hidden_size
        self.embeddings = SwinEmbeddings(config, use_mask_token)
        self.encoder = SwinEncoder(config, shrinks=True)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.add_pooling_layer = add_pooling_layer
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SwinModelOutput:
        """pixel_values: (B, C, H, W), normalised, of any size: padded with zeros at the bottom and right to whole
        patches, as is every map to whole windows and to even sides before it is halved. An absolute position table is
        resampled (bicubic) where the grid is not the stored one; with interpolate_pos_encoding=False another grid
        raises ImageShapeError instead. bool_masked_pos: (B, h * w), True where a patch is hidden.

        hidden_states: the embeddings, then the tokens behind each stage. attentions: those of each stage's last block,
        (B * n, heads, N, N).
        """
        tokens, grid = self.embeddings(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        outputs = self._through_stages(tokens, grid, return_dict=True, **kwargs)
        states, grids = outputs.hidden_states, [grid]
        for stage in self.encoder.layers:
            grids.append(grids[-1] if stage.downsample is None else halved(grids[-1]))
        tokens = self.layernorm(outputs.last_hidden_state)
        return SwinModelOutput(
            last_hidden_state=tokens,
            pooler_output=tokens.mean(dim=1) if self.add_pooling_layer else None,
            hidden_states=states,
            attentions=outputs.attentions,
            reshaped_hidden_states=None if states is None else as_maps(states, grids),
        )

    @capture_outputs(tie_last_hidden_states=False)
    def _through_stages(self, tokens: Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        for stage in self.encoder.layers:
            tokens, _ = stage(tokens, grid, **kwargs)
            grid = halved(grid)
        return BaseModelOutput(last_hidden_state=tokens)
