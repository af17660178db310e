"""Fine-tune semantic segmentation with hfvision: one call that trains, measures, and writes a model with its card.

python examples/segmentation_hfvision.py --steps 20
"""

import argparse

import hfvision

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="segformer-digit-scenes", help="starter of hfvision, folder or Hub id")
parser.add_argument("--dataset", default="digit-scenes", help="folder, Hub id, parquet file, or data of hfvision")
parser.add_argument("--output", default="segmentation-hfvision")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

result = hfvision.train(
    "image-segmentation",
    options.model,
    options.dataset,
    options.output,
    {"max_steps": options.steps, "learning_rate": 1e-4, "per_device_train_batch_size": 8},
    resume=True,  # the same command goes on after an interruption
)
print(result.metrics, "on", result.measured_on)
