"""A line that says what is being done and for how long, where a program would be silent: nobody has to wonder whether it hangs.

Enters: what is being done. Leaves: nothing where something was said a moment ago, else seconds that count up on the terminal or
in a log, in a line of their own or in a bar (``io.live_bar``). Of nested work only the innermost is shown.
"""

from __future__ import annotations

import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cinelora.io.terminal import note_word, put, silent_s, visible

TICK_S = 4.0
"""Seconds of silence after which a line appears, or its next state."""
_under_way: list[threading.Event] = []
"""What this process is doing, each within the one before: the last alone is shown."""


@contextmanager
def waiting(
    what: str, show: bool = True, since: float | None = None, write: Callable[[str], object] = put
) -> Iterator[None]:
    """Say on stderr that ``what`` is being done while the block runs, after seconds of silence; ``show`` is for one rank of many.

    ``since`` is a moment of the monotonic clock at which it began, where that was before the block; ``write`` puts text on the
    terminal in another way.
    """
    done, shown = threading.Event(), threading.Event()
    since = time.monotonic() if since is None else since

    def line(ending: str = "") -> None:
        shown.set()
        write(f"\r{visible(what)}: {time.monotonic() - since:.0f} s{ending}")
        note_word()

    if not show:
        yield
        return
    thread = ticking(done, line)
    try:
        yield
    finally:
        end(done)
        thread.join()
        if shown.is_set():
            line("\n")


def ticking(done: threading.Event, act: Callable[[], object]) -> threading.Thread:
    """A thread that acts after seconds of silence, while nothing else is shown within, until ``done``."""

    def tick() -> None:
        while not done.wait(TICK_S / 8):
            if _under_way[-1:] == [done] and silent_s() >= TICK_S:
                act()

    _under_way.append(done)
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    return thread


def end(done: threading.Event) -> None:
    """End the work that is shown."""
    done.set()
    if done in _under_way:
        _under_way.remove(done)


@dataclass
class Turn:
    """Whose a terminal is that a process and its child write to: the parent's, until the child's first word.

    ``file`` lies in a folder of this user's alone, and says who wrote last; who writes there holds it.
    """

    file: Path
    taken: bool = False
    """Whether this process is the child, and has spoken."""

    def write(self, text: str) -> None:
        """Write to stderr as the parent, unless the child has spoken."""
        with self._held() as held:
            if held.read() != "child":
                put(text)
                _say_whose(held, "parent")

    def take(self, word: str) -> None:
        """Take the terminal for the child, whose first ``word`` follows; a line that the parent has begun is ended before it."""
        if self.taken:
            return
        self.taken = True
        with self._held() as held:
            begun = held.read() == "parent"
            _say_whose(held, "child")
        if begun and not word.startswith("\r"):  # what begins so is written over it
            put("\n", sys.__stderr__)

    @contextmanager
    def _held(self) -> Iterator[TextIO]:
        with open(self.file, "a+", encoding="ascii") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.seek(0)
            yield held


def _say_whose(held: TextIO, who: str) -> None:
    held.truncate(0)
    held.write(who)
    held.flush()
