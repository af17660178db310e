"""Configs without what transformers writes beside the model's facts."""

from collections.abc import Mapping
from typing import Any

# Fields of a stored config that tell which software wrote it, from where or by which code it is loaded, and nothing of
# the model. Everything that keeps, compares or prints a config leaves them out by `facts_of`: two files that differ in
# nothing else describe the same model, whatever release of a dependency wrote them.
BOOKKEEPING = frozenset({"transformers_version", "_name_or_path", "_commit_hash", "auto_map"})


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of a config's dictionary without the fields of `BOOKKEEPING`, in the configs inside it, too.

    >>> facts_of({"depths": [3, 4], "transformers_version": "5.23.0", "backbone_config": {"_name_or_path": ""}})
    {'depths': [3, 4], 'backbone_config': {}}
    """
    return {
        name: facts_of(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in BOOKKEEPING
    }
