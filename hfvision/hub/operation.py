"""What whoever runs a hub sees of it: logs as lines of JSON, `/healthz`, `/metrics`, and an orderly end.

No log line holds a token, a query, a header or a body. Metrics name requests by their route's pattern, so they tell
nobody which repositories exist.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hfvision import __version__
from hfvision.hub.instance import Hub

access = logging.getLogger("hfvision.hub.access")
log = logging.getLogger(__name__)

TOKEN = re.compile(r"\bhf_[A-Za-z0-9_-]{4,}|\b(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
LONGEST_SEGMENT = 64  # characters: a sha256 is shown, a signed address is not
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
QUIET = {"/healthz", "/metrics"}
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
CLIENT_LEFT = 499  # status in logs and metrics of requests whose client left before an answer
STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object for each record: time, level, logger, message, and whatever `extra` it has."""

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        row |= {
            name: value for name, value in vars(record).items() if name not in STANDARD and not name.startswith("_")
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return without_tokens(json.dumps(row, ensure_ascii=False, default=str))


def log_as_json(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Everything that this process logs goes to `stream` (standard error) as lines of JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def without_tokens(text: str) -> str:
    """The text with everything that looks like a credential taken out."""
    return TOKEN.sub("[token]", text)


def shown_path(raw_path: bytes) -> str:
    """A path for logs: no query, long segments cut, as they may be signatures."""
    path = raw_path.partition(b"?")[0].decode("ascii", "replace")
    parts = [part if len(part) <= LONGEST_SEGMENT else f"{part[:8]}..." for part in path.split("/")]
    return without_tokens("/".join(parts))[:500]


class Metrics:
    """Counters of one process; of all workers where PROMETHEUS_MULTIPROC_DIR names a folder that they share."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        labels = ("method", "route", "status")
        self.requests = Counter("hub_requests", "Requests answered.", labels, registry=own)
        self.seconds = Histogram(
            "hub_request_seconds", "From the first byte in to the last byte out.", ("method", "route"),
            registry=own, buckets=SECONDS,
        )  # fmt: skip
        self.received = Counter("hub_received_bytes", "Bytes of request bodies.", registry=own)
        self.sent = Counter("hub_sent_bytes", "Bytes of answers' bodies.", registry=own)
        self.running = Gauge(
            "hub_requests_in_progress", "Requests under way.", registry=own, multiprocess_mode="livesum"
        )
        self.started = Gauge(
            "hub_start_time_seconds", "When this process began to serve.", registry=own, multiprocess_mode="livemin"
        )
        self.started.set_to_current_time()

    def text(self) -> bytes:
        """What Prometheus reads."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)
        return generate_latest(shared)


class Operation:
    """Wraps the server's application. `closing` is called when it shuts down, after the last request."""

    def __init__(self, app: ASGIApp, hub: Hub, closing: Iterable[Callable[[], None]] = ()) -> None:
        self.app = app
        self.hub = hub
        self.closing = tuple(closing)
        self.metrics = Metrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in QUIET and scope["method"] in ("GET", "HEAD"):
            answer = await self._health() if scope["path"] == "/healthz" else self._metrics()
            await answer(scope, receive, send)
        else:
            await self._measured(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_close() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                for close in self.closing:
                    await run_in_threadpool(close)
                log.info("stopped")
            return message

        log.info("started", extra={"version": __version__})
        await self.app(scope, receive_and_close, send)

    async def _health(self) -> Response:
        """200 where the database and the store answer, else 503 and which of them does not."""

        def check() -> dict[str, str]:
            found = {}
            for name, work in (("database", self._ask_database), ("store", self._ask_store)):
                try:
                    work()
                    found[name] = "ok"
                except Exception:
                    log.exception("the %s does not answer", name)
                    found[name] = "does not answer"
            return found

        parts = await run_in_threadpool(check)
        well = all(value == "ok" for value in parts.values())
        body = {"status": "ok" if well else "failing", "version": __version__, **parts}
        return JSONResponse(body, 200 if well else 503, {"Cache-Control": "no-store"})

    def _ask_database(self) -> None:
        with self.hub.reading() as connection:
            connection.exec_driver_sql("SELECT 1").scalar_one()

    def _ask_store(self) -> None:
        self.hub.store.size("healthz")  # absent, which is an answer

    def _metrics(self) -> Response:
        media = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.metrics.text(), headers={"Cache-Control": "no-store"}, media_type=media)

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        status, received, sent = CLIENT_LEFT, 0, 0
        raw_path = scope.get("raw_path") or scope["path"].encode()

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        self.metrics.running.inc()
        try:
            await self.app(scope, counted_receive, counted_send)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - start
            self.metrics.running.dec()
            self._count(scope, status, seconds, received, sent)
            access.info(
                "request",
                extra={
                    "request_id": scope.get("request_id"),
                    "method": scope["method"][:16],
                    "path": shown_path(raw_path),
                    "route": scope.get("route") or "",
                    "status": status,
                    "seconds": round(seconds, 4),
                    "received": received,
                    "sent": sent,
                    "user": _user(scope),
                    "client": (scope.get("client") or ("",))[0],
                },
            )

    def _count(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = scope.get("route") or "none"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        self.metrics.received.inc(received)
        self.metrics.sent.inc(sent)


def _user(scope: Scope) -> str:
    """The account of a request whose caller was looked up."""
    caller = scope.get("caller") or scope.get("web_caller")
    return caller.name if caller is not None else ""
