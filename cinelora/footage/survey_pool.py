"""What was surveyed of a footage folder: files enter, a survey of each lies in the prepared folder afterwards.

A file that has not changed costs a look at its size and time; one that moved, or a copy, the reading of it; a new one, a pass
over its frames. Long files are passed over in parts, by several processes, and what is done is kept when the rest is
interrupted. A file that crashes or hangs a decoder takes a process with it, and is named. It does not know what a good shot is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cinelora.errors import CineloraError, FileError, FootageError, reason
from cinelora.footage import shot_detection
from cinelora.footage.image_reader import SUFFIXES as PICTURES
from cinelora.footage.interlaced import Fields
from cinelora.footage.scan_folder import content_hash, open_clip, stamp
from cinelora.footage.shot_filter import sharpness_of
from cinelora.footage.video_reader import PLAIN, Handling, Reader, UnreadableClip
from cinelora.io.atomic import sweep_temporaries, write_json
from cinelora.io.hardware import die_with, gpu_at_hand
from cinelora.io.live_bar import LiveBar
from cinelora.io.plain_data import MOST_OF_LISTS, build, read_json
from cinelora.io.waiting import waiting

if TYPE_CHECKING:
    from cinelora.nn.cut_network import CutNetwork

LEDGER, SURVEYS = "files.json", "surveys"
LEARNED, LETTERED = "-learned", "-lettered"
"""How the name of a survey ends in which a network found cuts, and letters."""
HANG_S = 180.0
"""Seconds without a frame from any process after which a decoder is taken to hang."""
MANY_BYTES, MANY_FILES = 50e6, 100
"""New footage from which on it is surveyed in processes of their own: starting them takes a second."""
MOST_ON_A_GPU = 8
"""Processes that each hold a network on one GPU: CUDA takes half a GiB for each."""
KEEP_EVERY_S = 10.0
"""Seconds between two writings of the ledger."""
SAID_OF: dict[Fields, str] = {
    "tff": "interlaced, upper field first",
    "bff": "interlaced, lower field first",
    "tff film": "telecined, upper field first",
    "bff film": "telecined, lower field first",
}
MISSING_SHARE, MISSING_S = Fraction(1, 10), Fraction(1, 4)
"""A clip is called truncated when more than both is missing of the length in its header: headers are a little off."""


@dataclass(frozen=True)
class File:
    """A file of the folder; ``reason`` says why it cannot be used, ``sharpness`` is what its frames have as a rule.

    ``survey`` is the name of its survey: of its content, and of how its colours were read.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str = ""
    sharpness: float = 0.0
    survey: str = ""


