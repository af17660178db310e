"""Losses of classifiers against the original's numbers and against plain sums; training a student on a teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from transformers import Trainer, TrainingArguments

import hfvision
from hfvision.conversion.verify import tolerance
from hfvision.data import load_digits
from hfvision.errors import ConfigError
from hfvision.losses.classification import classification_loss, distillation_loss, teacher_loss
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import train_classification
from hfvision.training.distillation import Distillation
from tests.models import pixels, tiny_config, tiny_model

GOLDENS = Path(__file__).parent / "data" / "goldens" / "deit"
ROUNDING = {"rtol": 0, "atol": 1e-6}  # losses of order one, summed in another order


def golden(case):
    outputs, inputs = (dict(np.load(GOLDENS / case / f"{name}.npz")) for name in ("output", "loss_inputs"))
    facts = json.loads((GOLDENS / case / "case.json").read_text())
    return {name: torch.from_numpy(value) for name, value in (outputs | inputs).items()}, facts["float64_max_abs_diff"]


@pytest.mark.parametrize("case", ["distilled", "position_resize"])
def test_the_losses_are_those_of_the_original(case):
    values, rounding = golden(case)
    names = [name for name in values if name.startswith("loss/")]
    assert len(names) == 10
    for name in names:
        base, kind, alpha, tau = name.removeprefix("loss/").split("_")
        smoothing = {"ce": 0.0, "smooth": 0.1}[base]
        if kind == "none":
            got = classification_loss(values["logits_cls"], values["labels"], smoothing)
        else:
            got = distillation_loss(
                values["logits_cls"],
                values["logits_distillation"],
                values["labels"],
                values["teacher_logits"],
                kind,
                alpha=float(alpha.removeprefix("alpha")),
                tau=float(tau.removeprefix("tau")),
                label_smoothing=smoothing,
            )
        torch.testing.assert_close(got, values[name], rtol=0, atol=tolerance(values[name], rounding[name]), msg=name)


def test_soft_targets_are_weighted_sums_of_the_label_losses():
    logits = torch.randn(4, 3)
    share = torch.tensor([0.3, 1.0, 0.0, 0.75])
    one, other = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 0, 1, 1])
    eye = torch.eye(3)
    mixed = eye[one] * share[:, None] + eye[other] * (1 - share[:, None])
    surprise = -logits.log_softmax(dim=1)
    wanted = (
        surprise.gather(1, one[:, None])[:, 0] * share + surprise.gather(1, other[:, None])[:, 0] * (1 - share)
    ).mean()
    torch.testing.assert_close(classification_loss(logits, mixed), wanted, **ROUNDING)
    smoothed = 0.8 * wanted + 0.2 * surprise.mean()
    torch.testing.assert_close(classification_loss(logits, mixed, 0.2), smoothed, **ROUNDING)


def test_a_teacher_that_agrees_costs_nothing_and_its_temperature_changes_no_scale():
    logits = torch.randn(4, 3)
    assert teacher_loss(logits, logits, "soft", tau=3.0).abs() < 1e-6
    other = logits + 1e-3 * torch.randn(4, 3)  # to second order the divergence is that of tau 1 at any high tau
    hot, hotter = (teacher_loss(logits.double(), other.double(), "soft", tau=tau) for tau in (50.0, 100.0))
    torch.testing.assert_close(hot, hotter, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: classification_loss(x, y, 1.5), r"label_smoothing is a share, in \[0, 1\]; got 1.5"),
        (lambda x, y: classification_loss(x, y[:1]), r"targets are \(2,\) indices .* got \(1,\) of torch.int64"),
        (lambda x, y: classification_loss(x, torch.ones(2, 4)), r"\(2, 3\) probabilities; got \(2, 4\)"),
        (
            lambda x, y: teacher_loss(x, torch.ones(2, 4), "hard"),
            r"teacher's logits are \(2, 4\), the student's \(2, 3\)",
        ),
        (lambda x, y: distillation_loss(x, x, y, x, "warm", alpha=2, tau=0), "3 problems"),
    ],
)
def test_a_loss_that_cannot_be_computed_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call(torch.randn(2, 3), torch.tensor([0, 2]))


# --- training ---------------------------------------------------------------------------------------------


def student_and_teacher(**fields):
    torch.manual_seed(0)
    student = hfvision.DeiTForImageClassificationWithTeacher(tiny_config("deit", **fields))
    return student, tiny_model("vit", **fields)


def names(*labels):
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (("ant", "cat", "bee"), "3 labels in another order: 1 is 'cat' to it and 'bee' to the student"),
        (("ant", "bee"), "has 2 labels and the student 3; only the teacher has none; only the student has cat"),
        (("ant", "bee", "cow", "dog"), "only the teacher has cow, dog; only the student has cat"),
    ],
)
def test_a_teacher_with_another_label_set_is_refused(theirs, message):
    student = hfvision.DeiTForImageClassificationWithTeacher(
        tiny_config("deit", num_labels=3, **names("ant", "bee", "cat"))
    )
    teacher = tiny_model("vit", num_labels=len(theirs), **names(*theirs))
    with pytest.raises(ConfigError, match=message):
        Distillation(teacher).loss_for(student)


def test_only_a_model_with_a_distillation_head_has_a_teacher():
    with pytest.raises(ConfigError, match="which ViTForImageClassification does not have"):
        Distillation(tiny_model("vit")).loss_for(tiny_model("vit"))
    with pytest.raises(ConfigError, match=r"3 problems.*\n.*kind is hard or soft; got 'warm'"):
        Distillation(tiny_model("vit"), kind="warm", alpha=-1, tau=-1)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_trainers_loss_is_the_distillation_loss_in_training_and_cross_entropy_in_evaluation(kind):
    student, teacher = student_and_teacher()
    loss = Distillation(teacher, kind=kind, alpha=0.3, tau=2.0, label_smoothing=0.1).loss_for(student)
    x, labels = pixels(student.config), torch.tensor([0, 3])
    outputs = student.train()(pixel_values=x)
    wanted = distillation_loss(
        outputs.cls_logits,
        outputs.distillation_logits,
        labels,
        teacher(x).logits,
        kind,
        alpha=0.3,
        tau=2.0,
        label_smoothing=0.1,
    )
    got = loss(outputs, labels, num_items_in_batch=8)  # 4 batches of 2 make one step
    torch.testing.assert_close(got, wanted / 4, **ROUNDING)
    got.backward()
    heads = [student.cls_classifier.weight, student.distillation_classifier.weight]
    assert all(weight.grad.abs().sum() > 0 for weight in heads)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    outputs = student.eval()(x)
    wanted = torch.nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(loss(outputs, labels), wanted, **ROUNDING)
    loss.remove()
    student.train()(x)
    assert loss.pixel_values is None


def test_gradient_accumulation_changes_no_step(tmp_path):
    """Two batches of 4 in one step, or one of 8."""
    data = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 5} for i in range(8)]
    after = []
    for batch, accumulation in ((8, 1), (4, 2)):
        student, teacher = student_and_teacher()
        Trainer(
            model=student,
            args=TrainingArguments(
                str(tmp_path),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=2,
                learning_rate=1e-2,
                optim="sgd",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                save_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=data,
            compute_loss_func=Distillation(teacher, kind="hard").loss_for(student),
        ).train()
        after.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    torch.testing.assert_close(*after, rtol=0, atol=1e-5)  # weights of order 0.02; sums in another order


def test_digits_are_learned_from_a_teacher_and_the_folder_loads(tmp_path):
    digits = load_digits()
    fields = {"image_size": 16, "patch_size": 4, "num_channels": 1, "num_labels": 10, **names(*map(str, range(10)))}
    student, teacher = student_and_teacher(**fields)
    processor = hfvision.DeiTImageProcessor(
        size={"height": 16, "width": 16}, do_center_crop=False, image_mean=[0.5], image_std=[0.5]
    )
    result = train_classification(
        student,
        DatasetDict(train=digits["train"].select(range(64)), test=digits["test"].select(range(32))),
        tmp_path / "out",
        processor=processor,
        args=VisionTrainingArguments(max_steps=3, per_device_train_batch_size=16),
        distillation=Distillation(teacher, kind="soft", alpha=0.4, tau=2.0),
    )
    assert result.steps == 3
    loaded = hfvision.DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path / "out").eval()
    x = pixels(loaded.config)
    torch.testing.assert_close(loaded(x).logits, student.eval()(x).logits, rtol=0, atol=0)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "teacher ViTForImageClassification, kind soft, alpha 0.4, tau 2.0" in card
