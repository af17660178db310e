"""Options of commands, made from fields of dataclasses: see `hfvision.options`.

@takes(reading=reading_of("detection"))
def run(dataset: str, reading: Given = NOTHING) -> None: ...
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import partial, wraps
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

from hfvision.errors import ConfigError
from hfvision.options import Option, choices_of, flag_of, kind_of
from hfvision.reading_options import ReadingOptions, options_of

READING = "How the data is read"
Given: TypeAlias = Mapping[str, Any]  # the options that were given
NOTHING: Given = MappingProxyType({})


@dataclass(frozen=True)
class Source:
    """Options of one dataclass on a command line."""

    options: Sequence[Option]
    panel: str | None = None
    check: Callable[[Given], Any] | None = None  # of what was given; a ConfigError is wrong usage


def source_of(options: type, panel: str | None = None) -> Source:
    """All fields of a dataclass that say how a command line has them; those with a panel of their own are last."""
    return Source(sorted(_options_in(options), key=lambda one: "panel" in one.metadata), panel)


def reading_of(*tasks: str, splits: bool = True) -> Source:
    """What the tasks can be told about their data; without `splits` what chooses splits is left out."""
    only = []
    for one in options_of(*tasks, splits=splits):
        of = one.metadata["tasks"]
        prefix = "" if set(tasks) <= set(of) else f"{' and '.join(of).capitalize()}: "
        only.append(changed_option(one, help=prefix + one.metadata["help"]))
    return Source(only, READING, lambda given: ReadingOptions.of(given, *tasks))


def takes(**sources: Source) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command: the parameter named as a source becomes the options of that source, and gets {name:
    value} of those that were given. Values that are none of an option's are wrong usage.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters

        @wraps(command)
        def call(**given: Any) -> None:
            found = {}
            for name, source in sources.items():
                expanded = [one for one, _ in _expanded(source.options, source.panel)]
                flat = {key: given.pop(key) for one in expanded for key in (one.name, _off(one)) if key in given}
                found[name] = _values(source.options, flat)
                if source.check is not None:
                    with usage_errors():
                        source.check(found[name])
            command(**given, **found)

        parameters: list[inspect.Parameter] = []
        options: list[Option] = []
        for name, parameter in own.items():
            if name not in sources:
                parameters.append(parameter)
                continue
            for one, panel in _expanded(sources[name].options, sources[name].panel):
                options.append(one)
                parameters += _parameters(one, panel)
        del call.__wrapped__  # typer would look behind it
        call.__signature__ = inspect.Signature([one.replace(kind=one.KEYWORD_ONLY) for one in parameters])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.aliases = aliases_of(options)  # type: ignore[attr-defined]
        return call

    return decorate


def add_command(
    app: typer.Typer,
    name: str,
    command: Callable[..., None],
    help: str,
    *,
    spellings: Mapping[str, str] = MappingProxyType({}),
    refused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add a command to an app. `spellings` of options beside their own are {spelling: option}, without dashes before
    them; `refused` says of what is no option why, {name: reason}.

    Words are joined by dashes or, as in the scripts of transformers, by underscores.
    """
    aliases = {**getattr(command, "aliases", {}), **spellings}

    def spelled(word: str) -> str:
        word = word.replace("_", "-")
        return aliases.get(word, word)

    kind = type("Command", (Command,), {"refused": refused})
    app.command(name, help=help, cls=kind, context_settings={"token_normalize_func": spelled})(command)


class Command(TyperCommand):
    """A command that names the nearest option for one that there is not, or says why there is none."""

    refused: Mapping[str, str] = MappingProxyType({})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as raised:
            error: Any = raised
            if not hasattr(error, "possibilities"):  # typer's error for an option that there is not
                raise
            if reason := self.refused.get(error.option_name.strip("-").replace("-", "_")):
                error.message = f"No option {error.option_name}: {reason}."
                error.possibilities = None
                raise
            known = [flag for parameter in self.params for flag in (*parameter.opts, *parameter.secondary_opts)]
            error.possibilities = get_close_matches(error.option_name, known, n=1, cutoff=0.0)
            raise


def aliases_of(options: Iterable[Option]) -> dict[str, str]:
    """Spellings beside those that the help shows: an option's name, and of an option with two forms "no-" the first."""
    aliases = {}
    for one in options:
        on, _, off = (one.metadata.get("flags") or "").replace("--", "").partition("/")
        name = one.name.replace("_", "-")
        if on and on != name:
            aliases[name] = on
        if off:
            aliases |= {f"no-{word}": off for word in {on, name} if f"no-{word}" != off}
    return aliases


def changed_option(one: Option, **about: Any) -> Option:
    """A copy with other metadata."""
    other = copy.copy(one)
    other.metadata = MappingProxyType({**one.metadata, **about})
    return other


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ConfigError is wrong usage, exit code 2, while the block runs."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def _options_in(options: type) -> list[Option]:
    return [one for one in fields(options) if "help" in one.metadata]


def _expanded(options: Iterable[Option], panel: str | None) -> Iterator[tuple[Option, str | None]]:
    """Each option with its panel; those of a dataclass within in its place, behind a switch if it has a help text."""
    for one in options:
        inner = one.metadata.get("fields")
        if inner is None or one.metadata["help"]:
            yield one, one.metadata.get("panel", panel)
        if inner is not None:
            yield from _expanded(_options_in(inner), one.metadata.get("panel", panel))


def _values(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} of what was given."""
    values: dict[str, Any] = {}
    for one in options:
        about, value = one.metadata, given.get(one.name)
        inner = about.get("fields")
        if about.get("switch"):
            if value is False:
                values[one.name] = False if one.default is True else 0.0
        elif inner is not None:
            within = _values(_options_in(inner), given)
            if value is False:
                values[one.name] = None
            elif within:
                values[one.name] = about.get("make", inner)(**within)
        elif value is not None:
            values[one.name] = _parsed(one, value)
        if given.get(_off(one)):
            values[one.name] = False
    return values


def _parsed(one: Option, value: Any) -> Any:
    parse = one.metadata.get("parse")
    if parse is None:
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag_of(one)) from None


def _off(one: Option) -> str:
    """The parameter that turns the option off, where that is an option of its own."""
    return f"no_{one.name}"


def _kind(one: Option) -> Any:
    about = one.metadata
    if about.get("switch") or "fields" in about:
        return bool
    kind = str if about.get("parse") or "off" in about else kind_of(one)
    return list[kind] if about.get("repeated") else kind  # type: ignore[valid-type]


def _shown(one: Option) -> str | bool:
    """The default in words; False: none is shown."""
    default, words = one.default, one.metadata.get("shown")
    if words or default in (None, (), False) or default is MISSING:
        return words or False
    if _kind(one) is bool:
        return flag_of(one)[2:]
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _parameters(one: Option, panel: str | None) -> list[inspect.Parameter]:
    about, kind = one.metadata, _kind(one)
    choices = () if kind is bool else choices_of(one)
    name = one.name.replace("_", "-")
    flags = about.get("flags") or (f"--{name}/--no-{name}" if kind is bool else f"--{name}")
    declared = typer.Option(
        flags,
        help=about["help"],
        show_default=_shown(one),
        min=about.get("min"),
        max=about.get("max"),
        metavar="|".join(map(str, choices)) or None,
        rich_help_panel=panel,
    )
    parameter = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    made = [parameter(one.name, annotation=Annotated[kind | None, declared])]
    if "off" in about:
        off = typer.Option(about["off"], help="", show_default=False, rich_help_panel=panel)
        made.append(parameter(_off(one), annotation=Annotated[bool | None, off]))
    return made