@dataclass(frozen=True)
class Task:
    """A file to be surveyed, or the ``part`` of it that is numbered so; ``size`` in bytes is its share of the progress."""

    root: Path
    folder: Path
    path: str
    size: int
    handling: Handling = PLAIN
    sha256: str = ""
    part: int | None = None

    @property
    def source(self) -> Path:
        """The file."""
        return self.root / self.path

    @property
    def target(self) -> Path:
        """Where the survey of the whole file goes; it is named by the content, so ``sha256`` must be known."""
        return survey_path(self.folder, survey_name(self.sha256, self.handling))


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a survey that lies there, a reason why not, or the number of parts it is to be cut into."""

    sha256: str
    reason: str = ""
    sharpness: float = 0.0
    num_parts: int = 0


@dataclass
class Underway:
    """Content that is surveyed in parts: how many are missing, and the files that hold it."""

    left: int
    paths: list[str]


def survey_path(folder: Path, name: str) -> Path:
    """Where the survey of this name lies."""
    return folder / SURVEYS / name[:2] / f"{name}.npz"


def survey_name(sha256: str, handling: Handling) -> str:
    """The name of the survey of this content, read so."""
    rate = "" if handling.sequence_fps == PLAIN.sequence_fps else f"-{float(handling.sequence_fps):g}fps"
    kept = "-combed" if handling.interlaced == "keep" else ""
    networks = (LEARNED if handling.cuts else "") + (LETTERED if handling.lettering else "")
    return f"{sha256}{handling.colours}{rate}{kept}{networks}"


def serves(survey: str, sha256: str, handling: Handling) -> bool:
    """Whether a survey of this name is what ``handling`` asks for; one with letters serves also where none are asked for."""
    name = survey_name(sha256, handling)
    return survey == name or (not handling.lettering and survey == name + LETTERED)


def survey_files(root: Path, paths: list[str], folder: Path, processes: int | None, handling: Handling) -> list[File]:
    """Survey what is new or changed among ``paths`` below ``root``; what is known of all of them, in their order.

    ``processes`` 0 does it all here; None is one a core where there is much to do, else none. ``folder`` is the prepared
    folder. Other ``handling`` is another survey. What cannot be read now is named, and tried again in the next run.
    """
    known = read_ledger(folder, handling)
    files, todo = {}, deque[Task]()
    for path in paths:
        try:
            size, mtime_ns = stamp(root / path)
        except OSError as error:  # it went away since it was listed
            files[path] = File(path, 0, 0, "", _in_words(error))
            continue
        # Size and time stand for the content here: hashing a folder of films takes minutes, asking for these no time. A file
        # that could not be read has no survey, and its reason is as good as one.
        file = known.get(path)
        is_same = file is not None and (file.size, file.mtime_ns) == (size, mtime_ns)
        is_wanted = file is not None and serves(file.survey, file.sha256, handling)
        if file and is_same and (file.reason or (is_wanted and survey_path(folder, file.survey).is_file())):
            files[path] = file
        else:
            files[path] = File(path, size, mtime_ns, "")
            todo.append(Task(root, folder, path, size, handling))
    if todo:
        much = len(todo) > MANY_FILES or sum(task.size for task in todo) > MANY_BYTES
        cores = len(os.sched_getaffinity(0)) if much else 0
        if cores and handling.cuts and gpu_at_hand()[0]:
            cores = min(cores, MOST_ON_A_GPU)
        _survey(todo, files, cores if processes is None else processes)
    if files != known:
        _write_ledger(folder, files, handling)
    return [files[path] for path in paths]


def _survey(todo: deque[Task], files: dict[str, File], processes: int) -> None:
    folder, total = todo[0].folder, sum(task.size for task in todo)
    sweep_temporaries(folder / SURVEYS)
    underway: dict[str, Underway] = {}
    kept = time.monotonic()
    with (
        waiting("reading footage", not sys.stderr.isatty()),  # where no terminal is, and so no bar
        LiveBar(total=total, desc="footage", unit="B", unit_scale=True, disable=None) as bar,
    ):
        bar.set_postfix_str(f"{len(todo)} of {len(files)} files are new")
        for task, outcome in _worked(todo, processes, bar):
            if outcome.num_parts and outcome.sha256 not in underway:
                size = task.size // outcome.num_parts
                numbers = range(outcome.num_parts)
                todo.extend(replace(task, sha256=outcome.sha256, part=number, size=size) for number in numbers)
            whole, paths = _settled(task, outcome, underway)
            survey = survey_name(whole.sha256, task.handling) if whole.sha256 else ""
            for path in paths:
                files[path] = replace(
                    files[path], sha256=whole.sha256, reason=whole.reason, sharpness=whole.sharpness, survey=survey
                )
            if paths and time.monotonic() - kept > KEEP_EVERY_S:
                _write_ledger(folder, files, task.handling)
                kept = time.monotonic()


def _settled(task: Task, outcome: Outcome, underway: dict[str, Underway]) -> tuple[Outcome, list[str]]:
    """What came of whole content, and the files that hold it; no files while parts of it are missing."""
    # A short file is settled by its one task. A long one goes through three stages: its first task only counts the parts;
    # each part is a task of its own, done by whichever process is free; the last one to end joins them. Two files of the
    # same content share their parts: the second to be counted finds the content under way and waits for the same end.
    if outcome.num_parts:
        underway.setdefault(outcome.sha256, Underway(outcome.num_parts, [])).paths.append(task.path)
        return outcome, []
    if task.part is None:
        return outcome, [task.path]
    # One bad part spoils the file: the first to fail settles it, and the others that still come are no longer expected.
    whole = underway.get(task.sha256)
    if whole is None:
        return outcome, []
    whole.left -= 1
    if whole.left and not outcome.reason:
        return outcome, []
    del underway[task.sha256]
    return (outcome if outcome.reason else _join(task)), whole.paths


def read_ledger(folder: Path, handling: Handling = PLAIN) -> dict[str, File]:
    """What is known of the files of a footage folder; nothing where another version, or other handling, wrote it."""
    path = folder / LEDGER
    try:
        ledger = read_json(path, _Ledger, limit=MOST_OF_LISTS) if path.is_file() else None
        version = _version(handling)
        if ledger is None or ledger["version"] not in (version, version[:-1]):
            return {}
        # Pictures whose survey is of an older version are surveyed again; films need not be.
        files = build(list[File], ledger["files"], path)
        return {file.path: file for file in files if ledger["version"] == version or not _is_picture(file)}
    except FileError:
        return {}  # it is damaged, and made again from the footage


def surveyed_otherwise(known: dict[str, File], files: list[File], mark: str) -> list[str]:
    """Paths of known files where only the old or only the new survey has ``mark`` (``LEARNED`` or ``LETTERED``) in its name."""
    return [
        file.path
        for file in files
        if (before := known.get(file.path))
        and before.sha256 == file.sha256
        and (mark in before.survey) != (mark in file.survey)
    ]


class _Ledger(TypedDict):
    version: list[Any]
    files: list[Any]


def _version(handling: Handling) -> list[Any]:
    read_as = [handling.colours, handling.hdr, str(handling.sequence_fps), handling.interlaced]
    return [shot_detection.VERSION, *read_as, shot_detection.STILLS_VERSION]


def _is_picture(file: File) -> bool:
    return Path(file.path).suffix.lower() in PICTURES


def _write_ledger(folder: Path, files: dict[str, File], handling: Handling) -> None:
    done = [asdict(file) for file in files.values() if file.sha256]
    write_json(folder / LEDGER, {"version": _version(handling), "files": done})


# -- the work, in a process or here ------------------------------------------------------------------------------------


def survey_one(task: Task, tick: Callable[[float], None]) -> Outcome:
    """Survey a file or a part of it into the prepared folder.

    ``tick`` hears how much of it is done, of 1; 0 where that is not known.
    """
    sha256 = task.sha256
    try:
        sha256 = sha256 or content_hash(task.source, lambda: tick(0.0))
        return _surveyed(replace(task, sha256=sha256), tick)
    except Exception as error:
        return _failed(error, sha256)


def _failed(error: Exception, sha256: str) -> Outcome:
    """What comes of a task that failed: without a hash where the disk is at fault, or this program, and next time may be better.

    Raises what is wrong with the settings rather than with the file, as a damaged LUT.
    """
    if isinstance(error, CineloraError) and not isinstance(error, UnreadableClip):
        raise error
    return Outcome(sha256, error.reason) if isinstance(error, UnreadableClip) else Outcome("", at_fault(error))


def at_fault(error: Exception) -> str:
    """The reason of a file that an error was raised by: in the disk's words, or as a fault of this program, by name."""
    return (
        _in_words(error)
        if isinstance(error, OSError)
        else f"it cannot be handled: {type(error).__name__}: {reason(error)}"
    )


