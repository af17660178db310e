"""Which texts the hub takes as names of accounts, repositories, references and paths, or as numbers (section 12)."""

import re
import unicodedata

from hfvision.hub.errors import BadPath, BadRequest

_RESERVED = (
    "api buckets cas datasets docs healthz kernels login logout metrics models new oauth organizations resolve "
    "settings spaces static try users v1 v2"
)
RESERVED = frozenset(_RESERVED.split())
NAME_LIMIT = 96  # characters of an account's or repository's name
REF_LIMIT = 240  # bytes
SEGMENT_LIMIT = 255  # bytes of one part of a path
PATH_LIMIT = 1024  # bytes
_NAME = re.compile(r"(?=.{1,96}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REF_BAD = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


def whole_number(text: str, digits: int) -> int | None:
    """The number that at most so many decimal digits write, or None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def check_name(name: str, what: str) -> str:
    """The name of a user, organisation or repository, or BadRequest."""
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.lower().endswith(".git"):
        raise BadRequest(
            f"{name[: 2 * NAME_LIMIT]!r} cannot name a {what}: use 1 to {NAME_LIMIT} letters, digits, '_', '.' and '-' "
            "with a letter, digit or '_' at both ends, without '--' or '..' and not ending in '.git'"
        )
    return name


def check_account_name(name: str, what: str) -> str:
    """As `check_name`; the first part of an address must not be one that the hub itself uses."""
    if check_name(name, what).lower() in RESERVED:
        raise BadRequest(f"the name {name!r} is reserved")
    return name


def split_full_name(full_name: str) -> tuple[str, str]:
    """(namespace, name) of `namespace/name`, checked."""
    namespace, slash, name = full_name.partition("/")
    if not slash:
        raise BadRequest(f"{full_name[:200]!r} is not of the form namespace/name")
    return check_name(namespace, "namespace"), check_name(name, "repository")


def check_ref(name: str, what: str) -> str:
    """A branch's or tag's name by git's rules, or BadRequest."""
    parts = name.split("/")
    if (
        not name
        or len(name.encode("utf-8", "replace")) > REF_LIMIT
        or not name.isprintable()
        or _REF_BAD.search(name)
        or name == "@"
        or name.endswith(".")
        or name.startswith(("-", "refs/"))
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise BadRequest(f"{name[:REF_LIMIT]!r} is not a valid {what} name")
    return name


def check_path(path: str) -> str:
    """The path if the hub stores such names, else BadPath."""
    reason = _fault(path)
    if reason:
        raise BadPath(f"the path {path[:PATH_LIMIT]!r} {reason}")
    return path


def _fault(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not path or path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", path):
        return "is empty or absolute"
    if size > PATH_LIMIT:
        return f"has {size} bytes; {PATH_LIMIT} are the most"
    if any(unicodedata.category(letter) == "Cc" for letter in path):
        return "has control characters"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "has an empty, '.' or '..' segment"
        if len(segment.encode()) > SEGMENT_LIMIT:
            return f"has a segment of more than {SEGMENT_LIMIT} bytes"
        if segment.lower() == ".git" or ".." in segment.split("\\"):
            return "has a '.git' segment or climbs with '..\\'"
    return None
