"""The one list of architectures, and what makes transformers hand out hfvision's classes.

Adding a model means adding a row to ARCHITECTURES; nothing registers itself elsewhere. Rows are names, resolved when a
class is first asked for, so that registering costs nothing and this module needs neither torch nor transformers.

transformers offers no way to undo a registration, so this file (and only this file) touches the private attribute
`_extra_content` of its auto mappings; `tests/test_registration.py` guards that.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from hfvision.errors import UnknownNameError, did_you_mean
from hfvision.tasks import PIPELINES

IMAGE_CLASSIFICATION = "AutoModelForImageClassification"
SEMANTIC_SEGMENTATION = "AutoModelForSemanticSegmentation"
OBJECT_DETECTION = "AutoModelForObjectDetection"
IMAGE_SEGMENTATION = "AutoModelForImageSegmentation"  # of objects: instances, panoptic


@dataclass(frozen=True)
class Architecture:
    """One model_type; every class is written "module:Class"."""

    config: str
    models: Mapping[str, str]  # auto class of transformers -> model class
    processor: str | None  # None: transformers' own
    tiny: Mapping[str, Any] = field(default_factory=dict)  # config fields that make a test-sized model
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Auto class -> further model classes, which it gives for files that name them in `architectures`."""

    def model(self, auto_class: str, name: str | None = None) -> str:
        """The reference of the auto class's model, or of that among them whose class is called `name`."""
        found = self.offered(auto_class)
        return next((one for one in found if class_name(one) == name), found[0])

    def offered(self, auto_class: str) -> tuple[str, ...]:
        """The references of all model classes that the auto class may give."""
        return (self.models[auto_class], *self.also.get(auto_class, ()))

    def named(self, architectures: Collection[str]) -> tuple[str, str] | None:
        """The auto class and the reference of the model class that a config names; None where it names none of ours."""
        offered = ((auto_class, one) for auto_class in self.models for one in self.offered(auto_class))
        return next(((auto_class, one) for auto_class, one in offered if class_name(one) in architectures), None)


_TINY_VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "encoder_stride": 8,
}
_TINY_BIT = {
    "model_type": "bit",
    "layer_type": "bottleneck",
    "global_padding": "SAME",
    "embedding_dynamic_padding": True,
    "embedding_size": 16,
    "num_groups": 8,
}
_SEGFORMER_MODELS = {
    "AutoModel": "hfvision.models.segformer.model:SegformerModel",
    "AutoModelForImageClassification": "hfvision.models.segformer.model:SegformerForImageClassification",
    "AutoModelForSemanticSegmentation": "hfvision.models.segformer.model:SegformerForSemanticSegmentation",
    "AutoBackbone": "hfvision.models.segformer.model:SegformerBackbone",
}
_TINY_SEGFORMER = {
    "depths": [1, 2],
    "num_encoder_blocks": 2,
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 24,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}
_TINY_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "encoder_stride": 8,
}
_TINY_DETR = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [1, 1, 2, 1],
        "layer_type": "bottleneck",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "d_model": 32,
    "num_queries": 6,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 8,
    "decoder_layers": 2,
    "decoder_ffn_dim": 48,
    "decoder_attention_heads": 8,
}

