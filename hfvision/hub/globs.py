"""Patterns of .gitignore and .gitattributes, matched in time that no pattern can blow up.

Regular expressions made from such patterns can be made to take for ever by whoever writes the pattern; here every
star is tried greedily with one point to come back to, so a match costs at most length of pattern times length of name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

MOST_PATTERNS = 500
_STAR = 0  # among tokens: any run of letters
Token = str | tuple[bool, tuple[tuple[str, str], ...]] | int | None  # letter, class (negated, ranges), _STAR, any one
Segment = tuple[Token, ...] | None  # None stands for `**`
P = TypeVar("P")
S = TypeVar("S")


@dataclass(frozen=True)
class Pattern:
    """One pattern: its segments, and whether it is for folders only."""

    segments: tuple[Segment, ...]
    folders_only: bool

    def matches(self, path: Sequence[str], is_folder: bool) -> bool:
        """Whether it fits this very path, not one of the folders it lies in."""
        return (is_folder or not self.folders_only) and _fit(self.segments, path, _is_deep, _fits_name)


def parse_pattern(text: str) -> Pattern | None:
    """A line of .gitignore without its `!`; None for one that can match nothing."""
    folders_only = text.endswith("/")
    body = text.rstrip("/") if folders_only else text
    anchored = "/" in body
    parts = body.lstrip("/").split("/")
    if not body.strip("/"):
        return None
    segments: list[Segment] = [] if anchored else [None]
    for one in parts:
        segments.append(None if one == "**" else _tokens(one))
    if segments[-1] is None:  # a/** is what lies in a, not a itself
        segments.append((_STAR,))
    return Pattern(tuple(segments), folders_only)


def ignore_rules(text: str) -> list[tuple[Pattern, bool]]:
    """Parsed lines of a .gitignore: (pattern, whether it excludes)."""
    return [rule for line in text.splitlines() if (rule := _rule(line)) is not None][:MOST_PATTERNS]


def is_ignored(
    rules: Sequence[tuple[Pattern, bool]], path: str, known: dict[str, bool], tick: Callable[[], None] = lambda: None
) -> bool:
    """Whether a file is excluded; a folder that is excluded takes all it holds with it.

    Matches each folder on the way with each rule and keeps the verdict in `known`, for other files of these folders;
    `tick` is called in between, for who wants to end what takes long.
    """
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        is_folder = depth < len(parts)
        here = "/".join(parts[:depth]) + "/" * is_folder
        if here not in known:
            tick()
            known[here] = False
            for pattern, excludes in rules:
                if known[here] != excludes and pattern.matches(parts[:depth], is_folder):
                    known[here] = excludes
        if known[here]:
            return True
    return False


def large_rules(text: str) -> list[tuple[Pattern, bool]]:
    """Lines of a .gitattributes that say something about `filter`: (pattern, whether it is lfs)."""
    rules = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith(("#", "!", "[attr]")):
            continue
        said = [word for word in words[1:] if word.lstrip("-!").split("=")[0] == "filter"]
        pattern = parse_pattern(words[0].strip('"')) if said else None
        if pattern is not None:
            rules.append((pattern, said[-1] == "filter=lfs"))
    return rules[:MOST_PATTERNS]


def is_large(rules: Sequence[tuple[Pattern, bool]], path: str) -> bool:
    """Whether the last line that fits a path says lfs."""
    parts = path.split("/")
    return next((lfs for pattern, lfs in reversed(rules) if pattern.matches(parts, False)), False)


def _rule(line: str) -> tuple[Pattern, bool] | None:
    line = line.rstrip("\r\n")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    excludes = not line.startswith("!")
    pattern = parse_pattern(line if excludes else line[1:])
    return None if pattern is None else (pattern, excludes)


def _tokens(text: str) -> tuple[Token, ...]:
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if letter == "*":
            if not tokens or tokens[-1] != _STAR:
                tokens.append(_STAR)
        elif letter == "?":
            tokens.append(None)
        elif letter == "\\" and at < len(text):
            tokens.append(text[at])
            at += 1
        elif letter == "[" and (end := text.find("]", at + (text[at : at + 1] in ("!", "^")) + 1)) > 0:
            tokens.append(_letters(text[at:end]))
            at = end + 1
        else:
            tokens.append(letter)
    return tuple(tokens)


def _letters(body: str) -> Token:
    negated = body[:1] in ("!", "^")
    body = body[1:] if negated else body
    ranges = []
    at = 0
    while at < len(body):
        last = at + 2 if body[at + 1 : at + 2] == "-" and at + 2 < len(body) else at
        ranges.append((body[at], body[last]))
        at = last + 1
    return negated, tuple(ranges)


def _fit(
    pattern: Sequence[P], subject: Sequence[S], any_run: Callable[[P], bool], fits: Callable[[P, S], bool]
) -> bool:
    """A pattern against a sequence, item by item, with one point to come back to for the last item that is any run."""
    at = here = 0
    back = mark = -1
    while here < len(subject):
        if at < len(pattern) and any_run(pattern[at]):
            back, mark = at, here
            at += 1
        elif at < len(pattern) and fits(pattern[at], subject[here]):
            at += 1
            here += 1
        elif back >= 0:
            mark += 1
            at, here = back + 1, mark
        else:
            return False
    return all(map(any_run, pattern[at:]))


def _fits_name(segment: Segment, name: str) -> bool:
    return segment is not None and _fit(segment, name, _is_star, _is)


def _is_deep(segment: Segment) -> bool:
    return segment is None


def _is_star(token: Token) -> bool:
    return isinstance(token, int)


def _is(token: Token, letter: str) -> bool:
    if token is None:
        return True
    if isinstance(token, tuple):
        return any(low <= letter <= high for low, high in token[1]) != token[0]
    return token == letter
