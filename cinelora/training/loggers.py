"""Where curves go: W&B (offline without a key), TensorBoard, and always CSV, below the run directory.

Enters: numbers and pictures of a step. Leaves: what the chosen logger makes of them. A logger that fails is reported once and
left out; the run and the other numbers continue. It does not know what a number means.
"""

from __future__ import annotations

import atexit
import csv
import io
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from cinelora.config.lessons import expert_of
from cinelora.config.schema import LoggerConfig, TrainConfig
from cinelora.errors import FileError, first_line
from cinelora.families.family import suffixed
from cinelora.io.atomic import sha256_json, write_text
from cinelora.io.media import Pixels
from cinelora.io.own_files import append_own
from cinelora.io.plain_data import MOST_OF_LISTS, read_text
from cinelora.io.state_folder import is_noted, note
from cinelora.io.terminal import say, shell_word, warn
from cinelora.parallel.launch import rank_info

if TYPE_CHECKING:
    from wandb import Run

WANDB_ID = "wandb-id"
"""The file in the run's logs that holds W&B's name of the run."""
WANDB_SETTINGS = {"init_timeout": 30.0, "finish_timeout": 30.0, "finish_timeout_raises": True}
WANDB_SETTINGS |= {"symlink": False, "allow_media_symlink": False, "disable_git": True}
"""Seconds that a run waits for W&B at its start and at its end; what did not arrive lies below the run directory, which holds
no links: one that does is not resumed (``io/own_files.py``). And no git: a repository's settings name programs that git starts,
and the run, or a folder above it, may be somebody else's repository.

The end is half of what ranks have after Ctrl-C (``launch.STOP_S``), so that one that is out of reach is still said then.
"""