ARCHITECTURES = {
    "vit": Architecture(
        config="hfvision.models.vit:ViTConfig",
        models={
            "AutoModel": "hfvision.models.vit:ViTModel",
            "AutoModelForImageClassification": "hfvision.models.vit:ViTForImageClassification",
            "AutoModelForMaskedImageModeling": "hfvision.models.vit:ViTForMaskedImageModeling",
            "AutoBackbone": "hfvision.models.vit:ViTBackbone",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny=_TINY_VIT,
    ),
    "deit": Architecture(
        config="hfvision.models.deit:DeiTConfig",
        models={
            "AutoModel": "hfvision.models.deit:DeiTModel",
            "AutoModelForImageClassification": "hfvision.models.deit:DeiTForImageClassification",
            "AutoModelForMaskedImageModeling": "hfvision.models.deit:DeiTForMaskedImageModeling",
            "AutoBackbone": "hfvision.models.deit:DeiTBackbone",
        },
        also={"AutoModelForImageClassification": ("hfvision.models.deit:DeiTForImageClassificationWithTeacher",)},
        processor="hfvision.processing.classification:DeiTImageProcessor",
        tiny=_TINY_VIT,
    ),
    "google_vit": Architecture(
        config="hfvision.models.google_vit:GoogleViTConfig",
        models={
            "AutoModel": "hfvision.models.google_vit:GoogleViTModel",
            "AutoModelForImageClassification": "hfvision.models.google_vit:GoogleViTForImageClassification",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny={**_TINY_VIT, "classifier": "gap", "representation_size": 24},
    ),
    "vit-hybrid": Architecture(
        config="hfvision.models.vit_hybrid:ViTHybridConfig",
        models={
            "AutoModel": "hfvision.models.vit_hybrid:ViTHybridModel",
            "AutoModelForImageClassification": "hfvision.models.vit_hybrid:ViTHybridForImageClassification",
        },
        processor="hfvision.processing.classification:ViTHybridImageProcessor",
        tiny={
            "image_size": 32,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "backbone_config": {**_TINY_BIT, "depths": [1, 1], "hidden_sizes": [32, 64], "out_features": ["stage2"]},
        },
    ),
    "google_vit_hybrid": Architecture(
        config="hfvision.models.vit_hybrid:GoogleViTHybridConfig",
        models={
            "AutoModel": "hfvision.models.vit_hybrid:ViTHybridModel",
            "AutoModelForImageClassification": "hfvision.models.vit_hybrid:ViTHybridForImageClassification",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny={
            "image_size": 32,
            "patch_size": 2,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "classifier": "gap",
            "representation_size": 24,
            "backbone_config": {**_TINY_BIT, "depths": [], "hidden_sizes": [], "out_features": ["stem"]},
        },
    ),
    "swin": Architecture(
        config="hfvision.models.swin.model:SwinConfig",
        models={
            "AutoModel": "hfvision.models.swin.model:SwinModel",
            "AutoModelForImageClassification": "hfvision.models.swin.heads:SwinForImageClassification",
            "AutoModelForMaskedImageModeling": "hfvision.models.swin.heads:SwinForMaskedImageModeling",
            "AutoBackbone": "hfvision.models.swin.heads:SwinBackbone",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny=_TINY_SWIN,
    ),
    "microsoft_swin": Architecture(
        config="hfvision.models.swin.microsoft:MicrosoftSwinConfig",
        models={
            "AutoModel": "hfvision.models.swin.microsoft:MicrosoftSwinModel",
            "AutoModelForImageClassification": "hfvision.models.swin.microsoft:MicrosoftSwinForImageClassification",
            "AutoBackbone": "hfvision.models.swin.microsoft:MicrosoftSwinBackbone",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny={**_TINY_SWIN, "patch_norm": False, "use_absolute_embeddings": True},
    ),
    "segformer": Architecture(
        config="hfvision.models.segformer.model:SegformerConfig",
        models=_SEGFORMER_MODELS,
        processor="hfvision.processing.segmentation:SegformerImageProcessor",
        tiny=_TINY_SEGFORMER,
    ),
    "nvlabs_segformer": Architecture(
        config="hfvision.models.segformer.model:NvlabsSegformerConfig",
        models=_SEGFORMER_MODELS,
        processor="hfvision.processing.segmentation:SegformerImageProcessor",
        tiny=_TINY_SEGFORMER,
    ),
    "segmenter": Architecture(
        config="hfvision.models.segmenter:SegmenterConfig",
        models={
            "AutoModel": "hfvision.models.segmenter:SegmenterModel",
            "AutoModelForSemanticSegmentation": "hfvision.models.segmenter:SegmenterForSemanticSegmentation",
        },
        processor="hfvision.processing.segmentation:SegmenterImageProcessor",
        tiny={
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "decoder_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 48,
            "decoder_dropout_prob": 0.0,
        },
    ),
    "setr": Architecture(
        config="hfvision.models.setr:SetrConfig",
        models={"AutoModelForSemanticSegmentation": "hfvision.models.setr:SetrForSemanticSegmentation"},
        processor="hfvision.processing.segmentation:SetrImageProcessor",
        tiny={
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "decoder_channels": 16,
            "level_channels": 8,
            "auxiliary_indices": [0, 1],
        },
    ),
    "upernet": Architecture(
        config="hfvision.models.upernet:UperNetConfig",
        models={"AutoModelForSemanticSegmentation": "hfvision.models.upernet:UperNetForSemanticSegmentation"},
        processor="hfvision.processing.segmentation:SegformerImageProcessor",
        tiny={
            "backbone_config": {
                "model_type": "swin",
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [1, 1, 1],
                "num_heads": [2, 2, 4],
                "window_size": 2,
                "mlp_ratio": 2.0,
                "drop_path_rate": 0.0,
                "out_features": ["stage1", "stage2", "stage3"],
            },
            "hidden_size": 16,
            "pool_scales": [1, 2],
            "auxiliary_channels": 8,
        },
    ),
    "detr": Architecture(
        config="hfvision.models.detr.config:DetrConfig",
        models={
            "AutoModel": "hfvision.models.detr.model:DetrModel",
            "AutoModelForObjectDetection": "hfvision.models.detr.heads:DetrForObjectDetection",
            "AutoModelForImageSegmentation": "hfvision.models.detr.heads:DetrForSegmentation",
            "AutoModelForUniversalSegmentation": "hfvision.models.detr.heads:DetrForSegmentation",
        },
        processor="hfvision.processing.detection:DetrImageProcessor",
        tiny=_TINY_DETR,
    ),
    "facebook_detr": Architecture(
        config="hfvision.models.detr.facebook:FacebookDetrConfig",
        models={
            "AutoModel": "hfvision.models.detr.facebook:FacebookDetrModel",
            "AutoModelForObjectDetection": "hfvision.models.detr.facebook:FacebookDetrForObjectDetection",
            "AutoModelForImageSegmentation": "hfvision.models.detr.facebook:FacebookDetrForSegmentation",
            "AutoModelForUniversalSegmentation": "hfvision.models.detr.facebook:FacebookDetrForSegmentation",
        },
        processor="hfvision.processing.detection:DetrImageProcessor",
        tiny={**_TINY_DETR, "pre_norm": True},
    ),
    "mlp_mixer": Architecture(
        config="hfvision.models.mlp_mixer:MlpMixerConfig",
        models={
            "AutoModel": "hfvision.models.mlp_mixer:MlpMixerModel",
            "AutoModelForImageClassification": "hfvision.models.mlp_mixer:MlpMixerForImageClassification",
        },
        processor="hfvision.processing.classification:ViTImageProcessor",
        tiny={
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "token_mlp_size": 24,
            "channel_mlp_size": 48,
        },
    ),
}

# Processors that are not one architecture's: found by their own name in a preprocessor_config.json.
OWN_PROCESSORS = (
    "hfvision.processing.classification:BitImageProcessor",
    "hfvision.processing.classification:MultispectralImageProcessor",
    "hfvision.processing.segmentation:SegmentationImageProcessor",
    "hfvision.processing.detection:DetectionImageProcessor",
)

_AUTO = "transformers.models.auto"
_PIPELINES = "transformers.pipelines"

_active = True  # whether registering is wanted; unregister() ends it
_replaced_tasks: dict[str, Any] = {}  # transformers' own entries, for unregister()


def load(reference: str) -> Any:
    """The class that "module:Class" names."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def architecture(model_type: str) -> Architecture:
    """The row of a model_type. Raises UnknownNameError, naming the closest ones."""
    if model_type not in ARCHITECTURES:
        meant = did_you_mean(model_type, ARCHITECTURES)
        raise UnknownNameError(f"hfvision has no model_type {model_type!r}; it has {', '.join(ARCHITECTURES)}.{meant}")
    return ARCHITECTURES[model_type]


def families() -> list[dict[str, Any]]:
    """The rows as plain data: model_type, config class, the classes behind each auto class, image processor."""
    return [
        {
            "model_type": model_type,
            "config": class_name(row.config),
            "models": {
                auto_class: [class_name(reference) for reference in row.offered(auto_class)]
                for auto_class in row.models
            },
            "processor": class_name(row.processor) if row.processor else None,
        }
        for model_type, row in ARCHITECTURES.items()
    ]


def class_name(reference: str) -> str:
    return reference.split(":")[1]


Ours = dict[str, Callable[[], Any]]


class _Entries(dict[Any, Any]):
    """An auto mapping's extra registrations: other people's as they are, hfvision's resolved when asked for.

    `ours` maps a key, a model_type or "module:Class" of a config class, to a function that gives the value. What
    somebody registers later for the same key comes first.
    """

    def __init__(self, others: Mapping[Any, Any], ours: Ours, keys_are_classes: bool) -> None:
        super().__init__(others)
        self.ours = ours
        self.keys_are_classes = keys_are_classes

    def others(self) -> dict[Any, Any]:
        return dict(super().items())

    def _name(self, key: Any) -> str | None:
        if isinstance(key, type):
            return f"{key.__module__}:{key.__qualname__}" if self.keys_are_classes else None
        return key if isinstance(key, str) and not self.keys_are_classes else None

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self._name(key) in self.ours

    def __getitem__(self, key: Any) -> Any:
        if super().__contains__(key):
            return super().__getitem__(key)
        name = self._name(key)
        if name is None or name not in self.ours:
            raise KeyError(key)
        return self.ours[name]()

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - this is the method it proposes

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        for name in self.ours:
            key = load(name) if self.keys_are_classes else name
            if not super().__contains__(key):
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


def _entries() -> dict[str, tuple[str, Ours, bool]]:
    """For each auto mapping of transformers: the module that holds it, our entries, and whether keys are classes."""
    configs: Ours = {model_type: partial(load, row.config) for model_type, row in ARCHITECTURES.items()}
    processors: Ours = {
        row.config: partial(_processor_classes, row.processor) for row in ARCHITECTURES.values() if row.processor
    }
    for own in OWN_PROCESSORS:  # found by name among the values; the key only has to be a class
        processors[own] = partial(_processor_classes, own)
    tables: dict[str, tuple[str, Ours, bool]] = {
        "CONFIG_MAPPING": (f"{_AUTO}.configuration_auto", configs, False),
        "IMAGE_PROCESSOR_MAPPING": (f"{_AUTO}.image_processing_auto", processors, True),
    }
    for row in ARCHITECTURES.values():
        for auto_class, model in row.models.items():
            models = tables.setdefault(auto_class, (f"{_AUTO}.modeling_auto", {}, True))[1]
            also = row.also.get(auto_class)
            models[row.config] = partial(_load_all, (model, *also)) if also else partial(load, model)
    return tables


def _load_all(references: tuple[str, ...]) -> tuple[Any, ...]:
    """Among several classes an Auto class chooses by the config's `architectures`, else takes the first."""
    return tuple(map(load, references))


def _processor_classes(reference: str) -> dict[str, Any]:
    """By backend, as AutoImageProcessor wants them. The processors learn here whose they are, see their base class."""
    processor = load(reference)
    tell_whom_to_serve(processor)
    classes: dict[str, Any] = processor.auto_classes()
    return classes


def tell_whom_to_serve(processor: Any) -> None:
    """Let an image processor's class know for which model types AutoImageProcessor is to give ours."""
    processor.served_model_types.update(name for name, row in ARCHITECTURES.items() if row.processor)


def register() -> None:
    """Make transformers' Auto classes and pipelines give hfvision's classes, for all its modules imported so far; those
    imported later follow by themselves. Happens by itself with `import hfvision` unless HFVISION_REGISTER=0.

    Example:
        >>> import hfvision
        >>> from transformers import AutoConfig
        >>> hfvision.register()
        >>> AutoConfig.for_model("vit").__class__ is hfvision.ViTConfig
        True
    """
    global _active
    _active = True
    register_imported()


def register_imported() -> None:
    """What the import hook calls: register wherever transformers' modules are there and unregister() was not called."""
    if not _active:
        return
    for name, (module_name, ours, keys_are_classes) in _entries().items():
        mapping = _mapping(module_name, name)
        if mapping is not None and not isinstance(mapping._extra_content, _Entries):
            mapping._extra_content = _Entries(mapping._extra_content, ours, keys_are_classes)
    backbone = _auto_backbone()
    if backbone is not None and "from_pretrained" not in vars(backbone):
        backbone.from_pretrained = classmethod(_backbone_from_pretrained)
    if _PIPELINES in sys.modules:
        tasks = sys.modules[_PIPELINES].PIPELINE_REGISTRY.supported_tasks
        for task, reference in PIPELINES.items():
            if task not in _replaced_tasks:
                _replaced_tasks[task] = tasks[task]
                tasks[task] = {**tasks[task], "impl": reference.replace(":", ".")}  # a name, resolved when used


def unregister() -> None:
    """Give transformers its own classes back, now and for modules imported later, until register() is called.

    Example:
        >>> import hfvision
        >>> from transformers import AutoConfig
        >>> hfvision.unregister()
        >>> AutoConfig.for_model("vit").__class__ is hfvision.ViTConfig
        False
        >>> hfvision.register()
    """
    global _active
    _active = False
    for name, (module_name, _, _) in _entries().items():
        mapping = _mapping(module_name, name)
        if mapping is not None and isinstance(mapping._extra_content, _Entries):
            mapping._extra_content = mapping._extra_content.others()
    backbone = _auto_backbone()
    if backbone is not None and "from_pretrained" in vars(backbone):
        del backbone.from_pretrained
    if _PIPELINES in sys.modules:
        sys.modules[_PIPELINES].PIPELINE_REGISTRY.supported_tasks.update(_replaced_tasks)
    _replaced_tasks.clear()


def _auto_backbone() -> Any:
    return getattr(sys.modules.get(f"{_AUTO}.modeling_auto"), "AutoBackbone", None)


def _backbone_from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
    """transformers' own, which asks the Hub whether a folder is one of its repositories, and takes it for one of timm's
    models where it is not. A folder with a model of ours is loaded as other Auto classes load it.
    """
    theirs: Any = super(_auto_backbone(), cls)
    if os.path.isdir(pretrained_model_name_or_path):
        from transformers import AutoConfig

        folder = os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        config = kwargs.get("config") or AutoConfig.from_pretrained(folder)
        if getattr(config, "model_type", None) in ARCHITECTURES:
            theirs = super(_auto_backbone().__mro__[1], cls)  # past the class that asks
    return theirs.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


def _mapping(module_name: str, name: str) -> Any:
    """transformers' mapping of that name, or None while its module is not imported."""
    module = sys.modules.get(module_name)
    found: Any = getattr(module, name, None)
    return vars(found)["_model_mapping"] if isinstance(found, type) else found  # an Auto class holds its mapping
