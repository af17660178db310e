"""What DETR's queries stand for: a class and a box, and, with a head over the trunk's maps, a mask.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, sections 3.2 and 4.4.
Source: facebookresearch/detr (Apache-2.0), re-expressed in PyTorch. Names of weights are those of the Hub's
        "detr" files.

Shapes: B images, H x W pixels, h x w places of the trunk's last map, D width, Q queries, L decoder layers, K labels.
        Boxes are (centre x, centre y, width, height) as shares of the image without its padding.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.detr.modeling_detr import DetrModelOutput, DetrObjectDetectionOutput, DetrSegmentationOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from typing_extensions import Unpack

from hfvision.errors import ConfigError
from hfvision.layers.conv import stands_for_3x3
from hfvision.layers.linear import Linear
from hfvision.layers.plain import may_stand_plain, stands_plain
from hfvision.losses.counts import ItemCount, StepCounts
from hfvision.losses.detection import DetectionLoss
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.model import DETECTOR_PARTS, DetrFeatures, DetrModel, DetrPreTrainedModel
from hfvision.models.detr.resnet import FeatureMap, blank

FINER_MAPS = 3  # of the trunk's, that the mask head reads
QUERIES_AT_ONCE = 25  # whose masks are made together where no gradient keeps their maps
GROUPS = 8  # of the mask head's norms, where there are as many channels


class DetrBoxPredictor(nn.Module):
    """Three linear layers: (..., D) -> (..., 4), before the sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(width, width), Linear(width, width), Linear(width, 4)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())


class DetrDetector(DetrPreTrainedModel):
    """What the models with a loss have in common.

    `detection_loss` is what `forward` computes from labels; training replaces it, and it is in no config. With
    `loss_of_all_layers` it is the sum over all decoder layers, as in the source, without which it hardly learns; the
    model answers the same. (The config's `auxiliary_loss` does that too, and changes what the model answers.)
    """

    loss_of_all_layers: bool = False

    @property
    def default_loss(self) -> DetectionLoss:
        """What `detection_loss` is until it is replaced: the config's costs and weights."""
        config = self.config
        return DetectionLoss(
            num_labels=config.num_labels or 0,
            class_cost=config.class_cost,
            bbox_cost=config.bbox_cost,
            giou_cost=config.giou_cost,
            eos_coefficient=config.eos_coefficient,
            weights={
                "loss_bbox": config.bbox_loss_coefficient,
                "loss_giou": config.giou_loss_coefficient,
                "loss_mask": config.mask_loss_coefficient,
                "loss_dice": config.dice_loss_coefficient,
            },
        )

    def step_counts(self, batch: Mapping[str, Any]) -> StepCounts | None:
        return self.detection_loss.step_counts(batch["labels"], self.config.num_queries)

    @property
    def detection_loss(self) -> DetectionLoss:
        return self.__dict__.get("_detection_loss") or self.default_loss

    @detection_loss.setter
    def detection_loss(self, loss: DetectionLoss) -> None:
        self.__dict__["_detection_loss"] = loss

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DetrBoxPredictor | DetrForObjectDetection):
            linears = module.layers if isinstance(module, DetrBoxPredictor) else [module.class_labels_classifier]
            for linear in linears:
                assert isinstance(linear, nn.Linear)
                init.kaiming_uniform_(linear.weight, a=5**0.5)  # torch's own for linear layers, as in the source
        elif isinstance(module, DetrMaskHead):
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    init.kaiming_uniform_(part.weight, a=1)
        elif isinstance(module, DetrBoxAttention):
            for linear in (module.q_linear, module.k_linear):
                init.xavier_uniform_(linear.weight, gain=self.config.init_xavier_std)

    def with_loss(
        self,
        outputs: DetrModelOutput,
        labels: list[dict[str, Tensor]] | None,
        detector: "DetrForObjectDetection",
        masks: Tensor | None = None,
        num_items_in_batch: ItemCount = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The fields of the output: predictions, and, given labels, the loss and its terms; further options of
        `forward` concern other parts.
        """
        last: Any = outputs.last_hidden_state
        logits, boxes = detector.predictions(last)
        fields: dict[str, Any] = {"logits": logits, "pred_boxes": boxes}
        if labels is not None:
            auxiliary = self.config.auxiliary_loss or self.loss_of_all_layers
            layers: Any = outputs.intermediate_hidden_states
            all_logits, all_boxes = logits[None], boxes[None]
            if auxiliary:
                earlier_logits, earlier_boxes = detector.predictions(layers[:-1])
                all_logits, all_boxes = torch.cat([earlier_logits, all_logits]), torch.cat([earlier_boxes, all_boxes])
            fields["loss"], fields["loss_dict"] = self.detection_loss(
                all_logits, all_boxes, labels, masks, num_items_in_batch
            )
            if self.config.auxiliary_loss:  # what a model answers does not depend on how it learns
                pairs = zip(earlier_logits, earlier_boxes, strict=True)
                fields["auxiliary_outputs"] = [{"logits": one, "pred_boxes": other} for one, other in pairs]
        shared = [name for name in outputs if name != "intermediate_hidden_states"]
        return fields | {name: outputs[name] for name in shared}


class DetrForObjectDetection(DetrDetector):
    """DETR with a class and a box for each query.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        ...     "out_features": ["stage1", "stage2"],
        ... }
        >>> config = hfvision.DetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7, num_labels=3
        ... )
        >>> model = hfvision.DetrForObjectDetection(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).pred_boxes.shape)
        (2, 7, 4)
    """

    model_class: ClassVar[type[DetrModel]] = DetrModel

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = self.model_class(config)
        self.class_labels_classifier = Linear(config.d_model, (config.num_labels or 0) + 1)  # the last: no object
        self.bbox_predictor = DetrBoxPredictor(config.d_model)
        self.post_init()

    def predictions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., Q, D) -> class logits (..., Q, K + 1), boxes (..., Q, 4)."""
        return self.class_labels_classifier(x), self.bbox_predictor(x).sigmoid()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DetrObjectDetectionOutput:
        """labels: for each image a dict of class_labels (n,) and boxes (n, 4). The rest as in DetrModel.forward.
        Logits: (B, Q, K + 1), the last of them "no object"; pred_boxes: (B, Q, 4).
        """
        outputs = self.model(
            pixel_values,
            pixel_mask=pixel_mask,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            **kwargs,
        )
        return DetrObjectDetectionOutput(**self.with_loss(outputs, labels, self, **kwargs))


