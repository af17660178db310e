"""Pull requests: a branch at refs/pr/<number> with a title, which a writer may merge into its base (section 14).

Who sees a repository may open one, with a token that may write. A pull request changes what lies between its head and
the commit where it left its base; merging puts just that, as one commit, on whatever the base is by then.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from hfvision.hub import commits, gitobjects, objects
from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms, to_datetime
from hfvision.hub.commits import Change, Commit, Operation, message_of, to_change
from hfvision.hub.database import pull, pull_event, ref
from hfvision.hub.database import repo as repo_table
from hfvision.hub.errors import BadRequest, Conflict, NotFound, RevisionNotFound
from hfvision.hub.gitobjects import TreeEditor, TreeItem
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import MAIN, PROPOSE, WRITE, Repo, find_in
from hfvision.hub.names import whole_number
from hfvision.hub.refs import Ref, find_ref, printable

MOST_TITLE = 500  # characters
MOST_TEXT = 65_536  # characters of a description or comment
MOST_EVENTS = 1000  # of one pull request
COMMENT = "comment"
STATUS = "status-change"

# path -> the file before and after, None where there is none
Sides = dict[str, tuple[TreeItem | None, TreeItem | None]]


@dataclass(frozen=True)
class Pull:
    """A pull request."""

    number: int
    title: str
    description: str
    author: str
    base: str  # branch it was opened against
    status: str  # open | merged | closed
    created: datetime
    merged_as: str | None = None  # commit on its base, once merged


@dataclass(frozen=True)
class Event:
    """Something said about a pull request, or done to its status."""

    number: int  # from 1
    kind: str  # COMMENT | STATUS
    author: str
    text: str  # of the comment, or the new status
    created: datetime


def number_in(text: str) -> int:
    """The number of a pull request in an address. Raises NotFound."""
    number = whole_number(text, 9)
    if number is None:
        raise NotFound("No pull request has this number.")
    return number


def propose(
    hub: Hub,
    caller: Caller,
    repo: Repo,
    base: str,
    operations: Iterable[Operation],
    summary: str,
    description: str = "",
    parent: str | None = None,
) -> tuple[Commit, Pull]:
    """Open a pull request against a branch together with its first commit: both or neither.

    `parent` as in `commits.apply`, of the base's head. Raises what `open_pull` and `commits.apply` raise: GatedRepo,
    too, for who has not been let in.
    """
    draft = commits.draft(hub, operations, summary, description)
    with hub.writing() as connection:
        repo, made, head = _open(connection, caller, repo, summary, description, base)
        return commits.apply_in(hub, connection, caller, repo, head, draft, parent), made


def open_pull(hub: Hub, caller: Caller, repo: Repo, title: str, description: str = "", base: str = MAIN) -> Pull:
    """A new pull request whose head is the base's; anyone who sees the repository and has a write token may open one.

    Raises RepoNotFound, LoginNeeded, Forbidden (a token that only reads), DisabledRepo, RevisionNotFound.
    """
    with hub.writing() as connection:
        return _open(connection, caller, repo, title, description, base)[1]


def pulls(hub: Hub, repo: Repo) -> list[Pull]:
    """All pull requests, newest first."""
    with hub.reading() as connection:
        rows = connection.execute(select(pull).where(pull.c.repo == repo.id).order_by(pull.c.number.desc()))
        return [_pull(row) for row in rows]


def find_pull(hub: Hub, repo: Repo, number: int) -> Pull:
    """Raises NotFound."""
    with hub.reading() as connection:
        return _find(connection, repo, number)


def changes(hub: Hub, repo: Repo, number: int) -> list[Change]:
    """Files that it changes, by path, relative to the commit where it left its base.

    Relative to nothing where the two have no commit in common any more, as after a squash. Names and hashes only: show
    contents to those alone who may read them (`CONTENT`). Raises NotFound.
    """
    with hub.reading() as connection:
        found = _find(connection, repo, number)
        head = _head(connection, repo, found)
        start = _start(connection, _base(connection, repo, found), head)
        return [to_change(path, *sides) for path, sides in _between(hub, connection, start, head).items()]


def conflicts(hub: Hub, repo: Repo, number: int) -> list[str]:
    """Paths that both it and its base have changed since it left, to different contents; by path. Raises NotFound."""
    with hub.reading() as connection:
        found = _find(connection, repo, number)
        head, base = _head(connection, repo, found), _base(connection, repo, found)
        if base is None:
            return []
        start = _start(connection, base, head)
        return _clashes(_between(hub, connection, start, head), _between(hub, connection, start, base))


def merge(hub: Hub, caller: Caller, repo: Repo, number: int, comment: str = "") -> Commit:
    """Put its changes on its base as one commit of the caller's, who must be a writer, with a comment if there is one.

    Raises Forbidden, NotFound, and Conflict where it is not open, changes nothing, has lost its base, or changes what
    the base has changed to something else meanwhile; the message names those paths.
    """
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        found = _find(connection, repo, number)
        _lock_refs(connection, repo, found)
        found = _find(connection, repo, number, lock=True)  # again, now that nobody else can merge or close it
        if found.status != "open":
            raise Conflict(f"Pull request {number} is {found.status} already.")
        head, base = _head(connection, repo, found), _base(connection, repo, found)
        if base is None:
            raise Conflict(f"The branch {found.base}, which pull request {number} was opened against, is gone.")
        start = _start(connection, base, head)
        mine = _between(hub, connection, start, head)
        if not mine:
            raise Conflict(f"Pull request {number} changes nothing: push a commit to refs/pr/{number} first.")
        clashes = _clashes(mine, _between(hub, connection, start, base))
        if clashes:
            named = ", ".join(printable(path) for path in clashes[:20]) + (", ..." if len(clashes) > 20 else "")
            raise Conflict(f"{found.base} has changed these files, too, since pull request {number} left it: {named}")
        editor = TreeEditor(objects.tree_reader(hub, connection), objects.read_commit(connection, base).tree)
        for path in [path for path, (_, after) in mine.items() if after is None]:  # first: a file may become a folder
            editor.delete(path)
        for path, (_, after) in mine.items():
            if after is not None:
                editor.put(path, after)
        message = message_of(f"{found.title} (#{number})", found.description)
        branch = Ref("heads", found.base, base)
        made = commits.store(hub, connection, caller, repo, branch, editor, message, mine.keys())
        values = {"status": "merged", "merged_as": made.id}
        connection.execute(update(pull).where(*_key(repo, number)).values(**values))
        _note(connection, repo, number, STATUS, caller, "merged", comment)
        return made


def set_status(hub: Hub, caller: Caller, repo: Repo, number: int, status: str, comment: str = "") -> Event:
    """Close it, or open it again: a matter of its author and of writers. The comment, if any, is kept beside it.

    Raises Forbidden, NotFound, BadRequest (another status), Conflict (merged).
    """
    if status not in ("open", "closed"):
        raise BadRequest(f'a pull request\'s status can be set to "open" or "closed"; got {printable(status)!r}')
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, PROPOSE)
        found = _find(connection, repo, number, lock=True)
        if found.author != caller.name:
            find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        if found.status == "merged":
            raise Conflict(f"Pull request {number} is merged and stays so.")
        connection.execute(update(pull).where(*_key(repo, number)).values(status=status))
        return _note(connection, repo, number, STATUS, caller, status, comment)


def comment(hub: Hub, caller: Caller, repo: Repo, number: int, text: str) -> Event:
    """Say something about it: a matter of all who might open one. Raises as `open_pull`, NotFound, BadRequest."""
    if not text.strip():
        raise BadRequest("a comment needs a text")
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, PROPOSE)
        _find(connection, repo, number, lock=True)
        return _note(connection, repo, number, COMMENT, caller, text)


def events(hub: Hub, repo: Repo, number: int) -> list[Event]:
    """Comments and changes of status, oldest first."""
    mine = pull_event.c.repo == repo.id, pull_event.c.pull == number
    with hub.reading() as connection:
        rows = connection.execute(select(pull_event).where(*mine).order_by(pull_event.c.number))
        return [Event(row.number, row.kind, row.author, row.text, to_datetime(row.created)) for row in rows]


def own_commits(hub: Hub, repo: Repo, number: int, limit: int = 100) -> list[Commit]:
    """The last commits of its own, oldest first: those since it left its base. Raises NotFound."""
    with hub.reading() as connection:
        found = _find(connection, repo, number)
        head = _head(connection, repo, found)
        start = _start(connection, _base(connection, repo, found), head)
        mine = []
        for oid, commit in objects.ancestry(connection, head, limit):
            if oid == start:
                break
            mine.append(commits.to_commit(oid, commit))
        return mine[::-1]


def _open(
    connection: Connection, caller: Caller, repo: Repo, title: str, description: str, base: str
) -> tuple[Repo, Pull, Ref]:
    repo = find_in(connection, caller, repo.kind, repo.full_name, PROPOSE)
    # two pull requests opened at once take turns at the repository's row and get different numbers
    connection.execute(select(repo_table.c.id).where(repo_table.c.id == repo.id).with_for_update())
    found = find_ref(connection, repo, base)
    if found is None or found.kind != "heads":
        raise RevisionNotFound(f"Invalid rev id: {printable(base)} is no branch")
    number = 1 + (connection.scalar(select(func.max(pull.c.number)).where(pull.c.repo == repo.id)) or 0)
    now = now_ms()
    texts = title[:MOST_TITLE], description[:MOST_TEXT]
    made = Pull(number, *texts, caller.name, found.name, "open", to_datetime(now))
    connection.execute(insert(pull).values(**{**asdict(made), "repo": repo.id, "created": now}))
    connection.execute(insert(ref).values(repo=repo.id, kind="pr", name=str(number), oid=found.commit))
    return repo, made, Ref("pr", str(number), found.commit)


def _key(repo: Repo, number: int) -> tuple[Any, Any]:
    return pull.c.repo == repo.id, pull.c.number == number


def _find(connection: Connection, repo: Repo, number: int, lock: bool = False) -> Pull:
    wanted = select(pull).where(*_key(repo, number))
    row = connection.execute(wanted.with_for_update() if lock else wanted).first()
    if row is None:
        raise NotFound(f"{repo.full_name} has no pull request {number}")
    return _pull(row)


def _pull(row: Any) -> Pull:
    texts = row.number, row.title, row.description, row.author, row.base, row.status
    return Pull(*texts, to_datetime(row.created), row.merged_as)


def _note(
    connection: Connection, repo: Repo, number: int, kind: str, caller: Caller, text: str, comment: str = ""
) -> Event:
    """Keep an event of a pull request that is locked, and before it the comment that came with it, if any."""
    if comment.strip():
        _note(connection, repo, number, COMMENT, caller, comment)
    mine = pull_event.c.repo == repo.id, pull_event.c.pull == number
    count = 1 + (connection.scalar(select(func.max(pull_event.c.number)).where(*mine)) or 0)
    if count > MOST_EVENTS:
        raise Conflict(f"Pull request {number} has {MOST_EVENTS} comments and changes already: open a new one.")
    now = now_ms()
    made = Event(count, kind, caller.name, text[:MOST_TEXT], to_datetime(now))
    connection.execute(insert(pull_event).values(**{**asdict(made), "repo": repo.id, "pull": number, "created": now}))
    return made


def _lock_refs(connection: Connection, repo: Repo, found: Pull) -> None:
    """Hold the base and the head, in the order of their kinds: writers hold one of the two, so nobody waits in turn."""
    for kind, name in (("heads", found.base), ("pr", str(found.number))):
        where = ref.c.repo == repo.id, ref.c.kind == kind, ref.c.name == name
        connection.execute(select(ref.c.oid).where(*where).with_for_update())


def _head(connection: Connection, repo: Repo, found: Pull) -> str:
    head = find_ref(connection, repo, f"refs/pr/{found.number}")
    if head is None:  # a pull request and its head come in one transaction, and neither is ever deleted alone
        raise NotFound(f"{repo.full_name} has no refs/pr/{found.number}")
    return head.commit


def _base(connection: Connection, repo: Repo, found: Pull) -> str | None:
    base = find_ref(connection, repo, f"refs/heads/{found.base}")
    return base.commit if base is not None else None


def _start(connection: Connection, base: str | None, head: str) -> str | None:
    """The newest commit that both histories have. Walks them side by side: it is mostly near the ends of both."""
    if base is None:
        return None
    seen: set[str] = set()
    for steps in zip_longest(objects.ancestry(connection, base), objects.ancestry(connection, head)):
        for step in steps:
            if step is not None and step[0] in seen:
                return step[0]
            if step is not None:
                seen.add(step[0])
    return None


def _between(hub: Hub, connection: Connection, start: str | None, end: str) -> Sides:
    before = objects.read_commit(connection, start).tree if start is not None else None
    after = objects.read_commit(connection, end).tree
    read = objects.tree_reader(hub, connection)
    return {path: (one, two) for path, one, two in gitobjects.changes(read, before, after)}


def _clashes(mine: Sides, theirs: Sides) -> list[str]:
    """Paths whose two outcomes cannot both be: other contents, or a file here and a folder of that name there."""
    put = {path for path, (_, after) in theirs.items() if after is not None}
    above = {folder for path in put for folder in _folders(path)}
    found = []
    for path, (_, after) in mine.items():
        other = path in theirs and theirs[path][1] != after
        if other or (after is not None and (path in above or not put.isdisjoint(_folders(path)))):
            found.append(path)
    return found


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