def _in_words(error: OSError) -> str:
    return f"it cannot be read: {reason(error).lower()}"


def _surveyed(task: Task, tick: Callable[[float], None]) -> Outcome:
    task.target.parent.mkdir(parents=True, exist_ok=True)
    # A file that moved, or a copy of one, has its survey already: reading its bytes for the hash was all it cost.
    # One without a sampled picture is that of a still by version 1, and is made again.
    there = shot_detection.load_survey(task.target) if task.part is None else None
    if there is not None and len(there.sample):
        _refuse_interlaced(task, there.about.fields)
        return Outcome(task.sha256, sharpness=sharpness_of(there))
    reader = open_clip(task.source, handling=task.handling)
    if reader.header.is_skewed:
        raise reader.unreadable(
            "its pictures are rotated by an angle that is not a multiple of 90 degrees, or skewed: export it upright"
        )
    length = float(reader.header.duration_s or 0)
    spans = shot_detection.parts(length or None)
    # What can only be counted from its start is read in one piece. Part or whole, reading every packet once is enough.
    if task.part is not None:
        reader.is_timed = True
    elif not reader.is_timed:
        spans = shot_detection.parts(None)
    if task.part is None and len(spans) > 1:
        return Outcome(task.sha256, num_parts=len(spans))
    start_s, end_s = spans[task.part or 0]
    piece = task.target.with_suffix(f".part-{task.part}.npz")
    if task.part is not None and shot_detection.load_arrays(piece) is not None:
        return Outcome(task.sha256)  # a run that was interrupted got this far
    scale = 1 / max(min(end_s, length) - start_s, 1e-3) if length else 0.0

    def heard(seconds: float) -> None:
        tick(min(1.0, max(0.0, (seconds - start_s) * scale)))

    # Each part of a long film is to be read in the same way, so its fields are measured first. Of short films, of which there
    # may be thousands, only those that look combed are measured, and passed over once more.
    if task.part is not None:
        reader = _made_whole(task, reader)
    network = _network(task.handling)
    arrays = shot_detection.survey_part(reader, start_s, end_s, heard, network)
    if task.part is None and reader.suspects:
        whole = _made_whole(task, reader)
        arrays = shot_detection.survey_part(whole, start_s, end_s, heard, network) if whole is not reader else arrays
        reader = whole
    if task.part is None:
        return _whole(task, reader, arrays)
    shot_detection.save_arrays(piece, arrays, {})
    return Outcome(task.sha256)