class DetrBoxAttention(nn.Module):
    """Where each query looks: (B, Q, D) and the encoder's map (B, D, h, w) -> (B, Q, heads, h, w).

    The attention of a query sums to one over all heads and places together.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.heads = config.encoder_attention_heads
        self.q_linear = Linear(config.d_model, config.d_model)
        self.k_linear = Linear(config.d_model, config.d_model)

    def forward(self, queries: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        query = self.q_linear(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, Q, d)
        key = self.k_linear(memory.movedim(1, -1).flatten(1, 2)).unflatten(-1, (self.heads, -1))  # (B, N, heads, d)
        scores = query * query.shape[-1] ** -0.5 @ key.permute(0, 2, 3, 1)  # (B, heads, Q, N)
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(2)[:, None], float("-inf"))
        scores = scores.transpose(1, 2)  # (B, Q, heads, N)
        return scores.flatten(2).softmax(dim=-1).view(scores.shape).unflatten(-1, memory.shape[-2:])


@may_stand_plain
class MaskedGroupNorm(nn.GroupNorm):
    """Group norm whose statistics leave padding out: (n, F, h, w) -> (n, F, h, w)."""

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if padding is None:
            return super().forward(x)
        places = (~padding).sum(dim=(2, 3)).to(x.dtype)  # (n, 1)
        centred = blank(x - self._mean(blank(x, padding), places), padding)
        scale = (self._mean(centred.square(), places) + self.eps).rsqrt()
        return centred * scale * self.weight[:, None, None] + self.bias[:, None, None]

    def _mean(self, x: Tensor, places: Tensor) -> Tensor:
        """Over the places and over the channels of a group, for each channel: (n, F, h, w) -> (n, F, 1, 1)."""
        of_groups = (x.sum(dim=(2, 3)) / places).unflatten(1, (self.num_groups, -1)).mean(dim=2, keepdim=True)
        return of_groups.expand(-1, -1, self.num_channels // self.num_groups).flatten(1)[..., None, None]


@may_stand_plain
class DetrMaskHead(nn.Module):
    """A mask for each query, from where it looks and the trunk's maps, coarse to fine.

    The first convolution sees the map of the image beside the attention of a query. Its share of the image is computed
    once for all queries, and so is what the finer maps add.
    """

    def __init__(self, config: DetrConfig, channels: list[int]) -> None:
        super().__init__()
        width = config.d_model
        widths = [width + config.encoder_attention_heads, *(width // 2**step for step in range(1, 5))]
        if len(channels) < FINER_MAPS or width % 16 or any(one % min(GROUPS, one) for one in widths):
            raise ConfigError(
                f"the mask head reads {FINER_MAPS} of the trunk's maps, and its norms have {GROUPS} groups: "
                f"{GROUPS} divides d_model + encoder_attention_heads, 16 divides d_model; got {len(channels)} maps, "
                f"d_model {width} and {config.encoder_attention_heads} heads. Choose more out_features, or other sizes."
            )
        self.width = width
        inputs = [widths[0], *widths[:-1]]
        for number, (before, after) in enumerate(zip(inputs, widths, strict=True), start=1):
            self.add_module(f"lay{number}", nn.Conv2d(before, after, kernel_size=3, padding=1))
            self.add_module(f"gn{number}", MaskedGroupNorm(min(GROUPS, after), after))
        self.out_lay = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)
        for number, (before, after) in enumerate(
            zip(channels[FINER_MAPS - 1 :: -1], widths[1:4], strict=True), start=1
        ):
            self.add_module(f"adapter{number}", nn.Conv2d(before, after, kernel_size=1))
        self.activation = ACT2FN[config.activation_function]

    def forward(self, features: DetrFeatures, attention: Tensor) -> Tensor:
        """attention: (B, Q, heads, h, w) -> mask logits (B, Q, h', w'), of the size of the finest map."""
        parts: Any = self._modules
        last, finer = features.maps[-1], features.maps[FINER_MAPS - 1 :: -1]
        image = FeatureMap(blank(features.projected, last.padding), last.padding)
        added = [
            FeatureMap(parts[f"adapter{step}"](one.values), one.padding) for step, one in enumerate(finer, start=1)
        ]
        if not stands_for_3x3(parts["lay1"]):
            return self._masks(image, added, attention, None)
        of_image, of_queries = parts["lay1"].weight.split([self.width, attention.shape[2]], dim=1)
        shared = nn.functional.conv2d(image.values, of_image, parts["lay1"].bias, padding=1)
        image = FeatureMap(shared, last.padding)
        keeps_nothing = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        at_once = QUERIES_AT_ONCE if keeps_nothing and stands_plain(*self.modules()) else attention.shape[1]
        return torch.cat(
            [self._masks(image, added, some, of_queries) for some in attention.split(at_once, dim=1)], dim=1
        )

    def _masks(
        self, image: FeatureMap, finer: list[FeatureMap], attention: Tensor, of_queries: Tensor | None
    ) -> Tensor:
        """`finer`: what the later steps add for all queries of an image. of_queries: the share of the first kernel that
        reads the attention, its share of the image being taken; None: the first convolution reads both."""
        parts: Any = self._modules
        queries = attention.shape[1]
        hidden = None if image.padding is None else image.padding.repeat_interleave(queries, dim=0)
        x, of_image = attention.flatten(0, 1), repeated(image.values, queries)
        if of_queries is None:
            x = parts["lay1"](torch.cat([of_image, x], dim=1))
        else:
            x = nn.functional.conv2d(x, of_queries, padding=1) + of_image
        x = blank(self.activation(parts["gn1"](x, hidden)), hidden)
        x = self.activation(parts["gn2"](parts["lay2"](x), hidden))
        for step, (added, padding) in enumerate(finer, start=3):
            hidden = None if padding is None else padding.repeat_interleave(queries, dim=0)
            x = nn.functional.interpolate(x, size=added.shape[-2:]) + repeated(added, queries)
            x = parts[f"lay{step}"](blank(x, hidden))
            x = self.activation(parts[f"gn{step}"](x, hidden))
        return self.out_lay(blank(x, hidden)).unflatten(0, (-1, queries)).squeeze(2)


def repeated(x: Tensor, queries: int) -> Tensor:
    """(B, ...) -> (B * Q, ...): each image's map once for each query; that of a single image takes no memory."""
    return x[:, None].expand(-1, queries, *x.shape[1:]).flatten(0, 1)


