"""Configs of the models in the catalogue, by name: `ViTConfig.from_catalog("vit-base-patch16-384-augreg")`.

transformers' configs take any field and ignore those that they do not know. Here fields that are given in code and look
like a family's are refused; those of files are kept, whatever wrote them, and so are fields that look like no family's.
"""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Self, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hfvision.catalog import CatalogRow, row
from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.labels import label_set, numbers_of
from hfvision.labels.outputs import by_number, names_in_order

LABEL_FIELDS = ("num_labels", "id2label", "label2id")
FURTHER_FIELDS = ("out_features", "out_indices", "attn_implementation", "output_attentions")  # no dataclass fields
# Names that only what was written by `to_dict` has: then the fields come from a file, if by another config's hands.
STORED = {"transformers_version", "_name_or_path", "is_decoder", "add_cross_attention", "torchscript"}
# Arguments of a model's `from_pretrained` that an Auto class shows the config first: they are of the part that takes
# the images, see `VisionModel`.
FOR_MODELS = {"image_size", "patch_size", "num_channels", "window_size", "channel_init", "position_rule"}
MISSPELT = 0.8  # least similarity to a field, of names that nobody made up

# Where the fields of the config that is being made come from; None while none is.
_from_file: ContextVar[bool | None] = ContextVar("_from_file", default=None)


class CatalogConfig:
    """Mixed into the configs of the families that the catalogue lists.

    Fields given in code, to the constructor or to `from_pretrained`, that are misspelt or another family's raise
    UnknownNameError; so do keys of `id2label` that are no class numbers raise ConfigError.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        is_stored = bool(_from_file.get() or STORED & kwargs.keys())
        if not is_stored:
            # What follows from other fields may be given, as files have it, but not otherwise.
            derived = {name for name in kwargs.keys() & vars(self).keys() if vars(self)[name] == kwargs[name]}
            _refuse_likely_mistakes(cast(type[PreTrainedConfig], type(self)), kwargs.keys() - derived)
        _number_names(self)
        if not is_stored and (names := vars(self).get("id2label")):
            names_in_order(names, len(names))  # which reports gaps
        with _fields_from(file=is_stored):  # the configs inside this one, too
            super().__post_init__(**kwargs)  # type: ignore[misc]  # PreTrainedConfig's

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers' own."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        with _fields_from(file=_from_file.get() is not False):
            config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)  # type: ignore[misc]
        _refuse_likely_mistakes(type(config), unused.keys() - (FOR_MODELS if return_unused else set()))
        _number_names(config)  # those given beside the file
        return (config, unused) if return_unused else config

    @classmethod
    def from_json_file(cls, json_file: Any) -> Self:
        """As transformers' own."""
        with _fields_from(file=True):
            return cast(Self, super().from_json_file(json_file))  # type: ignore[misc]

    @classmethod
    def from_catalog(cls, name: str, **overrides: Any) -> Self:
        """The config that converting the file of the catalogue's row `name` gives, with the names of its labels.

        `overrides` are fields of the config; with another num_labels the names are transformers' own, LABEL_0 and so
        on. Raises UnknownNameError for a row or a field that does not exist, and ConfigError for a row of another
        config class and for values that cannot work.
        """
        found = row(name)
        if found.config_class != cls.__name__:
            raise ConfigError(
                f"{name} is described by {found.config_class} (model_type {found.model_type!r}), not by "
                f"{cls.__name__}: use hfvision.{found.config_class}.from_catalog({name!r})."
            )
        config_class = cast(type[PreTrainedConfig], cls)
        _check_fields(config_class, found, overrides)
        try:
            return cast(Self, config_class(**_settings(found, overrides)))
        except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
            given = ", ".join(f"{field}={value!r}" for field, value in overrides.items())
            reason = " ".join(str(error.__cause__ or error).split())  # without the validator's own words
            raise ConfigError(f"{name} cannot be built with {given or 'these values'}: {reason}") from error


