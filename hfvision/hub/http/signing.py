"""Addresses that carry their own permission for a while: `?sig=..` over the method and the path, with its time."""

from itsdangerous import BadSignature, SignatureExpired
from starlette.requests import Request

from hfvision.hub.errors import Forbidden
from hfvision.hub.instance import Hub


def signed(hub: Hub, method: str, path: str) -> str:
    """The path with a permission for one method, good for `settings.link_seconds`."""
    said = _said(method, path)
    return f"{path}?sig={hub.signer('address').sign(said).decode()[len(said) + 1 :]}"


def check(hub: Hub, request: Request) -> None:
    """Raises Forbidden unless this very address was signed by this hub and has not expired."""
    said = _said(request.method, request.scope["raw_path"].decode("latin-1"))
    given = request.query_params.get("sig", "").encode("utf-8", "replace")
    try:
        hub.signer("address").unsign(said.encode() + b"." + given, max_age=hub.settings.link_seconds)
    except SignatureExpired as error:
        raise Forbidden("This address has expired; ask for a new one.") from error
    except BadSignature as error:
        raise Forbidden("The signature of this address is not valid.") from error


def _said(method: str, path: str) -> str:
    return f"{method} {path}"
