"""Routes on the raw path: split on "/" first, unquote each segment after (protocol section 0.3).

A revision arrives as one segment with its slashes quoted (`feat%2Fx`, `refs%2Fpr%2F1`), and file names hold `%23`,
`%25` and `%3F`; a framework that unquotes before it splits would cut them in the wrong places.

A pattern is a path whose segments are words, `{name}` (one segment, whatever is in it), `{name}.git` (with a fixed
ending) or, at its end, `{name...}` (the rest, possibly nothing). Of several patterns that fit, the one with more fixed
words before its first hole wins, whatever the order of the table.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Awaitable[Response]]


class BadPathError(ValueError):
    """A path that is not UTF-8 once unquoted, or has a NUL character."""


@dataclass(frozen=True)
class Route:
    """Methods and a pattern with the handler that answers them; `handler` finds the holes in `request.path_params`.

    A `fallback` answers only what no other route takes.
    """

    methods: frozenset[str]
    pattern: str
    handler: Handler
    fallback: bool = False


@dataclass(frozen=True)
class Hole:
    """A segment of a pattern that takes any text: its name and the fixed ending that the segment must have."""

    name: str
    ending: str = ""


@dataclass(frozen=True)
class Compiled:
    """A route with its pattern taken apart; `rest` names the hole that takes all further segments."""

    route: Route
    segments: tuple[str | Hole, ...]
    rest: str | None

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts fixed words before holes, segment by segment, open ends after those, and fallbacks last."""
        words = (1 if isinstance(segment, Hole) else 0 for segment in self.segments)
        return (int(self.route.fallback), *words, 2 if self.rest else 0)

    def match(self, segments: list[str]) -> dict[str, str] | None:
        if len(segments) < len(self.segments) or (len(segments) > len(self.segments) and self.rest is None):
            return None
        found = {}
        for wanted, got in zip(self.segments, segments, strict=False):
            if isinstance(wanted, str):
                if wanted != got:
                    return None
            elif not got.endswith(wanted.ending) or len(got) == len(wanted.ending):
                return None
            else:
                found[wanted.name] = got.removesuffix(wanted.ending)
        if self.rest is not None:
            found[self.rest] = "/".join(segments[len(self.segments) :])
        return found


@dataclass(frozen=True)
class Match:
    """What a path leads to: the handler and its holes, or the methods that the path would have taken."""

    handler: Handler | None
    pattern: str
    holes: dict[str, str]
    allowed: frozenset[str]


class Router:
    """All routes of the server, looked up by their first fixed word and their holes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._compiled = sorted((compile_route(route) for route in routes), key=lambda compiled: compiled.rank)
        self._by_first: dict[str, list[Compiled]] = {}
        self._open = [c for c in self._compiled if not (c.segments and isinstance(c.segments[0], str))]
        for compiled in self._compiled:
            if compiled.segments and isinstance(compiled.segments[0], str):
                self._by_first.setdefault(compiled.segments[0], []).append(compiled)

    @property
    def routes(self) -> list[Route]:
        """Every route, in the order in which they are tried."""
        return [compiled.route for compiled in self._compiled]

    def match(self, raw_path: bytes, method: str) -> Match:
        """The best route for a path as it came over the wire. Raises BadPathError if it is no text."""
        segments = split_path(raw_path)
        allowed: set[str] = set()
        pattern = ""
        for compiled in (*self._by_first.get(segments[0] if segments else "", ()), *self._open):
            holes = compiled.match(segments)
            if holes is None:
                continue
            if method in compiled.route.methods:
                return Match(compiled.route.handler, compiled.route.pattern, holes, compiled.route.methods)
            allowed |= compiled.route.methods
            pattern = pattern or compiled.route.pattern
        return Match(None, pattern, {}, frozenset(allowed))


def route(methods: str, pattern: str, handler: Handler) -> Route:
    """A row of a route table: `route("GET", "/api/models", list_models)`; GET brings HEAD along."""
    names = set(methods.split())
    return Route(frozenset(names | {"HEAD"} if "GET" in names else names), pattern, handler)


def compile_route(route: Route) -> Compiled:
    segments: list[str | Hole] = []
    rest = None
    for part in route.pattern.removeprefix("/").split("/"):
        if rest is not None:
            raise ValueError(f"{route.pattern}: nothing can follow {{{rest}...}}")
        if part.startswith("{") and part.endswith("...}"):
            rest = part[1:-4]
        elif part.startswith("{"):
            name, _, ending = part[1:].partition("}")
            segments.append(Hole(name, ending))
        elif part:
            segments.append(part)
    return Compiled(route, tuple(segments), rest)


def split_path(raw_path: bytes) -> list[str]:
    """The unquoted segments of a path; one empty segment at the end (a trailing slash) is dropped."""
    raw = raw_path.removeprefix(b"/").split(b"/")
    if raw and not raw[-1]:
        raw.pop()
    if b"%00" in raw_path or b"\0" in raw_path:  # PostgreSQL takes no such text, not even to look for it
        raise BadPathError("the path has a NUL character")
    try:
        return [unquote_to_bytes(segment).decode("utf-8") for segment in raw]
    except UnicodeDecodeError:
        raise BadPathError("the path is not UTF-8 once unquoted") from None
