"""A small server on this machine that answers W&B's client as W&B does, for as long as it is alive.

It knows one user, takes every run, and keeps the numbers of each step that arrive. Asked for by wandb 0.31; what a later
client asks beyond that is answered with nothing, which it takes for a feature that this server lacks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = "somebody"
KEY = "0" * 40


class Answers(BaseHTTPRequestHandler):
    """As much of W&B's protocol as a run needs: GraphQL to open it, one stream of numbers, and files that nobody keeps.

    It is HTTP/1.0, a connection for each request: no open one outlives the server.
    """

    server: WandbServer

    def do_POST(self) -> None:
        content = self.body()
        if self.server.refuses and self.path.endswith("/file_stream"):
            self.reply(404, {"error": "no such run"})
        elif self.path.endswith("/file_stream"):
            self.server.keep(json.loads(content))
            self.reply(200, {})
        elif self.path == "/graphql":
            asked = json.loads(content)
            self.reply(200, {"data": self.data(asked["query"], asked.get("variables") or {})})
        else:  # what the client tells of itself
            self.reply(200, {})

    def do_PUT(self) -> None:
        self.body()
        self.reply(200, {})

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "viewer" in query:
            teams: dict[str, Any] = {"edges": []}
            return {"viewer": {"id": "1", "entity": USER, "username": USER, "flags": "{}", "teams": teams}}
        if "upsertBucket" in query:
            project = {"id": "2", "name": variables["project"], "entity": {"id": "1", "name": USER}}
            self.server.runs.append(variables)
            bucket = {"id": "3", "name": variables["name"], "displayName": variables["displayName"], "project": project}
            return {"upsertBucket": {"bucket": bucket | {"config": "{}", "historyLineCount": 0}, "inserted": True}}
        if "query ArtifactType(" in query:
            return {"project": {"artifact": None}}
        if "mutation CreateArtifact " in query:
            self.server.artifacts.append(variables["input"])
            artifact = {"id": "4", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}
        return {}

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""


class WandbServer(ThreadingHTTPServer):
    """The stand-in: ``history`` is what has arrived, a dict of numbers for each line; ``refuses`` denies that the run exists.

    ``runs`` and ``artifacts`` are what was asked of it about them. It has every artifact already, and so is sent no file of one.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answers)
        self.lines: dict[int, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.refuses = False
        self.changed = threading.Condition()
        self.alive = True
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self.lines[number] for number in sorted(self.lines)]

    def keep(self, content: dict[str, Any]) -> None:
        part = content.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        with self.changed:
            for number, line in enumerate(part["content"], part["offset"]):
                self.lines[number] = json.loads(line)
            self.changed.notify_all()

    def wait_for(self, key: str, value: float, seconds: float) -> bool:
        """Whether ``key`` has arrived with that value, ``seconds`` from now at the latest."""
        with self.changed:
            return self.changed.wait_for(lambda: any(line.get(key) == value for line in self.history), seconds)

    def die(self) -> None:
        """Close the socket: who asks from now on is refused."""
        if self.alive:
            self.alive = False
            self.shutdown()
            self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle is no news."""


@contextmanager
def serve(port: int = 0) -> Iterator[WandbServer]:
    """A server that lives until it is told to ``die``, or to the end of the block."""
    server = WandbServer(port)
    try:
        yield server
    finally:
        server.die()
