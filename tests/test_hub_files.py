"""Files as the Hub has them, of every year, load with the values that transformers itself reads out of them.

The dictionaries are reconstructions, from the public files of the repositories named and from what versions of
transformers wrote: the fields and their forms are theirs; models are made small.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, pipeline

from hfvision.registry import ARCHITECTURES
from tests.models import pixels, tiny_config, tiny_model
from tests.peers import assert_same_outputs, call, peer_model, plain_transformers

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
BOTH = {"do_normalize": True, "do_resize": True}
RESCALE = {"do_rescale": True, "rescale_factor": 0.00392156862745098}
SQUARE = {"height": 224, "width": 224}
NULLS = ("crop_size", "device", "disable_grouping", "do_center_crop", "do_convert_rgb", "do_pad", "input_data_format")
FAST = {**BOTH, **RESCALE, **dict.fromkeys((*NULLS, "pad_size", "return_tensors", "size_divisor"))}
FAST |= {"data_format": "channels_first", "default_to_square": True}
KEYS = ["images", "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "return_tensors"]

# repository, or what wrote such files: (model_type, contents of preprocessor_config.json)
PROCESSORS = {
    "google/vit-base-patch16-224-in21k, 2021": ("vit", {**BOTH, **HALF, "size": 224}),
    "google/vit-large-patch32-384, 2022": (
        "vit",
        {**BOTH, **HALF, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 384},
    ),
    "google/vit-base-patch16-224": (
        "vit",
        {**BOTH, **HALF, **RESCALE, "image_processor_type": "ViTImageProcessor", "resample": 2, "size": SQUARE},
    ),
    "saved by 4.40": (
        "vit",
        {**BOTH, **HALF, **RESCALE, "_valid_processor_keys": KEYS, "image_processor_type": "ViTImageProcessor",
         "resample": 3, "size": SQUARE},
    ),
    "saved by 4.50 with use_fast": (
        "vit",
        {**FAST, **HALF, "image_processor_type": "ViTImageProcessorFast", "resample": 2, "size": SQUARE},
    ),
    "facebook/deit-base-distilled-patch16-224": (
        "deit",
        {**BOTH, **IMAGENET, "crop_size": 224, "do_center_crop": True, "resample": 3, "size": 256,
         "feature_extractor_type": "DeiTFeatureExtractor"},
    ),
    "facebook/deit, without crop": (
        "deit",
        {**BOTH, **IMAGENET, "do_center_crop": False, "resample": 3, "size": 384,
         "feature_extractor_type": "DeiTFeatureExtractor"},
    ),
    "DeiT saved with use_fast": (
        "deit",
        {**FAST, **IMAGENET, "crop_size": SQUARE, "do_center_crop": True, "image_processor_type":
         "DeiTImageProcessorFast", "resample": 3, "size": {"height": 256, "width": 256}},
    ),
    "microsoft/swin-tiny-patch4-window7-224": (
        "swin",
        {**BOTH, **IMAGENET, "feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 224},
    ),
    "nvidia/segformer-b0-finetuned-ade-512-512": (
        "segformer",
        {**BOTH, **IMAGENET, "feature_extractor_type": "SegformerFeatureExtractor", "reduce_labels": True,
         "resample": 2, "size": 512},
    ),
    "nvidia/mit-b0": (
        "segformer",
        {**BOTH, **IMAGENET, "image_processor_type": "SegformerImageProcessor", "reduce_labels": False,
         "resample": 2, "size": 512},
    ),
    "SegFormer saved with use_fast": (
        "segformer",
        {**FAST, **IMAGENET, "do_reduce_labels": True, "image_processor_type": "SegformerImageProcessorFast",
         "resample": 2, "size": {"height": 96, "width": 128}},
    ),
    "openmmlab/upernet-swin-tiny": (
        "upernet",
        {**BOTH, **IMAGENET, **RESCALE, "do_reduce_labels": True, "image_processor_type": "SegformerImageProcessor",
         "resample": 2, "size": {"height": 512, "width": 512}},
    ),
    "facebook/detr-resnet-50": (
        "detr",
        {**BOTH, **IMAGENET, "feature_extractor_type": "DetrFeatureExtractor", "format": "coco_detection",
         "max_size": 1333, "size": 800},
    ),
    "facebook/detr-resnet-50-panoptic": (
        "detr",
        {**BOTH, **IMAGENET, "feature_extractor_type": "DetrFeatureExtractor", "format": "coco_panoptic",
         "max_size": 200, "size": 120},
    ),
    "DETR, 2023": (
        "detr",
        {**BOTH, **IMAGENET, **RESCALE, "do_pad": True, "format": "coco_detection", "image_processor_type":
         "DetrImageProcessor", "resample": 2, "size": {"longest_edge": 200, "shortest_edge": 120}},
    ),
    "DETR, before pad was an option": (
        "detr",
        {**BOTH, **IMAGENET, "feature_extractor_type": "DetrFeatureExtractor", "format": "coco_detection",
         "pad_and_return_pixel_mask": True, "max_size": 200, "size": 120},
    ),
    "DETR saved with use_fast": (
        "detr",
        {**FAST, **IMAGENET, "default_to_square": False, "do_convert_annotations": True, "do_pad": True,
         "format": "coco_detection", "image_processor_type": "DetrImageProcessorFast", "resample": 2,
         "size": {"longest_edge": 200, "shortest_edge": 120}},
    ),
}  # fmt: skip


def write(folder, contents, name="preprocessor_config.json", config=None):
    (folder / name).write_text(json.dumps(contents))
    if config is not None:
        config.save_pretrained(folder)
    return folder


def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)


# Those that transformers 5 itself cannot load, as it dropped the class that they name, and what they say in its words.
DROPPED = {
    "ViT, with the former name in the new field": (
        "vit",
        {**BOTH, **HALF, **RESCALE, "image_processor_type": "ViTFeatureExtractor", "resample": 3, "size": SQUARE},
        transformers.ViTImageProcessorPil(**HALF, resample=3, size=SQUARE),
    ),
    "nvidia/mit-b0, with the former name in the new field": (
        "segformer",
        {**BOTH, **IMAGENET, "image_processor_type": "SegformerFeatureExtractor", "reduce_labels": True,
         "resample": 2, "size": 96},
        transformers.SegformerImageProcessorPil(**IMAGENET, resample=2, size=96),
    ),
    "google/vit-hybrid-base-bit-384": (
        "vit-hybrid",
        {**BOTH, **HALF, **RESCALE, "crop_size": {"height": 84, "width": 84}, "do_center_crop": True,
         "do_convert_rgb": True, "image_processor_type": "ViTHybridImageProcessor", "resample": 3,
         "size": {"shortest_edge": 84}},
        transformers.BitImageProcessorPil(**HALF, resample=3, size={"shortest_edge": 84}, crop_size=84),
    ),
    "google/vit-hybrid, by its first name": (
        "vit-hybrid",
        {**BOTH, **HALF, "crop_size": 80, "feature_extractor_type": "ViTHybridFeatureExtractor", "resample": 2,
         "size": {"shortest_edge": 84}},
        transformers.BitImageProcessorPil(**HALF, resample=2, size={"shortest_edge": 84}, crop_size=80),
    ),
}  # fmt: skip


def assert_same_images(ours, theirs):
    got, wanted = (one(images=photo(), return_tensors="pt") for one in (ours, theirs))
    assert got.keys() == wanted.keys()
    for key in wanted:  # two roundings of float32 values below 3
        torch.testing.assert_close(got[key], wanted[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("nested", [False, True], ids=["preprocessor_config", "processor_config"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_file_of_any_year_does_what_transformers_makes_of_it(name, nested, tmp_path):
    model_type, contents = PROCESSORS[name]
    write(tmp_path, contents, config=tiny_config(model_type))
    if nested:  # as transformers 5 writes it for models of several inputs
        write(tmp_path, {"image_processor": contents, "processor_class": None}, "processor_config.json")
        (tmp_path / "preprocessor_config.json").unlink()
    ours = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(ours).__module__.startswith("hfvision.")
    with plain_transformers():
        theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(theirs).__module__.startswith("transformers.")
    assert_same_images(ours, theirs)
    form = getattr(theirs, "format", None)
    assert getattr(ours, "format", None) == getattr(form, "value", form)
    # by its first name version 5 passes over this option, which version 4.57 reads
    assert bool(getattr(ours, "do_reduce_labels", 0)) == bool(
        contents.get("do_reduce_labels", contents.get("reduce_labels"))
    )
    ours.save_pretrained(tmp_path)
    assert_same_images(AutoImageProcessor.from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("name", DROPPED)
def test_a_processor_file_that_transformers_5_no_longer_loads_does_what_it_did(name, tmp_path):
    model_type, contents, theirs = DROPPED[name]
    ours = AutoImageProcessor.from_pretrained(write(tmp_path, contents, config=tiny_config(model_type)))
    assert type(ours).__module__.startswith("hfvision.") and type(ours).__name__.endswith("ImageProcessor")
    assert_same_images(ours, theirs)
    assert bool(getattr(ours, "do_reduce_labels", False)) == bool(contents.get("reduce_labels"))


def test_a_former_name_beside_a_model_that_is_not_ours_gives_transformers_processor(tmp_path):
    contents = {**BOTH, **HALF, "image_processor_type": "ViTFeatureExtractor", "size": 32}
    found = AutoImageProcessor.from_pretrained(write(tmp_path, contents, config=transformers.ViTMAEConfig()))
    assert type(found).__module__.startswith("transformers.")


@pytest.mark.parametrize("use_fast", [True, False])
def test_use_fast_of_older_scripts_gives_the_same_processor(use_fast, tmp_path):
    model_type, contents = PROCESSORS["google/vit-base-patch16-224"]
    write(tmp_path, contents, config=tiny_config(model_type))
    asked = AutoImageProcessor.from_pretrained(tmp_path, use_fast=use_fast)
    assert_same_images(asked, AutoImageProcessor.from_pretrained(tmp_path))


# Fields that configs of the Hub have, lack, or spell as they were spelt then; all else is as a model's file has it.
LABELS = {"id2label": {str(index): name for index, name in enumerate("abcde")}}
LABELS |= {"label2id": {name: index for index, name in enumerate("abcde")}}
OLD = {"torch_dtype": "float32", "transformers_version": "4.12.0.dev0", "_name_or_path": "/home/someone/model"}
OLD |= {"finetuning_task": None, "pruned_heads": {}, "return_dict": True, "output_past": True, **LABELS}
LONG = {"add_cross_attention": False, "bad_words_ids": None, "num_beams": 1, "top_k": 50, "temperature": 1.0}
LONG |= {"tie_word_embeddings": True, "torchscript": False, "use_bfloat16": False, "torch_dtype": None}
MISSING = ("dtype", "qkv_bias", "pooler_act", "pooler_output_size", "transformers_version", "chunk_size_feed_forward")
CONFIGS = {  # class: (fields that are added, fields that are missing)
    "ViTForImageClassification": ({**OLD}, MISSING),
    "DeiTForImageClassificationWithTeacher": ({**OLD}, MISSING),
    "SwinForImageClassification": ({**OLD, "path_norm": True, "hidden_size": 32}, MISSING),
    "SegformerForSemanticSegmentation": (
        {**OLD, "reshape_last_stage": True, "downsampling_rates": [1, 4, 8, 16], "image_size": 224},
        (*MISSING, "semantic_loss_ignore_index"),
    ),
    "SegformerForImageClassification": ({**OLD, "reshape_last_stage": True, "downsampling_rates": [1, 4]}, MISSING),
    "UperNetForSemanticSegmentation": ({**OLD, "backbone_config": LONG}, (*MISSING, "use_timm_backbone")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_the_config_of_an_early_file_computes_what_transformers_computes(name, tmp_path):
    added, missing = CONFIGS[name]
    peer = peer_model(name)
    peer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    early = {key: value for key, value in stored.items() if key not in missing} | added
    if "backbone_config" in stored:
        early["backbone_config"] = stored["backbone_config"] | added["backbone_config"]
    write(tmp_path, early, "config.json")
    auto, _ = ARCHITECTURES[peer.config.model_type].named([name])
    ours = getattr(transformers, auto).from_pretrained(tmp_path).eval()
    assert type(ours).__module__.startswith("hfvision.")
    assert ours.config.id2label == dict(enumerate("abcde"))
    x = pixels(ours.config)
    assert_same_outputs(call(ours, x), call(peer, x))


DETR = {
    **OLD,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["DetrForObjectDetection"],
    "auxiliary_loss": False,
    "backbone": "resnet50",
    "classifier_dropout": 0.0,
    "d_model": 256,
    "dilation": False,
    "encoder_layers": 6,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "model_type": "detr",
    "num_hidden_layers": 6,
    "num_queries": 100,
    "position_embedding_type": "sine",
    "scale_embedding": False,
    "id2label": {str(index): f"LABEL_{index}" for index in range(91)},
    "label2id": {f"LABEL_{index}": index for index in range(91)},
}
TIMM_FIELDS = [
    {},  # facebook/detr-resnet-50 of 2022
    {"num_channels": 3, "use_pretrained_backbone": True, "use_timm_backbone": True},
    {"backbone_config": None, "backbone_kwargs": None, "num_channels": 3, "use_timm_backbone": True},
]


@pytest.mark.parametrize("fields", TIMM_FIELDS)
def test_a_detr_whose_trunk_timm_has_a_name_for_is_built_without_timm(fields, tmp_path):
    config = AutoConfig.from_pretrained(write(tmp_path, {**DETR, **fields}, "config.json"))
    with torch.device("meta"):
        model = AutoModelForObjectDetection.from_config(config)
    assert "model.backbone.conv_encoder.model.layer4.2.conv3.weight" in model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 41_524_768  # those of the published file
    assert config.num_labels == 91 and config.id2label[90] == "LABEL_90"


def test_a_hybrid_of_version_4_loads_and_answers(tmp_path):
    model = tiny_model("vit-hybrid")
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    early = {key: value for key, value in stored.items() if key not in MISSING} | OLD
    early |= {"backbone_featmap_shape": [1, 64, 4, 4], "backbone_config": stored["backbone_config"] | LONG}
    write(tmp_path, early, "config.json")
    write(tmp_path, {**DROPPED["google/vit-hybrid-base-bit-384"][1], "size": {"shortest_edge": 32}, "crop_size": 32})
    classify = pipeline("image-classification", model=str(tmp_path))
    x = classify.image_processor(images=photo(), return_tensors="pt")["pixel_values"]
    scores = call(model, x)["logits"].softmax(-1)[0]
    assert {one["label"]: one["score"] for one in classify(photo())} == pytest.approx(
        dict(zip("abcde", scores.tolist(), strict=True)), abs=1e-6
    )


PIPELINES = {
    "ViTForImageClassification": ("image-classification", "google/vit-large-patch32-384, 2022"),
    "DeiTForImageClassification": ("image-classification", "facebook/deit-base-distilled-patch16-224"),
    "SwinForImageClassification": ("image-classification", "microsoft/swin-tiny-patch4-window7-224"),
    "SegformerForSemanticSegmentation": ("image-segmentation", "nvidia/segformer-b0-finetuned-ade-512-512"),
    "UperNetForSemanticSegmentation": ("image-segmentation", "openmmlab/upernet-swin-tiny"),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")  # Pillow 11.3, of transformers' own pipeline
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_of_early_files_answers_as_that_of_transformers(name, tmp_path):
    task, file = PIPELINES[name]
    peer = peer_model(name)
    peer.save_pretrained(tmp_path)
    contents = dict(PROCESSORS[file][1])
    contents |= {"size": 32, "resample": 2} if "crop_size" not in contents else {"size": 48, "crop_size": 32}
    write(tmp_path, contents)
    image = Image.fromarray(photo())
    ours = pipeline(task, model=str(tmp_path))
    with plain_transformers():
        theirs = pipeline(task, model=str(tmp_path))
        wanted = theirs(image)
    assert type(ours).__module__.startswith("hfvision.") and type(theirs).__module__.startswith("transformers.")
    got = ours(image)
    assert [one["label"] for one in got] == [one["label"] for one in wanted]
    for mine, other in zip(got, wanted, strict=True):
        if task == "image-classification":
            assert mine["score"] == pytest.approx(other["score"], abs=1e-5)
        else:  # pixels between two classes may turn with the last bit of a sum
            assert np.mean(np.array(mine["mask"]) != np.array(other["mask"])) < 1e-3
