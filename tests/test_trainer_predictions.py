"""Predictions of transformers' own Trainer, and what it says of labels that cannot be learned from."""

import numpy as np
import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from hfvision.errors import ConfigError, DatasetError, ImageShapeError
from hfvision.registry import IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION, load
from tests.models import CLASSIFIERS, DENSE, DETECTORS, ROWS, pixels, tiny_config, tiny_model

OF_TRANSFORMERS = {  # its class of a row, for the families that it has, too
    ("vit", IMAGE_CLASSIFICATION): "ViTForImageClassification",
    ("deit", IMAGE_CLASSIFICATION): "DeiTForImageClassification",
    ("swin", IMAGE_CLASSIFICATION): "SwinForImageClassification",
    ("segformer", IMAGE_CLASSIFICATION): "SegformerForImageClassification",
    ("segformer", SEMANTIC_SEGMENTATION): "SegformerForSemanticSegmentation",
    ("upernet", SEMANTIC_SEGMENTATION): "UperNetForSemanticSegmentation",
}


def trainer_of(model, folder, collate=None, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=2, report_to="none", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, eval_do_concat_batches=options.pop("concatenate", True),
    )  # fmt: skip
    return Trainer(model=model, args=arguments, data_collator=collate, **options)


def predicted(model, labels, folder, compute_metrics=None):
    samples = [{"pixel_values": x, "labels": one} for x, one in zip(pixels(model.config, 4), labels, strict=True)]
    return trainer_of(model, folder, compute_metrics=compute_metrics).predict(samples)


def batch_of_objects(samples):
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_a_classifier_predicts_logits(model_type, with_labels, tmp_path):
    model = tiny_model(model_type)
    x = pixels(model.config, 4)
    samples = [{"pixel_values": one} | ({"labels": 1} if with_labels else {}) for one in x]
    answer = trainer_of(model, tmp_path).predict(samples)
    with torch.no_grad():
        np.testing.assert_allclose(answer.predictions, model(x).logits.numpy(), atol=2e-5)


def test_a_distilled_deit_predicts_the_mean_of_its_heads(tmp_path):
    model = load("hfvision.models.deit:DeiTForImageClassificationWithTeacher")(tiny_config("deit")).eval()
    answer = predicted(model, torch.tensor([0, 1, 2, 3]), tmp_path)
    assert isinstance(answer.predictions, np.ndarray) and answer.predictions.shape == (4, 5)
    assert "keys_to_ignore_at_inference" not in model.config.to_dict()


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("model_type", DENSE)
def test_a_semantic_segmenter_predicts_logits(model_type, with_labels, tmp_path):
    """The metric is computed as transformers' guide has it, where predictions are one array."""
    model = tiny_model(model_type, SEMANTIC_SEGMENTATION)
    x = pixels(model.config, 4)
    labels = torch.randint(0, 5, (4, *x.shape[-2:]))

    def accuracy(evaluated):
        logits, labels = evaluated
        upsampled = torch.nn.functional.interpolate(torch.from_numpy(logits), labels.shape[-2:], mode="bilinear")
        return {"accuracy": (upsampled.argmax(dim=1).numpy() == labels).mean()}

    samples = [
        {"pixel_values": one} | ({"labels": label} if with_labels else {}) for one, label in zip(x, labels, strict=True)
    ]
    answer = trainer_of(model, tmp_path, compute_metrics=accuracy).predict(samples)
    with torch.no_grad():
        np.testing.assert_allclose(answer.predictions, model(x).logits.numpy(), atol=2e-5)
    assert ("test_accuracy" in answer.metrics) == with_labels
    assert "keys_to_ignore_at_inference" not in model.config.to_dict()


@pytest.mark.parametrize(("row", "name"), OF_TRANSFORMERS.items(), ids=["-".join(row) for row in OF_TRANSFORMERS])
def test_predictions_are_those_of_transformers_own_class(row, name, tmp_path):
    ours = tiny_model(*row)
    ours.save_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert type(theirs).__module__.startswith("transformers.")
    shape = pixels(ours.config, 4).shape
    labels = torch.randint(0, 5, (4, *shape[-2:]) if row[1] == SEMANTIC_SEGMENTATION else (4,))
    found, wanted = (predicted(model, labels, tmp_path) for model in (ours, theirs))
    assert type(found.predictions) is type(wanted.predictions)
    np.testing.assert_allclose(found.predictions, wanted.predictions, atol=2e-4)


@pytest.mark.parametrize(("model_type", "auto_class"), DETECTORS)
def test_a_detector_predicts_what_transformers_guide_reads(model_type, auto_class, tmp_path):
    """Of each batch: the terms of the loss, the logits, the boxes, and further ones without those of earlier layers."""
    model = tiny_model(model_type, auto_class, decoder_layers=2)
    model.loss_of_all_layers = True
    masks = torch.zeros(1, *pixels(model.config).shape[-2:])
    one = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "masks": masks}
    samples = [{"pixel_values": x, "labels": dict(one)} for x in pixels(model.config, 4)]
    trainer = trainer_of(model, tmp_path, batch_of_objects, concatenate=False)
    batches = trainer.predict(samples).predictions
    assert len(batches) == 2
    for terms, logits, boxes, *further in batches:
        assert {"loss_ce", "loss_bbox", "loss_giou"} <= terms.keys()
        assert logits.shape == (2, model.config.num_queries, 6) and boxes.shape == (2, model.config.num_queries, 4)
        assert all(isinstance(one, np.ndarray) for one in further)


