"""The options of an image processor: their names, the checks, and the plan that a call makes of them."""

import difflib
import math
import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs

from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.processing.channels import FIRST, LAST, Channels
from hfvision.processing.label_map import LabelMap
from hfvision.processing.resizing import SIZE_FORMS, Resampling

Statistics: TypeAlias = float | tuple[float, ...] | None

_settled: dict[bytes, tuple[Mapping[str, Any], "Plan"]] = {}  # calls that had these options, pickled
MOST_SETTLED = 64


class ImageOptions(ImagesKwargs, total=False):
    """transformers' options, and ours.

    `input_range`: the values (black, white) of the images; see `hfvision.processing.values`.
    `bands`: names of channels. Of a processor: those that it takes, in order. Of a call: those that the images have.
    `crop_rounding`: of the first row and column of a centre crop where the margin is odd: "down" as transformers does
    it, or "nearest" (half to even) as torchvision does it, and with it most originals.
    `size_rounding`: of the sides where the size keeps the ratio of an image: None as transformers does it (one side as
    asked for, the other rounded down), or "nearest", both sides times one factor, as mmcv does it.
    `size_divisor`: both sides are then brought up to a multiple of this, in a second step of resizing.
    `antialias`: False mixes the four nearest pixels however much the image shrinks, as OpenCV does (bilinear only).
    `decode`: "exact", or "draft": JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, as far as that is not below
    the size that they are resized to. Much faster for large photos, and approximate.
    """

    input_range: list[float] | tuple[float, ...] | None
    bands: list[str] | tuple[str, ...] | None
    crop_rounding: str | None
    size_rounding: str | None
    size_divisor: int | None
    antialias: bool | None
    decode: str | None


class SegmentationOptions(ImageOptions, total=False):
    """Those of processors that take label maps.

    `do_reduce_labels`: transformers' way to drop a background: 0 is ignored, k becomes k - 1.
    `label_map`: what the values of label maps mean, in any form of `hfvision.processing.label_map.LabelMap.of`.
    `ignore_index`: the label of pixels that do not count, 255 unless given.
    `window_size`, `window_stride`: pixels, one number or (height, width): with which windows the original repository
    evaluates; the processor only carries them, for the pipeline.
    """

    do_reduce_labels: bool | None
    label_map: str | dict[Any, Any] | list[Any] | None
    ignore_index: int | None
    window_size: int | list[int] | tuple[int, ...] | None
    window_stride: int | list[int] | tuple[int, ...] | None


class DetectionOptions(ImageOptions, total=False):
    """Those of processors that take annotated objects.

    `format`, `do_convert_annotations`: transformers' options; see `hfvision.processing.detection_labels`.
    `box_form`: xyxy, xywh or cxcywh, of annotated boxes; without it "bbox" is xywh and "boxes" is xyxy.
    `relative`: whether annotated boxes are shares of the image's sides, 0..1.
    `empty_boxes`: what becomes of objects whose box has no area: "drop", unless given, or "keep".
    `label2id`: the class number of each name or id of a class, as annotated; without it, ids are class numbers.
    """

    format: str | None
    do_convert_annotations: bool | None
    box_form: str | None
    relative: bool | None
    empty_boxes: str | None
    label2id: dict[Any, int] | None


CROP_ROUNDINGS = ("down", "nearest")
SIZE_ROUNDINGS = ("nearest",)
DECODINGS = ("exact", "draft")


def own_options(schema: type[ImageOptions]) -> frozenset[str]:
    """Those that transformers would pass over in silence."""
    return frozenset(schema.__annotations__) - frozenset(ImagesKwargs.__annotations__)


