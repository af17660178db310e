"""Options declared once: a field of a dataclass says what an option means; functions and commands take it from there.

@dataclass(frozen=True, kw_only=True)
class Cutting:
    crop: int | None = option("Side of the windows that are cut out.", shown="the image's own")
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, field
from functools import partial, wraps
from typing import Any, TypeVar, get_args, get_origin

Option = Field[Any]
Outcome = TypeVar("Outcome")


def option(
    help: str,
    default: Any = None,
    *,
    shown: str | None = None,
    flags: str | None = None,
    parse: Callable[[str], Any] | None = None,
    **about: Any,
) -> Any:
    """A field of a dataclass. `help` is for the command line, `shown` its default in words where `default` does not say
    it; `flags` how it is written, if not as its name; `parse` makes its value of a text, and raises ValueError.

    Further keys of its metadata are for the command line: `min` and `max`, the least and largest number; `switch`: it
    only turns the option off, to False or 0; `off`: how that is written beside the option; `repeated`: it may be given
    several times; `panel`: where the help lists it; `fields`: a dataclass whose options it has in the place of this
    one, put together by `make` or by that class.
    """
    return field(default=default, metadata={"help": help, "shown": shown, "flags": flags, "parse": parse, **about})


def takes_options(
    options: Sequence[Option], make: Callable[[dict[str, Any]], Any]
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Decorator: the parameter `options` of a function becomes one keyword for each of these; `make` makes what the
    function gets of those that were given.
    """

    def decorate(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        signature = inspect.signature(function)
        own = signature.parameters

        @wraps(function)
        def call(*args: Any, **given: Any) -> Outcome:
            further = {name: value for name, value in given.items() if name in own and name != "options"}
            said = {name: value for name, value in given.items() if name not in further}
            return function(*args, **further, options=make(said))

        keyword = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        replaced = [keyword(one.name, default=one.default, annotation=one.type) for one in options]
        kept = [one for one in own.values() if one.name != "options"]
        first = [one for one in kept if one.kind is not inspect.Parameter.KEYWORD_ONLY]
        parameters = [*first, *replaced, *kept[len(first) :]]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def kind_of(option: Option) -> Any:
    """What a command line reads for the option: bool, int, float, str or a tuple of these."""
    if get_origin(option.type) is tuple:
        return option.type
    return next((kind for kind in (option.type, *get_args(option.type)) if kind in (bool, int, float)), str)


def choices_of(option: Option) -> tuple[str, ...]:
    """The values that an option of few values has; () for others."""
    literals = [kind for kind in (option.type, *get_args(option.type)) if str(kind).startswith("typing.Literal")]
    return get_args(literals[0]) if literals else ()


def flag_of(option: Option) -> str:
    """How an option is written: "--box-form"; of two, the one that switches it on."""
    return (option.metadata.get("flags") or "--" + option.name.replace("_", "-")).partition("/")[0]


def listed(text: str) -> str | list[str]:
    """What a command line says for several names: a file, or what stands between commas."""
    return names_listed(text) if "," in text else text


def names_listed(text: str) -> list[str]:
    """One name, or several with commas between them."""
    return [part.strip() for part in text.split(",")]


def numbers_by_name(text: str) -> dict[str, float]:
    """ "cat=2,dog=0.5" -> {"cat": 2.0, "dog": 0.5}. Raises ValueError."""
    try:
        return {name.strip(): float(value) for name, _, value in (part.rpartition("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f'names with numbers, "cat=2,dog=0.5"; got {text!r}') from None
