"""A Hub on loopback: real HTTP, and as much of the Hub's API as pushing, pulling and streaming take.

    hub = LoopbackHub()
    environment = os.environ | hub.environment(folder)  # for a fresh process
    hub.add("datasets", "me/data", {"data/train.parquet": content})
    hub.models["me/emoclip"].head.files["config.json"]

Repositories live in memory. `OWNER`'s token may write, `READER`'s may read, any other is refused.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER, READER = "hf_of_the_owner", "hf_of_a_reader"
LARGE = 1_000_000  # bytes from which a file goes through LFS, as every binary file does
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
TASKS = (
    "image-classification",
    "audio-classification",
    "video-classification",
    "any-to-any",
    "zero-shot-classification",
)


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]
    large: set[str]  # paths that came through LFS


@dataclass
class Repository:
    private: bool = False
    sdk: str | None = None  # of a Space
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        return self.head if revision == "main" else next((c for c in self.commits if c.sha == revision), None)


def is_binary(data: bytes) -> bool:
    return b"\0" in data[:512]


def object_id(commit: Commit, path: str) -> str:
    data = commit.files[path]
    return hashlib.sha256(data).hexdigest() if path in commit.large else git_id(data)


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def metadata_errors(content: str, kind: str) -> list[str]:
    """What the Hub's documentation demands of a card's front matter, where it is not met."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else {}
    errors = []
    if data.get("license", "other") not in ("apache-2.0", "mit", "other"):
        errors.append('"license" must be one of the known identifiers')
    for name in data.get("datasets", []) + data.get("models", []):
        if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", name):
            errors.append(f"{name!r} is no id")
    if kind == "space":
        needed = {"title", "emoji", "sdk", "app_file"} | ({"sdk_version"} if data.get("sdk") == "gradio" else set())
        if not needed <= set(data) or data["sdk"] not in ("gradio", "static"):
            errors.append(f"{', '.join(sorted(needed))} are required")
        if {data.get("colorFrom"), data.get("colorTo")} - set(COLOURS):
            errors.append("colours")
        if len(data.get("short_description", "")) > 60:
            errors.append('"short_description" must be at most 60 characters long')
        return errors
    if data.get("pipeline_tag") not in (None, *TASKS):
        errors.append('"pipeline_tag" must be a known task')
    for model in data.get("model-index", []):
        for i, result in enumerate(model["results"]):
            if not result.get("task", {}).get("type"):
                errors.append(f'"model-index[0].results[{i}].task.type" is required')
            if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", str(result.get("dataset", {}).get("type"))):
                errors.append(f'"model-index[0].results[{i}].dataset.type" fails to match the required pattern')
            if not result.get("dataset", {}).get("name"):
                errors.append(f'"model-index[0].results[{i}].dataset.name" is required')
            if not result.get("metrics") or any("type" not in m or "value" not in m for m in result["metrics"]):
                errors.append(f'"model-index[0].results[{i}].metrics" need type and value')
    return errors


class LoopbackHub:
    """`repositories` by kind ("models", "datasets", "spaces") and id; `calls` is every request so far."""

    def __init__(self):
        self.repositories: dict[str, dict[str, Repository]] = {"models": {}, "datasets": {}, "spaces": {}}
        self.blobs: dict[str, bytes] = {}  # LFS objects by their SHA-256
        self.calls: list[tuple[str, str]] = []
        self.drop_uploads = False  # whether connections break off in the middle of an LFS object
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def models(self) -> dict[str, Repository]:
        return self.repositories["models"]

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, folder: Path, token: str | None = OWNER) -> dict[str, str]:
        """Variables under which a process knows this Hub alone, and starts with empty caches in `folder`."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def add(self, kind: str, name: str, files: dict[str, bytes], sha: str | None = None, private: bool = False) -> str:
        """Commits files to a repository, which is made where it is not there; the commit's id."""
        repository = self.repositories[kind].setdefault(name, Repository(private))
        return self.commit(repository, files, "added", sha)

    def commit(
        self, repository: Repository, files: dict[str, bytes], message: str, sha: str | None = None, removed=()
    ) -> str:
        before = repository.head.files if repository.commits else {}
        every = {path: data for path, data in before.items() if path not in removed} | files
        sha = sha or hashlib.sha1(f"{id(repository)} {len(repository.commits)} {message}".encode()).hexdigest()
        large = {path for path, data in every.items() if is_binary(data) or len(data) >= LARGE}
        repository.commits.append(Commit(sha, message, every, large))
        return sha