@dataclass(frozen=True)
class Plan:
    """The options of one call, checked."""

    channels: Channels
    size: SizeDict | None  # None: no resizing
    size_rounding: str | None  # one of SIZE_ROUNDINGS
    size_divisor: int  # 1: any side will do
    resample: int
    antialias: bool
    crop: tuple[int, int] | None  # (height, width)
    crop_rounding: str  # one of CROP_ROUNDINGS
    factor: float | None  # None: no rescaling
    input_range: tuple[float, float] | None
    mean: Statistics  # None: no normalising
    std: Statistics
    pad: bool
    pad_size: tuple[int, int] | None  # None: the largest height and width of the batch
    layout: str
    tensors: str | None  # "pt", "np"
    device: torch.device | None
    draft: bool  # whether JPEG files may be decoded at a fraction of their size


@dataclass(frozen=True)
class LabelPlan:
    """What happens to the label maps of one call."""

    label_map: LabelMap | None
    reduce: bool
    ignore_index: int


def make_label_plan(options: Mapping[str, Any]) -> LabelPlan:
    """Raises ConfigError listing all faults, UnknownNameError for a label map that there is not."""
    faults = []
    for name in ("window_size", "window_stride"):
        sides = options.get(name)
        sides = [sides] * 2 if isinstance(sides, int) else sides
        if sides is not None and not (len(sides) == 2 and all(side > 0 for side in sides)):
            faults.append(f"{name} must be a number of pixels above 0, or (height, width); got {options[name]!r}")
    label_map, reduce = options.get("label_map"), bool(options.get("do_reduce_labels"))
    if label_map is not None and reduce:
        faults.append("label_map says what each label becomes, do_reduce_labels that it becomes one less: use one")
    if faults:
        raise ConfigError(_all(faults))
    ignore_index = options.get("ignore_index")
    return LabelPlan(
        None if label_map is None else LabelMap.of(label_map), reduce, 255 if ignore_index is None else ignore_index
    )


def refuse_misspelt(names: Iterable[str], known: Collection[str], only_near: bool = False) -> None:
    """Raise UnknownNameError for names that are not `known`; with `only_near`, for likely misspellings alone."""
    faults = []
    for name in names:
        if name in known or name.startswith("_"):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8 if only_near else 0.6)
        if near:
            faults.append(f"{name!r} is no option; did you mean {near[0]!r}?")
        elif not only_near:
            faults.append(f"{name!r} is no option; there are {', '.join(sorted(known))}")
    if faults:
        raise UnknownNameError(_all(faults))


def checked(options: Mapping[str, Any], schema: Any = ImageOptions) -> dict[str, Any]:
    """The options with numbers as plain floats. Raises UnknownNameError and, for wrong types, ConfigError.

    `schema` is the class of the options; huggingface_hub types its argument as no TypedDict can be.
    """
    refuse_misspelt(options, schema.__annotations__)
    plain = {name: _plain(name, value) for name, value in options.items()}
    faults = []
    for name, value in plain.items():
        try:
            validate_typed_dict(schema, {name: value})
        except StrictDataclassError as error:
            faults.append(f"{name}={value!r}: {str(error).strip().splitlines()[-1].strip()}")
    if faults:
        raise ConfigError(_all(faults))
    return plain


def settled(stored: Mapping[str, Any], given: Mapping[str, Any], schema: Any) -> tuple[Mapping[str, Any], Plan]:
    """All options of a call, `checked`, and their plan. Remembered: to check them takes as long as a small image."""
    try:
        key = pickle.dumps((schema.__module__, schema.__qualname__, stored, given))
    except Exception:  # whatever an option of the user's raises; `checked` has a word for it
        key = None
    found = None if key is None else _settled.get(key)
    if found is None:
        plain = checked(given, schema)
        found = {**stored, **plain}, make_plan(stored, plain)
        if key is not None:
            if len(_settled) >= MOST_SETTLED:
                _settled.clear()
            _settled[key] = found
    return found


