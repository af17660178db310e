"""What training starts from: a model and its image processor, with the head and the stochastic depth that are wanted.

`model` is a Hub id, a folder, a starter's name or a model in memory; "new:" before a name takes only the architecture
and the processor from there and starts with weights made anew.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel

from hfvision.errors import CheckpointReadError, ConfigError, one_line
from hfvision.layers.patch_embedding import pair
from hfvision.models.base import VisionModel
from hfvision.processing.reading import Bands
from hfvision.registry import ARCHITECTURES, load
from hfvision.reporting import report
from hfvision.starters import resolve
from hfvision.training.arguments import NEW, is_new
from hfvision.training.detection_augmentation import changed_processor
from hfvision.training.head import class_names, replace_head
from hfvision.training.loop import process
from hfvision.training.start import start_mimetic

MODES_LOOKED_AT = 256  # images of a split whose modes are tried on the processor

OTHER_TASK = "Unrecognized configuration class"  # how transformers begins what it says of a family without such models

ModelSource = str | os.PathLike[str] | PreTrainedModel


@dataclass(frozen=True)
class Base:
    """What training starts from."""

    name: str | None  # Hub id, folder or starter, behind NEW or not; None: a model made from a config
    source: str | None  # where its files are
    model: PreTrainedModel
    processor: Any
    origin: Literal["file", "memory", "new"]  # of the weights
    has_head: bool  # whether the head of the model was trained, too
    missing: tuple[str, ...] = ()  # tensors that the file lacked
    processor_by_default: bool = False  # whether the model came without a processor

    @property
    def parent(self) -> str | None:
        """The model that this one's weights come from."""
        return None if self.origin == "new" else self.name


def load_base(model: ModelSource, processor: Any, auto_class: Any, kind: str) -> Base:
    """Model (by `auto_class`, an "image classifier" or other `kind`) and processor, in float32.

    Raises CheckpointReadError and ConfigError.
    """
    if isinstance(model, PreTrainedModel):
        if model.dtype != torch.float32:
            report(f"the model was converted from {model.dtype} to float32 for training.")
        name = getattr(model.config, "_name_or_path", "") or None
        by_default = processor is None
        processor = processor or _default_processor(model)
        return Base(name, name, model.float(), processor, "memory", has_head=True, processor_by_default=by_default)
    name = os.fspath(model)
    source = resolve(name.removeprefix(NEW))
    missing: set[str] = set()
    try:
        if is_new(name):
            loaded = auto_class.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)
        else:
            loaded, loading = auto_class.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
            missing = set(loading["missing_keys"])
    except (OSError, ValueError) as error:
        said = _of_another_task(source, kind) if OTHER_TASK in str(error) else one_line(error)
        raise CheckpointReadError(f"cannot load {kind} from {name!r}: {said}") from error
    trunk = sorted(key for key in missing if key.startswith(f"{loaded.base_model_prefix}."))
    if trunk:
        report(f"{len(trunk)} tensors of the trunk are not in {name!r} and start at random, {trunk[0]} for one.")
    by_default = False
    if processor is None:
        try:
            processor = AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError):
            processor, by_default = _default_processor(loaded), True
    if is_new(name):
        start_mimetic(loaded)
        loaded.config._name_or_path = ""
        return Base(name, None, loaded, processor, "new", has_head=True, processor_by_default=by_default)
    has_head = len(missing) == len(trunk)
    return Base(name, source, loaded, processor, "file", has_head, tuple(sorted(missing)), by_default)


def _of_another_task(source: str, kind: str) -> str:
    """What a model is instead of the kind that is wanted."""
    config = AutoConfig.from_pretrained(source)
    names = " or ".join(config.architectures or []) or f"model of type {config.model_type}"
    return f"it is a {names}, and its family has no such models. hfvision list shows the families of each task."


