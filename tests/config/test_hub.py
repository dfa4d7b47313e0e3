"""``hub:owner/name`` through the hub's own client, against a small server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.yaml": b"model: {name: tiny}\n",
    "style.safetensors": b"not looked into here",
    "checkpoints/last": b"step-1",
    "evil.bin": b"a pickle, say",
    "train.py": b"raise SystemExit",
}
RESOLVE = """
import sys
from cinelora.errors import CineloraError
from cinelora.hub import resolve
try:
    print(resolve(sys.argv[1]))
except CineloraError as error:
    sys.exit(f"{type(error).__name__}: {error}")
assert "torch" not in sys.modules
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot needs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if path in ("/api/models/owner/name", "/api/models/owner/name/revision/main"):
            siblings = [{"rfilename": name} for name in FILES]
            content = json.dumps({"_id": "1", "id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
            content = json.dumps([entry(name) for name in FILES]).encode()
        elif name in FILES:
            content = FILES[name]
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


def entry(name: str) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolved(source: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    environment = kept | {"HF_HOME": str(home)} | environment
    command = [sys.executable, "-c", RESOLVE, source]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("source", ["hub:owner/name", "hub:owner/name@main"])
def test_a_run_is_fetched_without_anything_that_could_run(hub: str, tmp_path: Path, source: str) -> None:
    done = resolved(source, tmp_path, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()) == [
        "checkpoints/last",
        "config.yaml",
        "style.safetensors",
    ]
    assert (run / "config.yaml").read_bytes() == FILES["config.yaml"]


def test_a_repository_that_is_not_there_is_a_sentence(hub: str, tmp_path: Path) -> None:
    done = resolved("hub:owner/gone", tmp_path, HF_ENDPOINT=hub)
    assert done.stderr.splitlines()[-1].startswith("ModelError: ckpt=hub:owner/gone cannot be fetched from the hub: ")


def test_no_network_is_a_sentence(tmp_path: Path) -> None:
    done = resolved("hub:owner/name", tmp_path, HF_HUB_OFFLINE="1")
    assert done.stderr.startswith("ModelError: ckpt=hub:owner/name cannot be fetched from the hub: ")
    assert len(done.stderr.splitlines()) == 1
