"""Which callbacks a run has, and the order in which they act after each step.

Enters: settings, the held-out samples, and what a checkpoint holds. Leaves: the callbacks for Lightning's trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning import Callback

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.metric_names import logged, monitors
from cinelora.config.schema import TrainConfig, samples_per_step
from cinelora.errors import ConfigError
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.training.callbacks.at_step import Remembers
from cinelora.training.callbacks.checkpoint import Checkpointer
from cinelora.training.callbacks.early_stopping import EarlyStopping
from cinelora.training.callbacks.ema import Ema
from cinelora.training.callbacks.progress import Progress
from cinelora.training.callbacks.resume import Duties, Resume, owes
from cinelora.training.callbacks.signs_of_life import StepBegins, StepEnds
from cinelora.training.callbacks.stop import StopRequest
from cinelora.training.callbacks.validation_loss import ValidationLoss
from cinelora.training.checkpoint_files import Checkpoint
from cinelora.training.export import export
from cinelora.training.loggers import Journal

if TYPE_CHECKING:
    from cinelora.training.callbacks.preview import Preview
    from cinelora.training.callbacks.validation_clips import ValidationClips


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks of a run."""

    resume: Resume | None
    stop: StopRequest
    ema: Ema | None
    checkpointer: Checkpointer
    validation_loss: ValidationLoss | None
    validation_clips: ValidationClips | None
    preview: Preview | None
    progress: Progress
    early_stopping: EarlyStopping
    duties: Duties

    def all(self) -> list[Callback]:
        """Those there are, in the order they act: restore, stop, average, log, save, measure, show, compare, settle."""
        # Lightning calls them in the order of this list, and each place in it has a reason:
        #
        #   resume            first of these, as the others read the weights and the step that it puts back
        #   stop              decides whether this step is the last one, which all after it ask for
        #   ema               moves the average to this step before anyone saves, measures or shows it
        #   progress          logs before the save: were it the other way round, a kill between the two would leave a gap
        #                     in the curves, as this is nothing that a step owes
        #   checkpointer      saves before anything slow, as whoever stops a run may end it for good before long
        #   validation, preview   take their time, and log numbers
        #   early_stopping    compares what was logged for this very step, hence after those that log it
        #   duties            marks the checkpoint of this step as settled; where a run resumes at one that is not, it has
        #                     those from the checkpointer on act once more, for that step
        #   signs of life     around all of them: none of this is part of a step, and none of it is ever late
        before = (StepEnds(), self.resume, self.stop, self.ema, self.progress, self.checkpointer)
        after = (*self.duties.callbacks, self.duties, StepBegins())
        return [callback for callback in (*before, *after) if callback]


def make_callbacks(
    config: TrainConfig,
    run: RunDirectory,
    index: Index,
    heldout: LatentDataset,
    resumed: Checkpoint | None,
    facts: dict[str, Any],
    journal: Journal,
    clip_steps: int,
) -> RunCallbacks:
    """What happens beside the optimisation, as the settings ask for it; held-out clips are drawn in ``clip_steps``."""
    ema = Ema(config.ema_decay) if config.ema_decay else None
    checkpointer = Checkpointer(config.checkpoint, run, partial(export, config, run, index), ema, facts)
    measured = bool(config.validation.every_steps and len(heldout))
    refuse_unseen(config, measured)
    clips = preview = None
    # These two import metrics and video writers, whose seconds a run without them does not wait for.
    if measured and config.validation.clips:
        from cinelora.training.callbacks.validation_clips import ValidationClips

        clips = ValidationClips(config, heldout, ema, journal, clip_steps)
    if config.preview.every_steps:
        from cinelora.training.callbacks.preview import Preview

        preview = Preview(config, run, heldout, ema, journal)
    resume, stop = Resume(resumed, checkpointer) if resumed else None, StopRequest()
    loss = ValidationLoss(config.validation, heldout, ema) if measured else None
    progress = Progress(config.logger, samples_per_step(config))
    stopping = EarlyStopping(config.stopping, config.checkpoint, journal, checkpointer)
    of_all: dict[str, Remembers | None] = {"progress": progress, "journal": journal, "early_stopping": stopping}
    of_all |= {"validation_loss": loss, "validation_clips": clips}
    checkpointer.remembering = {name: one for name, one in of_all.items() if one}
    owed = resumed is not None and owes(resumed, config.stage.steps, run.product(config.stage.name))
    duties = Duties(checkpointer, [one for one in (loss, clips, preview, stopping) if one], owed)
    return RunCallbacks(resume, stop, ema, checkpointer, loss, clips, preview, progress, stopping, duties)


def refuse_unseen(config: TrainConfig, measured: bool) -> None:
    """Refuse to wait for a number of held-out samples where there are none; settings alone do not tell."""
    for key, name in monitors(config):
        if not measured and name.startswith(("heldout/", "effect/")):
            there = ", ".join(name for name in logged(config) if name.startswith("train/"))
            raise ConfigError(
                f"{key}={name} is measured on held-out samples and there are none: raise data.holdout, or take one of {there}"
            )
