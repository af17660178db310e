"""The image processor that the tasks' processors build on: any image in, a float32 batch out.

It has transformers' options, file format and results (exactly, for 8-bit images) and takes any array besides: paths,
addresses, PIL images of every mode, NumPy arrays and torch tensors, (H, W), (H, W, C) or (C, H, W), any dtype, any
number of channels, different sizes in one list. What is ambiguous is refused with the argument that settles it; what
was assumed or dropped is logged once, with counts.

Order of work: read, choose bands, bring to grey levels, resize, crop at the centre, rescale, normalise, pad.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import transformers
from huggingface_hub import is_offline_mode
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_torchvision_available

from hfvision.errors import ConfigError
from hfvision.processing.batch import Batch, make_batch
from hfvision.processing.channels import FIRST
from hfvision.processing.options import (
    ImageOptions,
    Plan,
    checked,
    make_plan,
    own_options,
    refuse_misspelt,
    settled,
)
from hfvision.processing.reading import read_image
from hfvision.processing.resizing import Resampling
from hfvision.reporting import report_kind

FILE_NAMES = frozenset({"image_processor_type", "feature_extractor_type", "processor_class"})  # in files, not options
HUB_NAMES = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")

REPORTS = {  # kind -> what is logged the first time that it happens
    "repeated": "Images of one channel were repeated into {wanted}: {n} in this call.",
    "alpha dropped": "Alpha channels were dropped (do_convert_rgb=True lays PIL images on white): {n} in this call.",
    "colour to grey": "Colour images were converted to grey, as this processor takes one channel: {n} in this call.",
    "bands dropped": "Images have more bands than this processor takes; only its own were kept: {n} in this call.",
    "draft": "JPEG files were decoded at 1/2 to 1/8 of their size (decode=draft): {n} in this call. That is an "
    "approximation: on photos, values of -1 to 1 differ by 0.003 on average and by up to 0.05.",
    "16 bits": "16-bit images were taken as 0 (black) to 65535 (white); input_range= sets others: {n} in this call.",
    "images outside": "Values outside input_range={input_range} were scaled too, not clipped: {values} in {n} images.",
}


class ImageProcessor(BaseImageProcessor):
    """Options, files and calls; a task's processor sets the defaults of its checkpoints."""

    valid_kwargs = ImageOptions
    served_model_types: ClassVar[set[str]] = set()
    """Model types that get our processors from AutoImageProcessor, for all classes alike; the registry fills it."""
    unknown_to_transformers_4: ClassVar[tuple[str, ...]] = ()
    """Options that version 4 passes over in silence for a class of this name."""
    name_with_own_options: ClassVar[str] = "MultispectralImageProcessor"
    """The type written to files with options of our own, which transformers would ignore under a shared name."""
    _backend: ClassVar[str | None] = None

    resample: Any = Resampling.BILINEAR
    do_resize: Any = True
    do_rescale: Any = True
    do_normalize: Any = True

    def __init__(self, **options: Any) -> None:
        """Raises UnknownNameError for options that do not exist, ConfigError for values that cannot work."""
        options = {name: value for name, value in options.items() if name not in FILE_NAMES}
        options = checked(options, self.valid_kwargs)
        make_plan(self._class_defaults() | {k: v for k, v in options.items() if v is not None}, options, complete=False)
        super().__init__(**options)
        self._set_attributes(**options)

    @classmethod
    def option_names(cls) -> frozenset[str]:
        return frozenset(cls.valid_kwargs.__annotations__)

    @classmethod
    def has_own_options(cls, options: Mapping[str, Any]) -> bool:
        """Whether transformers would pass over some of them in silence, for a class of this name."""
        return any(options.get(name) is not None for name in own_options(cls.valid_kwargs))

    @classmethod
    def _class_defaults(cls) -> dict[str, Any]:
        return {name: getattr(cls, name, None) for name in cls.option_names()}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `from_pretrained`.

        Called by AutoImageProcessor for a model that is not ours (the `config.json` of the same place tells), it
        returns transformers' own processor of that name. A place without `config.json` gets ours.
        """
        refuse_misspelt((name for name in kwargs if name not in HUB_NAMES), cls.option_names(), only_near=True)
        if kwargs.get("_from_auto") and (theirs := cls._transformers_class()) is not None:
            model_type = _model_type_beside(str(pretrained_model_name_or_path), kwargs)
            if model_type is not None and model_type not in cls.served_model_types:
                return theirs.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if cls._backend is not None:
            return cls.__mro__[1].from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[attr-defined]
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the contents of a file. Keys that are no options, as other versions write, are kept, without effect."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        options = cls.option_names()
        contents = {**image_processor_dict, **{k: v for k, v in kwargs.items() if k in options}}
        processor = cls(**{name: value for name, value in contents.items() if name in options})
        for name, value in contents.items():
            if name not in options and name not in FILE_NAMES and not name.startswith("_"):
                setattr(processor, name, value)
        return (processor, {k: v for k, v in kwargs.items() if k not in options}) if return_unused else processor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        return cls.from_dict(json.loads(Path(json_file).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        """What `preprocessor_config.json` gets: under a type of our own where options of our own are set."""
        contents: dict[str, Any] = super().to_dict()
        if self.has_own_options(contents):
            contents["image_processor_type"] = self.name_with_own_options
        return contents

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As transformers' `save_pretrained`. Raises ConfigError for what transformers would read and not do."""
        name, layout = type(self).__name__, getattr(self, "data_format", None)
        if getattr(layout, "value", layout) not in (None, FIRST):
            raise ConfigError(f"transformers ignores a stored data_format ({layout}): give it in each call instead")
        for option in self.unknown_to_transformers_4:
            if getattr(self, option, None):
                report_kind(
                    f"{name}.{option}", f"{option} is saved: transformers 5 reads it, version 4 ignores it in a {name}."
                )
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    @cache
    def auto_classes(cls) -> dict[str, type["ImageProcessor"]]:
        """{backend: class}, to register with AutoImageProcessor.

        Both give processors of this very class. They differ for models that are not ours: AutoImageProcessor tells
        nobody which backend it was asked for, so the second stands for `backend="pil"`. The third is never handed out:
        its name has files of 2022 found that give their class as ...FeatureExtractor, which transformers 5 dropped.
        """
        body = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        pil = type(cls.__name__, (cls,), {"_backend": "pil", **body})
        former = type(cls.__name__.replace("ImageProcessor", "FeatureExtractor"), (cls,), body)
        return {"torchvision": cls, "pil": pil, "former name": former}

    @classmethod
    def _transformers_class(cls) -> Any:
        """transformers' class of this name, for the backend that is asked for and there; None if it has none."""
        pil = f"{cls.__name__}Pil"
        wants_pil = cls._backend == "pil" or not is_torchvision_available()
        return getattr(transformers, pil if wants_pil and hasattr(transformers, pil) else cls.__name__, None)

    @property
    def backend(self) -> str:
        return "pil"

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """The images behind paths and addresses, in the lists that they come in."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(source) for source in image_url_or_urls]
        return read_image(image_url_or_urls)

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """`pixel_values`: (B, N, h, w) as `return_tensors` says ("pt" or "np"); without it, a list of (N, h, w).

        `images` is one image, a batch (B, ...) or any iterable of images, nested or not; tensors stay on their device.
        Options given here hold for this call; `bands` then names the channels that the images have.
        """
        if args:
            raise ConfigError(f"options are given by name; got {len(args)} more values after the images")
        _, plan = self.settled(kwargs)
        batch = self._make_batch(images, plan)
        return BatchFeature(data={"pixel_values": batch.pixel_values})

    def settled(self, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Plan]:
        """All options of a call that gives these, and what it does with images."""
        return settled(self._stored_options(), given, self.valid_kwargs)

    def _stored_options(self) -> dict[str, Any]:
        return {name: getattr(self, name, None) for name in self.option_names()}

    def _make_batch(self, images: Any, plan: Plan) -> Batch:
        notes: Counter[str] = Counter()
        batch = make_batch(images, plan, notes)
        _say(notes, plan)
        return batch


def _say(notes: Counter[str], plan: Plan) -> None:
    for kind, sentence in REPORTS.items():
        if notes[kind]:
            counts = {"n": notes[kind], "values": f"{notes['values outside']:,}"}
            report_kind(kind, sentence.format(**counts, wanted=plan.channels.wanted or 3, input_range=plan.input_range))


def _model_type_beside(place: str, kwargs: Mapping[str, Any]) -> str | None:
    """The `model_type` in the `config.json` of a folder, of the folder of a file, or of a repository on the Hub."""
    path: Any = None
    if os.path.isdir(place):
        path = Path(place, kwargs.get("subfolder") or "", CONFIG_NAME)
    elif os.path.isfile(place):
        path = Path(place).with_name(CONFIG_NAME)
    else:
        hub = {name: kwargs[name] for name in HUB_NAMES if kwargs.get(name) is not None}
        hub["local_files_only"] = bool(kwargs.get("local_files_only")) or is_offline_mode()
        path = cached_file(
            place,
            CONFIG_NAME,
            **hub,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if path is None or not os.path.isfile(path):
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):  # no JSON object: whoever needs the config will say so
        return None
