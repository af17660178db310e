"""`hfvision hub`: a Hub of your own: serve it, look after it, fill it.

Commands that change accounts or look after the data open the database and store themselves: they work beside a
running server, and need no token but the right to read the hub's folder. `seed` and `mirror` are ordinary clients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.errors import ConfigError

if TYPE_CHECKING:
    from hfvision.hub.instance import Hub

app = typer.Typer()
user_app = typer.Typer(no_args_is_help=True)
org_app = typer.Typer(no_args_is_help=True)
token_app = typer.Typer(no_args_is_help=True)
app.add_typer(user_app, name="user", help="Add, list and remove users.")
app.add_typer(org_app, name="org", help="Add, list and remove organisations and their members.")
app.add_typer(token_app, name="token", help="Make, list and remove users' tokens.")

RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the hub; default: HFVISION_HUB_ROOT, or hub in the current folder.")
]
NameArgument = Annotated[str, typer.Argument(help="Name of the user or organisation.")]


@contextmanager
def opened(root: Path | None) -> Iterator["Hub"]:
    """An existing hub. Raises ConfigError where there is none: a mistyped folder must not become a new hub."""
    from hfvision.hub.instance import open_hub
    from hfvision.hub.settings import HubSettings

    settings = HubSettings.from_environment(root=root)
    if not settings.database and not (settings.root / "hub.sqlite3").is_file():
        raise ConfigError(f"There is no hub in {settings.root}; start one with: hfvision hub serve --root DIR")
    hub = open_hub(settings)
    try:
        yield hub
    finally:
        hub.close()


@app.command()
def serve(
    root: RootOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines, too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    public_url: Annotated[str | None, typer.Option(help="Address that clients use, behind a proxy.")] = None,
    user: Annotated[str, typer.Option(help="Name of the user that the first start makes.")] = "me",
    as_json: JsonOption = False,
) -> None:
    """Serve the hub until Ctrl-C; the first start makes a user and prints a token."""
    from hfvision.hub.accounts import set_up
    from hfvision.hub.instance import open_hub
    from hfvision.hub.serving import serve
    from hfvision.hub.settings import HubSettings
    from hfvision.termination import default_sigterm

    settings = HubSettings.from_environment(root=root, public_url=public_url)
    hub = open_hub(settings)
    try:
        token = set_up(hub, user)
    finally:
        hub.close()

    def ready(endpoint: str) -> None:
        variables = {"HF_ENDPOINT": settings.public_url or endpoint} | ({"HF_TOKEN": token} if token else {})
        emit(variables, "\n".join(f"export {name}={value}" for name, value in variables.items()), as_json)
        if token is not None:
            typer.echo(f"# the token of user {user}, shown this once; more with: hfvision hub token add", err=True)
        typer.echo(f"# serving {settings.root}; Ctrl-C ends it", err=True)

    with default_sigterm():
        serve(settings, host, port, ready)


@user_app.command("add")
def add_user(
    name: NameArgument,
    fullname: Annotated[str, typer.Option(help="Name as shown.")] = "",
    email: Annotated[str, typer.Option(help="Address that commits carry.")] = "",
    token: Annotated[bool, typer.Option("--token/--no-token", help="Make a first token that may write.")] = True,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a user and, unless told otherwise, a first token."""
    from hfvision.hub.accounts import create_token, create_user

    with opened(root) as hub:
        account = create_user(hub, name, fullname, email)
        text = create_token(hub, name, "first") if token else None
    lines = f"user {account.name} added" + (f"\nHF_TOKEN={text}" if text else "")
    emit({**asdict(account), "token": text}, lines, as_json)


