"""Fine-tuning detectors: what comes out, resuming, rates, queries, trunks, early ends, learning by heart, panoptic."""

import json
import logging
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForUniversalSegmentation,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
)

from hfvision.data import load_digit_scenes
from hfvision.data.detection import prepare_detection
from hfvision.errors import ConfigError, DatasetError
from hfvision.metrics import DetectionMetric, PanopticMetric
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.heads import DetrForObjectDetection, DetrForSegmentation
from hfvision.objects import ImageObjects, ListedMasks
from hfvision.processing.classification import ViTImageProcessor
from hfvision.processing.detection import DetrImageProcessor
from hfvision.registry import ARCHITECTURES
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.detection import train_detection
from hfvision.training.detection_augmentation import DetectionAugmentation
from hfvision.training.detector import resize_queries
from hfvision.training.loop import NoProgress
from hfvision.training.overfit import LearntByHeart
from hfvision.training.panoptic import segments_of, train_panoptic

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_run.json"}
FAST = VisionTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3
)  # 24 scenes: 3 steps an epoch, 6 in all
TINY = ARCHITECTURES["detr"].tiny
TINY_SEGFORMER = {
    **{"model_type": "segformer", "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32]},
    **{"num_attention_heads": [1, 2], "sr_ratios": [2, 1], "mlp_ratios": [2, 2], "patch_sizes": [7, 3]},
    **{"strides": [4, 2], "out_features": ["stage2"], "initializer_range": 0.1},
}
TERMS = ("loss_ce", "loss_bbox", "loss_giou")


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.fixture(scope="module")
def scenes():
    """24 and 6 scenes of 32 x 32 pixels with a digit each."""
    return load_digit_scenes(train=24, validation=6, size=32, digits=(1, 1), digit_size=(16, 24))


def tiny_model(seed=0, model_class=DetrForObjectDetection, **changes):
    torch.manual_seed(seed)
    return model_class(DetrConfig(**TINY | changes))


def tiny_processor():
    return DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})


def start(data, to, *, train=train_detection, model=None, args=FAST, augment=None, **options):
    options.setdefault("processor", tiny_processor())
    return train(model or tiny_model(), data, to, args=args, augment=augment, **options)


