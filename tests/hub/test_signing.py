"""Signed addresses, Xet tokens and cookies: good for one purpose, until they expire."""

import base64
import time

import pytest
from starlette.requests import Request

from hfvision.hub import xet
from hfvision.hub.errors import BadToken, Forbidden
from hfvision.hub.http import signing
from hfvision.hub.web import sessions


@pytest.fixture
def later(monkeypatch):
    """Lets time pass."""
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


def request(address, method="PUT"):
    path, _, query = address.partition("?")
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": []}
    return Request({**scope, "query_string": query.encode()})


def test_a_signed_address_is_good_for_one_method_and_path_until_it_expires(hub, later):
    address = signing.signed(hub, "PUT", "/a/b")
    signing.check(hub, request(address))
    forged = [request(address, "GET"), request(address.replace("/a/b", "/a/c")), request(address[:-1]), request("/a/b")]
    forged += [request("/a/b?sig=%FF%00"), request("/a/b?sig=..."), request("/a/b?expires=99999999999&sig=" + "0" * 64)]
    for wrong in forged:
        with pytest.raises(Forbidden, match="not valid"):
            signing.check(hub, wrong)
    later(hub.settings.link_seconds + 2)
    with pytest.raises(Forbidden, match="expired"):
        signing.check(hub, request(address))


def test_a_xet_token_expires(hub, owner, repo, later):
    text, access = xet.grant(hub, repo.id, owner, "read")
    assert xet.check(hub, text, access.space, "read") == access
    later(hub.settings.link_seconds + 2)
    with pytest.raises(BadToken):
        xet.check(hub, text, access.space, "read")


def test_a_cookie_names_a_token_for_thirty_days(hub, later):
    cookie = hub.serializer(sessions.PURPOSE).dumps(7)
    assert sessions._token_id(hub, cookie) == 7
    older = base64.urlsafe_b64encode(b"7.99999999999." + b"0" * 64).decode()  # of 0.4.0: its reader signs in anew
    for wrong in ("", "x", cookie[:-1], "é.é.é", older, hub.serializer("xet token").dumps(7)):
        assert sessions._token_id(hub, wrong) is None
    later(sessions.LIFE + 2)
    assert sessions._token_id(hub, cookie) is None