def test_a_detector_predicts_as_much_as_transformers_own_class(tmp_path):
    ours = tiny_model("detr", OBJECT_DETECTION)
    ours.save_pretrained(tmp_path)
    theirs = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            **{key: value for key, value in ours.config.to_dict().items() if key not in ("backbone_config",)}
            | {"backbone_config": ours.config.backbone_config}
        )
    )
    assert type(theirs).__module__.startswith("transformers.")
    one = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    samples = [{"pixel_values": x, "labels": dict(one)} for x in pixels(ours.config, 2)]
    found, wanted = (
        trainer_of(model.eval(), tmp_path, batch_of_objects, concatenate=False).predict(samples).predictions
        for model in (ours, theirs)
    )
    assert len(found[0]) == len(wanted[0])
    assert [getattr(one, "shape", None) for one in found[0]] == [getattr(one, "shape", None) for one in wanted[0]]


# --- labels that cannot be learned from -------------------------------------------------------------------


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_classes_that_a_classifier_does_not_have_are_named_with_their_counts(model_type):
    model = tiny_model(model_type)
    with pytest.raises(
        DatasetError, match=r"classes 0\.\.4, or -100 .*; got -3 \(1 image\), 9 \(2 images\)\.\n.* has 5"
    ):
        model(pixels(model.config, 4), labels=torch.tensor([9, 1, -3, 9]))
    assert model.config.problem_type is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize(
    ("model_type", "auto_class"),
    [(m, IMAGE_CLASSIFICATION) for m in CLASSIFIERS] + [(m, SEMANTIC_SEGMENTATION) for m in DENSE] + DETECTORS,
)
def test_whole_numbers_of_any_type_are_labels(model_type, auto_class, dtype):
    model = tiny_model(model_type, auto_class)
    x = pixels(model.config)
    if auto_class == IMAGE_CLASSIFICATION:
        labels = torch.tensor([3, 1])
        given = labels.to(dtype)
    elif auto_class == SEMANTIC_SEGMENTATION:
        labels = torch.randint(0, 5, (2, *x.shape[-2:]))
        given = labels.to(dtype)
    else:
        masks = torch.zeros(1, *x.shape[-2:])
        labels = [{"class_labels": torch.tensor([c]), "boxes": torch.full((1, 4), 0.4), "masks": masks} for c in (3, 1)]
        given = [one | {"class_labels": one["class_labels"].to(dtype)} for one in labels]
    torch.testing.assert_close(model(x, labels=given).loss, model(x, labels=labels).loss, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_a_column_of_labels_is_taken_as_a_row(model_type):
    model = tiny_model(model_type)
    x, labels = pixels(model.config), torch.tensor([3, 1])
    torch.testing.assert_close(model(x, labels=labels[:, None]).loss, model(x, labels=labels).loss, rtol=0, atol=0)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_images_without_a_known_label_move_nothing(problem_type):
    model = tiny_model("vit", problem_type=problem_type)
    labels = torch.full((2,), -100) if problem_type.startswith("single") else torch.full((2, 5), -100.0)
    loss = model(pixels(model.config), labels=labels).loss
    loss.backward()
    assert loss == 0 and not any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        (
            "single_label_classification",
            torch.zeros(2, 5),
            r"class indices of shape \(B,\).*got \(2, 5\) of torch.float32",
        ),
        ("single_label_classification", torch.zeros(3, dtype=torch.long), r"these logits \(2,\); got \(3,\)"),
        (
            "multi_label_classification",
            torch.tensor([0, 1]),
            r"one number from 0 to 1 for each label.*\(2, 5\); got \(2,\)",
        ),
        ("regression", torch.zeros(2), r"one number for each output.*\(2, 5\); got \(2,\)"),
        (None, torch.zeros(2, 5, dtype=torch.long), r"single_label_classification are .* set config.problem_type"),
    ],
)
def test_labels_of_another_kind_of_problem_are_refused(problem_type, labels, message):
    model = tiny_model("vit", problem_type=problem_type)
    with pytest.raises(ConfigError, match=message):
        model(pixels(model.config), labels=labels)
    assert model.config.problem_type == problem_type


def test_several_labels_are_shares():
    model = tiny_model("vit", problem_type="multi_label_classification")
    labels = torch.tensor([[0.0, 1, 2, 0, 1], [-1, 0, 0, 0, -100]])
    with pytest.raises(DatasetError, match=r"from 0 \(absent\) to 1 \(present\).*; got 2 and others, 2 in all"):
        model(pixels(model.config), labels=labels)


def test_one_hot_labels_of_any_type_are_several_labels():
    model = tiny_model("vit")
    labels = torch.tensor([[True, False, True, False, False], [False, True, False, False, True]])
    wanted = model(pixels(model.config), labels=labels.float()).loss
    for given in (labels, labels.int(), labels.to(torch.uint8)):
        torch.testing.assert_close(model(pixels(model.config), labels=given).loss, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("model_type", "auto_class"), ROWS)
def test_a_batch_without_images_is_refused(model_type, auto_class):
    model = tiny_model(model_type, auto_class)
    with pytest.raises(ImageShapeError, match=r"one image at least; got a batch of none, \(0, 3,"):
        model(pixels(model.config)[:0])