class Stop(TrainerCallback):
    """Ends a run as a kill does: without a word to Trainer."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Logs(TrainerCallback):
    """The losses that were trained on."""

    def __init__(self):
        self.losses = []

    def on_step_end(self, args, state, control, **_):
        control.should_log = True

    def on_log(self, args, state, control, logs=None, **_):
        self.losses += [logs["loss"]] if "loss" in logs else []


class Rates(TrainerCallback):
    """The learning rates, by the names of parameters."""

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
        rate = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
        self.of = {name: rate.get(id(p)) for name, p in model.named_parameters()}

    def beginning(self, start):
        return {rate for name, rate in self.of.items() if name.startswith(start)}


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


# What comes out


def test_the_folder_has_a_model_that_scores_what_was_reported(scenes, tmp_path, capfd):
    result = start(scenes, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    model = AutoModelForObjectDetection.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    metric = DetectionMetric(10)
    for row in scenes["validation"]:
        with torch.no_grad():
            outputs = model(**processor(row["image"], return_tensors="pt"))
        answer = processor.post_process_object_detection(outputs, 0.0, [(32, 32)])
        boxes = np.array(row["objects"]["bbox"]) @ [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
        truth = {"boxes": boxes, "labels": row["objects"]["category"], "area": row["objects"]["area"]}
        metric.update(answer, [truth])
    figures = metric.compute()
    # scenes run together and alone, whose scores differ by rounding; the order of detections does not
    assert {name: figures[name] for name in ("AP", "AP50", "AP75", "AR100")} == pytest.approx(
        {name: getattr(result, name) for name in ("AP", "AP50", "AP75", "AR100")}
    )
    assert (result.samples, result.train_samples, result.steps) == (6, 24, 6)
    assert [entry["step"] for entry in result.history] == [3, 6]
    assert all(entry.keys() >= {"AP", "AP50", "loss", *TERMS} for entry in result.history)
    assert list(result.per_class) == [f"digit {digit}" for digit in range(10)]
    assert result.overfit is None
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("held-out AP") == 2


def test_figures_are_in_pixels_of_the_stored_images_whatever_their_size(tmp_path):
    """A model that answers the left upper quarter of every image, on images of two sizes with that very object."""
    sizes = [(64, 48), (40, 120)]
    rows = {
        "image": [Image.new("RGB", (width, height)) for height, width in sizes],
        "objects": [{"bbox": [[0, 0, width / 2, height / 2]], "category": ["thing"]} for height, width in sizes],
    }
    data = datasets.DatasetDict({split: datasets.Dataset.from_dict(rows) for split in ("train", "validation")})
    model = tiny_model(num_queries=1, num_labels=1, id2label={0: "thing"}, label2id={"thing": 0})
    with torch.no_grad():
        for parameter in model.bbox_predictor.layers[-1].parameters():
            parameter.zero_()
        model.bbox_predictor.layers[-1].bias.copy_(torch.tensor([0.25, 0.25, 0.5, 0.5]).logit())
    args = VisionTrainingArguments(max_steps=1, learning_rate=1e-30)
    result = start(data, tmp_path / "out", model=model, args=args)
    assert (result.AP, result.new_head) == (pytest.approx(1.0), [])


def test_the_card_and_the_config_say_what_was_trained(scenes, tmp_path):
    loss = {"eos_coefficient": 0.3, "weights": {"loss_giou": 4.0}}
    recipe = DetectionAugmentation(flip=0)
    result = start(scenes, tmp_path / "out", loss=loss, license="mit", augment=recipe, num_queries=9)
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "license: mit",
        "pipeline_tag: object-detection",
        f"{result.AP50:.6g}",
        "eos coefficient 0.3",
        "loss_giou 4",
        "| queries | 9 |",
        "crop sides [0.64, 1.2]",
        "| class | AP |",
        'pipeline("object-detection"',
    ):
        assert words in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["id2label"]["9"], config["num_queries"]) == ("digit 9", 9)
    assert (config["eos_coefficient"], config["giou_loss_coefficient"], config["auxiliary_loss"]) == (0.1, 2, False)
    plan = json.loads((tmp_path / "out" / "training_run.json").read_text())["plan"]
    assert (plan["loss"]["eos_coefficient"], plan["loss"]["weights"]["loss_giou"]) == (0.3, 4.0)


def test_every_decoder_layer_is_trained_and_the_loss_is_the_one_that_is_given(scenes, tmp_path):
    args = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=8, learning_rate=1e-3, warmup_steps=0)
    runs = {"own": {}, "same": {"loss": {"eos_coefficient": 0.1}}, "other": {"loss": {"eos_coefficient": 1.0}}}
    logs = Logs()
    for name, options in runs.items():
        result = start(scenes, tmp_path / name, args=args, callbacks=[logs], **options)
    own, same, other = (weights(tmp_path / name) for name in runs)
    assert_same_weights(own, same)
    assert not torch.equal(own["class_labels_classifier.weight"], other["class_labels_classifier.weight"])
    sums = result.history[-1]
    last_layer = sums["loss_ce"] + 5 * sums["loss_bbox"] + 2 * sums["loss_giou"]
    assert result.metrics["loss"] == pytest.approx(last_layer)
    assert min(logs.losses) > 1.5 * last_layer  # of two layers


# Resuming


@pytest.mark.parametrize("killed_at", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_equals_uninterrupted(scenes, tmp_path, killed_at):
    wide = {split: part.map(_widened, with_indices=True) for split, part in scenes.items()}
    data = datasets.DatasetDict(wide)
    args = VisionTrainingArguments(
        **{"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_steps": 2},
        backbone_lr_multiplier=0.5,
    )
    run = {"args": args, "augment": DetectionAugmentation()}
    whole = start(data, tmp_path / "whole", **run)
    with pytest.raises(KeyboardInterrupt):
        start(data, tmp_path / "cut", callbacks=[Stop(killed_at)], **run)
    resumed = start(data, tmp_path / "cut", model=tiny_model(seed=1), resume=True, **run)
    # not one bit differs: batches, augmentation and dropout follow from the seed and the saved state
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert (resumed.history, resumed.metrics, resumed.per_class) == (whole.history, whole.metrics, whole.per_class)
    with pytest.raises(ConfigError, match=r"loss\.eos_coefficient: it has 0\.1, this call 0\.2"):
        start(data, tmp_path / "cut", resume=True, loss={"eos_coefficient": 0.2}, **run)


def _widened(row, index):
    """Every third image becomes wider, so that shapes differ."""
    if index % 3:
        return row
    image = Image.new("RGB", (56, 32))
    image.paste(row["image"])
    return {**row, "image": image}


# What learns, and how fast


def test_a_pretrained_trunk_learns_slowly_and_its_beginning_not_at_all(scenes, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    args, rates = VisionTrainingArguments(max_steps=1, learning_rate=1e-3), Rates()
    trunk = "model.backbone.conv_encoder.model."
    start(scenes, tmp_path / "a", model=str(tmp_path / "base"), args=args, callbacks=[rates])
    assert rates.beginning(f"{trunk}encoder.stages.1") == {1e-4}
    assert rates.beginning(f"{trunk}encoder.stages.0") == rates.beginning(f"{trunk}embedder") == {None}
    assert rates.beginning("model.decoder") == rates.beginning("class_labels_classifier") == {1e-3}
    args = replace(args, backbone_lr_multiplier=0.0)
    start(scenes, tmp_path / "b", model=str(tmp_path / "base"), args=args, callbacks=[rates])
    assert rates.beginning(trunk) == {None}


def test_a_new_model_learns_as_a_whole_and_says_what_it_lacks(scenes, tmp_path, reports):
    tiny_model().config.save_pretrained(tmp_path / "tiny")
    args, rates = VisionTrainingArguments(max_steps=1, learning_rate=1e-3, head_lr_multiplier=2.0), Rates()
    model = f"new:{tmp_path / 'tiny'}"
    start(scenes, tmp_path / "out", model=model, processor=None, args=args, callbacks=[rates])
    assert rates.beginning("model.") == {1e-3}
    assert rates.beginning("bbox_predictor") == {2e-3}
    assert "Start it from a trained classifier" in reports.text
    assert "short side of 32 pixels (at most 53)" in reports.text
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert dict(processor.size) == {"shortest_edge": 32, "longest_edge": 53}


def test_the_trunk_may_come_from_a_classifier(scenes, tmp_path, reports):
    sizes = {
        name: value for name, value in TINY["backbone_config"].items() if name not in ("model_type", "out_features")
    }
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(tmp_path / "classifier")
    args = VisionTrainingArguments(max_steps=1, learning_rate=1e-30)
    result = start(scenes, tmp_path / "out", args=args, trunk=tmp_path / "classifier")
    theirs, ours = weights(tmp_path / "classifier"), weights(tmp_path / "out")
    name = "encoder.stages.2.layers.0.layer.0.convolution.weight"
    torch.testing.assert_close(ours[f"model.backbone.conv_encoder.model.{name}"], theirs[f"resnet.{name}"])
    assert "The trunk was loaded from" in reports.text
    assert "weights from classifier" in (tmp_path / "out" / "README.md").read_text()
    assert result.steps == 1
    ResNetForImageClassification(ResNetConfig(**sizes | {"embedding_size": 16})).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="has other sizes"):
        start(scenes, tmp_path / "none", trunk=tmp_path / "other")
    assert not (tmp_path / "none").exists()


def test_new_weights_begin_as_in_the_source():
    """Told apart and of a size that shows; all of them 0.02, as linear layers otherwise begin, they hardly learn."""
    model = tiny_model(num_queries=100)
    attention = model.model.decoder.layers[0].encoder_attn
    assert model.model.query_position_embeddings.weight.std().item() == pytest.approx(1, rel=0.1)
    width = model.config.d_model
    assert attention.q_proj.weight.std().item() == pytest.approx((2 / (4 * width)) ** 0.5, rel=0.1)
    assert attention.out_proj.weight.std().item() == pytest.approx((2 / (2 * width)) ** 0.5, rel=0.1)
    assert model.bbox_predictor.layers[0].weight.abs().max().item() == pytest.approx(width**-0.5, rel=0.05)


@pytest.mark.parametrize("count", [4, 11])
def test_other_numbers_of_queries_keep_the_first_ones(count, reports):
    model = tiny_model()
    before = model.model.query_position_embeddings.weight.clone()
    made_anew = resize_queries(model, count)
    after = model.model.query_position_embeddings.weight
    assert torch.equal(after[: min(count, 6)], before[: min(count, 6)])
    assert made_anew == (["model.query_position_embeddings.weight"] if count > 6 else [])
    assert model(torch.randn(1, 3, 32, 32)).logits.shape[1] == model.config.num_queries == count
    assert f"6 queries became {count}" in reports.text


# Early ends


def test_patience_counts_evaluations_without_a_better_figure():
    end = NoProgress("AP", 2)
    for figures, over in {
        (0.1,): False,
        (0.1, 0.1): False,
        (0.1, 0.1, 0.1): True,
        (0.1, 0.3, 0.2, 0.2): True,
        (0.1, 0.3, 0.2, 0.4): False,
    }.items():
        assert end.is_over(figures) == over


def test_training_ends_when_nothing_gets_better_and_a_resumed_run_ends_there_too(scenes, tmp_path):
    args = VisionTrainingArguments(
        **{"num_train_epochs": 9, "per_device_train_batch_size": 8, "learning_rate": 1e-30},
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    run = {"args": args}
    whole = start(scenes, tmp_path / "whole", **run)
    assert [entry["step"] for entry in whole.history] == [3, 6, 9]

    class StopAfterSaving(TrainerCallback):
        def on_save(self, args, state, control, **_):
            if state.global_step == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(scenes, tmp_path / "cut", callbacks=[StopAfterSaving()], **run)
    resumed = start(scenes, tmp_path / "cut", resume=True, **run)
    assert (resumed.history, resumed.steps) == (whole.history, 9)
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


# Learning by heart


def rectangles(count, size=32):
    """Images with a red or a green rectangle, of which a tiny model learns a few by heart."""
    rng, rows = np.random.default_rng(0), {"image": [], "objects": []}
    for number in range(count):
        left, top = rng.integers(2, 14, 2).tolist()
        pixels = np.zeros((size, size, 3), np.uint8)
        pixels[top : top + 14, left : left + 14, number % 2] = 255
        rows["image"].append(Image.fromarray(pixels))
        rows["objects"].append({"bbox": [[left, top, 14, 14]], "category": [("red", "green")[number % 2]]})
    rows["image"].append(Image.new("RGB", (size, size)))
    rows["objects"].append({"bbox": [], "category": []})
    return datasets.DatasetDict({split: datasets.Dataset.from_dict(rows) for split in ("train", "validation")})


def test_a_few_images_are_learnt_by_heart(tmp_path):
    args = VisionTrainingArguments.for_task(
        "object-detection", "new:tiny", max_steps=400, save_steps=25, learning_rate=2e-3
    )
    model = tiny_model(backbone_config=TINY_SEGFORMER, encoder_layers=1, decoder_layers=1, dropout=0.0)
    result = start(rectangles(2), tmp_path / "out", model=model, args=args, overfit=2, augment="standard")
    check = result.overfit
    assert (check.passed, check.images, check.advice) == (True, 2, [])
    assert min(entry["AP50"] for entry in result.history[-2:]) > 0.9
    assert result.steps < 400
    assert (result.train_samples, result.samples) == (2, 2)
    assert result.split == "train, 2 images learnt by heart, 2 of 2 images trained on"
    again = start(rectangles(2), tmp_path / "out", model=model, args=args, overfit=2, resume=True)
    assert again.overfit == check


def test_what_is_not_learnt_says_where_to_look(tmp_path):
    args = VisionTrainingArguments(max_steps=2, save_steps=1, learning_rate=1e-30)
    result = start(rectangles(5), tmp_path / "out", args=args, overfit=20)
    assert (result.overfit.passed, result.overfit.images) == (False, 5)  # the sixth image has no object
    assert any("learning rate" in advice for advice in result.overfit.advice)
    assert not LearntByHeart().is_over([0.95, 0.5, 0.95])
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        start(rectangles(5), tmp_path / "none", overfit=0)


# Panoptic


def test_a_detector_becomes_a_panoptic_model_that_scores_what_was_reported(scenes, tmp_path):
    start(scenes, tmp_path / "boxes")
    result = start(
        scenes, tmp_path / "out", train=train_panoptic, model=str(tmp_path / "boxes"), threshold=0.0, processor=None
    )
    model = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    metric = PanopticMetric(11, range(1, 11))
    for row in scenes["validation"]:
        with torch.no_grad():
            outputs = model(**processor(row["image"], return_tensors="pt"))
        answer = processor.post_process_panoptic_segmentation(
            outputs, 0.0, label_ids_to_fuse=[0], target_sizes=[(32, 32)]
        )
        instances, mask = np.array(row["instances"]), np.array(row["mask"])
        ids = np.unique(instances)
        segments = [{"id": int(one) + 1, "category_id": int(mask[instances == one][0])} for one in ids]
        metric.update(answer, [{"segmentation": instances.astype(int) + 1, "segments_info": segments}])
    figures = metric.compute()
    assert {name: figures[name] for name in ("PQ", "SQ", "RQ")} == pytest.approx(
        {name: getattr(result, name) for name in ("PQ", "SQ", "RQ")}
    )
    assert "mask_head.lay1.weight" in result.new_head
    assert result.history[-1].keys() >= {"PQ", "SQ", "RQ", *TERMS, "loss_mask", "loss_dice"}
    assert next(iter(result.per_class)) == "background"
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("pipeline_tag: image-segmentation", "| class | PQ |", "| threshold | 0 |"):
        assert words in card


def test_of_overlapping_masks_the_later_one_is_in_front():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2, :2], masks[1, :2], masks[2, 3] = True, True, True
    objects = ImageObjects(
        (4, 4),
        np.array([[0, 0, 2, 2], [0, 0, 4, 2], [0, 3, 4, 4]], np.float64),
        np.array([5, 6, 7]),
        np.ones(3),
        np.array([False, False, True]),
        ListedMasks(list(masks), (4, 4)),
    )
    segments = segments_of(objects)
    assert segments["segmentation"].tolist() == [[2] * 4, [2] * 4, [0] * 4, [3] * 4]
    assert segments["segments_info"] == [
        {"id": 2, "category_id": 6, "iscrowd": 0},
        {"id": 3, "category_id": 7, "iscrowd": 1},
    ]


# Refusals


def test_faults_are_found_before_anything_is_written(scenes, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"takes 4 channels; image 0 .* has 3"):
        trunk = {**TINY["backbone_config"], "num_channels": 4}
        start(scenes, tmp_path / "out", model=tiny_model(backbone_config=trunk))
    with pytest.raises(ConfigError, match=r"DetrImageProcessor.*got ViTImageProcessor"):
        start(scenes, tmp_path / "out", processor=ViTImageProcessor(size={"height": 32, "width": 32}))
    with pytest.raises(ConfigError, match=r"a DetrForObjectDetection of hfvision; got DetrForSegmentation"):
        start(scenes, tmp_path / "out", model=tiny_model(model_class=DetrForSegmentation))
    with pytest.raises(ConfigError, match="2 problems"):
        start(scenes, tmp_path / "out", num_queries=0, loss={"eos": 1})
    with (
        pytest.warns(DeprecationWarning, match="early_stopping_patience"),
        pytest.raises(ConfigError, match="patience"),
    ):
        start(scenes, tmp_path / "out", patience=-1)
    boxes = prepare_detection(scenes, check_images=0)
    with pytest.raises(DatasetError, match="panoptic=True"):
        start(boxes, tmp_path / "out", train=train_panoptic, model=tiny_model(model_class=DetrForSegmentation))
    monkeypatch.setattr("hfvision.metrics.detection.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hfvision\[detection\]"):
        start(scenes, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