def make_plan(stored: Mapping[str, Any], given: Mapping[str, Any], complete: bool = True) -> Plan:
    """The plan of a call: what is `given` goes before what the processor has `stored`. ConfigError lists all faults.

    Without `complete`, what a later call may still supply may be missing. `given["bands"]` describes the images.
    """
    options = {**stored, **{name: value for name, value in given.items() if name != "bands"}}
    get, bands = options.get, stored.get("bands")
    faults: list[str] = []
    sizes = {name: _size(name, options, faults) for name in ("size", "crop_size", "pad_size")}
    if complete:
        faults += _missing(options)
        faults += _faults_of_size(sizes["size"]) if options.get("do_resize") else []
    for name in ("crop_size", "pad_size"):
        window = sizes[name]
        if window is not None and not (window.height and window.width):
            faults.append(f"{name} must be {{height, width}}; got {dict(window)}")
    if get("crop_rounding") not in (None, *CROP_ROUNDINGS):
        faults.append(f"crop_rounding must be {' or '.join(CROP_ROUNDINGS)}; got {get('crop_rounding')!r}")
    if get("size_rounding") not in (None, *SIZE_ROUNDINGS):
        faults.append(f"size_rounding must be {' or '.join(SIZE_ROUNDINGS)}, or None; got {get('size_rounding')!r}")
    if get("decode") not in (None, *DECODINGS):
        faults.append(f"decode must be {' or '.join(DECODINGS)}; got {get('decode')!r}")
    if get("decode") == "draft" and get("antialias") is False:
        faults.append("decode='draft' averages pixels, antialias=False passes over them: leave one of them out")
    divisor = 1 if get("size_divisor") is None else options["size_divisor"]
    if divisor < 1:
        faults.append(f"size_divisor must be 1 or more; got {divisor}")
    if get("antialias") is False and get("resample") not in (None, Resampling.BILINEAR):
        faults.append(f"antialias=False is bilinear (resample=2); got resample={get('resample')!r}")
    if get("resample") is not None and get("resample") not in list(Resampling)[:6]:
        faults.append(f"resample must be one of PIL.Image.Resampling, 0 to 5; got {get('resample')!r}")
    for name in ("input_data_format", "data_format"):
        if get(name) is not None and _word(get(name)) not in (FIRST, LAST):
            faults.append(f'{name} must be "{FIRST}" or "{LAST}"; got {get(name)!r}')
    if _word(get("return_tensors")) not in (None, "pt", "np"):
        faults.append(f'return_tensors must be "pt", "np" or None; got {get("return_tensors")!r}')

    mean, std = (_statistics(get(name)) if get("do_normalize") else None for name in ("image_mean", "image_std"))
    faults += _faults_of_statistics(mean, std, bands)
    faults += _faults_of_range(get("input_range"))
    if given.get("input_range") is not None and not get("do_rescale"):
        faults.append("input_range says how to rescale, but do_rescale is off: leave one of them out")
    if given.get("bands") is not None and complete and bands is None:
        faults.append("bands= names the channels of the images, but this processor has no bands of its own to pick")
    wanted, why = _wanted(mean, std, bands)
    if get("do_convert_rgb") and wanted not in (None, 3):
        faults.append(f"do_convert_rgb=True makes 3 channels, but {wanted} are wanted, because {why}")
    if faults:
        raise ConfigError(_all(faults))

    size, crop_size, pad_size = sizes.values()
    factor, input_range = get("rescale_factor"), get("input_range")
    return Plan(
        channels=Channels(
            wanted=wanted,
            why=why,
            convert_rgb=get("do_convert_rgb"),
            layout=_word(get("input_data_format")),
            bands=bands,
            given_bands=given.get("bands") if complete else None,
        ),
        size=size if get("do_resize") else None,
        size_rounding=get("size_rounding"),
        size_divisor=divisor,
        resample=int(Resampling.BILINEAR if get("resample") is None else options["resample"]),
        antialias=get("antialias") is not False,
        crop=_height_width(crop_size) if get("do_center_crop") else None,
        crop_rounding=get("crop_rounding") or "down",
        factor=float(factor) if get("do_rescale") and factor is not None else None,
        input_range=None if input_range is None else (float(input_range[0]), float(input_range[1])),
        mean=mean,
        std=std,
        pad=bool(get("do_pad")),
        pad_size=_height_width(pad_size),
        layout=_word(get("data_format")) or FIRST,
        tensors=_word(get("return_tensors")),
        device=None if get("device") is None else torch.device(options["device"]),
        draft=get("decode") == "draft",
    )


