"""``hub:owner/name`` through the hub's own client, against a small server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import serve

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
from cinelora.io.hub import resolve
try:
    print(resolve(sys.argv[1]))
except CineloraError as error:
    sys.exit(f"{type(error).__name__}: {error}")
assert "torch" not in sys.modules
"""


@pytest.fixture
def hub() -> Iterator[str]:
    with serve(FILES) as address:
        yield address


def resolved(source: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    environment = kept | {"HF_HOME": str(home)} | environment
    command = [sys.executable, "-c", RESOLVE, source]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


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