def _network(handling: Handling) -> CutNetwork | None:
    """The network that finds cuts; None where ``handling`` names no weights."""
    if handling.cuts is None:
        return None
    from cinelora.nn.cut_network import load_network  # torch takes a second to import

    return load_network(handling.cuts)


def _made_whole(task: Task, reader: Reader) -> Reader:
    """The reader, or one that makes whole frames of an interlaced film. Raises ``UnreadableClip`` where that is to be refused."""
    if task.handling.interlaced == "keep" or reader.backend == "pillow" or not (fields := reader.measured_fields()):
        return reader
    _refuse_interlaced(task, fields)
    return open_clip(task.source, handling=task.handling, fields=fields)


def _refuse_interlaced(task: Task, fields: Fields) -> None:
    if fields and task.handling.interlaced == "refuse":
        raise UnreadableClip(task.source, f"it is {SAID_OF[fields]}: data.interlaced=auto makes its frames whole")


def _join(task: Task) -> Outcome:
    """The survey of a file whose parts all lie there."""
    pieces = list(task.target.parent.glob(f"{task.target.stem}.part-*.npz"))
    pieces.sort(key=lambda piece: int(piece.stem.rpartition("-")[2]))
    loaded = [shot_detection.load_arrays(piece) for piece in pieces]
    arrays = shot_detection.joined(piece[0] for piece in loaded if piece is not None)
    try:
        outcome = _whole(task, _made_whole(task, open_clip(task.source, handling=task.handling)), arrays)
    except Exception as error:
        outcome = _failed(error, task.sha256)
    # Parts are removed once the whole is settled. After a fault of the disk they stay, and the next run has only to join.
    for piece in pieces if outcome.sha256 else ():
        piece.unlink()
    return outcome


def _whole(task: Task, reader: Reader, arrays: shot_detection.Arrays) -> Outcome:
    """Write the survey of a whole file, with a note where less is there than its header promises.

    Raises ``UnreadableClip`` where it has no frames, or others than a reader counts.
    """
    survey = shot_detection.Survey(shot_detection.about(reader, arrays["seconds"]), arrays)
    if survey.num_frames == 0:
        raise reader.unreadable("it has no frames")
    # What is counted from the start has one numbering. By time the survey's frame i must be the reader's, up to a damaged end.
    count = survey.num_frames
    if reader.is_timed and not np.array_equal(survey.seconds, reader.times[:count]):
        raise reader.unreadable(
            f"its time stamps name {len(reader.times)} frames, but {count} are decoded: encode it again"
        )
    notes = tuple(_faults(reader, survey))
    survey = replace(survey, about=replace(survey.about, notes=notes, cuts=task.handling.detector))
    shot_detection.save_survey(task.target, survey)
    return Outcome(task.sha256, sharpness=sharpness_of(survey))


def _faults(reader: Reader, survey: shot_detection.Survey) -> Iterator[str]:
    promised_s, last_s = reader.header.duration_s, float(survey.seconds[-1])
    length_s = last_s + 1 / float(reader.header.fps)
    if promised_s is not None and _is_short(length_s, promised_s):
        length_s = max(length_s, reader.held_until_s(last_s))  # a last picture may be held for long
        if _is_short(length_s, promised_s):
            yield f"it is truncated: {length_s:.1f} s of {float(promised_s):.1f} s are there, and used"
    if fields := survey.about.fields:
        yield f"it is {SAID_OF[fields]}; {'fields are put together again' if 'film' in fields else 'it is deinterlaced'}"
    if damaged := int(survey.damaged.sum()):
        yield f"{damaged} of {survey.num_frames} frames are damaged, and not used"


