"""Patterns of .gitignore and .gitattributes, matched in time that no pattern can blow up.

Regular expressions made from such patterns can be made to take for ever by whoever writes the pattern; here every
star is tried greedily with one point to come back to, so a match costs at most length of pattern times length of name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_PATTERNS = 500
Token = str | tuple[bool, tuple[tuple[str, str], ...]] | None  # a letter, a class (negated, ranges), or None: any


@dataclass(frozen=True)
class Pattern:
    """One pattern: its segments (None stands for `**`), and whether it is for folders only."""

    segments: tuple[tuple[tuple[Token | int, ...], ...] | None, ...]
    folders_only: bool

    def matches(self, path: Sequence[str], is_folder: bool) -> bool:
        """Whether it fits this very path, not one of the folders it lies in."""
        return (is_folder or not self.folders_only) and _fit(self.segments, path)


_STAR = 0  # among tokens: any run of letters


def parse_pattern(text: str) -> Pattern | None:
    """A line of .gitignore without its `!`; None for one that can match nothing."""
    folders_only = text.endswith("/")
    body = text.rstrip("/") if folders_only else text
    anchored = "/" in body
    parts = body.lstrip("/").split("/")
    if not body.strip("/"):
        return None
    segments: list[tuple[tuple[Token | int, ...], ...] | None] = [] if anchored else [None]
    for one in parts:
        segments.append(None if one == "**" else (_tokens(one),))
    if segments[-1] is None:  # a/** is what lies in a, not a itself
        segments.append(((_STAR,),))
    return Pattern(tuple(segments), folders_only)


def ignore_rules(text: str) -> list[tuple[Pattern, bool]]:
    """Parsed lines of a .gitignore: (pattern, whether it excludes)."""
    return [rule for line in text.splitlines() if (rule := _rule(line)) is not None][:MOST_PATTERNS]


def is_ignored(rules: Sequence[tuple[Pattern, bool]], path: str, tick: Callable[[], None] = lambda: None) -> bool:
    """Whether a file is excluded; a folder that is excluded takes all it holds with it.

    Matches each folder on the way with each rule: `tick` is called in between, for who wants to end what takes long.
    """
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        tick()
        verdict = False
        for pattern, excludes in rules:
            if verdict != excludes and pattern.matches(parts[:depth], depth < len(parts)):
                verdict = excludes
        if verdict:
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


def _tokens(text: str) -> tuple[Token | int, ...]:
    tokens: list[Token | int] = []
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


def _fit(segments: Sequence[tuple[tuple[Token | int, ...], ...] | None], path: Sequence[str]) -> bool:
    """Segments against names, with one point to come back to for the last `**`."""
    at = here = 0
    back = mark = -1
    while here < len(path):
        segment = segments[at] if at < len(segments) else ()
        if segment is None:
            back, mark = at, here
            at += 1
        elif segment and _fits(segment[0], path[here]):
            at += 1
            here += 1
        elif back >= 0:
            mark += 1
            at, here = back + 1, mark
        else:
            return False
    return all(segment is None for segment in segments[at:])


def _fits(tokens: Sequence[Token | int], name: str) -> bool:
    at = here = 0
    back = mark = -1
    while here < len(name):
        if at < len(tokens) and tokens[at] == _STAR and isinstance(tokens[at], int):
            back, mark = at, here
            at += 1
        elif at < len(tokens) and _is(tokens[at], name[here]):
            at += 1
            here += 1
        elif back >= 0:
            mark += 1
            at, here = back + 1, mark
        else:
            return False
    return all(token == _STAR for token in tokens[at:])


def _is(token: Token | int, letter: str) -> bool:
    if token is None:
        return True
    if isinstance(token, tuple):
        return any(low <= letter <= high for low, high in token[1]) != token[0]
    return token == letter
