"""Run huggingface_hub's own tests against a hub of this project, each test in the version that 2.4.0 was released with.

    python -m tests.hub.upstream [--postgres] [--s3] [--sdist FILE] [-- pytest arguments]

Downloads the source distribution through pip, unpacks its tests into a temporary folder, adds the fixtures that it
does not ship, serves a new hub (SQLite and a folder, or PostgreSQL and a bucket on servers of their own) and runs the
tests listed in `nodeids.txt` but those in `left_out.txt`. The exit code is pytest's, or 1 where the hub's log has a
fault. Needs huggingface_hub in that version, pytest-mock and pytest-timeout.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hfvision.hub import accounts
from hfvision.hub.instance import Hub
from hfvision.hub.settings import HubSettings
from tests.hub.backends import new_bucket, new_database, object_store, postgres
from tests.hub.server import running

HERE = Path(__file__).parent
VERSION = "2.4.0"
PUBLIC = "https://hub-ci.huggingface.co"  # where these tests run upstream
USERS = {  # user -> (full name, token), as the tests' own constants have them
    "__DUMMY_HUB_USER__": ("Dummy User", "hf_HubCITokenXXXXXXXXXXXXXXXXXXXXX"),
    "DVUser": ("", "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"),
    "EnterpriseAdmin": ("", "hf_enterprise_admin_token"),
}
ORGS = {  # organisation -> (full name, member, private by default)
    "valid_org_hub": ("Dummy Hub Org", "__DUMMY_HUB_USER__", False),
    "EnterpriseOrgPrivate": ("", "EnterpriseAdmin", True),
}
FAULT = re.compile(r'"status": 5\d\d|"level": "error"|Traceback')  # of a line of the hub's log
MARKERS = "api asyncio deprecated git_lfs inference no_xet production transfer vcr xet"
INI = """[pytest]
addopts = -sq --strict-markers -p no:cacheprovider --timeout 120
markers =
{markers}
"""


def left_out() -> dict[str, str]:
    """Node id -> why the hub refuses on purpose what the test wants."""
    lines = (HERE / "left_out.txt").read_text().splitlines()
    return dict(line.split("  ", 1) for line in lines if line and not line.startswith("#"))


def wanted() -> list[str]:
    skipped = left_out()
    return [line for line in (HERE / "nodeids.txt").read_text().split() if line not in skipped]


def download(folder: Path) -> Path:
    """The source distribution, through pip."""
    exact = f"huggingface_hub=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", exact]
    subprocess.run([*command, "-d", str(folder)], check=True)
    return next(folder.glob("*.tar.gz"))


def unpack(sdist: Path, folder: Path, endpoint: str) -> None:
    """The tests, their public host replaced by the hub, with fixtures and settings of ours."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tests = next(folder.glob("huggingface_hub-*/tests"))
    shutil.move(tests, folder / "tests")
    for path in (folder / "tests").glob("*.py"):
        path.write_text(path.read_text().replace(PUBLIC, endpoint))
    (folder / "tests" / "__init__.py").touch()
    shutil.copy(HERE / "client_conftest.py", folder / "tests" / "conftest.py")
    markers = "\n".join(f"    {marker}: as upstream" for marker in MARKERS.split())
    (folder / "pytest.ini").write_text(INI.format(markers=markers))


def add_accounts(hub: Hub) -> None:
    for name, (fullname, token) in USERS.items():
        accounts.create_user(hub, name, fullname)
        accounts.create_token(hub, name, "ci", text=token)
    for name, (fullname, member, private) in ORGS.items():
        accounts.create_org(hub, name, fullname, private_by_default=private)
        accounts.set_member(hub, name, member, "admin")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server started for this")
    parser.add_argument("--s3", action="store_true", help="on an S3-compatible server started for this")
    parser.add_argument("--sdist", type=Path, help="the source distribution, if it is here already")
    parser.add_argument("--only", action="append", help="a node id to run instead of the list; may be repeated")
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hub-upstream-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        database = new_database(stack.enter_context(postgres(folder))) if args.postgres else ""
        store = ""
        if args.s3:
            os.environ.update(stack.enter_context(object_store(folder)))
            store = new_bucket(dict(os.environ))
        settings = HubSettings(root=folder / "hub", database=database, store=store)
        with running(settings) as server:
            add_accounts(server.hub)
            print(f"{server.endpoint} on {server.hub.engine.dialect.name} and {server.hub.store.url}", flush=True)
            unpack(args.sdist or download(folder), folder, server.endpoint)
            environment = server.environment(folder / "home", user=None)
            environment |= {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "PYTHONPATH": ""}
            environment.pop("HF_HUB_DISABLE_PROGRESS_BARS")
            environment.pop("HF_HUB_DISABLE_TELEMETRY")
            command = [sys.executable, "-m", "pytest", *(args.only or wanted()), *args.pytest]
            code = subprocess.run(command, cwd=folder, env=os.environ | environment).returncode
            faults = [line for line in server.log.read_text().splitlines() if FAULT.search(line)]
            print("\n".join(["the hub failed:", *faults] if faults else ["the hub never failed"]), file=sys.stderr)
        return code or int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