def _default_processor(model: PreTrainedModel) -> Any:
    """The family's processor with its defaults, at the image size of the config where it has one."""
    model_type = model.config.model_type
    known = ARCHITECTURES.get(model_type)
    if known is None or known.processor is None:
        raise ConfigError(f"no image processor is known for a {model_type!r} model without one: give processor=...")
    options: dict[str, Any] = {}
    if hasattr(model.config, "image_size"):
        height, width = pair(model.config.image_size)
        options["size"] = {"height": height, "width": width}
    if getattr(model.config, "num_channels", 3) != 3:
        options |= {name: [0.5] * model.config.num_channels for name in ("image_mean", "image_std")}
    processor = load(known.processor)(**options)
    size = processor.size
    sides = f"{size['height']}x{size['width']}" if "height" in size else f"size {dict(size)}"
    report(f"the model came without an image processor: {type(processor).__name__} at {sides} is used.")
    return processor


def fit_head(base: Base, names: Sequence[str]) -> list[str]:
    """Make the model's classes `names`; returns the tensors made anew, none if they were its classes already."""
    own = class_names(base.model) if base.has_head else []
    if own == list(names):
        return []
    head = replace_head(base.model, names)
    if base.origin != "new":
        report(
            f"the head was replaced: {len(own) or 'no'} classes became {len(names)} ({', '.join(head)} start anew; "
            "everything else is kept)."
        )
    return head


def set_image_size(base: Base, image_size: int | Sequence[int]) -> Base:
    """The same with images of another size, pixels per side or (height, width): model and processor.

    What a processor leaves at the margins it still leaves, as a share. Raises ConfigError for sizes that cannot be.
    """
    height, width = pair(image_size)
    if min(height, width) < 1:
        raise ConfigError(f"image_size is a number of pixels per side, or (height, width); got {image_size!r}.")
    options = base.processor.to_dict()
    changes: dict[str, Any] = {"size": {"height": height, "width": width}, "do_resize": True}
    if options.get("do_center_crop"):
        old, crop = dict(options["size"]), dict(options["crop_size"])
        factors = {"height": height / crop["height"], "width": width / crop["width"]}
        largest = max(factors.values())
        changes["size"] = {name: round(value * factors.get(name, largest)) for name, value in old.items()}
        changes["crop_size"] = {"height": height, "width": width}
    model = base.model
    if isinstance(model, VisionModel) and hasattr(model.input_config(model.config), "image_size"):
        model.resize_input(image_size=height if height == width else [height, width])
    return replace(base, processor=changed_processor(base.processor, **changes))


def set_drop_path(model: PreTrainedModel, rate: float) -> None:
    """Stochastic depth for training; 0 leaves the model as it is. Raises ConfigError where a model has none."""
    if not rate:
        return
    if not hasattr(model, "set_drop_path_rate"):
        raise ConfigError(f"{type(model).__name__} has no stochastic depth to set; leave drop_path at 0.")
    model.set_drop_path_rate(rate)  # type: ignore[operator]


def check_images_fit(base: Base, split: str, count: int, read: Callable[[int], Any]) -> None:
    """Try one image of each mode (RGB, L, ...) of a split before training. Raises DatasetError or ConfigError."""
    model = base.model
    config = model.input_config(model.config) if isinstance(model, VisionModel) else model.config
    wanted = getattr(config, "num_channels", None)
    tried: set[Any] = set()
    for row in range(min(MODES_LOOKED_AT, count)):
        image = read(row)
        kind = getattr(image, "mode", None) or (image.ndim, image.shape[0])
        if isinstance(image, Bands) and image.opened.has_bands:
            kind = f"{image.shape[2]} bands" + " with alpha" * image.opened.is_alpha
        if kind in tried:
            continue
        tried.add(kind)
        channels = process(base.processor, [{"image": image, "row": row}])["pixel_values"].shape[1]
        if wanted not in (None, channels):
            raise ConfigError(
                f"the model takes {wanted} channels; image {row} of split {split!r} ({kind}) has {channels} after the "
                f"processor. Load the model with num_channels={channels}, or change the processor."
            )
