#!/usr/bin/env bash
# transformers 5.24.0: with gradient_accumulation_steps=4 a multi-label classifier's loss and gradients are four times
# too large.
#
# Guess: Trainer divides the loss by the number of accumulated batches unless the model does that itself.
# Behavior: it takes every model whose forward accepts further keywords for one that does. ViT's classification head
# hands the number of items to the cross-entropy of single labels only: of several labels, and of regression, each
# batch's mean is added up undivided.
# Whom it meets: everyone who trains such a classifier with accumulated batches: the learning rate is N times the stated.
# What hfvision does: every head divides by what the whole step counts, or says that it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$folder"
cd "$folder"

"$folder/env/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

warnings.simplefilter("ignore")
import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def first_loss(problem_type, label, steps):
    torch.manual_seed(0)
    config = ViTConfig(**size, image_size=16, patch_size=8, num_labels=3, problem_type=problem_type)
    model = ViTForImageClassification(config)
    images = torch.randn(8, 3, 16, 16)
    rows = [{"pixel_values": image, "labels": label} for image in images]
    arguments = TrainingArguments(
        "out", per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps, max_steps=1, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


print("transformers", version("transformers"))
ratios = {}
for kind, label in (("single_label_classification", 1), ("multi_label_classification", torch.tensor([0.0, 1.0, 1.0]))):
    one, four = first_loss(kind, label, 1), first_loss(kind, label, 4)
    ratios[kind] = four / one
    print(f"{kind}: {one:.4f} in one batch of 8, {four:.4f} in four of 2")
assert abs(ratios["single_label_classification"] - 1) < 0.01
assert abs(ratios["multi_label_classification"] - 4) < 0.01, "this has changed"
PYTHON
