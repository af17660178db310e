"""How fast the hub is, beside copying the same bytes with plain HTTP through the same server stack and beside cp.

    python benchmarks/hub.py [--mebibytes 1024] [--rounds 3] [--output hub.json]

Everything is timed in one run on loopback, and what counts is the ratios: the client, the server and the disk share
this machine. Figures are medians of the rounds; before each measurement what is written goes to the disk. `limit` says
what a line waits for. Large files go through an unmodified client: Xet (its default), LFS, and plain GET; the plain
copy is a PUT and a GET of an application that only writes and reads a file. What is uploaded is on the disk when it is
acknowledged, so `cp` ends with a sync, too.
"""

import argparse
import base64
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

BLOCK = 1 << 20  # bytes
FILES = 10_000  # of the repository that is listed
COMMITS = 320
CLIENTS = 16
PLAIN = """
import os, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, Response
from starlette.routing import Route

async def put(request):
    with open(sys.argv[1], "wb") as file:
        async for piece in request.stream():
            file.write(piece)
        os.fsync(file.fileno())
    return Response()

async def get(request):
    return FileResponse(sys.argv[1])

app = Starlette(routes=[Route("/", put, methods=["PUT"]), Route("/", get)])
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
CLIENT = """
import os, time
from huggingface_hub import HfApi, hf_hub_download
api, repo, source = HfApi(), os.environ["REPO"], os.environ["SOURCE"]
api.create_repo(repo)
start = time.perf_counter()
api.upload_file(path_or_fileobj=source, path_in_repo="big.bin", repo_id=repo)
middle = time.perf_counter()
path = hf_hub_download(repo, "big.bin")
print(middle - start, time.perf_counter() - middle, os.path.getsize(path) == os.path.getsize(source))
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def process(*command: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command, text=True, **more)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(60)


@contextmanager
def serving(root: Path) -> Iterator[dict[str, str]]:
    """A new hub as an operator starts it; HF_ENDPOINT and HF_TOKEN as it prints them."""
    code = "from hfvision.cli import main; main()"
    command = (sys.executable, "-c", code, "hub", "serve", "--root", str(root), "--port", "0")
    with process(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline().removeprefix("export ").strip() for _ in range(2)]
        yield dict(line.split("=", 1) for line in lines)


def plain_copy(source: Path, folder: Path) -> tuple[float, float]:
    """Seconds of a PUT and a GET through uvicorn and Starlette that keep the file and do nothing else."""
    port = free_port()
    with process(sys.executable, "-c", PLAIN, str(folder / "plain"), str(port)):
        address = f"http://127.0.0.1:{port}/"
        with httpx2.Client(timeout=None) as client:
            for _ in range(100):
                try:
                    client.request("OPTIONS", address)
                    break
                except httpx2.TransportError:
                    time.sleep(0.1)
            start = time.perf_counter()
            with source.open("rb") as file:
                client.put(address, content=file, headers={"Content-Length": str(source.stat().st_size)})
            middle = time.perf_counter()
            fetch(client, address, folder / "fetched")
            return middle - start, time.perf_counter() - middle


def fetch(client: httpx2.Client, address: str, target: Path) -> None:
    with client.stream("GET", address, follow_redirects=True) as answer, target.open("wb") as file:
        answer.raise_for_status()
        for block in answer.iter_raw(BLOCK):
            file.write(block)


def client_copy(environment: dict[str, str], home: Path, repo: str, source: Path, **more: str) -> tuple[float, float]:
    """Seconds of an upload and a download by huggingface_hub in a fresh process."""
    given = {
        "HF_HOME": str(home),
        "REPO": repo,
        "SOURCE": str(source),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-c", CLIENT]
    done = subprocess.run(
        command, env={**os.environ, **environment, **given, **more}, capture_output=True, text=True, check=True
    )
    up, down, same = done.stdout.split()[-3:]
    assert same == "True"
    return float(up), float(down)


def commit(client: httpx2.Client, repo: str, files: dict[str, bytes]) -> None:
    rows: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "files"}}]
    for path, content in files.items():
        value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
        rows.append({"key": "file", "value": value})
    body = "\n".join(json.dumps(row) for row in rows)
    client.post(f"/api/models/{repo}/commit/main", content=body).raise_for_status()


def list_all(client: httpx2.Client, repo: str) -> int:
    count, address = 0, f"/api/models/{repo}/tree/main?recursive=true"
    while address:
        answer = client.get(address)
        count += len(answer.json())
        address = answer.links.get("next", {}).get("url", "")
    return count


