"""Fine-tune object detection with transformers' own Trainer: hfvision's models, its collator and its metrics.

python examples/detection_transformers.py --steps 20
"""

import argparse

from transformers import AutoImageProcessor, AutoModelForObjectDetection, Trainer, TrainingArguments

import hfvision
from hfvision.starters import resolve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="detr-digit-scenes", help="starter of hfvision, folder or Hub id")
parser.add_argument("--output", default="detection-transformers")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

rows = hfvision.load_digit_scenes(train=64, validation=16)  # columns "image" and "objects", among others
names = [f"digit {digit}" for digit in range(10)]
source = resolve(options.model)
processor = AutoImageProcessor.from_pretrained(source)
model = AutoModelForObjectDetection.from_pretrained(
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
    data_collator=hfvision.DetectionCollator(processor),
    train_dataset=rows["train"],
    eval_dataset=rows["validation"],
    compute_metrics=hfvision.ComputeDetectionMetrics(),
    processing_class=processor,
)
trainer.train()
print(trainer.evaluate())
trainer.save_model()