def _is_short(length_s: float, promised_s: Fraction) -> bool:
    return promised_s - length_s > max(MISSING_S, promised_s * MISSING_SHARE)


# -- processes ---------------------------------------------------------------------------------------------------------


class _Hangs(Exception):
    """No process has moved for ``HANG_S``."""


_moved: Synchronized[float] | None = None
"""In a process: bytes done by all of them, which also tells that they live; below 0 before the first has begun."""


def _worked(todo: deque[Task], processes: int, bar: LiveBar) -> Iterator[tuple[Task, Outcome]]:
    """Each task with its outcome; more may be added to ``todo`` while they come."""
    if processes == 0:
        while todo:
            task = todo.popleft()
            outcome = survey_one(task, lambda _: None)
            bar.update(0 if outcome.num_parts else task.size)
            yield task, outcome
        return
    # A decoder that crashes takes its process along, and the executor then fails every task that was running, without a word
    # of which was to blame. All of them become suspects, and each suspect is tried alone in a pool of one process: whoever
    # breaks that pool is guilty beyond doubt and gets its reason; the others have merely been done a second time.
    suspects = deque[Task]()
    while todo or suspects:
        yield from _pooled(suspects or todo, 1 if suspects else processes, suspects, bar)


def _pooled(source: deque[Task], count: int, suspects: deque[Task], bar: LiveBar) -> Iterator[tuple[Task, Outcome]]:
    """Work on ``source`` in a pool until it is empty, or the pool breaks: what it was at is then tried one by one."""
    alone = source is suspects
    context = multiprocessing.get_context("spawn")
    counter = context.Value("d", -1.0)
    pool = ProcessPoolExecutor(count, context, _begin, (counter, os.getpid()))
    running: dict[Future[Outcome], Task] = {}
    try:
        while source or running:
            # Two tasks a process: one at work, one at hand when that ends. More would only make more suspects.
            while source and len(running) < (1 if alone else 2 * count):
                task = source.popleft()
                running[pool.submit(_in_process, task)] = task
            for future in _next(running, counter, bar):
                outcome = future.result()
                yield running.pop(future), outcome
            if alone and not running:
                return  # a fresh pool for the next suspect
    except (BrokenProcessPool, _Hangs) as error:
        # The counter is still at -1 where not one process has begun. A new process imports the main program first; without
        # the guard that starts this survey once more, which multiprocessing refuses.
        if counter.value < 0:
            raise FootageError(
                "no process that reads footage could be started: in a program of your own, call cinelora below "
                'if __name__ == "__main__":, or set workers=0'
            ) from error
        if not alone:
            suspects.extend(running.values())
            return
        fault = "its decoder hangs" if isinstance(error, _Hangs) else "its decoder crashes"
        for task in running.values():
            yield task, Outcome("", fault)  # tried again in the next run, perhaps with other libraries
    finally:
        _end(pool)


def _next(running: dict[Future[Outcome], Task], counter: Synchronized[float], bar: LiveBar) -> set[Future[Outcome]]:
    """The tasks that are done next; the bar moves meanwhile. Raises ``_Hangs``."""
    # One counter is enough to notice a hang: every process adds to it as it works, so as long as it moves some
    # process is alive. When it stands still for `HANG_S`, all that is running is suspect.
    moved, since = -1.0, time.monotonic()
    while True:
        done, _ = wait(running, 0.5, FIRST_COMPLETED)
        if counter.value != moved:
            moved, since = counter.value, time.monotonic()
            bar.update(moved - bar.n if moved > bar.n else 0)
        if done:
            return done
        if time.monotonic() - since > HANG_S:
            raise _Hangs


def _begin(counter: Synchronized[float], parent: int) -> None:
    """A process begins: Ctrl-C is its parent's to answer, without whom it ends."""
    global _moved
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
    _moved = counter
    with counter.get_lock():
        counter.value = max(counter.value, 0.0)


def _in_process(task: Task) -> Outcome:
    done = 0.0

    def tick(share: float) -> None:
        nonlocal done
        assert _moved is not None
        if share == 0 or share - done > 0.002 or share >= 1:
            with _moved.get_lock():
                _moved.value += (share - done) * task.size or 1  # a byte that says no more than that it lives
            done = share

    outcome = survey_one(task, tick)
    if not outcome.num_parts:
        tick(1.0)
    return outcome


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool at once; the executor itself would wait for what is at work."""
    for process in list((pool._processes or {}).values()):
        with suppress(ProcessLookupError):
            process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
