"""Who am I, who is that, and what do they own (protocol section 3)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import accounts, repositories
from hfvision.hub.accounts import Account, Membership
from hfvision.hub.errors import Forbidden, LoginNeeded
from hfvision.hub.http.answers import base_url, json_answer, page_answer
from hfvision.hub.http.callers import caller_of, user_of
from hfvision.hub.http.finding import hub_of, iso, page_size
from hfvision.hub.routing import route


def org_json(request: Request, membership: Membership) -> dict[str, Any]:
    return {
        "type": "org",
        "id": f"{membership.id:024x}",
        "name": membership.name,
        "fullname": membership.fullname or membership.name,
        "roleInOrg": membership.role,
        "avatarUrl": avatar(request, membership.name),
    }


def user_json(request: Request, account: Account) -> dict[str, Any]:
    return {
        "user": account.name,
        "fullname": account.fullname or account.name,
        "type": "user",
        "avatarUrl": avatar(request, account.name),
        "isPro": False,
    }


def avatar(request: Request, name: str) -> str:
    return f"{base_url(request)}/avatars/{name}.svg"


async def whoami(request: Request) -> Response:
    caller = await caller_of(request)
    if caller.account is None:
        raise LoginNeeded
    account = caller.account
    token: dict[str, Any] = {"displayName": caller.token_name, "role": caller.token_role}
    if caller.token_created is not None:
        token["createdAt"] = iso(caller.token_created)
    return json_answer(
        {
            "type": "user",
            "id": f"{account.id:024x}",
            "name": account.name,
            "fullname": account.fullname or account.name,
            "email": account.email or None,
            "isPro": False,
            "avatarUrl": avatar(request, account.name),
            "orgs": [org_json(request, membership) for membership in caller.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


async def user_overview(request: Request) -> Response:
    hub = hub_of(request)
    account = await run_in_threadpool(accounts.find_account, hub, request.path_params["user"], "user")
    orgs = await run_in_threadpool(accounts.memberships, hub, account.name)
    return json_answer(
        {
            **user_json(request, account),
            "createdAt": iso(account.created),
            "orgs": [org_json(request, membership) for membership in orgs],
        }
    )


async def org_overview(request: Request) -> Response:
    hub = hub_of(request)
    account = await run_in_threadpool(accounts.find_account, hub, request.path_params["org"], "org")
    users = await run_in_threadpool(accounts.members, hub, account.name)
    return json_answer(
        {
            "name": account.name,
            "fullname": account.fullname or account.name,
            "type": "org",
            "avatarUrl": avatar(request, account.name),
            "numUsers": len(users),
        }
    )


async def org_members(request: Request) -> Response:
    hub = hub_of(request)
    account = await run_in_threadpool(accounts.find_account, hub, request.path_params["org"], "org")
    users = await run_in_threadpool(accounts.members, hub, account.name)
    return json_answer([{**user_json(request, user), "role": role} for user, role in users])


async def owned_repositories(request: Request) -> Response:
    """`hf repos ls`: everything in the caller's namespace, or in an organisation of which they are a member."""
    hub, caller = hub_of(request), await user_of(request)
    namespace = request.path_params.get("org", caller.name)
    if namespace.lower() not in {caller.name.lower(), *(org.name.lower() for org in caller.orgs)}:
        raise Forbidden(f"You are no member of {namespace}.")
    page = await run_in_threadpool(
        repositories.owned,
        hub,
        caller,
        namespace,
        limit=page_size(request, hub.settings.page_size),
        cursor=request.query_params.get("cursor"),
    )
    total = sum(storage for _, storage in page.items) or 1
    rows = [
        {
            "id": repo.full_name,
            "type": repo.kind,
            "visibility": "private" if repo.private else "public",
            "updatedAt": iso(repo.modified),
            "storage": storage,
            "storagePercent": round(100 * storage / total, 2),
        }
        for repo, storage in page.items
    ]
    return page_answer(request, rows, page.cursor)


ROUTES = (
    route("GET", "/api/whoami-v2", whoami),
    route("GET", "/api/users/{user}/overview", user_overview),
    route("GET", "/api/organizations/{org}/overview", org_overview),
    route("GET", "/api/organizations/{org}/members", org_members),
    route("GET", "/api/settings/repositories", owned_repositories),
    route("GET", "/api/organizations/{org}/settings/repositories", owned_repositories),
)
