"""Users, organisations, tokens, and who is calling (protocol section 3)."""

import hashlib
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from hfvision.hub.clock import now_ms, to_datetime, to_ms
from hfvision.hub.database import account, insert_new, member, repo, token
from hfvision.hub.errors import BadRequest, BadToken, Conflict, NotFound
from hfvision.hub.instance import Hub
from hfvision.hub.names import check_account_name

KINDS = {"model": "models", "dataset": "datasets", "space": "spaces", "kernel": "kernels"}  # kind -> plural in paths
PREFIXES = {kind: "" if kind == "model" else f"{plural}/" for kind, plural in KINDS.items()}  # of addresses
ROLES = ("read", "write", "admin")  # of members, each includes those before it
TOKEN_ROLES = ("read", "write", "fineGrained")
SEEDED = "hfvision"  # namespace of the starter models and datasets
_TOKEN_TEXT = re.compile(r"[A-Za-z0-9_-]{16,200}")


@dataclass(frozen=True)
class Membership:
    """One organisation of a user."""

    id: int
    name: str
    fullname: str
    role: str  # read | write | admin


@dataclass(frozen=True)
class Account:
    """A user or an organisation."""

    id: int
    name: str
    kind: str  # user | org
    fullname: str
    email: str
    created: datetime
    private_by_default: bool = False  # new repositories of this namespace are private unless asked otherwise


@dataclass(frozen=True)
class Grant:
    """One line of a fine-grained token: a namespace ("me") or one repository ("models/me/x"), read or write."""

    target: str
    role: str

    def covers(self, kind: str, namespace: str, name: str, role: str) -> bool:
        mine = {namespace.lower(), f"{KINDS[kind]}/{namespace}/{name}".lower()}
        return self.target.lower() in mine and (role == "read" or self.role == "write")


@dataclass(frozen=True)
class Caller:
    """Who asks: anonymous (`account` None) or an account through one of its tokens.

    What the account may do comes from its name and memberships; what the token lets through is at most that.
    """

    account: Account | None = None
    orgs: tuple[Membership, ...] = ()
    token_id: int | None = None
    token_name: str = ""
    token_role: str = "read"  # read | write | fineGrained
    token_created: datetime | None = None
    scope: tuple[Grant, ...] = ()  # of fineGrained tokens: all that they may touch

    @property
    def anonymous(self) -> bool:
        return self.account is None

    @property
    def name(self) -> str:
        """The account's name, "" when anonymous."""
        return self.account.name if self.account else ""

    def role_in(self, namespace: str) -> str | None:
        """admin | write | read, or None: of the account, whatever the token."""
        if self.account is None:
            return None
        if namespace.lower() == self.account.name.lower():
            return "admin"
        return next((org.role for org in self.orgs if org.name.lower() == namespace.lower()), None)

    def may_read(self, kind: str, namespace: str, name: str) -> bool:
        """Whether the caller sees a private repository of that name."""
        return self._may("read", "read", kind, namespace, name)

    def may_write(self, kind: str, namespace: str, name: str) -> bool:
        """Commit, branch, tag, create."""
        return self._may("write", "write", kind, namespace, name)

    def may_administer(self, kind: str, namespace: str, name: str) -> bool:
        """Delete, move, settings, requests for access: the owner, or an admin of the organisation."""
        return self._may("admin", "write", kind, namespace, name)

    def reaches(self, kind: str, namespace: str, name: str) -> bool:
        """Whether the token is for that repository, too, whatever its account may do there."""
        return self._lets("read", kind, namespace, name)

    def may_propose(self, kind: str, namespace: str, name: str) -> bool:
        """Open a pull request on a repository that the caller sees: a matter of the token alone."""
        return self.account is not None and self._lets("write", kind, namespace, name)

    def _may(self, role: str, token_role: str, kind: str, namespace: str, name: str) -> bool:
        own = self.role_in(namespace)
        if own is None or ROLES.index(own) < ROLES.index(role):
            return False
        return self._lets(token_role, kind, namespace, name)

    def _lets(self, role: str, kind: str, namespace: str, name: str) -> bool:
        """Whether the token, whatever its account, is for that repository and that role."""
        if self.token_role == "fineGrained":
            return any(grant.covers(kind, namespace, name, role) for grant in self.scope)
        return role == "read" or self.token_role == "write"


