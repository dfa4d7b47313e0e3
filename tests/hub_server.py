"""A small server on this machine that answers as the hub does, for one repository ``owner/name``."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot needs."""

    protocol_version = "HTTP/1.1"
    files: Mapping[str, bytes] = {}

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

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""


def entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a hub whose only repository holds ``files``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Repository", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
