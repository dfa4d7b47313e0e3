"""Trained weights that come with the program: that each file is there, and is the one that was shipped.

Enters: the folder of an embedded model, with ``hashes.json`` in it. Leaves: nothing, or a sentence that names the file.
"""

from __future__ import annotations

from pathlib import Path

from cinelora.errors import FileError, ModelError
from cinelora.io.atomic import sha256_file
from cinelora.io.plain_data import read_json

HASHES = "hashes.json"


def check_files(home: Path, restore: str) -> None:
    """Compare what lies in ``home`` with what was shipped; ``restore`` says how it is brought back.

    Raises ``ModelError`` naming the file where one is missing or holds something else.
    """
    for name, expected in shipped_hashes(home, restore).items():
        path = home / name
        if not path.is_file():
            raise ModelError(f"{path} of the embedded model is missing; {restore}")
        found = sha256_file(path)
        if found != expected:
            raise ModelError(
                f"{path} of the embedded model is damaged: its SHA-256 is {found[:12]}, {expected[:12]} was shipped; "
                f"{restore}"
            )


def shipped_hashes(home: Path, restore: str) -> dict[str, str]:
    """The SHA-256 that each weights file was shipped with. Raises ``ModelError`` where the list does not say."""
    try:
        hashes = read_json(home / HASHES, dict[str, str])
    except FileError as error:
        raise ModelError(f"{error}; {restore}") from error
    if not hashes:
        raise ModelError(f"{home / HASHES} lists no files with their hashes; {restore}")
    return hashes
