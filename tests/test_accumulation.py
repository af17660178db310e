"""transformers' own Trainer: one step has the same loss and gradients, however many batches it is dealt out over."""

import copy

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hfvision.losses.segmentation import SegmentationLoss
from hfvision.registry import SEMANTIC_SEGMENTATION, load
from hfvision.training.accumulation import StepMeans
from hfvision.training.distillation import Distillation
from tests.models import CLASSIFIERS, DENSE, DETECTORS, ROWS, pixels, tiny_config, tiny_model, with_visible_weights

MASKED = [row for row in ROWS if row[1] == "AutoModelForMaskedImageModeling"]
IMAGES = 8
# Gradients are sums in another order: relative to the largest, and absolute where all are next to nothing.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
PROBLEM_TYPES = ["single_label_classification", "multi_label_classification", "regression"]


class StepMeansTrainer(StepMeans, Trainer):
    """Counts what the model's loss divides by."""


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimizer is about to use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.found = {
            name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }


def train_one_step(model, samples, batches, folder, collate=None, trainer_class=Trainer, processes=1):
    """The logged loss and the gradients of one step over all samples, in so many batches of each process."""
    model = copy.deepcopy(model)
    for part in model.modules():  # batch norm and dropout see one batch at a time, which no loss can undo
        part.train = lambda mode=True, part=part: part
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=len(samples) // batches // processes,
        gradient_accumulation_steps=batches,
        max_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
    )
    gradients = Gradients()
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=samples, data_collator=collate, callbacks=[gradients]
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(samples)
    trainer.train()
    return trainer.state.log_history[0]["loss"], gradients.found


def assert_steps_are_equal(model, samples, folder, splits=(4,), **options):
    """1 x 8 and 4 x 2, or other splits; returns the loss of the first."""
    loss, gradients = train_one_step(model, samples, 1, folder, **options)
    assert any(values.any() for values in gradients.values())
    scale = max(values.abs().max() for values in gradients.values())
    for batches in splits:
        got, found = train_one_step(model, samples, batches, folder, **options)
        assert got == pytest.approx(loss, rel=1e-4)
        for name, values in gradients.items():
            torch.testing.assert_close(found[name] / scale, values / scale, **CLOSE, msg=f"{name}, {batches} batches")
    return loss


def with_labels(model, labels):
    return [{"pixel_values": x, "labels": label} for x, label in zip(pixels(model.config, IMAGES), labels, strict=True)]


def collate(samples):
    return {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}


def label_maps(ignore_index):
    """(8, 32, 32) for five classes, with ever more ignored pixels; of the last image nothing counts."""
    labels = torch.randint(0, 5, (IMAGES, 32, 32), generator=torch.Generator().manual_seed(0))
    for image, one in enumerate(labels):
        one[: 4 * image + (4 if image == IMAGES - 1 else 0)] = ignore_index
    return labels


def objects(count, masks):
    generator = torch.Generator().manual_seed(count)
    found = {
        "class_labels": torch.randint(0, 5, (count,), generator=generator),
        "boxes": 0.2 + 0.3 * torch.rand(count, 4, generator=generator),
    }
    return found | ({"masks": (torch.rand(count, 32, 32, generator=generator) > 0.5).float()} if masks else {})


# Every classifier hands its logits to the one loss of transformers, so that each is tried with one kind of problem, and
# two with all: one of a plain head, one that has a head of its own.
KINDS = {(model_type, PROBLEM_TYPES[index % 3]) for index, model_type in enumerate(CLASSIFIERS)}
KINDS |= {(model_type, problem_type) for model_type in ("vit", "google_vit") for problem_type in PROBLEM_TYPES}


@pytest.mark.parametrize(("model_type", "problem_type"), sorted(KINDS))
def test_classifiers(model_type, problem_type, tmp_path):
    model = tiny_model(model_type)
    model.config.problem_type = problem_type
    labels = {
        "single_label_classification": torch.tensor([0, 4, -100, -100, 2, -100, 1, 3]),
        "multi_label_classification": (torch.rand(IMAGES, 5) > 0.5).float(),
        "regression": torch.randn(IMAGES, 5),
    }[problem_type]
    if problem_type == "multi_label_classification":
        labels[:3, 1:] = -100
    splits = (4, 2) if model_type == "vit" else (4,)
    loss = assert_steps_are_equal(model, with_labels(model, labels), tmp_path, splits, collate=collate)
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


# One loss of pixels for all dense models, and UPerNet's own sum of two; all of them are dealt out further below.
DENSE_LOSSES = ["segmenter", "upernet"]