class DetrForSegmentation(DetrDetector):
    """DETR with a class, a box and a mask for each query.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
        ...     "out_features": ["stage1", "stage2", "stage3", "stage4"],
        ... }
        >>> config = hfvision.DetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7
        ... )
        >>> model = hfvision.DetrForSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).pred_masks.shape)
        (2, 7, 16, 16)
    """

    other_beginnings: ClassVar[dict[str, str]] = {rf"^{part}\.": f"detr.{part}." for part in DETECTOR_PARTS}
    detector_class: ClassVar[type[DetrForObjectDetection]] = DetrForObjectDetection

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.detr = self.detector_class(config)
        self.mask_head = DetrMaskHead(config, self._trunk().channels)
        self.bbox_attention = DetrBoxAttention(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DetrSegmentationOutput:
        """labels: for each image a dict of class_labels (n,), boxes (n, 4) and masks (n, H, W). The rest as in
        DetrModel.forward; inputs_embeds are taken for transformers' sake and raise ConfigError, for masks need the
        trunk's maps. pred_masks: (B, Q, h', w'), logits at the size of the finest map, a quarter of the image's.
        """
        if inputs_embeds is not None:
            raise ConfigError("masks are made from the trunk's maps, which inputs_embeds leave out; give pixel_values.")
        model: Any = self.detr.model
        outputs, features = model.read(
            pixel_values, pixel_mask, decoder_attention_mask, encoder_outputs, None, decoder_inputs_embeds, **kwargs
        )
        memory = outputs.encoder_last_hidden_state.mT.unflatten(2, features.projected.shape[-2:])
        attention = self.bbox_attention(outputs.last_hidden_state, memory, features.padding)
        masks = self.mask_head(features, attention)
        fields = self.with_loss(outputs, labels, self.detr, masks, **kwargs)
        return DetrSegmentationOutput(pred_masks=masks, **fields)
