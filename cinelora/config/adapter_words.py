"""What a word of ``adapters=`` says: a source, how strongly it acts, and in which part of a clip.

Enters: words such as ``file@0.8`` or ``hub:owner/name@0.5:clip``. Leaves: an ``AdapterWord`` of each. What lies behind a
source is not asked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cinelora.errors import ConfigError

MOST = 10.0
"""The largest scale, either way, as that of ``scale.*``."""
PARTS = ("keyframe", "clip")
"""The parts of a clip that an adapter acts in."""
# Paths and revisions of the hub may hold @ and : themselves, so that only a number after the last @ is a scale, and only these
# two words after the last : are a part. What looks like a number, whatever its size, is one: a typing error is to be named.
_FORM = re.compile(
    r"(?P<source>.*?)(@(?P<scale>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?nan|[-+]?inf))?(:(?P<part>keyframe|clip))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class AdapterWord:
    """A run, an adapter file, ``hub:owner/name[@revision]`` or ``embedded:distilled``; ``part`` None is wherever it fits."""

    source: str
    scale: float = 1.0
    part: str | None = None

    @classmethod
    def of(cls, text: str) -> AdapterWord:
        """What ``text`` says. Raises ``ConfigError`` for a scale that none can have, and for no source."""
        found = _FORM.fullmatch(text.strip())
        assert found is not None  # a source may be anything
        scale = float(found["scale"] or 1.0)
        if not math.isfinite(scale) or abs(scale) > MOST:
            raise ConfigError(
                f"adapters=[{text}]: a scale is a number from {-MOST:g} to {MOST:g}, not {found['scale']}"
            )
        if not found["source"]:
            raise ConfigError(
                f"adapters=[{text}] names no adapter: write file@0.8, hub:owner/name@0.5 or file@0.8:clip"
            )
        return cls(found["source"], scale, (found["part"] or "").lower() or None)

    def __str__(self) -> str:
        part = f":{self.part}" if self.part else ""
        return f"{self.source}@{self.scale!r}{part}"


def in_order(words: Iterable[AdapterWord]) -> list[str]:
    """The words in an order of their own: adapters are summed, so whoever types them otherwise asks for the same clip."""
    return sorted(map(str, words))
