"""A hub in a process of its own on a free port, with accounts, for tests of what clients see."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from hfvision.hub import accounts
from hfvision.hub.instance import Hub, open_hub
from hfvision.hub.settings import PREFIX, HubSettings

PROJECT = Path(__file__).parents[2]
CODE = "from hfvision.hub.serving import serve; from hfvision.hub.settings import HubSettings\n"
CODE += "serve(HubSettings.from_environment(), port={port})"
SMALL = {"page_size": 3, "multipart_above": 2 << 20, "part_size": 1 << 20}  # lists have pages, large files parts
TOKENS = {"me": "hf_" + "m" * 32, "you": "hf_" + "y" * 32}  # user -> token that writes


@dataclass
class Server:
    """A running hub; `hub` is a second opening of the same database and store, for accounts and for looking inside."""

    endpoint: str
    hub: Hub
    process: subprocess.Popen[str]
    log: Path
    tokens: dict[str, str] = field(default_factory=lambda: dict(TOKENS))

    def client(self, user: str | None = "me") -> httpx2.Client:
        """Plain HTTP as a user, or as nobody."""
        headers = {} if user is None else {"Authorization": f"Bearer {self.tokens[user]}"}
        return httpx2.Client(base_url=self.endpoint, headers=headers, timeout=60)

    def environment(self, home: Path, user: str | None = "me", **more: str) -> dict[str, str]:
        """For a fresh process that is an ordinary client of this hub, with caches of its own in `home`."""
        dropped = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE"}
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        given = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(PROJECT),
        }
        if user is not None:
            given["HF_TOKEN"] = self.tokens[user]
        return kept | given | more


@contextmanager
def running(settings: HubSettings, python: str = sys.executable, port: int = 0) -> Iterator[Server]:
    """Serve until the block ends, on a free port if it is 0.

    The process gets its settings through the environment, as an operator gives them.
    """
    hub = open_hub(settings)
    settings.root.mkdir(parents=True, exist_ok=True)
    log = settings.root / "server.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    for name, default in vars(HubSettings()).items():
        value = getattr(settings, name)
        if value != default:
            environment[PREFIX + name.upper()] = str(int(value) if isinstance(value, bool) else value)
    environment["PYTHONPATH"] = str(PROJECT)
    with log.open("w") as errors:
        command = [python, "-c", CODE.format(port=port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint.startswith("http://127.0.0.1:"), f"the hub did not start:\n{log.read_text()}"
        wait_for(endpoint, process, log)
        yield Server(endpoint, hub, process, log)
    finally:
        process.terminate()
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            hub.close()


def wait_for(endpoint: str, process: subprocess.Popen[str], log: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            httpx2.get(f"{endpoint}/api/models?limit=1")
            return
        except httpx2.TransportError:
            assert process.poll() is None and time.monotonic() < end, f"the hub does not answer:\n{log.read_text()}"
            time.sleep(0.05)


def add_users(hub: Hub, tokens: dict[str, str] = TOKENS) -> None:
    """Users with one writing token each."""
    for name, token in tokens.items():
        accounts.create_user(hub, name)
        accounts.create_token(hub, name, "test", text=token)
