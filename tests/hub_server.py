"""A small server on this machine that answers as the hub does, for one repository ``owner/name``.

It takes uploads as the hub does without Xet: small text in the commit itself, all else as LFS objects beforehand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WRITER, READER = "hf_writer", "hf_reader"
"""Tokens: one may write, the other may not."""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot and a commit need; ``asked`` keeps what was posted, by path."""

    protocol_version = "HTTP/1.1"
    files: MutableMapping[str, bytes]
    asked: list[tuple[str, Any]]
    objects: dict[str, bytes]

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if path in ("/api/models/owner/name", "/api/models/owner/name/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            content = json.dumps({"_id": "1", "id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
            content = json.dumps([entry(name, self.files[name]) for name in self.files]).encode()
        elif name in self.files:
            content = self.files[name]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.body()
        path = self.path.partition("?")[0]
        replies: dict[str, Callable[[Any], Any]] = {
            "/api/repos/create": lambda _: {"url": f"{self.address}/owner/name"},
            "/api/validate-yaml": lambda _: {"warnings": []},
            "/api/models/owner/name/preupload/main": self.upload_modes,
            "/owner/name.git/info/lfs/objects/batch": self.batch,
            "/api/models/owner/name/commit/main": self.commit,
        }
        if self.headers["Authorization"] != f"Bearer {WRITER}":
            self.reply(403, {"error": "this token may not write to owner/name"})
        elif path not in replies or (path == "/api/repos/create" and json.loads(body)["organization"] != "owner"):
            self.reply(404, {"error": "no such thing"})
        else:
            content = [json.loads(line) for line in body.splitlines()] if "commit" in path else json.loads(body)
            self.asked.append((path, content))
            self.reply(200, replies[path](content))

    def do_PUT(self) -> None:
        self.objects[self.path.removeprefix("/lfs/")] = self.body()
        self.reply(200, {})

    def upload_modes(self, content: Any) -> Any:
        def mode(path: str) -> str:
            return "regular" if path.endswith((".md", ".yaml")) else "lfs"

        files = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in content["files"]]
        return {"files": files}

    def batch(self, content: Any) -> Any:
        def upload(oid: str) -> Any:
            return {"upload": {"href": f"{self.address}/lfs/{oid}"}}

        return {"transfer": "basic", "objects": [o | {"actions": upload(o["oid"])} for o in content["objects"]]}

    def commit(self, content: Any) -> Any:
        for line in content:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
        return {"commitUrl": f"{self.address}/owner/name/commit/{COMMIT}", "commitOid": COMMIT}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):  # chunks, each after its size
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""


def entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def serve(files: MutableMapping[str, bytes], asked: list[tuple[str, Any]] | None = None) -> Iterator[str]:
    """The address of a hub whose only repository holds ``files``, which a commit adds to; ``asked`` takes what is posted."""
    own = {"files": files, "asked": [] if asked is None else asked, "objects": {}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Repository", (Hub,), own))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
