"""Fine-tune an image classifier with hfvision: one call that trains, measures, and writes a model with its card.

python examples/classification_hfvision.py --steps 100
"""

import argparse

import hfvision

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="vit-digits", help="starter of hfvision, folder or Hub id")
parser.add_argument("--dataset", default="digits", help="folder, Hub id, parquet file, or data of hfvision")
parser.add_argument("--output", default="classification-hfvision")
parser.add_argument("--steps", type=int, default=100)
options = parser.parse_args()

result = hfvision.train(
    "image-classification",
    options.model,
    options.dataset,
    options.output,
    {"max_steps": options.steps, "learning_rate": 1e-4, "per_device_train_batch_size": 8},
    resume=True,  # the same command goes on after an interruption
)
print(result.metrics, "on", result.measured_on)
