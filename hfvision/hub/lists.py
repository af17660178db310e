"""Lists of repositories: search, filters, order, pages; only what the caller may see (protocol section 4.2)."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, false, func, or_, select

from hfvision.hub.accounts import KINDS, Caller
from hfvision.hub.database import lfs, repo, repo_lfs, tag
from hfvision.hub.errors import BadRequest
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import Page, from_row, query

# `likes` and `trendingScore` fall back on downloads as the second key, ids last, so that pages never overlap
SORTS = {
    "createdAt": repo.c.created,
    "lastModified": repo.c.modified,
    "downloads": repo.c.downloads,
    "likes": repo.c.likes,
    "trendingScore": repo.c.downloads,
}
MOST_WORDS = 20
MOST_FILTERS = 50
LONGEST_WORD = 200  # characters: longer than any name, and far shorter than what SQLite refuses to look for


def visible(caller: Caller) -> ColumnElement[bool]:
    """The condition that a repository is public or the caller's to read."""
    if caller.anonymous:
        return repo.c.private.is_(False)
    if caller.token_role != "fineGrained":
        spaces = [caller.name, *(org.name for org in caller.orgs)]
        mine: ColumnElement[bool] = repo.c.namespace.in_(spaces)
    else:
        mine = or_(false(), *(_granted(grant.target) for grant in caller.scope if _reaches(caller, grant.target)))
    return or_(repo.c.private.is_(False), mine)


def _reaches(caller: Caller, target: str) -> bool:
    namespace = target.split("/")[1] if target.count("/") == 2 else target
    return caller.role_in(namespace) is not None


def _granted(target: str) -> ColumnElement[bool]:
    plural, _, full_name = target.partition("/")
    if not full_name:
        return func.lower(repo.c.namespace) == target.lower()
    kind = next((kind for kind, name in KINDS.items() if name == plural.lower()), "")
    return and_(repo.c.kind == kind, repo.c.name_ci == full_name.lower())


def search(
    hub: Hub,
    caller: Caller,
    kind: str,
    *,
    words: Sequence[str] = (),
    author: str | None = None,
    filters: Sequence[str] = (),
    pipeline_tag: str | None = None,
    gated: bool | None = None,
    parameters: tuple[int | None, int | None] = (None, None),
    sort: str | None = None,
    limit: int = 1000,
    cursor: str | None = None,
) -> Page:
    """Repositories (`Repo`) that the caller sees. `words` are substrings of the name, `filters` tags, all must hold.

    `sort`: createdAt, downloads, lastModified, likes, trendingScore; descending; None means trendingScore. Raises
    BadRequest for another order, a cursor that is not from here, or more filters than anyone needs.
    """
    order = SORTS.get(sort or "trendingScore")
    if order is None:
        raise BadRequest(f"lists are sorted by {', '.join(SORTS)}; got {str(sort)[:100]!r}")
    if len(words) > MOST_WORDS or len(filters) > MOST_FILTERS or any(len(word) > LONGEST_WORD for word in words):
        most = f"{MOST_WORDS} words of {LONGEST_WORD} characters and {MOST_FILTERS} filters"
        raise BadRequest(f"a search takes at most {most}")
    found = query().where(repo.c.kind == kind, repo.c.disabled.is_(False), visible(caller))
    for word in words:
        found = found.where(repo.c.name_ci.contains(word.lower().replace("\0", ""), autoescape=True))
    if author is not None:
        found = found.where(func.lower(repo.c.namespace) == author.lower().replace("\0", ""))
    for wanted in [*filters, *([pipeline_tag] if pipeline_tag else [])]:
        found = found.where(repo.c.id.in_(select(tag.c.repo).where(tag.c.tag == wanted.replace("\0", ""))))
    if gated is not None:
        found = found.where(repo.c.gated.is_not(None) if gated else repo.c.gated.is_(None))
    low, high = parameters
    if low is not None:
        found = found.where(repo.c.parameters >= low)
    if high is not None:
        found = found.where(repo.c.parameters <= high)
    with hub.reading() as connection:
        rows, following = _paged(connection, found, order, limit, cursor)
    return Page([from_row(row) for row in rows], following)


def _paged(
    connection: Connection, found: Select[Any], order: Column[Any], limit: int, cursor: str | None
) -> tuple[Sequence[Any], str | None]:
    """At most `limit` rows by descending `order`, and the cursor of the next ones if there are any."""
    if cursor is not None:
        value, last = _decode(cursor)
        found = found.where(or_(order < value, and_(order == value, repo.c.id < last)))
    rows = connection.execute(found.order_by(order.desc(), repo.c.id.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    end = rows[limit - 1]
    return rows[:limit], _encode(getattr(end, order.name), end.id)


def tag_counts(hub: Hub, caller: Caller, kind: str, limit: int = 100) -> list[tuple[str, int]]:
    """The commonest tags among visible repositories, for the filter menus of web pages."""
    count = func.count().label("count")
    tags = select(tag.c.tag, count).join(repo, repo.c.id == tag.c.repo)
    tags = tags.where(repo.c.kind == kind, repo.c.disabled.is_(False), visible(caller))
    with hub.reading() as connection:
        rows = connection.execute(tags.group_by(tag.c.tag).order_by(count.desc(), tag.c.tag).limit(limit))
        return [(name, int(number)) for name, number in rows]


def owned(hub: Hub, caller: Caller, namespace: str, limit: int = 1000, cursor: str | None = None) -> Page:
    """(Repo, bytes of large files) of every kind in one namespace, newest first, for `hf repos ls`."""
    found = query().where(func.lower(repo.c.namespace) == namespace.lower(), visible(caller))
    with hub.reading() as connection:
        rows, following = _paged(connection, found, repo.c.modified, limit, cursor)
        total = select(repo_lfs.c.repo, func.sum(lfs.c.size)).join(lfs, lfs.c.sha256 == repo_lfs.c.sha256)
        total = total.where(repo_lfs.c.repo.in_([row.id for row in rows])).group_by(repo_lfs.c.repo)
        sizes = {one: int(size) for one, size in connection.execute(total)}
    return Page([(from_row(row), sizes.get(row.id, 0)) for row in rows], following)


def _encode(*position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _decode(cursor: str) -> tuple[int, int]:
    try:
        value, last = json.loads(base64.urlsafe_b64decode(cursor))
        if not all(type(one) is int and 0 <= one < 2**62 for one in (value, last)):
            raise ValueError
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest("this cursor is not from this list") from error
    return value, last