def seconds(work: Any, *args: Any) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def copy_to_disk(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def one_round(environment: dict[str, str], folder: Path, mebibytes: int) -> tuple[float, ...]:
    """Seconds of each way, with a file that the hub has not seen."""
    folder.mkdir()
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(BLOCK))
    os.sync()
    copied = seconds(copy_to_disk, source, folder / "copy")
    os.sync()
    plain = plain_copy(source, folder)
    os.sync()
    xet = client_copy(environment, folder / "xet", f"me/xet-{folder.name}", source)
    with source.open("r+b") as file:  # another content, or the hub would find that it has the file
        file.write(os.urandom(BLOCK))
    os.sync()
    lfs = client_copy(environment, folder / "lfs", f"me/lfs-{folder.name}", source, HF_HUB_DISABLE_XET="1")
    os.sync()
    headers = {"Authorization": f"Bearer {environment['HF_TOKEN']}"}
    address = f"{environment['HF_ENDPOINT']}/me/lfs-{folder.name}/resolve/main/big.bin"
    with httpx2.Client(headers=headers, timeout=None) as client:
        got = seconds(fetch, client, address, folder / "got")
    shutil.rmtree(folder)
    return copied, *plain, *xet, *lfs, got


def large(environment: dict[str, str], folder: Path, mebibytes: int, rounds: int) -> list[dict[str, Any]]:
    taken = [one_round(environment, folder / f"round{number}", mebibytes) for number in range(rounds)]
    copied, plain_up, plain_down, xet_up, xet_down, lfs_up, lfs_down, got = map(median, zip(*taken, strict=True))
    chunks = "the client's chunking and hashing; the hub hashes and writes every byte twice"
    lines = [
        ("cp and sync", copied, plain_up, "the disk"),
        ("plain PUT", plain_up, plain_up, "one event loop, through which every byte goes"),
        ("plain GET", plain_down, plain_down, "one event loop, through which every byte goes"),
        ("upload, Xet", xet_up, plain_up, chunks),
        ("upload, LFS", lfs_up, plain_up, "sha256 of every byte, once at each end"),
        ("download, Xet", xet_down, plain_down, "chunks taken apart by the client"),
        ("download, LFS", lfs_down, plain_down, "the client's loop"),
        ("GET", got, plain_down, "one event loop, through which every byte goes"),
    ]
    return [
        {"what": what, "seconds": took, "MiB/s": mebibytes / took, "of plain HTTP": base / took, "limit": limit}
        for what, took, base, limit in lines
    ]


def small(environment: dict[str, str]) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {environment['HF_TOKEN']}"}
    more: dict[str, Any] = {"base_url": environment["HF_ENDPOINT"], "headers": headers, "timeout": None}

    def committing(client: httpx2.Client, repo: str, many: int) -> None:
        for number in range(many):
            commit(client, repo, {"number.txt": str(number).encode()})

    with ExitStack() as stack:
        client, *many = [stack.enter_context(httpx2.Client(**more)) for _ in range(1 + CLIENTS)]

        def one(number: int) -> None:
            committing(many[number], f"me/many{number}", COMMITS // CLIENTS)

        for name in ("wide", "deep", *(f"many{number}" for number in range(CLIENTS))):
            client.post("/api/repos/create", json={"name": name}).raise_for_status()
        commits = seconds(committing, client, "me/deep", COMMITS)
        first = seconds(commit, client, "me/wide", {f"{n // 100}/{n}.txt": b"%d" % n for n in range(FILES)})
        listed = seconds(lambda: list_all(client, "me/wide"))
        assert list_all(client, "me/wide") > FILES
        with ThreadPoolExecutor(CLIENTS) as pool:
            together = seconds(lambda: list(pool.map(one, range(CLIENTS))))
    disk = "one transaction after the other, each on the disk before it is acknowledged"
    return [
        {"what": "commits of one file", "per second": COMMITS / commits, "limit": disk},
        {
            "what": f"the same by {CLIENTS} clients",
            "per second": COMMITS // CLIENTS * CLIENTS / together,
            "limit": disk,
        },
        {"what": f"one commit of {FILES:,} files", "seconds": first, "limit": "hashing and rows of the database"},
        {"what": f"listing {FILES:,} files", "seconds": listed, "limit": "JSON, in pages of 1,000"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the large file")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--output", type=Path, help="write the report here, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as temporary:
        folder = Path(temporary)
        with serving(folder / "hub") as environment:
            rows = [*large(environment, folder, args.mebibytes, args.rounds), *small(environment)]
    about = {"mebibytes": args.mebibytes, "rounds": args.rounds, "cpus": os.cpu_count(), "system": platform.platform()}
    if args.output is not None:
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown: the figure with its unit, how fast beside plain HTTP, and what limits it."""
    lines = ["| | | times plain HTTP | limited by |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        unit = next(unit for unit in ("MiB/s", "per second", "seconds") if unit in row)
        beside = f"{row['of plain HTTP']:.2f}" if "of plain HTTP" in row else ""
        digits = 0 if row[unit] > 10 else 2
        lines.append(f"| {row['what']} | {row[unit]:.{digits}f} {unit} | {beside} | {row['limit']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
