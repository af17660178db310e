"""The nginx configuration of docs/hub.md, word for word but for the certificate, between a real client and the hub."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from hfvision.hub.settings import HubSettings
from tests.hub.backends import free_ports, wait
from tests.hub.server import SMALL, add_users, running

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
if NGINX is None:
    pytest.skip("no nginx on this machine", allow_module_level=True)

DOCS = Path(__file__).parents[2] / "docs" / "hub.md"
FRAME = """
pid {folder}/pid; daemon off; error_log stderr; {user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {server}
}}
"""
CLIENT = """
    import hashlib, random
    from huggingface_hub import HfApi, hf_hub_download
    api = HfApi()
    repo = api.create_repo("proxied").repo_id
    data = random.Random(0).randbytes(20_000_000)
    api.upload_file(path_or_fileobj=data, path_in_repo="deep/näme #1%.bin", repo_id=repo)
    path = hf_hub_download(repo, "deep/näme #1%.bin")
    assert hashlib.sha256(open(path, "rb").read()).digest() == hashlib.sha256(data).digest()
    api.create_branch(repo, branch="feat/x")
    print(api.upload_file(path_or_fileobj=b"a", path_in_repo="a", repo_id=repo, revision="feat/x").commit_url)
"""


@pytest.fixture(params=["", "/hub"], ids=["own host", "below a path"])
def proxied(request, tmp_path):
    """A hub behind nginx: (its address there, the server)."""
    port, behind = free_ports(2)
    address = f"http://127.0.0.1:{port}{request.param}"
    (text,) = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "listen 443 ssl;" in text and "location / {" in text and "http://127.0.0.1:8000;" in text
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8000", f"127.0.0.1:{behind}")
    if request.param:
        text = text.replace("location / {", f"location {request.param}/ {{")
        text = text.replace("location = /metrics", f"location = {request.param}/metrics")
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path, user=user, server=text))
    settings = HubSettings(root=tmp_path / "root", public_url=address, **SMALL)
    with running(settings, port=behind) as server:
        add_users(server.hub)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([NGINX, "-c", str(tmp_path / "nginx.conf")], stdout=log, stderr=log)
        try:
            wait(lambda: _answers(address), process)
            yield address, server
        finally:
            process.terminate()
            process.wait(30)


def _answers(address):
    try:
        answer = httpx2.get(f"{address}/api/models")
        return answer.status_code == 200 and answer.headers["server"].startswith("nginx")
    except httpx2.TransportError:
        return False


def test_a_default_client_works_through_the_documented_proxy(proxied, tmp_path):
    address, server = proxied
    environment = server.environment(tmp_path / "cache", HF_ENDPOINT=address)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLIENT)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:] + server.log.read_text()[-2000:]
    assert done.stdout.startswith(f"{address}/me/proxied/commit/")
    assert "/v1/xorbs/" in server.log.read_text()
    page = httpx2.get(f"{address}/me/proxied")
    assert page.status_code == 200 and page.text.count(f'"{urlsplit(address).path}/me/proxied/tree/main"')
    assert httpx2.get(f"{address}/metrics").status_code == 403  # for those who ask the hub itself, past the proxy
    assert httpx2.get(f"{server.endpoint}/metrics").status_code == 200
