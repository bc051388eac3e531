"""A small Hub on loopback: repositories, branches, uploads in a commit and beside it, and what it may refuse."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 1000
"""Files of more bytes go beside the commit, as the Hub wants them from some size on."""


@dataclasses.dataclass
class Hub:
    """What was sent; ``refuse``: the status and message of every answer from the call of this name on."""

    url: str = ""
    token: str = "hf_secret"
    private: dict[str, bool] = dataclasses.field(default_factory=dict)
    branches: set[str] = dataclasses.field(default_factory=set)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)
    calls: list[str] = dataclasses.field(default_factory=list)
    refuse: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = _name(path)
        hub.calls.append(name)
        if not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer(401, {"error": f"Invalid credentials {self.headers.get('Authorization')}"})
        if name in hub.refuse:
            status, message = hub.refuse[name]
            return self._answer(status, {"error": message})
        return self._answer(*getattr(self, f"_{name}", self._unknown)(path, body))

    do_GET = do_POST = do_PUT = _handle

    def _unknown(self, path: str, _: bytes) -> tuple[int, Any]:
        return 404, {"error": f"nothing at {path}"}

    def _create(self, _: str, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        repo = "/".join(filter(None, (asked.get("organization") or "me", asked["name"])))
        kind = "datasets/" if asked.get("type") == "dataset" else ""
        there = f"{kind}{repo}" in self.hub.private
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.private.setdefault(f"{kind}{repo}", private)
        return (409 if there else 200), {"url": f"{self.hub.url}/{kind}{repo}", "name": repo, "id": repo}

    def _validate(self, _: str, body: bytes) -> tuple[int, Any]:
        return 200, {"errors": [], "warnings": []}

    def _info(self, path: str, _: bytes) -> tuple[int, Any]:
        repo = path.removeprefix("/api/").removeprefix("models/")
        if repo not in self.hub.private:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo, "private": self.hub.private[repo], "tags": [], "siblings": []}

    def _branch(self, path: str, _: bytes) -> tuple[int, Any]:
        self.hub.branches.add(path.rpartition("/")[2])
        return 200, {}

    def _preupload(self, _: str, body: bytes) -> tuple[int, Any]:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] > LARGE else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": [{**file, "oid": None} for file in files]}

    def _batch(self, _: str, body: bytes) -> tuple[int, Any]:
        wanted = json.loads(body)["objects"]
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}", "header": {}}}}
            for one in wanted
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _object(self, path: str, body: bytes) -> tuple[int, Any]:
        oid = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        return 200, {}

    def _commit(self, path: str, body: bytes) -> tuple[int, Any]:
        branch = path.rpartition("/")[2]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[f"{branch}:{value['path']}"] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[f"{branch}:{value['path']}"] = self.hub.objects[value["oid"]]
        oid = "c" * 40
        repo = re.sub(r"^/api/(models/)?|/commit/.*", "", path)
        return 200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}


def _name(path: str) -> str:
    """The call that a path is of."""
    patterns = {
        "create": r"/api/repos/create",
        "validate": r"/api/validate-yaml",
        "branch": r"/api/\w+/[^/]+/[^/]+/branch/.+",
        "preupload": r"/api/\w+/[^/]+/[^/]+/preupload/.+",
        "commit": r"/api/\w+/[^/]+/[^/]+/commit/.+",
        "info": r"/api/\w+/[^/]+/[^/]+",
        "batch": r"/.+\.git/info/lfs/objects/batch",
        "object": r"/objects/\w+",
    }
    return next((name for name, pattern in patterns.items() if re.fullmatch(pattern, path)), path)


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A Hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
