"""Vision transformers for the Hugging Face ecosystem.

After `import hfvision`, before or after transformers, its `pipeline` and Auto classes give hfvision's classes for every
architecture in `hfvision.registry`. The import itself is free: no torch, no transformers; the first name looked up
here brings what it needs. HFVISION_REGISTER=0 in the environment leaves transformers as it is.
"""

import os
from importlib import import_module

from hfvision import _import_hook
from hfvision.registry import register, unregister

__version__ = "0.4.0"

# Where each public name is defined; __init__.pyi says the same to type checkers (python -m tests.stub writes it).
_HOME = {
    "BitImageProcessor": "hfvision.processing.classification",
    "CheckpointReadError": "hfvision.errors",
    "ClassificationAugmentation": "hfvision.training.classification_augmentation",
    "ClassificationData": "hfvision.data",
    "ClassificationMetric": "hfvision.metrics",
    "ConfigError": "hfvision.errors",
    "ConversionError": "hfvision.errors",
    "DatasetError": "hfvision.errors",
    "DeiTBackbone": "hfvision.models.deit",
    "DeiTConfig": "hfvision.models.deit",
    "DeiTForImageClassification": "hfvision.models.deit",
    "DeiTForImageClassificationWithTeacher": "hfvision.models.deit",
    "DeiTForMaskedImageModeling": "hfvision.models.deit",
    "DeiTImageProcessor": "hfvision.processing.classification",
    "DeiTModel": "hfvision.models.deit",
    "DetectionAugmentation": "hfvision.training.detection_augmentation",
    "DetectionData": "hfvision.data",
    "DetectionImageProcessor": "hfvision.processing.detection",
    "DetectionLoss": "hfvision.losses.detection",
    "DetectionMetric": "hfvision.metrics",
    "Detections": "hfvision.detections",
    "DetrConfig": "hfvision.models.detr_config",
    "DetrForObjectDetection": "hfvision.models.detr_heads",
    "DetrForSegmentation": "hfvision.models.detr_heads",
    "DetrImageProcessor": "hfvision.processing.detection",
    "DetrModel": "hfvision.models.detr",
    "Distillation": "hfvision.training.distillation",
    "FacebookDetrConfig": "hfvision.models.facebook_detr",
    "FacebookDetrForObjectDetection": "hfvision.models.facebook_detr",
    "FacebookDetrForSegmentation": "hfvision.models.facebook_detr",
    "FacebookDetrModel": "hfvision.models.facebook_detr",
    "GoogleViTConfig": "hfvision.models.google_vit",
    "GoogleViTForImageClassification": "hfvision.models.google_vit",
    "GoogleViTHybridConfig": "hfvision.models.vit_hybrid",
    "GoogleViTModel": "hfvision.models.google_vit",
    "HfvisionError": "hfvision.errors",
    "HubAccessError": "hfvision.errors",
    "ImageReadError": "hfvision.errors",
    "ImageShapeError": "hfvision.errors",
    "ImageValueError": "hfvision.errors",
    "ImageWriteError": "hfvision.errors",
    "LabelMap": "hfvision.processing.label_map",
    "MicrosoftSwinBackbone": "hfvision.models.microsoft_swin",
    "MicrosoftSwinConfig": "hfvision.models.microsoft_swin",
    "MicrosoftSwinForImageClassification": "hfvision.models.microsoft_swin",
    "MicrosoftSwinModel": "hfvision.models.microsoft_swin",
    "MissingPartError": "hfvision.errors",
    "MlpMixerConfig": "hfvision.models.mlp_mixer",
    "MlpMixerForImageClassification": "hfvision.models.mlp_mixer",
    "MlpMixerModel": "hfvision.models.mlp_mixer",
    "MultispectralImageProcessor": "hfvision.processing.classification",
    "NotInstalledError": "hfvision.errors",
    "NvlabsSegformerConfig": "hfvision.models.segformer",
    "OptimizationReport": "hfvision.optimizing",
    "OutputError": "hfvision.errors",
    "PanopticMetric": "hfvision.metrics",
    "PublishError": "hfvision.errors",
    "SegformerBackbone": "hfvision.models.segformer",
    "SegformerConfig": "hfvision.models.segformer",
    "SegformerForImageClassification": "hfvision.models.segformer",
    "SegformerForSemanticSegmentation": "hfvision.models.segformer",
    "SegformerImageProcessor": "hfvision.processing.segmentation",
    "SegformerModel": "hfvision.models.segformer",
    "SegmentationData": "hfvision.data",
    "SegmentationImageProcessor": "hfvision.processing.segmentation",
    "SegmentationLoss": "hfvision.losses.segmentation",
    "SegmentationMetric": "hfvision.metrics",
    "SegmenterConfig": "hfvision.models.segmenter",
    "SegmenterForSemanticSegmentation": "hfvision.models.segmenter",
    "SegmenterImageProcessor": "hfvision.processing.segmentation",
    "SegmenterModel": "hfvision.models.segmenter",
    "SetrConfig": "hfvision.models.setr",
    "SetrForSemanticSegmentation": "hfvision.models.setr",
    "SetrImageProcessor": "hfvision.processing.segmentation",
    "StandardAugmentation": "hfvision.training.augmentation",
    "StepMeans": "hfvision.training.accumulation",
    "SwinBackbone": "hfvision.models.swin_heads",
    "SwinConfig": "hfvision.models.swin",
    "SwinForImageClassification": "hfvision.models.swin_heads",
    "SwinForMaskedImageModeling": "hfvision.models.swin_heads",
    "SwinModel": "hfvision.models.swin",
    "TrainingSettings": "hfvision.training.arguments",
    "UnknownNameError": "hfvision.errors",
    "UperNetConfig": "hfvision.models.upernet",
    "UperNetForSemanticSegmentation": "hfvision.models.upernet",
    "ViTBackbone": "hfvision.models.vit",
    "ViTConfig": "hfvision.models.vit",
    "ViTForImageClassification": "hfvision.models.vit",
    "ViTForMaskedImageModeling": "hfvision.models.vit",
    "ViTHybridConfig": "hfvision.models.vit_hybrid",
    "ViTHybridForImageClassification": "hfvision.models.vit_hybrid",
    "ViTHybridImageProcessor": "hfvision.processing.classification",
    "ViTHybridModel": "hfvision.models.vit_hybrid",
    "ViTImageProcessor": "hfvision.processing.classification",
    "ViTModel": "hfvision.models.vit",
    "attention_map": "hfvision.plots",
    "check_card": "hfvision.cards",
    "check_dataset": "hfvision.data.checking",
    "confusion_sheet": "hfvision.plots",
    "convert": "hfvision.conversion",
    "convert_adapter": "hfvision.conversion",
    "convert_back": "hfvision.conversion",
    "create": "hfvision.creation",
    "create_processor": "hfvision.creation",
    "detection_overlay": "hfvision.plots",
    "detection_sheet": "hfvision.plots",
    "diagnose": "hfvision.doctor",
    "evaluate": "hfvision.training.evaluation",
    "explain_attention": "hfvision.plots",
    "licence_of": "hfvision.licences",
    "linear_backend": "hfvision.layers.linear",
    "list_models": "hfvision.catalog",
    "load_digit_scenes": "hfvision.data",
    "load_digits": "hfvision.data",
    "load_image_dataset": "hfvision.data",
    "load_trunk": "hfvision.models.detr_trunk",
    "optimize": "hfvision.optimizing",
    "overlay": "hfvision.plots",
    "panoptic_overlay": "hfvision.plots",
    "panoptic_sheet": "hfvision.plots",
    "pipeline": "transformers",
    "predict": "hfvision.pipelines.predict",
    "prediction_sheet": "hfvision.plots",
    "prepare_classification": "hfvision.data",
    "prepare_detection": "hfvision.data",
    "prepare_segmentation": "hfvision.data",
    "push": "hfvision.publishing",
    "segment_raster": "hfvision.pipelines.raster",
    "segmentation_overlay": "hfvision.plots",
    "segmentation_sheet": "hfvision.plots",
    "train_classification": "hfvision.training.classification",
    "train_detection": "hfvision.training.detection",
    "train_panoptic": "hfvision.training.panoptic",
    "train_segmentation": "hfvision.training.segmentation",
    "verify": "hfvision.conversion",
    "write_folder_card": "hfvision.cards",
}
__all__ = ["__version__", "register", "unregister", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"hfvision has no {name!r}; it offers {', '.join(sorted(__all__))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if os.environ.get("HFVISION_REGISTER") != "0":
    _import_hook.install()
