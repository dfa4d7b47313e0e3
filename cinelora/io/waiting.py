"""A line of what goes on and for how long, where a program would be silent: nobody should have to wonder whether it hangs.

Enters: what is being done. Leaves: nothing for what is over at once, else seconds that count up on the terminal or in a log.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cinelora.io.terminal import visible

TICK_S = 4.0
"""Seconds until a line appears, and between two of its states."""
_under_way: list[threading.Event] = []
"""What goes on in this process, each within the one before: the last alone is shown."""


@contextmanager
def waiting(what: str, show: bool = True) -> Iterator[None]:
    """Say on stderr that ``what`` goes on while the block runs, from its fourth second on; ``show`` is for one rank of many."""
    since, done = time.monotonic(), threading.Event()

    def line(end: str = "") -> None:
        sys.stderr.write(f"\r{visible(what)}: {time.monotonic() - since:.0f} s{end}")
        sys.stderr.flush()

    def tick() -> None:
        while not done.wait(TICK_S):
            if _under_way[-1] is done:
                line()

    ticking = threading.Thread(target=tick, daemon=True)
    if show:
        _under_way.append(done)
        ticking.start()
    try:
        yield
    finally:
        done.set()
        if show:
            ticking.join()
            _under_way.remove(done)
            if time.monotonic() - since >= TICK_S:
                line("\n")
