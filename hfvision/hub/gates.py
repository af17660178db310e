"""Gated repositories: asking to be let in, and letting in (protocol section 2)."""

from datetime import datetime

from sqlalchemy import delete, insert, select, update

from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms, to_datetime
from hfvision.hub.database import access, account, insert_new
from hfvision.hub.errors import BadRequest, LoginNeeded, NotFound
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import ADMIN, Repo, find_in


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


def access_requests(hub: Hub, caller: Caller, found: Repo) -> list[tuple[str, str, datetime]]:
    """(user, pending | accepted | rejected, when), for those who administer the repository."""
    asked = select(account.c.name, access.c.status, access.c.asked).join(account, account.c.id == access.c.account)
    with hub.reading() as connection:
        find_in(connection, caller, found.kind, found.full_name, ADMIN)
        rows = connection.execute(asked.where(access.c.repo == found.id).order_by(access.c.asked))
        return [(row.name, row.status, to_datetime(row.asked)) for row in rows]


def answer_access(hub: Hub, caller: Caller, found: Repo, user: str, status: str) -> None:
    """Set a user's status: accepted, rejected or pending. Raises NotFound for the user."""
    if status not in ("accepted", "rejected", "pending"):
        raise BadRequest(f"a request is accepted, rejected or pending; got {status!r}")
    with hub.writing() as connection:
        find_in(connection, caller, found.kind, found.full_name, ADMIN)
        user_id = connection.scalar(
            select(account.c.id).where(account.c.name_ci == user.lower(), account.c.kind == "user")
        )
        if user_id is None:
            raise NotFound(f"there is no user named {user}")
        connection.execute(delete(access).where(access.c.repo == found.id, access.c.account == user_id))
        connection.execute(insert(access).values(repo=found.id, account=user_id, status=status, asked=now_ms()))
