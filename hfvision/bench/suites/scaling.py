"""Inference of ever larger images. Each size has a model of its own, as transformers' Swin keeps the windows of the
first size that it saw.
"""

import math
from functools import partial

from hfvision.bench.case import Case, Goal
from hfvision.bench.suites import families as f
from hfvision.bench.suites.forward import forward

SIDES = (224, 512, 1024)  # pixels
WITHIN = 1.3


def _cases(name: str, reference: str, fields: f.Fields, patch: int, growth: float | None) -> list[Case]:
    return [
        Case(
            f"{name}-{side}",
            partial(forward, reference=reference, fields=fields, batch=1, size=(side,)),
            Goal(growth=growth if side == SIDES[-1] else None),
            family=name,
            tokens=math.ceil(side / patch) ** 2,
        )
        for side in SIDES
    ]


CASES = (
    *_cases("swin-tiny", f.SWIN, f.SWIN_TINY, 4, WITHIN),
    *_cases("vit-tiny", f.VIT, f.VIT_TINY, 16, None),
    *_cases("segformer-b0", f.SEGFORMER, f.MIT_B0, 4, None),
)
