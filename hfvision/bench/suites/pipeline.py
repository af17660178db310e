"""The image-classification pipeline over files: decoding, the model, answers. Both sides as they are by default."""

from functools import partial
from typing import Any

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.suites import families as f
from hfvision.bench.suites.photos import Photos
from hfvision.bench.twins import quiet, their_class, twins
from hfvision.registry import load
from hfvision.tasks import PIPELINES

FILES = 64


def classify_files(setting: Setting, fields: f.Fields) -> Pair:
    from transformers.pipelines.image_classification import ImageClassificationPipeline

    sizes = f.sizes(f.VIT, setting, fields)
    their_model, our_model = twins(f.VIT, setting, **sizes)
    photos = Photos(4, 60, 45) if setting.tiny else Photos(FILES, 500, 375)
    side = their_model.config.image_size
    options: dict[str, Any] = {"size": {"height": side, "width": side}}
    their_processor = their_class("vit.image_processing_pil_vit:ViTImageProcessorPil")(**options)
    our_processor = load("hfvision.processing.classification:ViTImageProcessor")(**options)
    with quiet():
        theirs = ImageClassificationPipeline(model=their_model, image_processor=their_processor, device=setting.device)
        ours = load(PIPELINES["image-classification"])(
            model=our_model, image_processor=our_processor, device=setting.device
        )

    def answers(pipeline: Any) -> Any:
        with quiet():
            return pipeline(photos.paths)

    return Pair(lambda: answers(theirs), lambda: answers(ours))


CASES = (
    Case("files-vit-tiny", partial(classify_files, fields=f.VIT_TINY), Goal(1.8)),
    Case("files-vit-base", partial(classify_files, fields=f.VIT_BASE), Goal(1.9)),
)
