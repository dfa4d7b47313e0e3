"""What the program says on a terminal and in logs: lines whose control characters are seen and not obeyed.

Enters: sentences, with file names, keys and answers in them that a stranger may have chosen. Leaves: printed lines. Every word
that cinelora prints goes through here (tests/io/test_terminal.py), so that a file's name can neither colour nor clear a terminal,
turn text around, or pass for a line of its own.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
import traceback
import unicodedata
import warnings
from types import TracebackType
from typing import TextIO

JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: they are part of emoji and of several scripts' words, and mean nothing elsewhere."""
_JOINED = {"So", "Sm", "Sk", "Lo", "Mn", "Mc"}
"""Categories that a joiner joins: symbols with skin tones and selectors, and letters of scripts without case."""


def visible(text: object) -> str:
    """``text`` on one line, with every character that is obeyed or not seen shown as its escape: ``\\n``, ``\\x1b``, ``\\u202e``.

    Accents, emoji with their joiners and spaces of any width stay as they are.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(char if _is_seen(line, place) else _escape(char) for place, char in enumerate(line))


def _is_seen(line: str, place: int) -> bool:
    char = line[place]
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return True
    beside = [unicodedata.category(other) for other in (*line[place - 1 : place], *line[place + 1 : place + 2])]
    return char in JOINERS and len(beside) == 2 and _JOINED.issuperset(beside)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


_spoken = [time.monotonic()]
"""When this process last wrote to the terminal, as far as it passed through here."""


def note_word() -> None:
    """Note that something was written just now."""
    _spoken[0] = time.monotonic()


def silent_s() -> float:
    """Seconds since this process wrote to the terminal."""
    return time.monotonic() - _spoken[0]


def say(*lines: object, error: bool = False) -> None:
    """Print each of ``lines``, each on one line, at once; ``error`` sends them to stderr."""
    note_word()
    print("".join(f"{visible(line)}\n" for line in lines), end="", file=sys.stderr if error else sys.stdout, flush=True)


def put(text: str, stream: TextIO | None = None) -> None:
    """Write part of a line at once, to stderr where no stream is given; what a stranger chose in it is ``visible`` already."""
    stream = stream or sys.stderr
    stream.write(text)
    stream.flush()


def warn(sentence: object) -> None:
    """Print a sentence that a user should not miss."""
    say(f"WARNING: {sentence}")


def shell_word(text: str) -> str:
    """``text`` as one word of a command line, to be copied: what is not seen stands as an escape, which bash and zsh read."""
    if text == visible(text):
        return shlex.quote(text)
    return f"$'{''.join(_in_ansi_c(char) for char in text)}'"


def _in_ansi_c(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    # Bytes of a name that is no UTF-8 are surrogates to Python; octal ends after three digits, whatever follows.
    return char if char == visible(char) else "".join(f"\\{byte:03o}" for byte in os.fsencode(char))


def traceback_of(error: BaseException) -> str:
    """What Python prints of an error that nobody foresaw, line by line; its text may quote a file."""
    return "".join(f"{visible(line)}\n" for line in "".join(traceback.format_exception(error)).rstrip("\n").split("\n"))


class _SeenRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return "\n".join(map(visible, super().getMessage().split("\n")))


def _seen_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    del line  # of the source, which says little to a user
    return visible(f"{filename}:{lineno}: {category.__name__}: {message}") + "\n"


def _seen_end(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    put(traceback_of(error))


def show_logged_text() -> None:
    """Let what libraries log and warn of, and what ends this process, be read, not obeyed: it names files and tensors, too."""
    logging.setLogRecordFactory(_SeenRecord)
    warnings.formatwarning = _seen_warning
    sys.excepthook = _seen_end
