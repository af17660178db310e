"""What goes wrong in a page is a page, and in the API JSON, whatever it was."""

import asyncio

import pytest

from hfvision.hub.app import HubApp, api_routes
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings
from hfvision.hub.web import lists
from hfvision.hub.web.pages import Pages


async def ask(app, path, accept=b"*/*"):
    """Status, content type and text of an answer."""
    told = []
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    headers = [(b"host", b"h:1"), (b"accept", accept), (b"x-amzn-trace-id", b"trace-7")]
    scope |= {"scheme": "http", "headers": headers, "client": ("127.0.0.1", 1), "server": ("h", 1), "root_path": ""}

    async def send(message):
        told.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, receive, send)
    kind = dict(told[0]["headers"])[b"content-type"].decode()
    return told[0]["status"], kind.partition(";")[0], b"".join(part.get("body", b"") for part in told[1:]).decode()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A hub whose lists fail in a way that nobody foresaw."""

    def fail(*_, **__):
        raise RuntimeError("details that are nobody's business")

    hub = open_hub(HubSettings(root=tmp_path))
    monkeypatch.setattr(lists.repositories, "search", fail)
    yield HubApp(hub, [*api_routes(), *Pages(hub).routes()])
    hub.close()


def test_an_unexpected_error_is_a_page_with_the_request_id(broken, caplog):
    status, kind, text = asyncio.run(ask(broken, "/models"))
    assert (status, kind) == (500, "text/html") and "trace-7" in text and "nobody" not in text
    assert "nobody's business" in caplog.text and caplog.records[0].request_id == "trace-7"
    status, kind, text = asyncio.run(ask(broken, "/api/models"))
    assert (status, kind) == (500, "application/json") and "trace-7" in text


def test_an_address_of_nothing_is_a_page_for_browsers_only(broken):
    browser = b"text/html,application/xhtml+xml,*/*;q=0.8"
    assert asyncio.run(ask(broken, "/me/x/nothing", browser))[:2] == (404, "text/html")
    assert asyncio.run(ask(broken, "/me/x/nothing"))[:2] == (404, "application/json")
    assert asyncio.run(ask(broken, "/api/nothing"))[:2] == (404, "application/json")
