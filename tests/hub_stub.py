"""A Hub in a thread: what an unmodified huggingface_hub needs to make, fill and read model repositories.

Large files come by git-LFS's protocol, as this server offers no Xet. Everything is kept in memory; `requests` records
what was asked. It listens on 127.0.0.1 only.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from huggingface_hub import ModelCard

LFS_ABOVE = 2**16  # bytes; smaller ones too where they are not text
NO_TOKEN, UNKNOWN_TOKEN = "Invalid username or password.", "Invalid credentials in Authorization header"


class Blob(NamedTuple):
    content: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self):
        """As git names it: of a large file, the name of the text that stands for it."""
        size = len(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()
        held = pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    def described(self, path):
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.oid} | (
            {"lfs": large} if self.lfs else {}
        )


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict = field(default_factory=dict)  # name -> sha
    commits: dict = field(default_factory=dict)  # sha -> {path: Blob}

    def commit(self, branch, files, message=""):
        sha = hashlib.sha1(f"{len(self.commits)} {branch} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def sha(self, revision):
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Refusal(Exception):
    def __init__(self, status, message, code=None, **headers):
        self.status, self.message, self.code, self.headers = status, message, code, headers


class HubStub:
    """`users`: token -> (name, may write). `fault` is what goes wrong with commits: the connection breaks
    "before commit" or "after commit", somebody else was faster ("overtaken"), or there is "damage".
    """

    def __init__(self):
        self.users = {"hf_me": ("me", True), "hf_reader": ("reader", False)}
        self.repositories = {}
        self.large = {}  # sha256 -> bytes
        self.requests = []
        self.fault = None
        self.url = ""

    def add(self, repo_id, files=(), **fields):
        """A repository with files {path: bytes}."""
        found = self.repositories[repo_id] = Repository(**fields)
        found.commit("main", {path: blob(content) for path, content in dict(files).items()})
        return found

    def files(self, repo_id, revision="main"):
        found = self.repositories[repo_id]
        return {path: one.content for path, one in found.commits[found.sha(revision)].items()}

    def asked(self, *parts):
        """The requests whose line has all parts."""
        return [line for line in self.requests if all(part in line for part in parts)]


def blob(content):
    return Blob(content, len(content) > LFS_ABOVE or b"\0" in content[:512])


@contextmanager
def hub_stub():
    hub = HubStub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStub

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_HEAD(self):
        self.answer("HEAD")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, method):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{method} {self.path}")
        segments = [unquote(one) for one in urlsplit(self.path).path.strip("/").split("/")]
        try:
            self.route(method, segments)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            self.send(json.dumps({"error": refusal.message}).encode(), refusal.status, headers)

    def route(self, method, segments):
        match segments:
            case ["api", "whoami-v2"]:
                name, writes = self.user()
                role = {"displayName": "test", "role": "write" if writes else "read"}
                self.json({"type": "user", "name": name, "orgs": [], "auth": {"accessToken": role}})
            case ["api", "repos", "create"]:
                self.create()
            case ["api", "validate-yaml"]:
                self.json({"errors": [], "warnings": []})
            case ["api", "models", owner, name, *rest]:
                self.model(f"{owner}/{name}", rest)
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self.writable(f"{owner}/{name.removesuffix('.git')}")
                self.lfs_batch()
            case ["lfs", sha256]:
                if hashlib.sha256(self.body).hexdigest() != sha256:
                    raise Refusal(400, "not the bytes that were announced")
                self.hub.large[sha256] = self.body
                self.json({})
            case ["lfs", sha256, "verify"]:
                self.json({} if sha256 in self.hub.large else self.refuse(404, "not uploaded"))
            case [owner, name, "resolve", revision, *path] if path:
                self.resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                raise Refusal(404, f"no such route: {method} {self.path}")

    def model(self, repo_id, rest):
        match rest:
            case [] | ["revision", _]:
                self.info(repo_id, rest[1] if rest else "main")
            case ["tree", revision, *_]:
                _, files = self.at(repo_id, revision)
                self.json([one.described(path) for path, one in files.items()])
            case ["refs"]:
                branches = self.readable(repo_id).branches.items()
                named = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in branches]
                self.json({"branches": named, "tags": [], "converts": []})
            case ["preupload", revision]:
                self.writable(repo_id)
                self.preupload(self.at(repo_id, revision)[1])
            case ["commit", revision]:
                self.commit(repo_id, revision)
            case _:
                raise Refusal(404, "no such route")

    # Who may do what

    def user(self):
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token not in self.hub.users:
            raise Refusal(401, UNKNOWN_TOKEN if token else NO_TOKEN)
        return self.hub.users[token]

    def readable(self, repo_id):
        found = self.hub.repositories.get(repo_id)
        own = self.headers.get("authorization") and self.user()[0] == repo_id.split("/")[0]
        if found is None or (found.private and not own):
            raise Refusal(404, f"Repository not found: {repo_id}", "RepoNotFound")
        return found

    def writable(self, repo_id):
        found = self.readable(repo_id)
        name, writes = self.user()
        if name != repo_id.split("/")[0] or not writes:
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")
        return found

    def at(self, repo_id, revision):
        found = self.readable(repo_id)
        sha = found.sha(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, found.commits[sha]

    # What it is about

    def create(self):
        asked = json.loads(self.body)
        name, writes = self.user()
        owner = asked.get("organization") or name
        repo_id = f"{owner}/{asked['name']}"
        if owner != name or not writes:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner}")
        if repo_id in self.hub.repositories:
            self.json({"url": f"{self.hub.url}/{repo_id}", "error": "You already created this model repo"}, 409)
            return
        self.hub.add(repo_id, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self.json({"url": f"{self.hub.url}/{repo_id}"})

    def info(self, repo_id, revision):
        sha, files = self.at(repo_id, revision)
        found = self.hub.repositories[repo_id]
        card = ModelCard(files["README.md"].content.decode()).data.to_dict() if "README.md" in files else {}
        self.json(
            {
                "id": repo_id,
                "sha": sha,
                "private": found.private,
                "gated": "auto" if found.gated else False,
                "tags": card.get("tags", []),
                "cardData": card,
                "pipeline_tag": card.get("pipeline_tag"),
                "library_name": card.get("library_name"),
                "siblings": [{"rfilename": path} for path in files],
            }
        )

    def preupload(self, files):
        asked = json.loads(self.body)["files"]
        answers = []
        for one in asked:
            held = files.get(one["path"])
            large = one["size"] > LFS_ABOVE or b"\0" in base64.b64decode(one["sample"])
            oid = None if held is None else held.sha256 if held.lfs else held.oid
            mode = "lfs" if large else "regular"
            answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": answers})

    def lfs_batch(self):
        objects = []
        for one in json.loads(self.body)["objects"]:
            href = f"{self.hub.url}/lfs/{one['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(one | ({} if one["oid"] in self.hub.large else {"actions": actions}))
        self.json({"transfer": "basic", "objects": objects})

    def commit(self, repo_id, revision):
        found = self.writable(repo_id)
        sha, files = self.at(repo_id, revision)
        if self.hub.fault == "before commit":
            return self.break_off()
        files, head = dict(files), {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                head = value
            elif line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(self.hub.large[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        if self.hub.fault == "overtaken":
            sha = found.commit(revision, {"theirs.txt": blob(b"first")})
        if head.get("parentCommit", sha) != sha:
            raise Refusal(412, "The branch was updated since you opened this page. Please refresh and try again.")
        if self.hub.fault == "damage":
            files["README.md"] = Blob(files["README.md"].content + b"\n", False)
        request = "create_pr=1" in self.path
        made = found.commit("refs/pr/1" if request else revision, files, head["summary"])
        if self.hub.fault == "after commit":
            return self.break_off()
        answer = {"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{made}"}
        self.json(answer | ({"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/1"} if request else {}))

    def resolve(self, repo_id, revision, path):
        sha, files = self.at(repo_id, revision)
        if self.hub.repositories[repo_id].gated:
            message = f"Access to model {repo_id} is restricted and you are not in the authorized list."
            raise Refusal(403, message, "GatedRepo")
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        found = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{found.sha256 if found.lfs else found.oid}"'}
        headers |= {"X-Linked-Etag": f'"{found.sha256}"', "X-Linked-Size": str(len(found.content))} if found.lfs else {}
        self.send(found.content, 200, headers)

    # Answers

    def break_off(self):
        self.close_connection = True

    def refuse(self, status, message):
        raise Refusal(status, message)

    def json(self, answer, status=200):
        self.send(json.dumps(answer).encode(), status, {"Content-Type": "application/json"})

    def send(self, content, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
