"""What a word of ``models=`` says: a model of ``conf/``, and where its adapters lie.

Enters: words such as ``tiny`` or ``tiny@outputs/motion/noir/last``. Leaves: a ``ModelWord`` of each. What lies behind a source is
not asked here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cinelora.errors import ConfigError


@dataclass(frozen=True)
class ModelWord:
    """A model by name, and its run, adapter file or ``hub:owner/name[@revision]``; ``ckpt`` None is the base model."""

    name: str
    ckpt: str | None = None

    @classmethod
    def of(cls, text: str) -> ModelWord:
        """What ``text`` says. Raises ``ConfigError`` where it names no model, or nothing after its @."""
        # no model is called by a name with an @ in it: what stands after the first one, further ones too, is a place
        name, at, source = text.strip().partition("@")
        if not name or (at and not source):
            what = "adapters" if name else "model"
            raise ConfigError(f"models=[{text}] names no {what}: write <model>, or <model>@<run>")
        return cls(name, source or None)

    def __str__(self) -> str:
        return self.name if self.ckpt is None else f"{self.name}@{self.ckpt}"