@pytest.mark.parametrize("model_type", DENSE_LOSSES)
def test_semantic_segmentation_by_the_pixels_that_trainer_counts(model_type, tmp_path):
    model = tiny_model(model_type, SEMANTIC_SEGMENTATION)
    labels = label_maps(255)
    loss = assert_steps_are_equal(model, with_labels(model, labels), tmp_path, collate=collate)
    model.pixel_loss = SegmentationLoss(average="all")
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize("model_type", DENSE_LOSSES)
def test_semantic_segmentation_by_valid_pixels_where_ignored_ones_are_labeled_as_trainer_has_them(model_type, tmp_path):
    model = tiny_model(model_type, SEMANTIC_SEGMENTATION)
    model.pixel_loss = SegmentationLoss(ignore_index=-100)
    labels = label_maps(-100)
    loss = assert_steps_are_equal(model, with_labels(model, labels), tmp_path, collate=collate)
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("model_type", "criterion"),
    [
        *((model_type, SegmentationLoss()) for model_type in DENSE),
        ("segformer", SegmentationLoss(average="all")),
        ("segmenter", SegmentationLoss(class_weights=(1, 2, 0.5, 0, 3))),
        ("segformer", SegmentationLoss(terms="0.5*cross_entropy+focal")),
    ],
)
def test_semantic_segmentation_by_what_the_loss_divides_by(model_type, criterion, tmp_path):
    model = tiny_model(model_type, SEMANTIC_SEGMENTATION)
    model.pixel_loss = criterion
    labels = label_maps(255)
    options = {"collate": collate, "trainer_class": StepMeansTrainer}
    loss = assert_steps_are_equal(model, with_labels(model, labels), tmp_path, **options)
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize("trainer_class", [Trainer, StepMeansTrainer])
def test_losses_of_regions_are_averaged_over_batches(trainer_class, tmp_path):
    model = tiny_model("segformer", SEMANTIC_SEGMENTATION)
    model.pixel_loss = SegmentationLoss(terms="dice")
    labels, x = label_maps(255)[:4], pixels(model.config, IMAGES)[:4]
    samples = with_labels(model, label_maps(255))[:4]
    loss, _ = train_one_step(model, samples, 2, tmp_path, collate, trainer_class)
    wanted = [model(x[half], labels=labels[half]).loss.item() for half in (slice(2), slice(2, 4))]
    assert loss == pytest.approx(sum(wanted) / 2, rel=1e-4)


@pytest.mark.parametrize("soft_targets", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_student_and_its_teacher(kind, soft_targets, tmp_path):
    student = load("hfvision.models.deit:DeiTForImageClassificationWithTeacher")(tiny_config("deit"))
    student = with_visible_weights(student)
    labels = torch.tensor([0, 4, -100, -100, 2, -100, 1, 3])
    if soft_targets:
        labels = torch.rand(IMAGES, 5).softmax(dim=1)
    samples = with_labels(student, labels)

    class Learning(Trainer):
        def __init__(self, model, **options):
            loss = Distillation(tiny_model("vit"), kind=kind, tau=2.0, label_smoothing=0.1).loss_for(model)
            loss.student.training = True
            super().__init__(model=model, compute_loss_func=loss, **options)

    assert_steps_are_equal(student, samples, tmp_path, collate=collate, trainer_class=Learning)


def collate_objects(samples):
    return {
        "pixel_values": torch.stack([one["pixel_values"] for one in samples]),
        "labels": [s["labels"] for s in samples],
    }


@pytest.mark.parametrize(("model_type", "auto_class"), DETECTORS)
def test_detection_by_objects(model_type, auto_class, tmp_path):
    model = tiny_model(model_type, auto_class)
    model.loss_of_all_layers = True
    counts = [0, 3, 1, 0, 2, 0, 0, 4]
    labels = [objects(count, "Segmentation" in auto_class) for count in counts]
    samples = with_labels(model, labels)
    options = {"collate": collate_objects, "trainer_class": StepMeansTrainer}
    loss = assert_steps_are_equal(model, samples, tmp_path, **options)
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize(("model_type", "auto_class"), DETECTORS[:2])  # boxes and masks; the layers' order adds nothing
def test_detection_by_trainer_itself_where_batches_have_as_many_objects(model_type, auto_class, tmp_path):
    model = tiny_model(model_type, auto_class)
    labels = [objects(2, "Segmentation" in auto_class) for _ in range(IMAGES)]
    loss = assert_steps_are_equal(model, with_labels(model, labels), tmp_path, collate=collate_objects)
    assert loss == pytest.approx(model(pixels(model.config, IMAGES), labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
@pytest.mark.parametrize(("model_type", "auto_class"), MASKED)
def test_masked_images_by_hidden_patches(model_type, auto_class, even, tmp_path):
    model = tiny_model(model_type, auto_class)
    x = pixels(model.config, IMAGES)
    places = (x.shape[-1] // model.config.patch_size) ** 2
    hidden = torch.zeros(IMAGES, places, dtype=torch.bool)
    for image, one in enumerate(hidden):
        one[: 3 if even else 2 * image] = True
    samples = [{"pixel_values": one, "bool_masked_pos": mask} for one, mask in zip(x, hidden, strict=True)]
    trainer_class = Trainer if even else StepMeansTrainer
    loss = assert_steps_are_equal(model, samples, tmp_path, collate=collate, trainer_class=trainer_class)
    assert loss == pytest.approx(model(x, bool_masked_pos=hidden).loss.item(), rel=1e-4)
