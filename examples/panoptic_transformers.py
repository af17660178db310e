"""Fine-tune panoptic segmentation with transformers' own Trainer: hfvision's models, its collator and its metrics.

python examples/panoptic_transformers.py --steps 20
"""

import argparse

from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, Trainer, TrainingArguments

import hfvision
from hfvision.starters import resolve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="detr-panoptic-digit-scenes", help="starter of hfvision, folder or Hub id")
parser.add_argument("--output", default="panoptic-transformers")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

data = hfvision.prepare_detection(hfvision.load_digit_scenes(train=64, validation=16), panoptic=True)
names = data.names


def rows_of(part):
    """Rows with an image and its segments, which are masks with classes."""
    return [dict(zip(("image", "segments"), part.read(row), strict=True)) for row in range(len(part))]


source = resolve(options.model)
processor = AutoImageProcessor.from_pretrained(source)
model = AutoModelForUniversalSegmentation.from_pretrained(
    source,
    id2label=dict(enumerate(names)),
    label2id={name: number for number, name in enumerate(names)},
    ignore_mismatched_sizes=True,  # another number of classes gets a new head
)
trainer = Trainer(
    model,
    TrainingArguments(
        options.output,
        max_steps=options.steps,
        learning_rate=1e-5,
        per_device_train_batch_size=8,
        batch_eval_metrics=True,  # counted batch by batch: nothing else is kept
        remove_unused_columns=False,  # the collator needs the images
    ),
    data_collator=hfvision.PanopticCollator(processor),
    train_dataset=rows_of(data.train),
    eval_dataset=rows_of(data.evaluation),
    compute_metrics=hfvision.ComputePanopticMetrics(things=data.things),
    processing_class=processor,
)
trainer.train()
print(trainer.evaluate())
trainer.save_model()
