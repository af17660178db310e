"""`hfvision.optimize` against transformers in float32. These are not equal numbers: the difference is 1 - cosine."""

from functools import partial
from typing import Any

import torch

from hfvision.bench.case import Case, Goal, Pair, Setting, Unavailable
from hfvision.bench.compare import cosine_distance
from hfvision.bench.suites import families as f
from hfvision.bench.twins import images, twins
from hfvision.optimizing import optimize


def bfloat16(setting: Setting, reference: str, fields: f.Fields, side: int) -> Pair:
    """Inference, one image; ours in bfloat16."""
    if setting.dtype != "float32":
        raise Unavailable("it is compared with float32")
    theirs, ours = twins(reference, setting, **f.sizes(reference, setting, fields))
    pixels = images(setting, 1, f.size_of(setting, side))
    ours = optimize(ours, dtype="bfloat16")

    def logits(model: Any) -> Any:
        with torch.inference_mode():
            return model(pixels.to(model.dtype)).logits.float()

    return Pair(lambda: logits(theirs), lambda: logits(ours), lambda: cosine_distance(logits(theirs), logits(ours)))


def _case(name: str, reference: str, fields: f.Fields, side: int, ratio: float) -> Case:
    build = partial(bfloat16, reference=reference, fields=fields, side=side)
    return Case(name, build, Goal(ratio), tolerance=1e-3, unit="of the cosine")


CASES = (
    _case("vit-base-bfloat16", f.VIT, f.VIT_BASE, 224, 3.5),
    _case("segformer-b2-bfloat16", f.SEGFORMER, f.MIT_B2, 512, 9.0),
)
