"""The configuration of DETR, in all forms that published files have.

Shapes: see `models.detr`.
"""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hfvision.errors import ConfigError, numbered
from hfvision.models.catalog_config import CatalogConfig

OLDER_FIELDS = ("use_timm_backbone", "use_pretrained_backbone", "backbone")
TOLD_BY_NAME = ("num_channels", "out_indices", "output_stride")  # of a trunk that is named and no more said of it


@strict
class DetrConfig(CatalogConfig, PreTrainedConfig):
    """Trunk and sizes of a DETR; the defaults are DETR-R50 (41 M parameters with 91 classes).

    A published example: [facebook/detr-resnet-50](https://huggingface.co/facebook/detr-resnet-50).

    Files that name their trunk (`use_timm_backbone`, `backbone="resnet50"`, `backbone_kwargs`) get the
    `backbone_config` that this means. What is saved says it in both ways, for transformers 4 reads the older alone.

    Example:
        >>> import hfvision
        >>> config = hfvision.DetrConfig.from_catalog("detr-resnet-50")
        >>> config.num_queries, config.d_model
        (100, 256)
    """

    model_type = "detr"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "backbone_config": SubConfigSpec(AutoConfig, model_type="resnet", init_kwargs={"out_features": ["stage4"]})
    }
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None  # of any backbone; None: timm's ResNet-50
    num_channels: int = 3  # those of the trunk, whose config decides
    num_queries: int = 100  # Q: the most objects found in one image
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048  # hidden width of the MLP
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    encoder_layerdrop: float | int = 0.0  # stored by transformers, which does not read it either
    decoder_layerdrop: float | int = 0.0
    is_encoder_decoder: bool = True
    activation_function: str = "relu"
    d_model: int = 256  # D
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    init_std: float | int = 0.02
    init_xavier_std: float | int = 1.0
    auxiliary_loss: bool = False  # of all decoder layers, each normed before the next: see DetrRenormingDecoder
    position_embedding_type: Literal["sine", "learned"] = "sine"
    dilation: bool | None = False  # of the last stage of a trunk named as timm does; others are not dilated
    class_cost: float | int = 1  # in matching, as the next two
    bbox_cost: float | int = 5
    giou_cost: float | int = 2
    mask_loss_coefficient: float | int = 1
    dice_loss_coefficient: float | int = 1
    bbox_loss_coefficient: float | int = 5
    giou_loss_coefficient: float | int = 2
    eos_coefficient: float | int = 0.1  # weight of the class "no object"

    def __post_init__(self, **kwargs: Any) -> None:
        self.dilation = bool(self.dilation)  # transformers 4 writes None for trunks that are not named
        if self.backbone_config is None:
            self.backbone_config = self._named_trunk(kwargs)
        super().__post_init__(**{name: value for name, value in kwargs.items() if name not in OLDER_FIELDS})
        self.num_channels = getattr(self.backbone_config, "num_channels", self.num_channels)

    def _named_trunk(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The config of the trunk that a file names; None for transformers' own ResNet-50."""
        by_timm, name = kwargs.pop("use_timm_backbone", True), kwargs.pop("backbone", None)
        further = kwargs.pop("backbone_kwargs", None) or {}
        if not by_timm and name is not None:
            raise ConfigError(
                f"backbone={name!r} with use_timm_backbone=False names a repository of the Hub; give what its "
                "config.json holds as backbone_config instead."
            )
        if not by_timm:
            return None
        channels = further.get("num_channels", further.get("in_chans", self.num_channels))
        trunk = {
            "model_type": "timm_backbone",
            "backbone": name or "resnet50",
            "num_channels": channels,
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": list(further.get("out_indices", [1, 2, 3, 4])),
        }
        if self.dilation:
            trunk["output_stride"] = further.get("output_stride", 16)
        return trunk

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().to_dict()
        trunk, by_timm = fields["backbone_config"], False
        if (name := trunk.get("backbone")) is not None:
            named = self._named_trunk({"backbone": name}) or {}
            by_timm = all(trunk.get(field) == named.get(field) for field in TOLD_BY_NAME)
        older = dict(zip(OLDER_FIELDS, (by_timm, False, name if by_timm else None), strict=True))
        return {**fields, **older, **({"backbone_config": None} if by_timm else {})}

    @property
    def dilates_any_resnet(self) -> bool:
        """Whether `dilation` also concerns trunks with a ResNetConfig."""
        return False

    def validate_sizes(self) -> None:
        problems = [
            f"d_model {self.d_model} cannot be split among {heads} attention heads; choose {field} so that it divides "
            "d_model"
            for field in ("encoder_attention_heads", "decoder_attention_heads")
            if (heads := getattr(self, field)) < 1 or self.d_model % heads
        ]
        if self.d_model % 4:
            problems.append(f"positions are sines and cosines, down and across: 4 divides d_model; got {self.d_model}")
        if self.num_queries < 1:
            problems.append(f"num_queries is at least 1; got {self.num_queries}")
        if problems:
            raise ConfigError(numbered("problem", problems))
