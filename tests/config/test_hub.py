"""``hub:owner/name`` through the hub's own client, against a small server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, serve

from cinelora.errors import ConfigError
from cinelora.io.hub import adapter_among

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


MANY = (
    "b.safetensors",
    "Lightx2v/a.safetensors",
    "README.md",
    "sd.safetensors",
    "x/adapter_config.json",
    "x/y.safetensors",
)
PEFT = ("adapter_model.safetensors", "adapter_config.json", "checkpoint-5/adapter_model.safetensors")


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


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("only.safetensors", "README.md", "x.bin"), "only.safetensors"),
        (("deep/only.safetensors",), "deep/only.safetensors"),
        (("top.safetensors", "checkpoint-5/top.safetensors"), "top.safetensors"),
        (PEFT, "adapter_model.safetensors"),
        (("pytorch_lora_weights.safetensors", "model.safetensors"), "pytorch_lora_weights.safetensors"),
        (("config.yaml", *MANY), None),
        (("style.safetensors", "motion.safetensors"), None),
        (("README.md",), None),
    ],
)
def test_the_one_adapter_of_a_repository(names: tuple[str, ...], found: str | None) -> None:
    assert adapter_among([*names], "ckpt=hub:owner/name", "owner/name") == found


@pytest.mark.parametrize("names", [MANY, ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")])
def test_of_several_files_one_has_to_be_named(names: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"ckpt=x holds \d files of tensors \(.*\): name one, as in hub:owner/name/"
    ) as said:
        adapter_among([*names], "ckpt=x", "owner/name")
    assert "\n" not in str(said.value)


def test_the_file_that_is_named_is_fetched_and_what_stands_beside_it(tmp_path: Path) -> None:
    sources = ("hub:owner/name/x/y.safetensors", "hub:owner/name/gone.safetensors", "hub:owner/name/../b.safetensors")
    with serve({name: name.encode() for name in MANY}) as address:
        done, gone, up = (resolved(source, tmp_path, HF_ENDPOINT=address) for source in sources)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text() == "x/y.safetensors"
    fetched = [path.as_posix() for path in tmp_path.rglob("snapshots/*/**/*") if path.is_file()]
    assert sorted(path.partition(f"{COMMIT}/")[2] for path in fetched) == ["x/adapter_config.json", "x/y.safetensors"]
    assert resolved(sources[0], tmp_path, HF_HUB_OFFLINE="1").stdout == done.stdout
    words = "there is no gone.safetensors in it; it holds Lightx2v/a.safetensors, b.safetensors, sd.safetensors"
    assert words in gone.stderr
    assert "a source on the hub is written hub:owner/name or hub:owner/name/file.safetensors" in up.stderr


def test_a_repository_that_is_not_there_is_a_sentence(hub: str, tmp_path: Path) -> None:
    done = resolved("hub:owner/gone", tmp_path, HF_ENDPOINT=hub)
    assert done.stderr.splitlines()[-1].startswith("ModelError: ckpt=hub:owner/gone cannot be fetched from the hub: ")


def test_no_network_is_a_sentence(tmp_path: Path) -> None:
    done = resolved("hub:owner/name", tmp_path, HF_HUB_OFFLINE="1")
    assert done.stderr.startswith("ModelError: ckpt=hub:owner/name cannot be fetched from the hub: ")
    assert len(done.stderr.splitlines()) == 1
