"""MLP-Mixer: an image classifier that mixes patches, then channels, with plain MLPs.

Paper:  Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.
Source: google-research/vision_transformer, its Mixer (Apache-2.0), re-expressed in PyTorch. Names of weights are ours.

The token MLP has one weight per patch, so a trained Mixer takes images of one size only.

Shapes: B images, C channels, H x W pixels, h x w patches, N = h * w tokens, D width, K labels.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.drop_path import DropPath, linear_rates
from hfvision.layers.in_place import activated
from hfvision.layers.linear import Linear
from hfvision.layers.patch_embedding import PatchEmbedding, by, pair
from hfvision.layers.position import Grid
from hfvision.models.base import InputGeometry, InputPart, VisionModel
from hfvision.models.catalog_config import CatalogConfig
from hfvision.tracing import sizes_are_symbols


@strict
class MlpMixerConfig(CatalogConfig, PreTrainedConfig):
    """Sizes of a Mixer; the defaults are Mixer-B/16 at 224 pixels (59.9 M parameters with 1,000 labels).

    Example:
        >>> import hfvision
        >>> config = hfvision.MlpMixerConfig.from_catalog("mixer-base-patch16-224")
        >>> config.hidden_size, config.num_hidden_layers
        (768, 12)
    """

    model_type = "mlp_mixer"

    image_size: int | list[int] | tuple[int, int] = 224  # pixels: one side, or [height, width]
    patch_size: int | list[int] | tuple[int, int] = 16  # pixels, likewise
    num_channels: int = 3
    hidden_size: int = 768  # D
    num_hidden_layers: int = 12
    token_mlp_size: int = 384  # hidden width of the MLP over N
    channel_mlp_size: int = 3072  # hidden width of the MLP over D
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0  # of the last block, in training
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    @property
    def grid(self) -> Grid:
        """(h, w): the patches of an image; a partial one counts, since the image is padded."""
        (height, width), (patch_height, patch_width) = pair(self.image_size), pair(self.patch_size)
        return -(-height // patch_height), -(-width // patch_width)


class MixerPatchEmbedding(PatchEmbedding, InputPart):
    """(B, C, H, W) -> (B, N, D): one linear map per patch. A partial patch is padded with zeros on both sides."""

    def __init__(self, config: MlpMixerConfig) -> None:
        super().__init__(config.num_channels, config.hidden_size, config.patch_size)
        self.image_size, self.grid = pair(config.image_size), config.grid

    def forward(self, pixel_values: Tensor, pad: bool = True) -> Tensor:
        """Raises ImageShapeError unless the images have the size and the channels of the config."""
        size = tuple(pixel_values.shape[-2:])
        if pixel_values.ndim == 4 and size != self.image_size:
            count = self.grid[0] * self.grid[1]
            raise ImageShapeError(
                f"this Mixer takes images of {by(self.image_size)} pixels, because its token MLP has one weight for "
                f"each of {by(self.grid)} = {count} patches; got {by(size)}. Resize the images to "
                f"{by(self.image_size)}, as its image processor does."
            )
        if sizes_are_symbols():  # a graph refuses images of another size, too, whose patches could be as many
            pixel_values = pixel_values.expand(-1, -1, *self.image_size)
        return super().forward(pixel_values, pad).flatten(2).mT  # (B, D, h, w) -> (B, N, D)

    def _padded(self, pixel_values: Tensor) -> Tensor:
        """SAME padding: an odd pixel goes to the end."""
        sides = zip(self.image_size, self.patch_size, strict=True)
        height, width = (-side % patch for side, patch in sides)
        if not (height or width):
            return pixel_values
        return nn.functional.pad(pixel_values, (width // 2, width - width // 2, height // 2, height - height // 2))

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """Another image_size works with the patch_size that keeps the grid; another grid raises ConfigError."""
        patch_size, image_size = pair(geometry.patch_size), pair(geometry.image_size)
        wanted = MlpMixerConfig(image_size=image_size, patch_size=patch_size)
        if wanted.grid != self.grid:
            raise ConfigError(
                f"image_size {by(image_size)} with patch_size {by(patch_size)} makes {by(wanted.grid)} patches, and "
                f"this Mixer has a weight for each of {by(self.grid)}: other patches need training from the start. "
                f"Resize the images to {by(self.image_size)}, or change patch_size together with image_size so that "
                f"there are {by(self.grid)} patches."
            )
        kernel, changes = self.kernel_for(geometry.num_channels, patch_size, geometry.channel_init)
        self.set_kernel(kernel)
        self.image_size = image_size
        return changes


class MixerMlp(nn.Module):
    """Two linear maps with an activation between, over the last axis: (..., n) -> (..., n)."""

    def __init__(self, size: int, hidden_size: int, config: MlpMixerConfig) -> None:
        super().__init__()
        self.fc1 = Linear(size, hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = Linear(hidden_size, size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(activated(self.fc1, self.activation, x)))


class MixerLayer(GradientCheckpointingLayer):
    """(B, N, D) -> (B, N, D)."""

    def __init__(self, config: MlpMixerConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        height, width = config.grid
        self.token_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.token_mlp = MixerMlp(height * width, config.token_mlp_size, config)
        self.channel_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.channel_mlp = MixerMlp(config.hidden_size, config.channel_mlp_size, config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.token_mlp(self.token_norm(x).mT).mT)  # mix across N
        return x + self.drop_path(self.channel_mlp(self.channel_norm(x)))  # mix across D


class MlpMixerPreTrainedModel(VisionModel):
    config: MlpMixerConfig
    config_class = MlpMixerConfig
    base_model_prefix = "mixer"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["MixerLayer"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MixerLayer}
    _input_embed_layer = "patch_embedding"

    takes_any_size: ClassVar[bool] = False

    def blocks(self) -> list[nn.Module]:
        trunk: Any = self.base_model
        return list(trunk.layers)


class MlpMixerModel(MlpMixerPreTrainedModel):
    """The trunk: pixels to N token vectors, and their mean.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.MlpMixerConfig(image_size=32, hidden_size=32, num_hidden_layers=1)
        >>> model = hfvision.MlpMixerModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 4, 32)
    """

    def __init__(self, config: MlpMixerConfig) -> None:
        super().__init__(config)
        self.patch_embedding = MixerPatchEmbedding(config)
        rates = linear_rates(config.drop_path_rate, config.num_hidden_layers)
        self.layers = nn.ModuleList(MixerLayer(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """pixel_values: (B, C, H, W), normalised, of the config's size. pooler_output: (B, D), their mean over N."""
        tokens = self.patch_embedding(pixel_values)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens.mean(dim=1))


class MlpMixerForImageClassification(MlpMixerPreTrainedModel):
    """The trunk plus one linear layer over the mean of the tokens.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.MlpMixerConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_labels=3)
        >>> model = hfvision.MlpMixerForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    def __init__(self, config: MlpMixerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mixer = MlpMixerModel(config)
        self.classifier = Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ImageClassifierOutput:
        """labels: (B,) class indices; (B, K) floats for multi-label; (B,) or (B, K) floats for regression. Images as in
        MlpMixerModel.forward. Logits: (B, K).
        """
        outputs = self.mixer(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
