"""The suites: a name, what it times, and the module with its CASES."""

from importlib import import_module

from hfvision.bench.case import Case

SUITES = {
    "forward": "inference of every family, from pixels to logits, boxes or maps",
    "training": "a step: forward and backward pass and AdamW",
    "loss": "a loss and its gradients alone",
    "preprocess": "a JPEG file to the tensor that a model takes",
    "postprocess": "a model's answers to maps, masks and segments of a photo",
    "pipeline": "files to answers",
    "scaling": "inference of ever larger images: the time per token",
    "load": "import, and from_pretrained, in processes of their own",
    "optimized": "hfvision.optimize against float32: not equal, and it says by how much",
    "compiled": "inference of compiled models, against uncompiled ones and transformers' compiled ones",
}


def load_suite(name: str) -> tuple[Case, ...]:
    """Its cases."""
    cases: tuple[Case, ...] = import_module(f"hfvision.bench.suites.{name}").CASES
    return cases
