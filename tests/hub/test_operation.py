"""What whoever runs a hub sees: logs without secrets, health, metrics, and an end that loses no request."""

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import anyio
import pytest

from hfvision.hub.operation import JsonLines, Operation, log_as_json, shown_path, without_tokens
from hfvision.hub.settings import HubSettings
from tests.hub.publishing import publish
from tests.hub.server import PROJECT, TOKENS, add_users, running


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A hub whose log and counters hold this file's requests only."""
    with running(HubSettings(root=tmp_path_factory.mktemp("operated"))) as server:
        add_users(server.hub)
        yield server


def test_each_request_is_one_line_of_json_without_secrets(own):
    publish(own.hub, "me/roofs", {"README.md": "# Roofs"})
    token, query = TOKENS["me"], "hf_" + "q" * 32
    with own.client("me") as me:
        me.get(f"/api/models/me/roofs?token={query}", headers={"X-Amzn-Trace-Id": "trace-1"})
        me.get(f"/api/models/me/{token}")
        me.get("/me/roofs/" + "s" * 200)
        me.post("/login", data={"token": token})
    text = own.log.read_text()
    assert token not in text and query not in text and "s" * 65 not in text
    rows = [json.loads(line) for line in text.splitlines()]
    row = next(row for row in rows if row.get("request_id") == "trace-1")
    wanted = {"method": "GET", "path": "/api/models/me/roofs", "status": 200, "user": "me", "level": "info"}
    assert row.items() >= wanted.items() and row["route"].startswith("/api/{") and row["sent"] > 0


def test_health_and_metrics_name_no_repository(own):
    publish(own.hub, "me/quiet-name", {"README.md": "# Quiet"})
    with own.client("me") as me:
        assert me.get("/healthz").json().items() >= {"status": "ok", "database": "ok", "store": "ok"}.items()
        before = counted(me.get("/metrics").text, "/{namespace}/{name}")
        assert me.get("/me/quiet-name").status_code == 200
        text = me.get("/metrics").text
    assert counted(text, "/{namespace}/{name}") == before + 1
    assert "quiet-name" not in text and "hub_request_seconds_bucket" in text


def counted(text, route):
    start = f'hub_requests_total{{method="GET",route="{route}",status="200"}} '
    return sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


def test_a_hub_whose_database_is_gone_says_so():
    @contextmanager
    def reading():
        raise OSError("gone")
        yield

    hub = SimpleNamespace(reading=reading, store=SimpleNamespace(size=lambda key: None))
    sent = []

    async def ask():
        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}
        await Operation(None, hub)(scope, None, send)

    logging.getLogger("hfvision.hub.operation").disabled = True
    try:
        anyio.run(ask)
    finally:
        logging.getLogger("hfvision.hub.operation").disabled = False
    assert sent[0]["status"] == 503
    assert (
        json.loads(sent[1]["body"]).items()
        >= {"status": "failing", "database": "does not answer", "store": "ok"}.items()
    )


def test_an_exception_is_logged_in_one_line_and_without_its_tokens():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"Bearer {TOKENS['me']}\nsecond line")
    except ValueError:
        logger.exception("failed for %s", TOKENS["you"], extra={"request_id": "r"})
    row = json.loads(stream.getvalue())
    assert (row["level"], row["request_id"], row["message"]) == ("error", "r", "failed for [token]")
    assert "[token]\nsecond line" in row["exception"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/api/models/me/x?token=hf_aaaaaaaa", "/api/models/me/x"),
        (b"/lfs/" + b"ab" * 32 + b"/" + b"s" * 300, "/lfs/" + "ab" * 32 + "/ssssssss..."),
        (b"/hf_abcdefgh/x", "/[token]/x"),
        (b"/\xff\n", "/\ufffd\n"),
    ],
)
def test_paths_in_logs_hold_no_signatures(raw, shown):
    assert shown_path(raw) == shown


def test_credentials_are_taken_out_of_texts():
    assert without_tokens('{"authorization": "Basic bWU6eA=="} hf_abcd1234 half_life') == (
        '{"authorization": "[token]"} [token] half_life'
    )


def test_logging_as_json_leaves_one_handler():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log_as_json("WARNING", io.StringIO())
        assert [type(handler.formatter) for handler in root.handlers] == [JsonLines]
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_a_request_under_way_is_answered_before_the_server_ends(tmp_path):
    with running(HubSettings(root=tmp_path)) as server:
        add_users(server.hub)
        publish(server.hub, "me/last", {"README.md": "# Last"})
        header = {"key": "header", "value": {"summary": "last", "description": ""}}
        file = {"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}}
        body = (json.dumps(header) + "\n" + json.dumps(file) + "\n").encode()
        head = (
            "POST /api/models/me/last/commit/main HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
            f"Authorization: Bearer {TOKENS['me']}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        host, port = server.endpoint.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head.encode() + body[:40])
            with server.client() as me:  # once this is answered the server has seen what came before it
                assert me.get("/healthz").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            refused_new_connections(host, int(port))
            connection.sendall(body[40:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b"commitOid" in answer
        assert server.process.wait(30) in (0, -signal.SIGTERM)
        assert '"message": "stopped"' in server.log.read_text()


def refused_new_connections(host, port):
    """Wait until the server takes no new connections: it has begun to end."""
    for _ in range(400):
        time.sleep(0.05)
        try:
            socket.create_connection((host, port), timeout=1).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
    pytest.fail("the server still takes connections")


def test_the_benchmark_measures_every_way(tmp_path):
    command = [sys.executable, PROJECT / "benchmarks" / "hub.py", "--mebibytes", "1", "--rounds", "1"]
    command += ["--output", tmp_path / "report.json"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert len(rows) == 12 and all(row["limit"] and row["what"] in done.stdout for row in rows)
