"""The command that reads everything back: is what a run, a cache or an adapter holds still what was written?

python -m cinelora.check run=<run>            a run's settings, lists, checkpoints, adapters, and its encodings in the cache
python -m cinelora.check cache=outputs/cache  every encoding there
python -m cinelora.check adapter=<file>       one adapter

Nothing is written, and nothing is mended: a damaged encoding is removed and made again by the run that meets it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.programs import Program
from cinelora.cli.small_command import run_small
from cinelora.config.schema import setting
from cinelora.config.trust import is_own
from cinelora.errors import CineloraError, ConfigError, FileError
from cinelora.families.shipped_weights import HASHES
from cinelora.io.atomic import sha256_file
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.locks import LOCK, try_flock
from cinelora.io.own_files import refuse_foreign
from cinelora.io.plain_data import MOST_OF_LISTS, json_lines, opened, read_json, read_text, read_yaml
from cinelora.io.terminal import say

DAMAGED, MISSING, IN_USE = 3, 4, 5
"""Exit codes; of several the first counts. 0: all is whole; 1 and 2 as for every command."""
TEXTS, TENSORS = (".json", ".jsonl", ".yaml"), (".safetensors", ".latents", ".course")
UNREAD = (".mp4", ".png", ".jpg", ".html", ".md", ".csv", ".log", ".svg")
"""What people and browsers read, and no run: it is counted, and not looked at."""


@dataclass(frozen=True)
class CheckRequest:
    """Read back everything that a run, a cache or an adapter holds, and say what is damaged or missing.

    python -m cinelora.check run=<run>
    python -m cinelora.check cache=outputs/cache
    python -m cinelora.check adapter=<file>
    """

    run: str = setting("", role="run")
    """directory of a run of any command"""
    cache: str = setting("", role="path")
    """folder that encodings are kept in, as cache= names it"""
    adapter: str = setting("", role="path")
    """an adapter's file"""


class NotWholeError(CineloraError):
    """Something is damaged, missing or in use; the exit code says which."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass
class Findings:
    """What was found so far, each sentence printed at once."""

    whole: int = 0
    unsealed: int = 0
    """Files of older versions, or of other programs, which say nothing by which damage could be told."""
    unread: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    in_use: bool = False

    def look(self, path: Path, read: Callable[[Path], object]) -> None:
        """Read one file; whatever is wrong with it is said and counted."""
        try:
            self.unsealed += read(path) is False
            self.whole += 1
        except (CineloraError, OSError) as error:
            self.damaged.append(str(error))
            say(f"damaged: {error}")

    def miss(self, path: Path, why: str) -> None:
        """Say that a file is not there."""
        self.missing.append(str(path))
        say(f"missing: {path} ({why})")

    def conclude(self) -> None:
        """Say the numbers; raises ``NotWholeError`` where not all is well."""
        notes = (
            [f"{self.unsealed} of them without a seal, by which a changed value could be told"] if self.unsealed else []
        )
        notes += [f"{self.unread} pictures, pages and logs not looked at"] if self.unread else []
        notes += ["it is in use: what is being written may be read half"] if self.in_use else []
        numbers = f"{self.whole} files whole, {len(self.damaged)} damaged, {len(self.missing)} missing"
        sentence = "; ".join([numbers, *notes])
        codes = [DAMAGED] * bool(self.damaged) + [MISSING] * bool(self.missing) + [IN_USE] * self.in_use
        if codes:
            raise NotWholeError(sentence, codes[0])
        say(sentence)


# -- files -------------------------------------------------------------------------------------------------------------


def is_sealed(path: Path) -> bool:
    """Whether a text begins with a seal, which reading it has then held it to."""
    with opened(path) as file:
        return b"seal" in file.read(16)


def read_any_text(path: Path) -> bool:
    """Read JSON, a list of JSON or settings; whether it is sealed."""
    match path.suffix:
        case ".json":
            read_json(path, object, limit=MOST_OF_LISTS, measured=True)
        case ".jsonl":
            for _ in json_lines(read_text(path, MOST_OF_LISTS), path):
                pass
        case _:
            read_yaml(path, dict[str, Any])
    return is_sealed(path)


def read_one_adapter(path: Path) -> bool:
    """Read an adapter; whether it says what it was. Raises ``AdapterError`` or ``FileError``."""
    from cinelora.adapters.adapter_header import judge_adapter

    found = judge_adapter(path)
    if found.marked is False:
        raise FileError(f"{path} is not what cinelora wrote: it is damaged, or another tool changed it")
    return bool(found.marked)


def read_tensors(path: Path) -> bool:
    """Read an encoding, or latents that wait to be decoded; whether the file says what it was. Raises ``FileError``."""
    from cinelora.io.tensor_files import METADATA, SEAL, load_tensors, read_header

    load_tensors(path)
    return SEAL in read_header(path).get(METADATA, {})


# -- what is asked for -------------------------------------------------------------------------------------------------


def check_run(run: Path, found: Findings) -> None:
    """Everything in a run's directory that a command reads back, and the encodings that it was trained on."""
    from cinelora.training.checkpoint_files import read_checkpoint

    if not (run / CONFIG_FILE).is_file():
        raise ConfigError(f"run={run} holds no {CONFIG_FILE}: give the directory of a run")
    refuse_foreign(run, CONFIG_FILE)
    found.in_use = is_in_use(run)
    checkpoints = sorted(folder for folder in run.glob("**/checkpoints/step-*") if folder.is_dir())
    for folder in checkpoints:
        found.look(folder, read_checkpoint)
    roles = set(RunDirectory(run).adapters().values()) | set(RunDirectory(run).all_for_comfy())
    for path in files_of(run):
        if any(path.is_relative_to(folder) for folder in checkpoints):
            continue
        if path.suffix in TEXTS:
            found.look(path, read_any_text)
        elif path.suffix in TENSORS:
            found.look(path, read_one_adapter if path in roles else read_tensors)
        else:
            found.unread += path.suffix in UNREAD
    check_encodings(RunDirectory(run), found)


