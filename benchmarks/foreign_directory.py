"""A run that somebody handed over: every path in it replaced by what leads elsewhere, and every command that goes on with it.

    python benchmarks/foreign_directory.py

Real runs are made first, with every logger: a training that is resumed, clips, an evaluation, a study, a sweep. Then each path
in each of them is replaced, one after the other, by everything in ``tests/planted.py``, and each command that would read or write
that directory is called in this process. Each must be refused in one line that names the path, before any work begins. Afterwards
all that lies outside is compared with how it was, bytes and times, and the hub (tests/hub_server.py) is asked what it got.
"""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, report

sys.path.insert(0, str(ROOT / "tests"))
import huggingface_hub.constants as hub
from hub_server import WRITER, serve
from planted import THINGS, make_outside, paths_in, planted, state_of

from cinelora.card import main as card
from cinelora.cli.main import main as command
from cinelora.errors import CineloraError
from cinelora.io.own_files import refuse_foreign, shown

SMALL = ["model.height=32", "model.width=48", "cache=cache"]
TRAINED = [
    "stage=style",
    "data=noir",
    "stage.batch_size=1",
    "stage.steps=4",
    "checkpoint.every_steps=2",
    "ema_decay=0.9",
]
TRAINED += [
    "validation.every_steps=2",
    "preview.every_steps=2",
    "preview.sampler_steps=1",
    "checkpoint.best=heldout/loss",
    *SMALL,
]
QUICK = ["num_frames=5", "sampler.steps=1", "sampler.guidance=1", "cache=cache"]
DRAWN = ["ckpt=train", "prompts=p.txt", "mode=t2v", "metrics=none", *QUICK]
EVALUATED = ["ckpt=train", "prompts=p.txt", *QUICK]
TIMED = ["model=tiny", "num_frames=5", "latency_only=true", "latency_steps=2", "cache=cache"]
SWEPT = ["-m", *TRAINED, "lora.rank=1,2", "logger=csv", "resume=auto", "out=sweep"]
MADE: dict[str, list[list[str]]] = {
    "train": [
        ["train.py", *TRAINED, "logger=wandb", "logger.offline=true", "out=train"],
        ["train.py", "resume=train", "stage.steps=6", "logger=tensorboard"],
    ],
    "infer": [["infer.py", *DRAWN, "out=infer"]],
    "evaluate": [["-m", "cinelora.evaluate", *EVALUATED, "out=evaluate"]],
    "study": [["-m", "cinelora.study", *TIMED, "out=study"]],
    "sweep": [["train.py", *SWEPT]],
}
"""The commands that make each directory."""
TAKEN_UP: list[tuple[str, str, list[str]]] = [
    ("train", "train", ["resume=train"]),
    ("train", "train", ["resume=train", "out=new"]),
    ("train", "train", [*TRAINED, "resume=auto", "out=train"]),
    ("train", "card", ["run=train"]),
    ("train", "card", ["run=train", "push=owner/name"]),
    ("infer", "infer", [*DRAWN, "out=infer"]),
    ("evaluate", "evaluate", [*EVALUATED, "out=evaluate"]),
    ("evaluate", "evaluate", ["out=evaluate", "report=true"]),
    ("evaluate", "evaluate", ["out=evaluate", "answers=answers.json"]),
    ("study", "study", [*TIMED, "out=study"]),
    ("study", "study", ["merge=[study]", "out=merged"]),
    ("sweep", "train", SWEPT),
]
"""A directory, and the command that goes on with it or reads it."""


@dataclass
class Tried:
    """What came of a command over all paths and things."""

    command: str
    paths: int = 0
    tries: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def take(self, place: str, thing: str, went_on: list[Any], code: int, said: str) -> None:
        """Count one try: refused, in one line that names the path; anything else is wrong."""
        self.tries += 1
        if code and not went_on and f"{place} is a " in said and len(said.splitlines()) == 1:
            self.refused[thing] += 1
        else:
            self.wrong.append(f"{thing} at {place}: exit code {code}, {said.strip()!r}")


def call(script: str, words: list[str]) -> tuple[int, str, list[Any]]:
    """A command in this process: its exit code, what it said of errors, and whether its work was begun."""
    begun: list[Any] = []

    def begins(config: Any, run_dir: Path) -> int:
        begun.append(run_dir)
        return 0

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = card(words) if script == "card" else command(script, words, begins)
    return code, said.getvalue(), begun