@dataclass(frozen=True)
class TokenRow:
    """A token as listed; its text is never kept."""

    id: int
    account: str
    name: str
    role: str
    scope: tuple[Grant, ...]
    created: datetime
    expires: datetime | None


ANONYMOUS = Caller()


def authenticate(hub: Hub, text: str | None) -> Caller:
    """The caller behind a token; None or "" is anonymous. Raises BadToken if unknown or expired."""
    if not text:
        return ANONYMOUS
    # looked up by hash: nothing is compared with the text itself, so timing tells nothing about it
    return _caller(hub, token.c.hash == _digest(text))


def resume(hub: Hub, token_id: int) -> Caller:
    """The caller behind a token that was authenticated before: sessions of the web pages. Raises BadToken."""
    return _caller(hub, token.c.id == token_id)


def _caller(hub: Hub, of_token: ColumnElement[bool]) -> Caller:
    with hub.reading() as connection:
        row = connection.execute(select(token).where(of_token)).first()
        if row is None or (row.expires is not None and row.expires <= now_ms()):
            raise BadToken
        found = connection.execute(select(account).where(account.c.id == row.account)).one()
        orgs = _memberships(connection, row.account)
    return Caller(
        account=_account(found),
        orgs=tuple(orgs),
        token_id=row.id,
        token_name=row.name,
        token_role=row.role,
        token_created=to_datetime(row.created),
        scope=_scope(row.scope),
    )


def set_up(hub: Hub, name: str) -> str | None:
    """On a hub without any token: make a user, a token for it, and the organisation that `seed` publishes under.

    Returns the token's text, or None where there are tokens already. A start that was cut off half-way goes on here.
    """
    check_account_name(name, "user")
    with hub.reading() as connection:
        if connection.scalar(select(func.count()).select_from(token)):
            return None
    with suppress(Conflict):
        create_user(hub, name)
    if name.lower() != SEEDED:
        with suppress(Conflict):
            create_org(hub, SEEDED)
        set_member(hub, SEEDED, name, "admin")
    return create_token(hub, name, "first")


def create_user(hub: Hub, name: str, fullname: str = "", email: str = "") -> Account:
    """Raises BadRequest for a name that is reserved or malformed, Conflict if taken (in any case)."""
    return _create(hub, name, "user", fullname=fullname, email=email)


def create_org(hub: Hub, name: str, fullname: str = "", private_by_default: bool = False) -> Account:
    """Raises as `create_user`; it has no members yet."""
    return _create(hub, name, "org", fullname=fullname, private_by_default=private_by_default)


def _create(hub: Hub, name: str, kind: str, **given: Any) -> Account:
    check_account_name(name, "user" if kind == "user" else "organisation")
    values = {"name": name, "name_ci": name.lower(), "kind": kind, "created": now_ms(), **given}
    with hub.writing() as connection:
        if not insert_new(connection, account, [values]):
            raise Conflict(f"the name {name} is taken")
        return _find(connection, name)


def find_account(hub: Hub, name: str, kind: str | None = None) -> Account:
    """By name in any case. Raises NotFound."""
    with hub.reading() as connection:
        return _find(connection, name, kind)


def list_accounts(hub: Hub, kind: str | None = None) -> list[Account]:
    """All of them, or those of a kind, by name."""
    query = select(account).order_by(account.c.name_ci)
    with hub.reading() as connection:
        return [
            _account(row) for row in connection.execute(query if kind is None else query.where(account.c.kind == kind))
        ]


def delete_account(hub: Hub, name: str) -> None:
    """Raises NotFound, and Conflict while it owns repositories."""
    with hub.writing() as connection:
        found = _find(connection, name)
        owned = connection.scalar(select(func.count()).select_from(repo).where(repo.c.owner == found.id))
        if owned:
            raise Conflict(f"{found.name} owns {owned} repositories: move or delete them first")
        connection.execute(delete(account).where(account.c.id == found.id))


def set_member(hub: Hub, org: str, user: str, role: str | None) -> None:
    """Give a role (read, write, admin) in an organisation, or end it with None."""
    if role is not None and role not in ROLES:
        raise BadRequest(f"a member's role is one of {', '.join(ROLES)}; got {role!r}")
    with hub.writing() as connection:
        ids = {"org": _find(connection, org, "org").id, "user": _find(connection, user, "user").id}
        connection.execute(delete(member).where(member.c.org == ids["org"], member.c.user == ids["user"]))
        if role is not None:
            connection.execute(insert(member).values(role=role, **ids))


