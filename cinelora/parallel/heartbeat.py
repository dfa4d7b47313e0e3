"""A sign of life from each rank, and what a parent makes of it: a rank that hangs neither ends nor says anything.

Enters: in a rank, that a step has ended, or that something of another length begins. Leaves: in the parent, who stands where, in
a sentence, and whether it has lasted too long. Nothing here knows what a step is of.

A rank keeps one line in a file of the exchange folder that its parent made: what it does, since when, the steps that it has done
and what the last ones took. Writing it takes microseconds. Only steps are timed: a save, a preview, a validation takes as long
as it takes, and the first step of a run, which may compile for minutes, is waited for like everything before it.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cinelora.errors import FileError
from cinelora.io.own_files import append_own
from cinelora.io.plain_data import read_bytes, read_text

LEAST_S = 120.0
"""A step is not called late before this."""
TIMES_MEDIAN = 5
KNOWN_STEPS = 3
"""Steps that must be done before the next one can be late."""
REMEMBERED = 31
STACK_SIGNAL = signal.SIGRTMIN + 7
"""Asks a rank for its stack; a scheduler's warnings and Python's own handlers are other signals."""
STACK_S = 1.0
"""How long a rank is given to write it."""
STEP, OTHER = "step", "other"
_LINE = 96
_STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for a disk", "Z": "dead"}


# -- in a rank ---------------------------------------------------------------------------------------------------------


@dataclass
class Heart:
    """What this rank says of itself; it says nothing where no parent listens."""

    descriptor: int | None = None
    step: int = 0
    took: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    begun: float | None = None
    stack: TextIO | None = None

    def listen_for(self, folder: Path, rank: int) -> None:
        """Begin to say something in the exchange folder, and answer to ``STACK_SIGNAL``."""
        self.descriptor = os.open(folder / f"{rank}.beat", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # the file stays open for good: the handler writes into its descriptor
        self.stack = append_own(folder / f"{rank}.stack")
        faulthandler.register(STACK_SIGNAL, self.stack, all_threads=False)

    def steps_on(self) -> None:
        """What follows is the next step, and what it needs: its time counts from here."""
        self.begun = time.monotonic()
        self._say(STEP)

    def has_stepped(self, step: int) -> None:
        """Step ``step`` has ended; what follows may take any time."""
        if self.begun is not None:
            self.took.append(time.monotonic() - self.begun)
        self.step, self.begun = step, None
        self._say(OTHER)

    def _say(self, what: str) -> None:
        if self.descriptor is not None:
            usual = statistics.median(self.took) if len(self.took) >= KNOWN_STEPS else 0.0
            line = f"{what} {time.monotonic():.3f} {self.step} {usual:.6f}"
            os.pwrite(self.descriptor, line.ljust(_LINE).encode(), 0)


HEART = Heart()
"""That of this process."""


# -- in the parent -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beat:
    """The last sign of a rank: what it did then, when, how many steps it had done, and what one takes (0: not known yet)."""

    what: str
    at: float
    step: int
    usual_s: float

    @property
    def late_after_s(self) -> float:
        """Seconds after which its step is late; infinite where nothing is expected of it."""
        if self.what != STEP or not self.usual_s:
            return float("inf")
        return max(LEAST_S, TIMES_MEDIAN * self.usual_s)


def read_beat(folder: Path, rank: int) -> Beat | None:
    """The last sign of a rank; None where it has given none."""
    with suppress(FileError, ValueError):
        what, at, step, usual = read_text(folder / f"{rank}.beat").split()
        return Beat(what, float(at), int(step), float(usual))
    return None


@dataclass
class Listener:
    """Listens to the ranks of one start. ``limit_s``: how long a step may take before all of them are ended; None: for ever."""

    folder: Path
    limit_s: float | None
    said_at: int | None = None
    """The step of which it was said that it is late."""

    def look(self, alive: dict[int, int]) -> tuple[str | None, bool]:
        """Of living ranks, pids by number: a sentence where a step has become late, and whether it is beyond the limit."""
        if self.limit_s is None:
            return None, False
        beats = {rank: beat for rank in alive if (beat := read_beat(self.folder, rank))}
        late = {rank: beat for rank, beat in beats.items() if time.monotonic() - beat.at > beat.late_after_s}
        if not late:
            self.said_at = None
            return None, False
        oldest = min(late.values(), key=lambda beat: beat.at)
        waited = time.monotonic() - oldest.at
        beyond = waited > max(self.limit_s, oldest.late_after_s)
        if self.said_at == oldest.step and not beyond:
            return None, False
        self.said_at = oldest.step
        places = where_they_stand(self.folder, {rank: alive[rank] for rank in sorted(alive)})
        usual = f"{oldest.usual_s:.1f} s" if oldest.usual_s >= 0.1 else f"{oldest.usual_s * 1000:.0f} ms"
        return f"step {oldest.step + 1} has taken {waited / 60:.1f} min, where one takes {usual}: {places}", beyond


def where_they_stand(folder: Path, pids: dict[int, int]) -> str:
    """``rank 0 in all_reduce (...), rank 1 stopped by a signal``: what each rank does, asked of itself and of the system."""
    before = {rank: _size(folder / f"{rank}.stack") for rank in pids}
    states = {rank: _state(pid) for rank, pid in pids.items()}
    for rank, pid in pids.items():
        if states[rank] is None and (folder / f"{rank}.stack").exists():  # without its handler the signal would end it
            with suppress(ProcessLookupError):
                os.kill(pid, STACK_SIGNAL)
    time.sleep(STACK_S)
    found = (
        f"rank {rank} {states[rank] or _frame(folder / f'{rank}.stack', before[rank]) or 'does not answer'}"
        for rank in pids
    )
    return ", ".join(found)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state(pid: int) -> str | None:
    """Why the system does not let a process run, if it does not."""
    with suppress(FileError, IndexError):
        after_name = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2]
        return _STATES.get(after_name.split()[0])
    return None


def _frame(stack: Path, since: int) -> str | None:
    """The innermost line of a stack that was written after its first ``since`` bytes."""
    with suppress(FileError):
        frames = re.findall(r'File "(.+?)", line (\d+) in (.+)', read_bytes(stack)[since:].decode(errors="replace"))
        return _named(frames)
    return None


def _named(frames: Iterable[tuple[str, str, str]]) -> str | None:
    for file, line, function in frames:
        return f"in {function} ({'/'.join(Path(file).parts[-2:])}:{line})"
    return None
