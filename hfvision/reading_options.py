"""Every option that says how a data set is read, declared once.

An option is one field of `ReadingOptions`. From the table come the keywords of `prepare_classification`,
`prepare_segmentation` and `prepare_detection` (`takes_reading_options`), the options of `hfvision train`, `check` and
`evaluate` (`hfvision.cli.options`), and what a training run remembers for those who measure its model later.
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, TypeVar

from hfvision.errors import ConfigError, numbered
from hfvision.options import Option, choices_of, listed, names_listed, option, takes_options
from hfvision.tasks import TASKS as ROWS

CLASSIFICATION, SEGMENTATION, DETECTION, PANOPTIC = TASKS = tuple(row.reading for row in ROWS if row.reading)
OBJECTS = (DETECTION, PANOPTIC)
Names = str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any]
Outcome = TypeVar("Outcome")


def _option(
    help: str,
    tasks: Sequence[str] = TASKS,
    default: Any = None,
    *,
    shown: str | None = None,
    flags: str | None = None,
    parse: Callable[[str], Any] | None = None,
    splits: bool = False,
    remembered: bool = True,
) -> Any:
    """A field as `hfvision.options` has it. `tasks` are those that it exists for; `splits` marks what chooses images
    rather than reads them, which has no meaning where one split is measured. `remembered`: what was said in training
    holds when the model is measured, too.
    """
    more = {"tasks": tuple(tasks), "splits": splits, "remembered": remembered and not splits}
    return option(help, default, shown=shown, flags=flags, parse=parse, **more)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How a data set is read. None: nothing is said, and the data set's own form decides."""

    image_column: str | None = _option("Where several columns could hold the images.")
    label_column: str | None = _option("Where several columns could hold the labels.", (CLASSIFICATION,))
    mask_column: str | None = _option("Where several columns could hold the masks.", (SEGMENTATION,))
    objects_column: str | None = _option("Where several columns could hold the objects.", OBJECTS)
    map_column: str | None = _option("Where several columns could hold the maps of segments.", (PANOPTIC,))
    label_map: Any = _option(
        "What the values of masks mean: ade20k-150, cityscapes-19, ..., or a JSON file.", (SEGMENTATION,)
    )
    names: Names | None = _option(
        "Names of the classes: a file, or a list with commas.", (SEGMENTATION, *OBJECTS), parse=listed
    )
    ignore_index: int = _option("Value of mask pixels that do not count.", (SEGMENTATION,), 255)
    layout: str | None = _option(
        "Form of a folder that could be read in several ways.", shown="by its files", remembered=False
    )
    unmarked: Literal["drop", "keep"] = _option(
        "Images of an annotation tool in which nothing is marked: left out, or all background.",
        (SEGMENTATION,),
        "drop",
    )
    class_level: Literal["outermost", "innermost"] | None = _option(
        "Which folders are the classes, where class folders hold folders.", (CLASSIFICATION,), shown="outermost"
    )
    several_classes: Literal["error", "drop"] = _option(
        "Images of several classes: an error, or left out.", (CLASSIFICATION,), "error"
    )
    things: Sequence[str] | None = _option(
        "Classes of countable objects, with commas, where the data does not say it.", (PANOPTIC,), parse=names_listed
    )
    box_form: Literal["xyxy", "xywh", "cxcywh"] | None = _option(
        "Meaning of the four numbers of a box.", OBJECTS, shown='by format; of columns "bbox" is xywh, "boxes" xyxy'
    )
    relative: bool | None = _option(
        "Boxes are shares of the image, or pixels.", OBJECTS, shown="by format", flags="--relative/--pixels"
    )
    empty: Literal["drop", "keep"] = _option("Boxes without area.", OBJECTS, "drop")
    outside: Literal["error", "clip"] = _option("Boxes that stick out of their image.", OBJECTS, "error")
    crowd: Literal["crowd", "object"] = _option(
        "Objects marked as crowds: neither learned nor measured, or objects as any other.", OBJECTS, "crowd"
    )
    voc_boxes: Literal["pixels", "edges"] | None = _option(
        "Numbers of a box in Pascal VOC's files: of its first and last pixel, counted from 1, or edges counted from 0.",
        OBJECTS,
        shown="by the files",
    )
    difficult: Literal["crowd", "object"] = _option("Objects that Pascal VOC marks as difficult.", OBJECTS, "crowd")
    drop_empty_classes: bool = _option(
        "Leave out classes without a training image.",
        (CLASSIFICATION,),
        False,
        flags="--drop-empty-classes/--keep-empty-classes",
        splits=True,
    )
    train_split: str | None = _option("Split to train on.", shown="train", splits=True)
    eval_split: str | None = _option("Split to measure on.", shown="validation, or test", splits=True)
    config_name: str | None = _option("Configuration of a Hub data set.", flags="--dataset-config", remembered=False)
    overlap: Literal["refuse", "report", "drop"] = _option(
        "Images to measure with that are trained on, too: refused where they are most of them, reported, or left out "
        "of training.",
        default="refuse",
        splits=True,
    )
    skip_unreadable: bool = _option(
        "Leave out images and masks that cannot be read.",
        default=False,
        flags="--skip-unreadable/--refuse-unreadable",
        remembered=False,
    )
    held_out: float = _option("Share to hold out where there is no split to measure on.", default=0.1, splits=True)
    check_images: int = _option("Images per split to decode beforehand.", default=20_000, remembered=False)

    @classmethod
    def of(cls, given: Mapping[str, Any], *tasks: str) -> "ReadingOptions":
        """Those of a task, or of any of several; None counts as not given. Raises ConfigError listing names that are
        no option of it and values that are none of an option's.
        """
        known = {option.name: option for option in options_of(*tasks)}
        problems = [_unknown(name, tasks) for name in given if name not in known]
        said = {name: value for name, value in given.items() if name in known and value is not None}
        for name, value in said.items():
            choices = choices_of(known[name])
            if choices and value not in choices:
                problems.append(f"{name} is {' or '.join(map(repr, choices))}; got {value!r}")
        if problems:
            listed = problems[0] if len(problems) == 1 else numbered("problem", problems)
            raise ConfigError(f"how the data is read: {listed}")
        return cls(**said)


@cache
def options_of(*tasks: str, splits: bool = True) -> tuple[Option, ...]:
    """The options of any of the tasks, in their order; without those that choose splits if `splits` is false."""
    return tuple(
        one
        for one in fields(ReadingOptions)
        if not set(tasks).isdisjoint(one.metadata["tasks"]) and (splits or not one.metadata["splits"])
    )


def takes_reading_options(*tasks: str) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Decorator: the parameter `options` of a function becomes one keyword for every option of the tasks."""
    return takes_options(options_of(*tasks), lambda given: ReadingOptions.of(given, *tasks))


def _unknown(name: str, tasks: Sequence[str]) -> str:
    """The complaint about a name that is no option of the tasks."""
    elsewhere = next((option.metadata["tasks"] for option in fields(ReadingOptions) if option.name == name), None)
    if elsewhere:
        return f"{name} is an option of {' and '.join(elsewhere)}, not of {' or '.join(tasks)}"
    names = [option.name for option in options_of(*tasks)]
    near = difflib.get_close_matches(name, names, 1)
    return f"{name!r} is no option" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}")