def try_everything(folder: Path, script: str, words: list[str], outside: Path) -> Tried:
    """Every thing at every path of ``folder``, and the command each time."""
    tried = Tried(
        " ".join([script, *(word for word in words if word.startswith(("resume", "out", "run", "push", "merge")))])
    )
    tried.command += "".join(f" {word}" for word in words if word.startswith(("report", "answers")))
    paths = paths_in(folder)
    tried.paths = len(paths)
    for path in paths:
        for thing in THINGS:
            with planted(path, thing, outside):
                started = time.perf_counter()
                code, said, begun = call(script, words)
                tried.seconds.append(time.perf_counter() - started)
            tried.take(shown(path.relative_to(Path.cwd())), thing, begun, code, said)
    return tried


def make_runs() -> None:
    """Real runs, in the working directory."""
    Path("p.txt").write_text("one\ntwo\n")
    Path("answers.json").write_text("{}")
    for commands in MADE.values():
        for script, *words in commands:
            program = [sys.executable, *([script] if script == "-m" else [str(ROOT / script)]), *words]
            done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            if done.returncode:
                raise RuntimeError(f"{' '.join(program)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def look_through(folder: Path, times: int = 50) -> float:
    """Milliseconds that a look through ``folder`` takes, the median."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        refuse_foreign(folder, ".")
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def make_many(folder: Path) -> Path:
    """A folder of 20 folders with 50 files each, as a long run has them."""
    for number in range(1000):
        path = folder / str(number % 20) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def contents(folder: Path) -> dict[str, object]:
    """What every file below ``folder`` holds; folders' own times change as paths in them are replaced."""
    return {name: state[2:] for name, state in state_of(folder).items()}


def main() -> None:
    """Make the runs, plant everything everywhere, and report."""
    files: dict[str, bytes] = {}
    asked: list[tuple[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="foreign-") as place, serve(files, asked) as address:
        os.chdir(place)
        hub.ENDPOINT, hub.HF_HUB_OFFLINE, os.environ["HF_TOKEN"] = address, False, WRITER
        hub.HF_HUB_DISABLE_XET = True  # the server answers without it
        make_runs()
        outside = make_outside(Path("outside").absolute())
        runs = {name: contents(Path(name)) for name in MADE}
        looks = {name: round(look_through(Path(name)), 2) for name in MADE}
        looks["1,020 files and folders"] = round(look_through(make_many(Path("many"))), 2)
        before, listed = state_of(outside), sorted(os.listdir())
        tried = [try_everything(Path(folder).absolute(), script, words, outside) for folder, script, words in TAKEN_UP]
        results: dict[str, Any] = {
            "tries": sum(one.tries for one in tried),
            "not_refused_by_name": [f"{one.command}: {wrong}" for one in tried for wrong in one.wrong],
            "outside_is_unchanged": state_of(outside) == before and sorted(os.listdir()) == listed,
            "runs_are_unchanged": {name: contents(Path(name)) for name in MADE} == runs,
            "requests_to_the_hub": len(asked),
            "milliseconds_of_a_look": looks,
            "paths": {name: len(paths_in(Path(name))) for name in MADE},
            "commands": {
                one.command: {"refused": one.refused.total(), "of": one.tries, "slowest_s": round(max(one.seconds), 3)}
                for one in tried
            },
        }
        # and with nothing planted, each goes on: what refuses everything would pass all of the above
        results["with_nothing_planted"] = {
            one.command: accepted(*case[1:]) for one, case in zip(tried, TAKEN_UP, strict=True)
        }
        results["uploaded_with_nothing_planted"] = sorted(files)
        os.chdir(ROOT)
    for name, row in results["commands"].items():
        print(f"{name:50} {row['refused']} of {row['of']} refused, the slowest in {row['slowest_s']} s")
    report("foreign_directory", results)


def accepted(script: str, words: list[str]) -> bool:
    """Whether a command is accepted: its work begins, or was done already."""
    try:
        code, _, _ = call(script, words)
    except CineloraError:
        return False
    return code == 0


if __name__ == "__main__":
    main()
