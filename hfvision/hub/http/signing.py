"""Addresses that carry their own permission for a while: `?expires=..&sig=..` over the path."""

import hmac
import time

from starlette.requests import Request

from hfvision.hub.errors import Forbidden
from hfvision.hub.instance import Hub
from hfvision.hub.names import whole_number


def signature(hub: Hub, method: str, path: str, expires: int) -> str:
    return hub.sign("address", f"{method}\n{path}\n{expires}")


def signed(hub: Hub, method: str, path: str) -> str:
    """The path with a permission for one method, good for `settings.link_seconds`."""
    expires = int(time.time()) + hub.settings.link_seconds
    return f"{path}?expires={expires}&sig={signature(hub, method, path, expires)}"


def check(hub: Hub, request: Request) -> None:
    """Raises Forbidden unless this very address was signed by this hub and has not expired."""
    expires, given = whole_number(request.query_params.get("expires", ""), 15), request.query_params.get("sig", "")
    path = request.scope["raw_path"].decode("latin-1")
    if (
        expires is None
        or not given.isascii()
        or not hmac.compare_digest(given, signature(hub, request.method, path, expires))
    ):
        raise Forbidden("The signature of this address is not valid.")
    if expires < time.time():
        raise Forbidden("This address has expired; ask for a new one.")