def check_encodings(run: RunDirectory, found: Findings) -> None:
    """The encodings that a training run names, in the cache that its settings name; a run from somebody else names no places."""
    from cinelora.config.store import load_config
    from cinelora.latents.cache import Index, encoding_path

    if not run.dataset.is_file():
        return
    try:
        index, config = Index.load(run.dataset), load_config(run.path)
        if not is_own(config):
            say("its encodings are not checked, because the run was not started here; cache=<folder> checks them")
            return
        cache = Path(config.cache) / "latents"
        names = {*index.texts.values()}
        names |= {name for entry in index.entries for name in (entry.text, entry.video, entry.image) if name}
        paths = [encoding_path(cache, name) for name in sorted(names)]
    except CineloraError:
        return  # said above, where the file itself was read
    for path in paths:
        if path.is_file():
            found.look(path, read_tensors)
        else:
            found.miss(path, "the next run on this footage encodes it again")


def check_cache(cache: Path, found: Findings) -> None:
    """Every encoding, every list that the cache keeps beside them, and the weights of small models that were drawn into it."""
    if not cache.is_dir():
        raise ConfigError(f"cache={cache}: there is no such folder")
    for path in files_of(cache):
        if path.is_relative_to(cache / "models"):
            if path.name == HASHES:
                check_weights(path, found)
        elif path.suffix == ".safetensors":
            found.look(path, read_tensors)
        elif path.suffix in TEXTS:
            found.look(path, read_any_text)


def check_weights(hashes: Path, found: Findings) -> None:
    """The files beside a list of hashes."""
    try:
        listed = read_json(hashes, dict[str, str])
    except CineloraError as error:
        found.damaged.append(str(error))
        say(f"damaged: {error}")
        return

    def read(path: Path) -> None:
        if sha256_file(path) != listed[path.relative_to(hashes.parent).as_posix()]:
            raise FileError(f"{path} is damaged: remove {hashes.parent}, and it is drawn again")

    for name in listed:
        path = hashes.parent / name
        if path.is_file():
            found.look(path, read)
        else:
            found.miss(path, f"remove {hashes.parent}, and it is drawn again")


def files_of(folder: Path) -> Iterator[Path]:
    """All regular files below a folder, in order; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(parent, name)).is_file() and not path.is_symlink())


def is_in_use(run: Path) -> bool:
    """Whether a process works in the directory."""
    try:
        with (run / LOCK).open("rb") as file:
            return not try_flock(file.fileno())
    except OSError:
        return False


def check(request: CheckRequest) -> None:
    """Read back what is asked for; raises ``NotWholeError`` where not all is whole."""
    asked = [name for name in ("run", "cache", "adapter") if getattr(request, name)]
    if len(asked) != 1:
        raise ConfigError("say what to read: one of run=<run>, cache=<folder>, adapter=<file>")
    found = Findings()
    if request.run:
        check_run(Path(request.run), found)
    elif request.cache:
        check_cache(Path(request.cache), found)
    elif not Path(request.adapter).is_file():
        raise ConfigError(f"adapter={request.adapter}: there is no such file")
    else:
        found.look(Path(request.adapter), read_one_adapter)
    found.conclude()


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return run_small(Program("cinelora.check", CheckRequest), argv, check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
