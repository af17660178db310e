"""Gated repositories: asking to be let in, and letting in (protocol section 2)."""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms, to_datetime
from hfvision.hub.database import access, account, insert_new
from hfvision.hub.errors import BadRequest, Conflict, LoginNeeded, NotFound
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import ADMIN, Repo, find_in


@dataclass(frozen=True)
class AccessRequest:
    """Somebody who asked to be let in, or was let in unasked."""

    id: str
    user: str
    fullname: str
    status: str  # pending | accepted | rejected
    asked: datetime


def request_access(hub: Hub, caller: Caller, found: Repo) -> str:
    """Ask to be let into a gated repository: the status, "accepted" at once (auto) or "pending" (manual)."""
    if caller.account is None:
        raise LoginNeeded
    status = "accepted" if found.gated == "auto" else "pending"
    values = {"repo": found.id, "account": caller.account.id, "status": status, "asked": now_ms()}
    mine = access.c.repo == found.id, access.c.account == caller.account.id
    with hub.writing() as connection:
        if not insert_new(connection, access, [values]) and status == "accepted":  # it was manual when they asked
            connection.execute(update(access).where(*mine, access.c.status == "pending").values(status=status))
        return connection.execute(select(access.c.status).where(*mine)).scalar_one()


def access_status(hub: Hub, caller: Caller, found: Repo) -> str | None:
    """How the caller's own request stands: pending, accepted or rejected; None where they never asked."""
    if caller.account is None:
        return None
    mine = select(access.c.status).where(access.c.repo == found.id, access.c.account == caller.account.id)
    with hub.reading() as connection:
        return connection.scalar(mine)


def access_requests(hub: Hub, caller: Caller, found: Repo) -> list[AccessRequest]:
    """All of a repository, oldest first, for those who administer it."""
    asked = select(account.c.id, account.c.name, account.c.fullname, access.c.status, access.c.asked)
    asked = asked.join(account, account.c.id == access.c.account).where(access.c.repo == found.id)
    with hub.reading() as connection:
        find_in(connection, caller, found.kind, found.full_name, ADMIN)
        rows = connection.execute(asked.order_by(access.c.asked))
        return [
            AccessRequest(f"{row.id:024x}", row.name, row.fullname, row.status, to_datetime(row.asked)) for row in rows
        ]


def answer_access(hub: Hub, caller: Caller, found: Repo, user: str, status: str, by_id: bool = False) -> None:
    """Set the status of a user, named by name or by the id of the request: accepted, rejected or pending.

    A user who never asked can be let in, too. Raises NotFound for the user, Conflict where the status is that already.
    """
    if status not in ("accepted", "rejected", "pending"):
        raise BadRequest(f"a request is accepted, rejected or pending; got {status[:40]!r}")
    wanted = account.c.name_ci == user.lower()
    if by_id:
        wanted = account.c.id == (int(user, 16) if re.fullmatch("0{9}[0-9a-f]{15}", user) else -1)
    with hub.writing() as connection:
        find_in(connection, caller, found.kind, found.full_name, ADMIN)
        row = connection.execute(select(account.c.id, account.c.name).where(wanted, account.c.kind == "user")).first()
        if row is None:
            raise NotFound(f"there is no request {user}" if by_id else f"there is no user named {user}")
        mine = access.c.repo == found.id, access.c.account == row.id
        if connection.scalar(select(access.c.status).where(*mine)) == status:
            raise Conflict(f"the request of {row.name} is {status} already")
        connection.execute(delete(access).where(*mine))
        connection.execute(insert(access).values(repo=found.id, account=row.id, status=status, asked=now_ms()))
