"""Configs of the models in the catalogue, by name: `ViTConfig.from_catalog("vit-base-patch16-384-augreg")`."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from typing_extensions import Self

from hfvision.catalog import CatalogRow, row
from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.labels import label_set, numbers_of

LABEL_FIELDS = ("num_labels", "id2label", "label2id")
FURTHER_FIELDS = ("out_features", "out_indices", "attn_implementation", "output_attentions")  # no dataclass fields


class CatalogConfig:
    """Mixed into the configs of the families that the catalogue lists."""

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
    """transformers' configs take any field and ignore those that they do not know. Raises UnknownNameError."""
    general = {field.name for field in fields(PreTrainedConfig)}
    own = {field.name for field in fields(cast(Any, config_class))} - general
    own |= {*config_class.attribute_map, *found.config, *LABEL_FIELDS}
    known = {*own, *general, *FURTHER_FIELDS}
    problems = []
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            problems.append(f"{name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if problems:
        listed = ", ".join(sorted(field for field in own if not field.startswith("_")))
        raise UnknownNameError(
            f"{config_class.__name__} has no such field, {numbered('name', problems)}\nIt has {listed}."
        )