class Journal(Logger):
    """The one logger that a trainer sees: it hands everything to all of ``loggers``, and remembers the latest numbers."""

    name, version = "journal", ""  # what Lightning calls it: there is one for each start of a run

    def __init__(self, loggers: list[Logger], folder: Path) -> None:
        super().__init__()
        self.loggers, self.folder = loggers, folder
        self.latest: dict[str, float] = {}
        self.noted_at: dict[str, int] = {}
        self.upload: Upload | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers by name, after optimizer step ``step``."""
        self.latest |= metrics
        self.noted_at |= dict.fromkeys(metrics, step or 0)
        self._tell(lambda logger: logger.log_metrics(metrics, step))

    def memory(self, trainer: Trainer, stage: object) -> dict[str, Any]:
        """What was logged for the step at hand; early stopping may have to ask for it after a resume."""
        step = trainer.global_step
        return {"step": step, "numbers": {name: self.latest[name] for name, at in self.noted_at.items() if at == step}}

    def recall(self, memory: dict[str, Any], trainer: Trainer, stage: object) -> None:
        """Remember it as noted, and tell no logger: it was told."""
        self.latest |= memory["numbers"]
        self.noted_at |= dict.fromkeys(memory["numbers"], memory["step"])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings of the run, to loggers that show them."""
        self._tell(lambda logger: logger.log_hyperparams(params))

    def show(self, name: str, frames_THWC: Pixels, path: Path, step: int) -> None:
        """A picture or a clip that lies at ``path``, to loggers that can show it."""

        def give(logger: Logger) -> None:
            match logger:
                case WandbLogger() if len(frames_THWC) == 1:
                    logger.log_image(name, [str(path)], step=step)
                case WandbLogger():
                    logger.log_video(name, [str(path)], step=step)
                case TensorBoardLogger():  # its add_video wants moviepy
                    logger.experiment.add_images(name, torch.tensor(frames_THWC), step, dataformats="NHWC")

        self._tell(give)

    def keep(self, path: Path, settings: LoggerConfig) -> None:
        """Give what a run has made, a file or folder at ``path``, to a logger that keeps files, as ``logger.artifact`` says."""

        def give(logger: Logger) -> None:
            if isinstance(logger, WandbLogger) and (settings.artifact or (settings.artifact is None and self.upload)):
                logger.experiment.log_artifact(path, name=f"{path.stem}-{logger.experiment.id}", type="model")

        self._tell(give)

    def save(self) -> None:
        """Flush."""
        self._tell(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        """Close, but for W&B's upload: a trainer calls this before the run's results are written, which must not wait for it."""
        self._tell(lambda logger: logger.finalize(status))

    def close(self) -> None:
        """Wait for W&B's upload, once, and say where it got stuck."""
        upload, self.upload = self.upload, None
        if upload:
            upload.finish()

    def _tell(self, act: Callable[[Logger], object]) -> None:
        """``act`` on each logger; one that raises, whatever it raises, must not end hours of training."""
        # Over a copy, as one that fails is taken out of the list. W&B may be out of reach, TensorBoard's disk may be full: a run
        # is worth more than its curves, so every failure counts alike, and each logger fails once.
        for logger in list(self.loggers):
            try:
                act(logger)
            except Exception as error:
                self.loggers.remove(logger)
                rest = f"the curves continue in {self.folder / 'csv'}" if self.loggers else "no more curves are kept"
                failure = f"{type(logger).__name__} failed ({first_line(error)}) and is left out from here on"
                warn(f"{failure}; {rest}")


class CsvTable(Logger):
    """``metrics.csv`` in ``folder``: a line for each call, written by rank 0.

    Where a start before this one has left a table there, its lines up to ``first_step`` are kept: what a step owed is logged by
    the first that resumes at it, and by no other. Later ones will be logged again.
    """

    name, version = "csv", ""

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__()
        self.path, self.first_step, self.columns = folder / "metrics.csv", first_step, set[str]()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line; a kill leaves the table with it or without it."""
        if rank_info().global_rank:
            return
        row: dict[str, Any] = {**metrics, "step": step or 0}
        if row.keys() <= self.columns:
            with append_own(self.path, newline="") as file:
                csv.DictWriter(file, sorted(self.columns)).writerow(row)
            return
        # A column that is new stands in the first line, so the whole table is written, to take the place of the one before.
        rows = [*self.kept(), row]
        self.columns |= set().union(*rows)
        write_text(self.path, self.as_text(rows))

    def kept(self) -> list[dict[str, Any]]:
        """The lines that are there; at first without those of later steps, nor one that a kill or a full disk broke off."""
        if not self.path.exists():
            return []
        whole, _, _ = read_text(self.path, MOST_OF_LISTS).rpartition("\n")
        rows = list(csv.DictReader(whole.splitlines()))
        return rows if self.columns else [row for row in rows if int(row["step"]) <= self.first_step]

    def as_text(self, rows: list[dict[str, Any]]) -> str:
        """The table, its columns by name."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, sorted(self.columns))
        table.writeheader()
        table.writerows(rows)
        return text.getvalue()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: they stand in ``config.yaml``."""


class Upload:
    """What W&B is sent during a run, and the sentence to be said where not all of it arrived.

    Its client sends in the background and holds no step up. Where time is up at the end, it raises. Where it had stopped
    sending before, refused or after too many tries, it ends as if all were well, having warned of it on the
    terminal alone. There it is silent here, so this listens in its place.
    """

    def __init__(self, run: Run, curves: Path) -> None:
        import wandb

        self.run, self.curves, self.stuck = run, curves, False
        wandb.termsetup(run.settings, self)  # who hears what a silent client does not print

    def info(self, message: str) -> None:
        """Nothing that a user must know."""

    def warning(self, message: str) -> None:
        """One that names the remedy is about data that were not sent."""
        self.stuck |= "wandb sync" in message

    error = warning

    def finish(self) -> None:
        """Send the rest, within ``WANDB_SETTINGS``; whatever goes wrong, the run itself has ended well."""
        folder = self.run.sync_dir
        try:
            self.run.finish()
        except Exception:
            self.stuck = True
        if self.stuck:
            remedy = f"`wandb sync --include-online {shell_word(folder)}` sends the rest"
            warn(f"W&B did not get everything; {remedy}, and all curves are in {self.curves}")


def wandb_key_exists() -> bool:
    """Whether W&B finds a key for the server that it would log to, which may be one's own; nobody is asked for one."""
    import wandb
    from wandb.sdk.lib import wbauth

    # W&B's own reader: it knows where a key may lie (environment, .netrc, its settings, an identity token) and for which
    # server it is. A key that it finds and does not like counts as one: W&B then says what is wrong with it.
    read_own_wandb_settings()
    try:
        host = wandb.setup().settings.base_url
        return wbauth.authenticate_session(host=host, source="cinelora", prompt=False, update_session=False) is not None
    except wandb.errors.AuthenticationError:
        return True


def is_offline(settings: LoggerConfig) -> bool:
    """Whether W&B only writes files: where that is asked for, or no key is there."""
    return not wandb_key_exists() if settings.offline is None else settings.offline


def run_words(settings: LoggerConfig, name: str, notes: str | None = None) -> dict[str, Any]:
    """What W&B calls a run, and where it puts it."""
    words: dict[str, Any] = {"name": name, "project": settings.project, "entity": settings.entity}
    return words | {"group": settings.group, "tags": settings.tags or None, "notes": settings.notes or notes}


def make_journal(config: TrainConfig, run_dir: Path, first_step: int) -> Journal:
    """The loggers that are asked for, beside a copy in CSV; a resumed run writes beside what is there, not over it.

    ``run_dir`` is the folder of the run, or of the lesson where there are two: each is a run of its own there.
    """
    run_dir = run_dir.absolute()
    folder, part, wanted = run_dir / "logs", f"from-step-{first_step:08d}", config.logger.all
    if not wanted:
        return Journal([], folder)
    journal = Journal([CsvTable(folder / "csv" / part, first_step)], folder)
    if "tensorboard" in wanted:
        journal.loggers.append(TensorBoardLogger(folder, name="tensorboard", version=part))
    if "wandb" in wanted:
        journal.loggers.append(wandb_logger(config, run_dir))
        with chdir("/"):  # from the working directory W&B would take config-defaults.yaml
            journal.log_hyperparams(asdict(config))  # W&B's run begins here, on rank 0
        journal.upload = upload_at_hand(folder / "csv")
        # the results of a rank are safe when its process ends; W&B's own exit, which waits as long and says nothing, comes after
        atexit.register(journal.close)
    return journal


def upload_at_hand(curves: Path) -> Upload | None:
    """The upload of W&B's run in this process, if there is one and it is sent anywhere; ``curves`` is the copy beside it."""
    import wandb

    run = wandb.run
    return None if run is None or run.offline or run.disabled else Upload(run, curves)


def read_own_wandb_settings() -> None:
    """Set W&B's client up with the user's settings alone (``~/.config/wandb/settings``, ``WANDB_*``), before it is used.

    It would also obey ``./wandb/settings``: whoever made the working directory could choose server and account.
    """
    import wandb

    os.environ.setdefault("WANDB_PROGRAM", os.path.abspath(sys.argv[0]))  # it would be looked for in another directory
    os.environ["WANDB_DISABLE_GIT"] = "true"  # for the setup; a run's own settings say so once more
    with chdir("/"):
        wandb.setup()


def wandb_logger(config: TrainConfig, run_dir: Path) -> WandbLogger:
    """W&B, offline unless it is asked for or a key is there; it is not spoken to yet. A resumed run continues its own."""
    settings, folder, is_first = config.logger, run_dir / "logs", rank_info().global_rank == 0
    offline = is_offline(settings)
    if offline and is_first:
        say(f"W&B logs offline into {folder / 'wandb'}; `wandb sync` uploads them")
    os.environ.setdefault("WANDB_SILENT", "true")
    read_own_wandb_settings()
    expert = expert_of(config).name
    run, lesson = run_dir.parent if expert else run_dir, suffixed(config.stage.name, expert)
    words = run_words(settings, f"{lesson}-{config.data.name}-{run.name}", config.description)
    # Lightning asks W&B to resume the run of this id if there is one, and to begin it otherwise.
    words |= {"save_dir": folder, "id": wandb_id(folder) if is_first else None}
    # Lightning says offline in the environment, which W&B has read by now.
    words |= {"mode": "offline"} if offline else {}
    return WandbLogger(**words, offline=offline, settings=WANDB_SETTINGS)


def wandb_id(folder: Path) -> str:
    """What W&B knows the run by: kept with it, so that it is one run there however often it is resumed."""
    # The id names a run in this user's account. One that no run of his has noted may be that of another run of his, written
    # there by whoever handed this directory over: then this is a new run at W&B.
    path, known = folder / WANDB_ID, ""
    try:
        known = read_text(path, limit=64).strip() if path.is_file() else ""
    except FileError:
        # a run is worth more than one line of curves: what was logged before stays under its old name
        warn(f"{path} is damaged, so the run of before is not found: W&B starts a new run beside it")
    if known and is_noted(sha256_json([WANDB_ID, known])):
        return known
    new = secrets.token_hex(4)
    note([sha256_json([WANDB_ID, new])])
    write_text(path, new)
    return new
