"""Running the server: one process over the embedded database, or several that share PostgreSQL and a bucket."""

import socket
from collections.abc import Callable

import uvicorn

from hfvision.errors import ConfigError
from hfvision.hub.app import create_app
from hfvision.hub.operation import log_as_json
from hfvision.hub.settings import HubSettings

STOPPING = 30  # seconds that requests under way are given at the end
IDLE = 75  # seconds that a connection is kept for its next request
BACKLOG = 1024


def from_environment() -> Callable[..., object]:
    """The application with settings from `HFVISION_HUB_*`: what `uvicorn --factory` and its workers load."""
    settings = HubSettings.from_environment()
    log_as_json(settings.log_level)
    return create_app(settings)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises ConfigError if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)  # whoever calls from now on waits for the server instead of being refused
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}. Another --port may be free.") from error
    bound.set_inheritable(True)
    return bound


def endpoint_of(bound: socket.socket, host: str) -> str:
    """What to put into HF_ENDPOINT on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{bound.getsockname()[1]}"


def serve(
    settings: HubSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = lambda endpoint: print(endpoint, flush=True),
) -> None:
    """Serve until SIGINT or SIGTERM, then let requests under way end (30 seconds). `ready` is told the endpoint."""
    log_as_json(settings.log_level)
    bound = listen(host, port)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=STOPPING,
        server_header=False,
        ws="none",
    )
    ready(endpoint_of(bound, host))
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()
