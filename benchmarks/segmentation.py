"""Time hfvision's segmentation against transformers', on the same random weights, in one process.

    python benchmarks/segmentation.py                     # everything, a few minutes
    python benchmarks/segmentation.py segformer-b0 loss   # some cases
    python benchmarks/segmentation.py --cpu-time --json   # on a machine that others use, too

Calls alternate, theirs then ours, so that both meet the same load of the machine; README.md beside this file says how
to read the table.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import hfvision
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.upsampling import Upsampling

Call = Callable[[], Tensor]
Pair = tuple[Call, Call]  # theirs and ours

CLASSES = 150
MIT_B0 = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256}
MIT_B2 = {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768}
SWIN_TINY = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclass(frozen=True)
class Timing:
    """One row of the table."""

    case: str
    theirs_ms: float  # medians over the rounds
    ours_ms: float
    ratio: float  # median of theirs / ours in the same round; above 1 ours is faster
    difference: float  # of the outputs, as a share of their largest value; of label maps: the share of pixels


def forward(name: str, images: tuple[int, int, int, int], **config: Any) -> Pair:
    """Inference of a model class, by its name in both packages."""
    theirs, ours = models(name, **config)
    pixels = torch.randn(images)

    def call(model: PreTrainedModel) -> Tensor:
        with torch.inference_mode():
            return model(pixels).logits

    return lambda: call(theirs), lambda: call(ours)


def training_step(name: str, images: tuple[int, int, int, int], **config: Any) -> Pair:
    """Forward and backward pass with labels; gives the loss."""
    theirs, ours = models(name, **config)
    pixels = torch.randn(images)
    labels = torch.randint(0, CLASSES, (images[0], *images[2:]))

    def call(model: PreTrainedModel) -> Tensor:
        model.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        return loss.detach()

    return lambda: call(theirs), lambda: call(ours)


def models(name: str, **config: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Theirs with random weights, and ours with the same ones, loaded from its folder."""
    theirs_class = getattr(transformers, name)
    hfvision.unregister()  # parts that a model looks up by name are its own package's
    theirs = theirs_class(theirs_class.config_class(num_labels=CLASSES, **config)).eval()
    hfvision.register()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.add_(torch.randn_like(tensor), alpha=0.02)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = getattr(hfvision, name).from_pretrained(folder).eval()
    return theirs, ours


def post_processing() -> Pair:
    """Coarse logits of a photo to its label map: 150 classes, 128 x 128 to 3000 x 4000."""
    smooth = nn.functional.interpolate(torch.randn(1, CLASSES, 12, 12), size=(128, 128), mode="bicubic")
    outputs = transformers.modeling_outputs.SemanticSegmenterOutput(logits=3 * smooth + 0.3 * torch.randn_like(smooth))

    def call(processor: Any) -> Tensor:
        return processor.post_process_semantic_segmentation(outputs, target_sizes=[(3000, 4000)])[0]

    theirs, ours = transformers.SegformerImageProcessor(), SegformerImageProcessor()
    return lambda: call(theirs), lambda: call(ours)


def loss() -> Pair:
    """Cross-entropy at 512 x 512 of 128 x 128 logits, two images; gives the gradient."""
    logits = torch.randn(2, CLASSES, 128, 128)
    labels = torch.randint(0, CLASSES, (2, 512, 512))
    ours = SegmentationLoss()

    def gradient(of: Callable[[Tensor], Tensor]) -> Tensor:
        values = logits.clone().requires_grad_()
        of(values).backward()
        assert values.grad is not None
        return values.grad

    def theirs(values: Tensor) -> Tensor:
        upsampled = nn.functional.interpolate(values, size=labels.shape[1:], mode="bilinear", align_corners=False)
        return nn.functional.cross_entropy(upsampled, labels, ignore_index=255)

    return lambda: gradient(theirs), lambda: gradient(lambda values: ours(values, labels, Upsampling((512, 512))))


CASES: dict[str, Callable[[], Pair]] = {
    "segformer-b0": lambda: forward("SegformerForSemanticSegmentation", (1, 3, 512, 512), **MIT_B0),
    "segformer-b2": lambda: forward("SegformerForSemanticSegmentation", (1, 3, 512, 512), **MIT_B2),
    "swin-tiny": lambda: forward("SwinForImageClassification", (1, 3, 224, 224), **SWIN_TINY),
    "upernet-swin-tiny": lambda: forward(
        "UperNetForSemanticSegmentation", (1, 3, 512, 512), backbone_config={**SWIN_TINY, "out_features": STAGES}
    ),
    "segformer-b0-training": lambda: training_step("SegformerForSemanticSegmentation", (2, 3, 512, 512), **MIT_B0),
    "loss": loss,
    "post-processing": post_processing,
}


def measure(case: str, rounds: int, clock: Callable[[], float]) -> Timing:
    """Alternate the two; the first round only warms up."""
    torch.manual_seed(0)
    pair = CASES[case]()
    gc.collect()
    times: list[tuple[float, float]] = []
    difference = 0.0
    for _ in range(1 + rounds):
        outputs, seconds = [], []
        for call in pair:
            started = clock()
            outputs.append(call())
            seconds.append(clock() - started)
        theirs, ours = outputs
        if theirs.is_floating_point():
            difference = float((ours - theirs).abs().max() / theirs.abs().max())
        else:
            difference = float((ours != theirs).double().mean())
        times.append((seconds[0], seconds[1]))
    kept = times[1:]
    return Timing(
        case,
        theirs_ms=1e3 * statistics.median(theirs for theirs, _ in kept),
        ours_ms=1e3 * statistics.median(ours for _, ours in kept),
        ratio=statistics.median(theirs / ours for theirs, ours in kept),
        difference=difference,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}; all of them by default")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each side (default 5)")
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    parser.add_argument("--cpu-time", action="store_true", help="processor time on one thread, not wall time")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    if arguments.cpu_time and arguments.threads not in (None, 1):
        parser.error("--cpu-time is on one thread; leave --threads out")
    if threads := 1 if arguments.cpu_time else arguments.threads:
        torch.set_num_threads(threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    transformers.utils.logging.disable_progress_bar()
    timings = []
    for case in arguments.cases or CASES:
        print(f"{case} ...", file=sys.stderr)
        timings.append(measure(case, arguments.rounds, clock))
    setting = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": "processor time" if arguments.cpu_time else "wall time",
        "rounds": arguments.rounds,
    }
    if arguments.json:
        print(json.dumps({**setting, "timings": [asdict(timing) for timing in timings]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print(f"{'case':24}{'theirs, ms':>12}{'ours, ms':>12}{'ratio':>8}{'difference':>13}")
    for row in timings:
        print(f"{row.case:24}{row.theirs_ms:12.1f}{row.ours_ms:12.1f}{row.ratio:8.2f}{row.difference:13.1e}")


if __name__ == "__main__":
    main()
