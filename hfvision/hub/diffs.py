"""What changes as text, in git's unified form: of files short enough to compare, with a cap on the whole."""

from collections.abc import Iterator, Sequence
from difflib import unified_diff

from sqlalchemy import Connection, select

from hfvision.hub.commits import Change
from hfvision.hub.database import batches, obj
from hfvision.hub.instance import Hub

MOST_BYTES = 65_536  # of a file on one side
MOST_LINES = 2000
MOST_WORK = 20_000_000  # lines before times lines after, of all files together: comparing costs up to that
MOST_FILES = 300
MOST_TEXT = 1_000_000  # characters of the whole


def text(hub: Hub, changed: Sequence[Change]) -> str:
    """The changes as `git diff` writes them; large files by their pointers, longer ones as if they were binary.

    Shows contents: for callers alone who may read them. What is over the caps is cut off at the end of a file.
    """
    pieces: list[str] = []
    length = 0
    for one, sides in _sides(hub, changed[:MOST_FILES]):
        piece = _piece(one, sides)
        length += len(piece)
        if length > MOST_TEXT:
            break
        pieces.append(piece)
    return "".join(pieces)


def compared(hub: Hub, changed: Sequence[Change]) -> list[list[str] | None]:
    """For each change its lines in unified form, without the two that name the file; None where none can be shown.

    Under the same caps as `text`, file by file, and as `text` for those alone who may read contents.
    """
    return [list(unified_diff(*sides))[2:] if sides is not None else None for _, sides in _sides(hub, changed)]


def _sides(hub: Hub, changed: Sequence[Change]) -> Iterator[tuple[Change, tuple[list[str], list[str]] | None]]:
    """Each change with its lines before and after; without them for what is no text or takes too long to compare."""
    with hub.reading() as connection:
        contents = _contents(connection, changed)
    left = MOST_WORK
    for one in changed:
        before, after = (_lines(contents[oid]) if oid is not None else [] for oid in (one.old, one.new))
        if before is None or after is None or len(before) * len(after) > left:
            yield one, None
        else:
            left -= len(before) * len(after)
            yield one, (before, after)


def _contents(connection: Connection, changed: Sequence[Change]) -> dict[str, bytes | None]:
    """Bytes of the blobs, None for those that are too long to compare."""
    oids = {oid for one in changed for oid in (one.old, one.new) if oid is not None}
    found: dict[str, bytes | None] = dict.fromkeys(oids)
    for batch in batches(sorted(oids)):
        short = select(obj.c.oid, obj.c.data).where(obj.c.oid.in_(batch), obj.c.size <= MOST_BYTES)
        found.update({row.oid: bytes(row.data) for row in connection.execute(short)})
    return found


def _piece(one: Change, sides: tuple[list[str], list[str]] | None) -> str:
    names = f"a/{one.path}", f"b/{one.path}"
    head = f"diff --git {names[0]} {names[1]}\n"
    if one.status == "added":
        head += "new file mode 100644\n"
    elif one.status == "deleted":
        head += "deleted file mode 100644\n"
    head += f"index {(one.old or '0' * 40)[:7]}..{(one.new or '0' * 40)[:7]}\n"
    old_name = names[0] if one.old else "/dev/null"
    new_name = names[1] if one.new else "/dev/null"
    if sides is None:
        return head + f"Binary files {old_name} and {new_name} differ\n"
    lines = unified_diff(*sides, old_name, new_name)
    return head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(data: bytes | None) -> list[str] | None:
    """Lines with their ends; None for what is no text or has too many of them."""
    if data is None or b"\0" in data:
        return None
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return None
    if len(lines) > MOST_LINES:
        return None
    kept = [line + "\n" for line in lines[:-1]]
    return [*kept, lines[-1]] if lines[-1] else kept
