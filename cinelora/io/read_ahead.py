"""Files that are wanted soon, read into the page cache while something else is at work.

Enters: files. Leaves: nothing but their bytes in memory that the system gives away again as soon as somebody needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

from cinelora.errors import FileError
from cinelora.io.plain_data import opened

AT_ONCE = 2**24
"""Bytes that are read at once: whoever stops it waits for no more."""


@contextmanager
def read_ahead(files: Iterable[Path]) -> Iterator[ReadAhead]:
    """Read ``files`` by a thread while the block runs, where the memory at hand holds them all; it says and raises nothing."""
    reading = ReadAhead(files)
    reading.start()
    try:
        yield reading
    finally:
        reading.stop()


class ReadAhead(Thread):
    """The thread; ``done`` counts the bytes that it has read."""

    def __init__(self, files: Iterable[Path]) -> None:
        super().__init__(name="read ahead", daemon=True)
        self.files, self.done, self._stopped = list(files), 0, Event()

    def run(self) -> None:
        """Read, unless they would drive out of memory what is there."""
        buffer = bytearray(AT_ONCE)
        # what cannot be read is said by whoever loads it
        with suppress(OSError, FileError):
            if sum(file.stat().st_size for file in self.files) >= psutil.virtual_memory().available:
                return
            for path in self.files:
                with opened(path) as file:
                    while not self._stopped.is_set() and (size := file.readinto(buffer)):
                        self.done += size

    def stop(self) -> None:
        """Leave the rest unread."""
        self._stopped.set()
        self.join()
