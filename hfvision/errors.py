"""Every exception that hfvision raises on purpose: one base class, kinds that are also Python's own.

A message says what was wanted, what came and what to do, with the real values; where a call has several faults it
lists all of them (`numbered` writes the list).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HfvisionError(Exception):
    """Base class: `except HfvisionError` catches everything that hfvision raises on purpose.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.create("no-such-model")
        ... except hfvision.HfvisionError as error:
        ...     print(type(error).__name__)
        UnknownNameError
    """

    def __str__(self) -> str:  # KeyError would show the repr of its argument
        return str(self.args[0]) if self.args else ""


class ConfigError(HfvisionError, ValueError):
    """A config, option or argument has a value that cannot work, or two that do not fit together.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.linear_backend("cudnn")
        ... except hfvision.ConfigError as error:
        ...     print(error)
        linear_backend is "auto", "torch" or "onednn"; got 'cudnn'.
    """


class MissingPartError(HfvisionError, AttributeError):
    """A model is asked about a part that models of its kind have not got.

    Example:
        >>> import hfvision
        >>> issubclass(hfvision.MissingPartError, hfvision.HfvisionError)
        True
    """


class NotInstalledError(HfvisionError, ImportError):
    """A part of hfvision needs packages of an extra that is not installed.

    Example:
        >>> import hfvision
        >>> issubclass(hfvision.NotInstalledError, ImportError)
        True
    """


class UnknownNameError(HfvisionError, KeyError):
    """A model, family, field, label or command of that name does not exist; the message lists those that do.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.create("vit-tiny-patch16-225")
        ... except hfvision.UnknownNameError as error:
        ...     print("vit-tiny-patch16-224" in str(error))
        True
    """


class ImageReadError(HfvisionError, OSError):
    """A file or address does not hold an image that can be decoded.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.predict(["no-such-file.png"], "vit-digits")
        ... except hfvision.ImageReadError as error:
        ...     print("no-such-file.png" in str(error))
        True
    """


class ImageWriteError(HfvisionError, OSError):
    """A picture or a map cannot be written: a full disk, a missing permission, a format that cannot hold it.

    Example:
        >>> import hfvision
        >>> issubclass(hfvision.ImageWriteError, hfvision.HfvisionError)
        True
    """


class ImageShapeError(HfvisionError, ValueError):
    """An image has a size, layout or channel count that cannot be taken, or that needs an argument to settle it.

    Example:
        >>> import torch, hfvision
        >>> model = hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1)
        >>> try:
        ...     model(torch.zeros(1, 5, 224, 224))
        ... except hfvision.ImageShapeError as error:
        ...     print(type(error).__name__)
        ImageShapeError
    """


class ImageValueError(HfvisionError, ValueError):
    """An image has values (NaN, infinities, an unstated range) that would give silently wrong results.

    Example:
        >>> import numpy as np, hfvision
        >>> processor = hfvision.ViTImageProcessor()
        >>> try:
        ...     processor(np.full((8, 8, 3), np.nan))
        ... except hfvision.ImageValueError as error:
        ...     print(type(error).__name__)
        ImageValueError
    """


class OutputError(HfvisionError, OSError):
    """A command's results cannot be printed: stdout is a file on a full disk, or closed.

    Example:
        >>> import hfvision
        >>> issubclass(hfvision.OutputError, hfvision.HfvisionError)
        True
    """


class CheckpointReadError(HfvisionError, OSError):
    """A checkpoint file cannot be read, or only by executing what it contains.

    Example:
        >>> import hfvision
        >>> try:
        ...     hfvision.licence_of("no/such/folder")
        ... except hfvision.CheckpointReadError as error:
        ...     print(type(error).__name__)
        CheckpointReadError
    """


class ConversionError(HfvisionError, ValueError):
    """A checkpoint does not fit the rules that it is converted with; the message lists every mismatch.

    Example:
        >>> import tempfile, hfvision
        >>> folder = tempfile.mkdtemp()
        >>> hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1).save_pretrained(folder)
        >>> try:
        ...     hfvision.convert_back(folder, "deit.pth")
        ... except hfvision.ConversionError as error:
        ...     print("--family" in str(error))
        True
    """


class DatasetError(HfvisionError, ValueError):
    """A dataset lacks what training or evaluation needs: columns, labels, readable images.

    Example:
        >>> import tempfile, hfvision
        >>> try:
        ...     hfvision.prepare_classification(tempfile.mkdtemp())
        ... except hfvision.DatasetError as error:
        ...     print(type(error).__name__)
        DatasetError
    """


class HubAccessError(HfvisionError, OSError):
    """A Hub cannot be reached, refuses what was asked of it, or sends something else than it promised.

    Example:
        >>> import hfvision
        >>> issubclass(hfvision.HubAccessError, hfvision.HfvisionError)
        True
    """


class PublishError(HfvisionError, OSError):
    """A model cannot be put on the Hub, or what arrived there is not what was sent; the message says what landed.

    Example:
        >>> import tempfile, hfvision
        >>> try:
        ...     hfvision.push(tempfile.mkdtemp(), "me/my-model")
        ... except hfvision.PublishError as error:
        ...     print(type(error).__name__)
        PublishError
    """


def numbered(what: str, problems: Iterable[str], most: int | None = None) -> str:
    """One message for all faults of a call: "3 mismatches:" and one line each, `most` of them written out."""
    problems = list(problems)
    ending = "" if len(problems) == 1 else "es" if what.endswith("ch") else "s"
    lines = problems[:most]
    if len(lines) < len(problems):
        lines.append(f"and {len(problems) - len(lines)} more")
    return f"{len(problems)} {what}{ending}:" + "".join(f"\n    {p}" for p in lines)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a message on a name that is none of those known: " Did you mean 'swin'?", or "" where none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """An error of another library in one line."""
    return " ".join(str(error).split())