def members(hub: Hub, org: str) -> list[tuple[Account, str]]:
    """Users of an organisation with their roles, by name."""
    with hub.reading() as connection:
        query = select(account, member.c.role).join(member, member.c.user == account.c.id).order_by(account.c.name_ci)
        rows = connection.execute(query.where(member.c.org == _find(connection, org, "org").id))
        return [(_account(row), row.role) for row in rows]


def memberships(hub: Hub, user: str) -> list[Membership]:
    """Organisations of a user, by name."""
    with hub.reading() as connection:
        return _memberships(connection, _find(connection, user, "user").id)


def create_token(
    hub: Hub,
    user: str,
    name: str,
    role: str = "write",
    scope: tuple[Grant, ...] = (),
    expires: datetime | None = None,
    text: str | None = None,
) -> str:
    """The text of a new token, told this once: only its sha256 is kept. `text` sets it (tests, migrations).

    Raises BadRequest for a role or scope that cannot be, NotFound for the user, Conflict for a name in use.
    """
    if role not in TOKEN_ROLES:
        raise BadRequest(f"a token's role is one of {', '.join(TOKEN_ROLES)}; got {role!r}")
    if (role == "fineGrained") != bool(scope):
        raise BadRequest("a fine-grained token needs a scope, and other tokens have none")
    if any(grant.role not in ("read", "write") for grant in scope):
        raise BadRequest("each line of a token's scope says read or write")
    if not 0 < len(name) <= 96:
        raise BadRequest("a token's name has 1 to 96 characters")
    text = text or "hf_" + secrets.token_hex(20)
    if not _TOKEN_TEXT.fullmatch(text):
        raise BadRequest("a token's text has 16 to 200 letters, digits, '_' and '-'")
    try:
        with hub.writing() as connection:
            connection.execute(
                insert(token).values(
                    hash=_digest(text),
                    account=_find(connection, user, "user").id,
                    name=name,
                    role=role,
                    scope=[[grant.target, grant.role] for grant in scope],
                    created=now_ms(),
                    expires=None if expires is None else to_ms(expires),
                )
            )
    except Conflict as error:
        raise Conflict(f"{user} has a token named {name} already") from error
    return text


def list_tokens(hub: Hub, user: str | None = None) -> list[TokenRow]:
    """Of one user or of all, by user and name."""
    query = select(token, account.c.name.label("user")).join(account, account.c.id == token.c.account)
    with hub.reading() as connection:
        if user is not None:
            query = query.where(token.c.account == _find(connection, user, "user").id)
        return [
            TokenRow(
                id=row.id,
                account=row.user,
                name=row.name,
                role=row.role,
                scope=_scope(row.scope),
                created=to_datetime(row.created),
                expires=None if row.expires is None else to_datetime(row.expires),
            )
            for row in connection.execute(query.order_by(account.c.name_ci, token.c.name))
        ]


def delete_token(hub: Hub, user: str, name: str) -> None:
    """From now on it is unknown. Raises NotFound."""
    with hub.writing() as connection:
        owner = _find(connection, user, "user").id
        gone = connection.execute(delete(token).where(token.c.account == owner, token.c.name == name))
        if not gone.rowcount:
            raise NotFound(f"{user} has no token named {name}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _find(connection: Connection, name: str, kind: str | None = None) -> Account:
    row = connection.execute(select(account).where(account.c.name_ci == name.lower())).first()
    if row is None or (kind is not None and row.kind != kind):
        what = {"user": "user", "org": "organisation"}.get(kind or "", "account")
        raise NotFound(f"there is no {what} named {name}")
    return _account(row)


def _account(row: Any) -> Account:
    return Account(
        row.id, row.name, row.kind, row.fullname, row.email, to_datetime(row.created), row.private_by_default
    )


def _memberships(connection: Connection, user: int) -> list[Membership]:
    query = select(account.c.id, account.c.name, account.c.fullname, member.c.role)
    query = query.join(member, member.c.org == account.c.id).where(member.c.user == user)
    return [Membership(*row) for row in connection.execute(query.order_by(account.c.name_ci))]


def _scope(rows: list[list[str]]) -> tuple[Grant, ...]:
    return tuple(Grant(target, role) for target, role in rows)
