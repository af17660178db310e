"""One step over the same samples for each case, in as many processes as a launcher starts; the first one writes FILE.
And an evaluation by hfvision's Trainer of the first seven, which neither processes nor batches divide.

torchrun --nproc_per_node 2 -m tests.two_processes_side FILE
"""

import sys
import tempfile

import torch
from transformers import Trainer

from hfvision.processes import is_main_process
from hfvision.registry import IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.trainer import Trainer as VisionTrainer
from tests.models import tiny_model
from tests.test_accumulation import (
    StepMeansTrainer,
    collate,
    collate_objects,
    label_maps,
    objects,
    train_one_step,
    with_labels,
)

CASES = {  # row of the model, labels of each image, how they become a batch, trainer
    "labels": (("vit", IMAGE_CLASSIFICATION), torch.tensor([0, 4, -100, -100, -100, -100, 1, 3]), collate, Trainer),
    "pixels": (("segformer", SEMANTIC_SEGMENTATION), label_maps(255), collate, Trainer),
    "valid pixels": (("segformer", SEMANTIC_SEGMENTATION), label_maps(255), collate, StepMeansTrainer),
    "objects": (
        ("detr", OBJECT_DETECTION),
        [objects(count, masks=False) for count in (0, 3, 1, 0, 2, 0, 0, 4)],
        collate_objects,
        StepMeansTrainer,
    ),
}


def results(processes, batches):
    """For each case the loss and the gradients of the step."""
    found = {}
    for name, (row, labels, together, trainer_class) in CASES.items():
        model = tiny_model(*row)
        with tempfile.TemporaryDirectory() as scratch:
            samples = with_labels(model, labels)
            found[name] = train_one_step(model, samples, batches, scratch, together, trainer_class, processes)
    return found


def evaluations(batch_size):
    """For each case the loss of an evaluation."""
    found = {}
    for name, (row, labels, together, _) in CASES.items():
        model = tiny_model(*row)
        model.config.problem_type = "single_label_classification" if name == "labels" else None
        with tempfile.TemporaryDirectory() as scratch:
            args = VisionTrainingArguments(scratch, per_device_eval_batch_size=batch_size, prediction_loss_only=True)
            trainer = VisionTrainer(model, args, together, eval_dataset=with_labels(model, labels)[:7])
            found[name] = trainer.evaluate()["eval_loss"]
    return found


if __name__ == "__main__":
    found = results(processes=2, batches=2)
    evaluated = evaluations(batch_size=2)
    if is_main_process():
        torch.save(found, sys.argv[1])
        torch.save(evaluated, sys.argv[1] + ".evaluated")
    torch.distributed.destroy_process_group()