def _plain(name: str, value: Any) -> Any:
    """Arrays, NumPy's numbers and tuples as what a JSON file holds; whole numbers as floats where floats are meant."""
    if hasattr(value, "tolist"):  # a NumPy number or array, or a tensor
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(name, v) for v in value]
    if isinstance(value, Mapping | SizeDict):
        return {k: _plain(name, v) for k, v in dict(value).items()}
    wants_float = name in ("rescale_factor", "image_mean", "image_std", "input_range")
    return float(value) if wants_float and isinstance(value, int) and not isinstance(value, bool) else value


def _size(name: str, options: Mapping[str, Any], faults: list[str]) -> SizeDict | None:
    value = options.get(name)
    if value is None or isinstance(value, SizeDict):
        return value
    try:
        square = name != "size" or options.get("default_to_square") is not False
        return SizeDict(**get_size_dict(value, default_to_square=square, param_name=name))
    except (TypeError, ValueError):
        faults.append(f"{name} must be {SIZE_FORMS}, or a number for a square; got {value!r}")
        return None


def _faults_of_size(size: SizeDict | None) -> list[str]:
    forms = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
    given = {} if size is None else dict(size)
    if size is None or (set(given) in forms and all(value > 0 for value in given.values())):
        return []
    return [f"size must be {SIZE_FORMS}, above 0; got {given}"]


def _height_width(size: SizeDict | None) -> tuple[int, int] | None:
    return None if size is None or size.height is None or size.width is None else (size.height, size.width)


def _missing(options: Mapping[str, Any]) -> list[str]:
    needs = {
        "do_resize": ("size", "resample"),
        "do_center_crop": ("crop_size",),
        "do_rescale": ("rescale_factor",),
        "do_normalize": ("image_mean", "image_std"),
    }
    return [
        f"{switch}=True needs {name}"
        for switch, names in needs.items()
        for name in names
        if options.get(switch) and options.get(name) is None
    ]


def _statistics(value: Any) -> Statistics:
    value = _plain("image_mean", value)
    return tuple(value) if isinstance(value, list) else value


def _faults_of_statistics(mean: Statistics, std: Statistics, bands: Any) -> list[str]:
    faults = []
    per_channel = {"image_mean": mean, "image_std": std, "bands": bands}
    counts = {name: len(value) for name, value in per_channel.items() if isinstance(value, list | tuple)}
    if len(set(counts.values())) > 1:
        faults.append("one value per channel: " + ", ".join(f"{name} has {count}" for name, count in counts.items()))
    if bands is not None and len(set(bands)) < len(bands):
        faults.append(f"bands has a name twice: {', '.join(bands)}")
    for name, value in (("image_mean", mean), ("image_std", std)):
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(math.isfinite(v) for v in numbers):
            faults.append(f"{name} must be finite; got {value}")
        if name == "image_std" and 0 in numbers:
            faults.append(f"image_std divides, so it must not be 0; got {value}")
    return faults


def _faults_of_range(value: Any) -> list[str]:
    if value is None:
        return []
    try:
        black, white = (float(v) for v in value)
        right = math.isfinite(black) and math.isfinite(white) and black != white
    except (TypeError, ValueError):
        right = False
    return [] if right else [f"input_range must be two different finite numbers, (black, white); got {value!r}"]


def _wanted(mean: Statistics, std: Statistics, bands: Any) -> tuple[int | None, str]:
    """How many channels the images must have, and how that is known."""
    if bands is not None:
        return len(bands), f"bands names {len(bands)}"
    for name, value in (("image_mean", mean), ("image_std", std)):
        if isinstance(value, tuple):
            return len(value), f"{name} has {len(value)} value{'s' * (len(value) > 1)}"
    return None, ""


def _word(value: Any) -> Any:
    """The string of an enumeration's member, or the string itself."""
    return getattr(value, "value", value)


def _all(faults: list[str]) -> str:
    return faults[0] if len(faults) == 1 else numbered("fault", faults)
