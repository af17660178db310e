"""The options of commands that read data sets, made from the table in `hfvision.reading_options`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import typer

from hfvision.errors import ConfigError
from hfvision.reading_options import Option, ReadingOptions, choices_of, kind_of, options_of

PANEL = "How the data is read"
Reading: TypeAlias = Mapping[str, Any]  # the options that were given
NOTHING_SAID: Reading = MappingProxyType({})


def takes_reading(*tasks: str, splits: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command: its parameter `reading` becomes one option for everything that the tasks can be told
    about their data, and gets {name: value} of those that were given. Without `splits` those that choose splits are
    left out. Values that are none of an option's are wrong usage.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        options = options_of(*tasks, splits=splits)
        place = [parameter.name for parameter in own].index("reading")

        @wraps(command)
        def call(**given: Any) -> None:
            said = {one.name: _value(one, given.pop(one.name)) for one in options}
            reading = {name: value for name, value in said.items() if value is not None}
            with usage_errors():
                ReadingOptions.of(reading, *tasks)
            command(**given, reading=reading)

        ours = [_parameter(option, tasks) for option in options]
        parameters = [*own[:place], *ours, *own[place + 1 :]]
        del call.__wrapped__  # typer would look behind it
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ConfigError is wrong usage, exit code 2, while the block runs."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def flag_of(option: Option) -> str:
    """How an option is written: "--box-form"; of two, the one that switches it on."""
    return (option.metadata["flags"] or "--" + option.name.replace("_", "-")).partition("/")[0]


def _parameter(option: Option, tasks: tuple[str, ...]) -> inspect.Parameter:
    about, choices = option.metadata, choices_of(option)
    shown = about["shown"] or option.default
    only = "" if set(tasks) <= set(about["tasks"]) else f"{' and '.join(about['tasks']).capitalize()}: "
    flags = [about["flags"]] if about["flags"] else []
    declared = typer.Option(
        *flags,
        help=only + about["help"],
        show_default=False if shown is None or shown is False else str(shown),
        metavar="|".join(choices) or None,
        rich_help_panel=PANEL,
    )
    kind: Any = kind_of(option)
    return inspect.Parameter(
        option.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[kind | None, declared]
    )


def _value(option: Option, given: Any) -> Any:
    parse = option.metadata["parse"]
    return parse(given) if parse is not None and given is not None else given
