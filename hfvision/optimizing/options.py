"""What may be asked of `optimize`, and how it is written: as arguments, in a mapping, or in one string."""

from collections.abc import Mapping
from typing import Any

from hfvision.errors import ConfigError, numbered

DTYPES = ("bfloat16", "int8")
OPTIONS = ("dtype", "token_merging", "compile")
FORM = "'bfloat16', 'int8', 'token_merging=8', 'compile', or several of them with commas between"


def optimize_options(wanted: Any) -> dict[str, Any]:
    """The arguments of `optimize` that a string or a mapping asks for: "int8,token_merging=8" or {"dtype": "int8"}.

    Raises ConfigError naming everything in it that means nothing.
    """
    if isinstance(wanted, Mapping):
        if unknown := [str(name) for name in wanted if name not in OPTIONS]:
            raise ConfigError(f"optimize takes {', '.join(OPTIONS)}; got {', '.join(unknown)}.")
        return dict(wanted)
    if not isinstance(wanted, str):
        raise ConfigError(f"optimize is {FORM}, or a mapping with {', '.join(OPTIONS)}; got {wanted!r}.")
    options: dict[str, Any] = {}
    problems = []
    for word in (part.strip() for part in wanted.split(",")):
        name, _, value = word.partition("=")
        found: dict[str, Any] = {}
        if word in DTYPES:
            found = {"dtype": word}
        elif word == "compile":
            found = {"compile": True}
        elif name == "token_merging" and value.isdecimal():
            found = {"token_merging": int(value)}
        if not found:
            problems.append(f"{word!r} is none of {FORM}")
        elif found.keys() & options.keys():
            problems.append(f"{word!r} asks for {next(iter(found))} once more")
        options |= found
    if problems:
        raise ConfigError(numbered("problem", problems))
    return options