@user_app.command("list")
def list_users(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the users."""
    _list("user", root, as_json)


@user_app.command("remove")
def remove_user(name: NameArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Remove a user who owns no repositories, with all tokens."""
    _remove("user", name, root, as_json)


@org_app.command("add")
def add_org(
    name: NameArgument,
    fullname: Annotated[str, typer.Option(help="Name as shown.")] = "",
    private: Annotated[bool, typer.Option("--private", help="New repositories are private by default.")] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an organisation; it has no members yet."""
    from hfvision.hub.accounts import create_org

    with opened(root) as hub:
        account = create_org(hub, name, fullname, private)
    emit(asdict(account), f"organisation {account.name} added", as_json)


@org_app.command("list")
def list_orgs(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the organisations."""
    _list("org", root, as_json)


@org_app.command("remove")
def remove_org(name: NameArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Remove an organisation that owns no repositories."""
    _remove("org", name, root, as_json)


@org_app.command("member")
def member(
    org: NameArgument,
    user: Annotated[str, typer.Argument(help="Name of the user.")],
    role: Annotated[str, typer.Option(help="read, write or admin; none ends the membership.")] = "write",
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a user a role in an organisation, or end it."""
    from hfvision.hub.accounts import set_member

    with opened(root) as hub:
        set_member(hub, org, user, None if role == "none" else role)
    emit({"org": org, "user": user, "role": role}, f"{user}: {role} in {org}", as_json)


@org_app.command("members")
def members(org: NameArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the members of an organisation."""
    from hfvision.hub import accounts

    with opened(root) as hub:
        rows = [{"name": account.name, "role": role} for account, role in accounts.members(hub, org)]
    emit(rows, "\n".join(f"{row['name']}: {row['role']}" for row in rows), as_json)


@token_app.command("add")
def add_token(
    user: NameArgument,
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    role: Annotated[str, typer.Option(help="read or write; with --scope it is fine-grained.")] = "write",
    scope: Annotated[
        list[str] | None, typer.Option(help="NAME=read|write of a namespace, or models/NAMESPACE/NAME=..; repeatable.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; default: never.", min=1)] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, this once."""
    from hfvision.hub.accounts import Grant, create_token

    grants = tuple(Grant(*line.rpartition("=")[::2]) for line in scope or ())
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with opened(root) as hub:
        text = create_token(hub, user, name, "fineGrained" if grants else role, grants, expires)
    emit({"user": user, "name": name, "token": text}, text, as_json)


@token_app.command("list")
def list_tokens(
    user: Annotated[str | None, typer.Argument(help="Of one user; default: of all.")] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens; their texts are not kept."""
    from hfvision.hub import accounts

    with opened(root) as hub:
        rows = [asdict(row) for row in accounts.list_tokens(hub, user)]
    lines = [f"{row['account']}: {row['name']} ({row['role']}), expires {row['expires'] or 'never'}" for row in rows]
    emit(rows, "\n".join(lines), as_json)


@token_app.command("remove")
def remove_token(
    user: NameArgument,
    name: Annotated[str, typer.Argument(help="Name of the token.")],
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token unknown from now on."""
    from hfvision.hub.accounts import delete_token

    with opened(root) as hub:
        delete_token(hub, user, name)
    emit({"user": user, "name": name}, f"token {name} of {user} removed", as_json)


@app.command()
def gc(root: RootOption = None, as_json: JsonOption = False) -> None:
    """Remove what nothing refers to any more; safe beside a running server."""
    from hfvision.hub.upkeep import collect_garbage

    with opened(root) as hub:
        found = collect_garbage(hub)
    text = f"removed {found.git_objects} git objects, {found.links} links, {found.large_files} large files; "
    text += f"{found.stored_objects} objects of the store, {found.stored_bytes:,} bytes"
    emit(asdict(found), text, as_json)


@app.command()
def fsck(
    contents: Annotated[
        bool, typer.Option("--contents/--no-contents", help="Read every large file and check its hash.")
    ] = True,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify every hash and every reference; exit code 1 if anything is wrong."""
    from hfvision.hub import upkeep

    with opened(root) as hub:
        problems = upkeep.fsck(hub, contents)
    emit({"problems": problems}, "\n".join(problems) or "everything is as it should be", as_json)
    if problems:
        raise typer.Exit(1)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="New folder; it can be served, or restored.")],
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy one state of the hub, its large files included, into a new folder; safe beside a running server."""
    from hfvision.hub import upkeep

    with opened(root) as hub:
        size = upkeep.backup(hub, folder)
    emit({"folder": folder, "large_bytes": size}, f"{folder}: {size:,} bytes of large files", as_json)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder that `backup` made.")],
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a backup into a new, empty hub, embedded or on PostgreSQL and an object store."""
    from hfvision.hub import upkeep
    from hfvision.hub.settings import HubSettings

    settings = HubSettings.from_environment(root=root)
    size = upkeep.restore(folder, settings)
    emit({"root": settings.root, "large_bytes": size}, f"restored {size:,} bytes of large files", as_json)


@app.command()
def seed(
    endpoint: Annotated[str | None, typer.Option(help="Hub to publish to; default: HF_ENDPOINT.")] = None,
    namespace: Annotated[str, typer.Option(help="User or organisation to publish under.")] = "hfvision",
    only: Annotated[list[str] | None, typer.Option(help="Only this model or dataset; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the starter models and the digits datasets, with HF_TOKEN or the stored login."""
    from hfvision.seeding import seed

    rows = seed(endpoint=_endpoint(endpoint), namespace=namespace, only=only, say=_say)
    emit([asdict(row) for row in rows], "\n".join(row.url for row in rows), as_json)


@app.command()
def mirror(
    repo: Annotated[str, typer.Argument(help="NAMESPACE/NAME on the source.")],
    source: Annotated[str | None, typer.Option("--from", help="Hub to copy from; default: the public one.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
    repo_type: Annotated[str, typer.Option("--type", help="model or dataset.")] = "model",
    name: Annotated[str | None, typer.Option(help="Name on the target; default: the same.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Hub to copy to; default: HF_ENDPOINT.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only paths that match; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No paths that match; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a repository from another Hub, its history flattened, every file verified.

    The token for the source, if it needs one, is read from HFVISION_SOURCE_TOKEN.
    """
    import os

    from hfvision.mirroring import PUBLIC, mirror

    if repo_type not in ("model", "dataset"):
        raise ConfigError(f"--type is model or dataset; got {repo_type}")
    options: dict[str, Any] = {"repo_type": repo_type, "include": include or (), "exclude": exclude or ()}
    given = os.environ.get("HFVISION_SOURCE_TOKEN")
    target = _endpoint(endpoint)
    done = mirror(
        repo,
        source=source or PUBLIC,
        revision=revision,
        name=name,
        endpoint=target,
        source_token=given,
        say=_say,
        **options,
    )
    emit(asdict(done), f"{done.url}: {done.files} files, {done.size:,} bytes, {done.copied} copied", as_json)


def _endpoint(given: str | None) -> str:
    """Raises ConfigError rather than let a command that writes fall back on the public Hub."""
    import os

    endpoint = given or os.environ.get("HF_ENDPOINT")
    if not endpoint:
        raise ConfigError("Say which hub: set HF_ENDPOINT, or give --endpoint http://127.0.0.1:8000")
    return endpoint


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _list(kind: str, root: Path | None, as_json: bool) -> None:
    from hfvision.hub.accounts import list_accounts

    with opened(root) as hub:
        rows = list_accounts(hub, kind)
    lines = [f"{row.name}" + (f" ({row.fullname})" if row.fullname else "") for row in rows]
    emit([asdict(row) for row in rows], "\n".join(lines), as_json)


def _remove(kind: str, name: str, root: Path | None, as_json: bool) -> None:
    from hfvision.hub.accounts import delete_account, find_account

    with opened(root) as hub:
        find_account(hub, name, kind)
        delete_account(hub, name)
    emit({"name": name}, f"{name} removed", as_json)
