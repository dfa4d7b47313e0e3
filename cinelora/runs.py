"""The layout of a run directory, and what a name for an adapter can mean.

A run holds ``config.yaml`` (what it was asked), ``manifest.jsonl`` and ``dataset.json`` (what it saw), ``checkpoints/``,
``style.safetensors`` and ``motion.safetensors``, or ``transformer/`` where every weight was trained (what it learnt),
``logs/``, ``previews/`` and ``summary.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.errors import AdapterError

KINDS = ("style", "motion")


@dataclass(frozen=True)
class RunDirectory:
    """The names of everything inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:  # noqa: D102
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:  # noqa: D102
        return self.path / "manifest.jsonl"

    @property
    def dataset(self) -> Path:  # noqa: D102
        return self.path / "dataset.json"

    @property
    def checkpoints(self) -> Path:  # noqa: D102
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:  # noqa: D102
        return self.path / "logs"

    @property
    def previews(self) -> Path:  # noqa: D102
        return self.path / "previews"

    @property
    def transformer(self) -> Path:  # noqa: D102
        return self.path / "transformer"

    @property
    def summary(self) -> Path:  # noqa: D102
        return self.path / "summary.json"

    def adapter(self, kind: str) -> Path:
        """The exported adapter of ``style`` or ``motion``."""
        return self.path / f"{kind}.safetensors"


def adapter_paths(source: Path) -> dict[str, Path]:
    """The adapter files that ``source`` (a run directory or one adapter file) offers, by kind.

    Raises ``AdapterError`` where there is none.
    """
    from cinelora.models.adapter_file import read_adapter_facts

    if source.is_dir():
        run = RunDirectory(source)
        found = {kind: run.adapter(kind) for kind in KINDS if run.adapter(kind).exists()}
        if not found:
            raise AdapterError(
                f"{source} holds no adapter (style.safetensors or motion.safetensors); is it a finished run?"
            )
        return found
    if not source.exists():
        raise AdapterError(f"no adapter at {source}; give a run directory, a .safetensors file or hub:owner/name")
    return {str(read_adapter_facts(source).get("kind") or "style"): source}
