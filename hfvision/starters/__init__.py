"""Models that ship inside the package: small, trained, answering at once and without a network."""

import os
from pathlib import Path

# name -> folder of this package that holds config.json, model.safetensors, preprocessor_config.json and README.md
STARTERS = {"vit-digits": Path(__file__).with_name("vit-digits")}


def resolve(name_or_path: str | os.PathLike[str]) -> str:
    """The folder of a starter model, or what was given, as text: a path or a Hub id.

    A folder of the same name in the working directory goes before the starter, as it does for `from_pretrained`.
    """
    given = os.fspath(name_or_path)
    if given in STARTERS and not os.path.isdir(given):
        return str(STARTERS[given])
    return given