class HubHandler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: object = b"", **headers: str):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str):
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.calls.append((self.command, path))
        if self.command == "PUT" and self.hub.drop_uploads:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            return self.connection.close()
        body = self.body()
        if self.token not in (None, OWNER, READER):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        routes = (
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", self.validate),
            (r"POST /api/(\w+)/([\w.-]+/[\w.-]+)/preupload/main", self.preupload),
            (r"POST (?:/(datasets|spaces))?/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /objects/(\w+)", self.put),
            (r"POST /api/(\w+)/([\w.-]+/[\w.-]+)/commit/main", self.receive),
            (r"GET /api/(\w+)/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?", self.info),
            (r"GET /api/(\w+)/([\w.-]+/[\w.-]+)/tree/([^/]+)(?:/(.*))?", self.tree),
            (r"POST /api/(\w+)/([\w.-]+/[\w.-]+)/paths-info/([^/]+)", self.paths),
            (r"(?:HEAD|GET) (?:/(datasets|spaces))?/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
        )
        for pattern, route in routes:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return route(body, *match.groups())
        self.refuse(404, "", f"{self.command} {path}: the loopback Hub does not know it")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    # --- Pushing

    def may_write(self) -> bool:
        if self.token == OWNER:
            return True
        if self.token is None:
            self.refuse(401, "", "Invalid username or password.")
        else:
            self.refuse(403, "", "You don't have the rights to create a model under the namespace")
        return False

    def create(self, body: bytes):
        if not self.may_write():
            return
        asked = json.loads(body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if name in self.hub.repositories[kind]:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[kind][name] = Repository(private, asked.get("sdk"))
        self.hub.commit(self.hub.repositories[kind][name], {".gitattributes": b"*.bin filter=lfs\n"}, "initial commit")
        self.answer(200, {"url": url, "name": name, "id": name})

    def validate(self, body: bytes):
        asked = json.loads(body)
        errors = metadata_errors(asked["content"], asked["repoType"])
        self.answer(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": []})

    def preupload(self, body: bytes, kind: str, name: str):
        if not self.may_write() or self.find(kind, name) is None:
            return
        files = []
        for file in json.loads(body)["files"]:
            large = is_binary(base64.b64decode(file["sample"])) or file["size"] >= LARGE
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.answer(200, {"files": files})

    def batch(self, body: bytes, kind: str | None, name: str):
        if not self.may_write():
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:  # what is there already is not asked for again
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{asked['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, "", "The object is not the one that was announced")
        self.hub.blobs[oid] = body
        self.answer(200)

    def receive(self, body: bytes, kind: str, name: str):
        repository = self.find(kind, name) if self.may_write() else None
        if repository is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        files, removed = {}, set()
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                removed.add(value["path"])
        sha = self.hub.commit(repository, files, lines[0]["value"]["summary"], removed=removed)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    # --- Pulling

    def find(self, kind: str | None, name: str) -> Repository | None:
        repository = self.hub.repositories[kind or "models"].get(name)
        if repository is None or (repository.private and self.token != OWNER):
            # Who may not see it is not told that it is there.
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def find_commit(self, kind: str | None, name: str, revision: str) -> Commit | None:
        repository = self.find(kind, name)
        commit = repository and repository.at(revision)
        if repository and commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def info(self, body: bytes, kind: str, name: str, revision: str | None):
        if commit := self.find_commit(kind, name, revision or "main"):
            siblings = [{"rfilename": path} for path in commit.files]
            private = self.hub.repositories[kind][name].private
            about = {"id": name, "sha": commit.sha, "private": private, "siblings": siblings, "tags": []}
            if kind == "spaces":
                about["sdk"] = self.find(kind, name).sdk
            self.answer(200, about | {"modelId": name, "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    @staticmethod
    def describe(commit: Commit, path: str) -> dict:
        size, oid = len(commit.files[path]), object_id(commit, path)
        entry = {"type": "file", "path": path, "size": size, "oid": git_id(commit.files[path])}
        return entry | ({"lfs": {"oid": oid, "size": size, "pointerSize": 130}} if path in commit.large else {})

    def tree(self, body: bytes, kind: str, name: str, revision: str, folder: str | None):
        commit = self.find_commit(kind, name, revision)
        if commit is None:
            return
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder.strip('/')}/" if folder else ""
        entries = {}
        for path in (path for path in commit.files if path.startswith(prefix)):
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                parent = prefix + "/".join(parts[:depth])
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": git_id(parent.encode())}
            if recursive or len(parts) == 1:
                entries[path] = self.describe(commit, path)
        if not entries and prefix:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        self.answer(200, list(entries.values()))

    def paths(self, body: bytes, kind: str, name: str, revision: str):
        if commit := self.find_commit(kind, name, revision):
            is_json = body.startswith(b"{")
            asked = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
            found = [self.describe(commit, path) for path in asked if path in commit.files]
            for path in asked:
                if path not in commit.files and any(file.startswith(f"{path}/") for file in commit.files):
                    found.append({"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())})
            self.answer(200, found)

    def resolve(self, body: bytes, kind: str | None, name: str, revision: str, path: str):
        commit = self.find_commit(kind, name, revision)
        if commit is None:
            return
        if path not in commit.files:
            return self.refuse(404, "EntryNotFound", f"{path} does not exist")
        data, oid = commit.files[path], object_id(commit, path)
        headers = {"ETag": f'"{oid}"', "X_Repo_Commit": commit.sha, "Accept_Ranges": "bytes"}
        if path in commit.large:
            headers |= {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(data))}
        if self.command == "HEAD":
            return self.answer(200, Content_Length=str(len(data)), **headers)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            return self.answer(
                206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", **headers
            )
        self.answer(200, data, **headers)