def _number_names(config: Any) -> None:
    """Make the keys of `id2label` whole numbers."""
    if config.id2label is not None:
        config.id2label = by_number(config.id2label)


def _settings(found: CatalogRow, overrides: Mapping[str, Any]) -> dict[str, Any]:
    settings = {**copy.deepcopy(dict(found.config)), **overrides}
    if "id2label" in overrides:
        if "num_labels" not in overrides:  # the names say how many there are
            settings.pop("num_labels", None)
    elif found.labels is not None and settings["num_labels"] == found.num_labels:
        settings["id2label"] = dict(enumerate(label_set(found.labels).names))
    if "id2label" in settings and "label2id" not in overrides:
        settings["label2id"] = numbers_of(settings["id2label"])
    return settings


def _check_fields(config_class: type[PreTrainedConfig], found: CatalogRow, names: Iterable[str]) -> None:
    """Raises UnknownNameError for every name that is no field."""
    own = {*own_fields(config_class), *found.config}
    known = {*own, *_general_fields(), *FURTHER_FIELDS}
    _refuse(config_class, own, {name: _nearest(name, known, 0.6) for name in names if name not in known})


def _refuse_likely_mistakes(config_class: type[PreTrainedConfig], names: Iterable[str]) -> None:
    """Raises UnknownNameError for names that are nearly a field, or one of another family, exactly or nearly."""
    own = own_fields(config_class)
    known = {*own, *_general_fields(), *FURTHER_FIELDS}
    faults: dict[str, str] = {}
    for name in names:
        if name in known or name.startswith("_"):
            continue
        nearest = _nearest(name, own, MISSPELT)
        others = {other.__name__: own_fields(other) for other in _configs()}
        foreign = get_close_matches(name, sorted(set().union(*others.values())), n=1, cutoff=MISSPELT)
        families = sorted(other for other, known in others.items() if foreign and foreign[0] in known)
        if name in foreign or (foreign and not nearest):
            listed = ", ".join(families[:3]) + (", ..." if len(families) > 3 else "")
            own_nearest = nearest or _nearest(name, own, 0.6)
            faults[name] = f", {'' if name in foreign else f'nearly {foreign[0]!r}, '}a field of {listed}{own_nearest}"
        elif nearest:
            faults[name] = nearest
    _refuse(config_class, own, faults)


def _refuse(config_class: type[PreTrainedConfig], own: Collection[str], faults: Mapping[str, str]) -> None:
    """Raises UnknownNameError if there are faults: name -> what is known of it."""
    if faults:
        listed = ", ".join(sorted(field for field in own if not field.startswith("_")))
        problems = [f"{name!r}{known}" for name, known in faults.items()]
        raise UnknownNameError(
            f"{config_class.__name__} has no such field, {numbered('name', problems)}\nIt has {listed}."
        )


def _nearest(name: str, known: Collection[str], cutoff: float) -> str:
    close = get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def own_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """The fields of a config and the names that it has for them, without those of every config; and the labels'."""
    own = {field.name for field in fields(cast(Any, config_class))} - _general_fields()
    return own | {*config_class.attribute_map, *LABEL_FIELDS}


def _general_fields() -> set[str]:
    return {field.name for field in fields(PreTrainedConfig)}


def _configs() -> Iterator[type[PreTrainedConfig]]:
    """The configs of all families; their modules are imported, as only a name that nothing knows asks for them."""
    package = import_module("hfvision.models")
    for module in iter_modules(package.__path__):
        import_module(f"hfvision.models.{module.name}")
    waiting: list[Any] = [CatalogConfig]
    while waiting:
        found = waiting.pop().__subclasses__()
        waiting += found
        yield from found


@contextmanager
def _fields_from(*, file: bool) -> Iterator[None]:
    token = _from_file.set(file)
    try:
        yield
    finally:
        _from_file.reset(token)
