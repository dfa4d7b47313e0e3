"""The parts of a checkpoint in memory: each is loaded when it is used, and released where its block ends.

Enters: a part. Leaves: its module or tokenizer. What a part is, and how it is read, the family's own class knows.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cinelora.families.family import Part
from cinelora.io.waiting import waiting
from cinelora.parallel.launch import rank_info


class HeldParts(ABC):
    """What holds parts; ``device`` is where they are put."""

    device: torch.device
    _loaded: dict[Part, Any]

    @contextmanager
    def loaded(self, *parts: Part) -> Iterator[None]:
        """Hold ``parts`` in memory inside the block and release them after it."""
        for part in parts:
            self._part(part)
        try:
            yield
        finally:
            for part in parts:
                self._loaded.pop(part, None)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _part(self, part: Part) -> Any:
        if part not in self._loaded:
            with waiting(f"loading {part}", rank_info().global_rank == 0):
                self._loaded[part] = self._load(part)
        return self._loaded[part]

    @abstractmethod
    def _load(self, part: Part) -> Any:
        """Read one part."""
