"""A bar of tqdm's whose seconds go on: one step may take minutes, where it compiles, or where a clip is long.

Enters: what tqdm takes. Leaves: a bar that is drawn again every few seconds, while nothing else is shown within.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from tqdm.auto import tqdm

from cinelora.io.terminal import note_word
from cinelora.io.waiting import end, ticking


class LiveBar(tqdm):  # type: ignore[misc]
    """tqdm's bar, which is also drawn while nothing moves it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._done = threading.Event()
        super().__init__(*args, **options)
        if not self.disable:
            # The thread must not keep a bar alive that its owner has dropped, which closes it.
            shown = weakref.ref(self)
            ticking(self._done, lambda: _refresh(shown()))

    def display(self, *args: Any, **options: Any) -> Any:
        """Draw the bar."""
        note_word()
        return super().display(*args, **options)

    def close(self) -> None:
        """Draw the last state."""
        end(self._done)
        super().close()


def _refresh(bar: LiveBar | None) -> None:
    if bar is not None and not bar.disable:
        bar.refresh()
