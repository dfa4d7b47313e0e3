"""The public API: settings, runs, clips and adapters from Python, by the same ways as the commands.

Enters: settings as they are typed (``"stage=style"``), or paths. Leaves: typed settings, finished runs, pixels, tensors.
Mistakes raise ``cinelora.errors.CineloraError``, whose text is the sentence that the command would print. Every name is
re-exported by ``cinelora`` itself: ``from cinelora import train, open_clip``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.one_run import INTERRUPTED, accepted, run_one
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS, Config
from cinelora.config.schema import TrainConfig
from cinelora.config.store import load_config
from cinelora.errors import ConfigError, FileError, first_line
from cinelora.footage.manifest import read_manifest
from cinelora.footage.read_frames import read_frames
from cinelora.footage.scan_folder import open_clip
from cinelora.io import slurm
from cinelora.io.plain_data import MOST_OF_LISTS, read_json, read_text

__all__ = ["Run", "compose", "evaluate", "infer", "read_run", "train"]
__all__ += ["open_clip", "read_adapter", "read_frames", "read_manifest"]


@dataclass(frozen=True)
class Run:
    """A training run: where it lies, what it was asked, and ``summary.json``, empty while the run has not ended."""

    directory: Path
    settings: TrainConfig
    summary: dict[str, Any]

    @property
    def adapters(self) -> dict[str, Path]:
        """The adapter files that the run holds, by role: ``style``, ``motion``, or ``style_high_noise`` and its like."""
        return RunDirectory(self.directory).adapters()

    def curve(self, name: str = "train/loss", expert: str = "") -> dict[int, float]:
        """A logged number by optimizer step; empty where nothing of that name was logged. Raises ``FileError``.

        Of a run of two experts each has curves of its own: ``expert`` is ``high_noise`` or ``low_noise``.
        """
        # A resumed run writes a table of its own, which repeats the steps after the checkpoint it began at: later tables win.
        points: dict[int, float] = {}
        for table in sorted(RunDirectory(self.directory, expert).logs.glob("csv/from-step-*/metrics.csv")):
            rows = csv.DictReader(read_text(table, MOST_OF_LISTS).splitlines())
            try:
                points |= {int(row["step"]): float(row[name]) for row in rows if row.get(name)}
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise FileError(f"{table} is damaged: {first_line(error)}") from error
        return points


def compose(command: str, *settings: str) -> Config:
    """The checked settings of ``train``, ``infer``, ``evaluate``, ``study`` or ``prepare``; nothing is written or run.

    ``compose("train", "stage=style", "data=noir").optimizer.lr`` is 3e-05. Raises ``CineloraError`` as the command would.
    """
    if command not in PROGRAMS:
        raise ConfigError(f"{command!r} is no command; there are {', '.join(PROGRAMS)}")
    return accepted(parse(PROGRAMS[command], list(settings)))[0]


def train(*settings: str) -> Run:
    """Train to the end of a stage, as ``python train.py`` does with these settings.

    Raises ``CineloraError`` for what the command would refuse, and ``KeyboardInterrupt`` where the run was stopped, after it
    was saved.
    """
    from cinelora.training.run_stage import train as train_stage

    return read_run(_run("train", settings, train_stage))


def infer(*settings: str) -> list[Path]:
    """Make clips, as ``python infer.py`` does; the mp4 files, one a prompt. Raises as ``train``."""
    from cinelora.sampling.make_clips import infer as make_clips

    run_dir = _run("infer", settings, make_clips)
    return [run_dir / "clip.mp4"] if (run_dir / "clip.mp4").is_file() else sorted(run_dir.glob("[0-9]*/clip.mp4"))


def evaluate(*settings: str) -> dict[str, Any]:
    """Evaluate, as ``python -m cinelora.evaluate`` does; what ``numbers.json`` holds. Raises as ``train``."""
    from cinelora.evaluation.measure import read_numbers
    from cinelora.evaluation.run_evaluation import evaluate as run_evaluation

    numbers: dict[str, Any] = dict(read_numbers(_run("evaluate", settings, run_evaluation)))
    return numbers


def read_run(directory: str | Path) -> Run:
    """A training run from its directory; raises ``ConfigError`` where that holds no settings of one.

    Its settings are what the file says: whoever obeys the places and accounts that they name has to know whose run it is.
    """
    run = RunDirectory(Path(directory))
    return Run(
        run.path,
        load_config(run.path),
        read_json(run.summary, dict[str, Any], measured=True) if run.summary.is_file() else {},
    )


def _run(command: str, settings: tuple[str, ...], work: Any) -> Path:
    """Do a command's ``work`` and return the directory it was done in."""
    places: list[Path] = []

    def remembered(config: Any, run_dir: Path) -> int:
        places.append(run_dir)
        code: int = work(config, run_dir)
        return code

    slurm.forget()
    code = run_one(parse(PROGRAMS[command], list(settings)), remembered)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if not places:
        raise ConfigError(
            f"{command}: these settings start no run: plan=true only prints, and a finished run stays as it is"
        )
    return places[0]
