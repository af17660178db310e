"""Fine-tune an image classifier with transformers' own Trainer: hfvision's models, its collator and its metrics.

python examples/classification_transformers.py --steps 100
"""

import argparse

from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

import hfvision
from hfvision.starters import resolve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="vit-digits", help="starter of hfvision, folder or Hub id")
parser.add_argument("--output", default="classification-transformers")
parser.add_argument("--steps", type=int, default=100)
options = parser.parse_args()

rows = hfvision.load_digits()  # columns "image" and "label"
names = rows["train"].features["label"].names
source = resolve(options.model)
processor = AutoImageProcessor.from_pretrained(source)
model = AutoModelForImageClassification.from_pretrained(
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
        learning_rate=1e-4,
        per_device_train_batch_size=8,
        batch_eval_metrics=True,  # counted batch by batch: nothing else is kept
        remove_unused_columns=False,  # the collator needs the images
    ),
    data_collator=hfvision.ClassificationCollator(processor),
    train_dataset=rows["train"],
    eval_dataset=rows["test"],
    compute_metrics=hfvision.ComputeClassificationMetrics(),
    processing_class=processor,
)
trainer.train()
print(trainer.evaluate())
trainer.save_model()
