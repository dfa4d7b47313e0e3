"""The five large commands: how each is typed, and which settings it takes; their docstrings say what they are for.

A small command (``cinelora.card`` and its like) declares a ``Program`` of its own, without groups of ``conf/``.
"""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from cinelora.config import shipped
from cinelora.config.fields import Field, fields_of, sections
from cinelora.config.schema import EvaluateConfig, InferConfig, PrepareConfig, StudyConfig, TrainConfig

Config = TrainConfig | InferConfig | EvaluateConfig | StudyConfig
LAUNCHER = "hydra/launcher"


@dataclass(frozen=True)
class Program:
    """A command: ``name`` is a file of the clone or a module, ``conf`` the file of ``conf/`` that its groups stand in.

    ``often`` are the settings that people change most, in the order in which ``--help`` shows them.
    """

    name: str
    schema: Any
    conf: str = ""
    often: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What it is for, and examples: the docstring of its schema."""
        head, _, examples = inspect.cleandoc(self.schema.__doc__ or "").partition("\n")
        return f"{head}\n{textwrap.indent(examples, '  ')}"

    @property
    def typed(self) -> str:
        """How the command is started."""
        return f"python {self.name}" if self.name.endswith(".py") else f"python -m {self.name}"

    @property
    def fields(self) -> dict[str, Field]:
        """Every key, in the schema's order."""
        return fields_of(self.schema)

    @property
    def defaults(self) -> dict[str, str | None]:
        """What each group is when it is not given."""
        if not self.conf:
            return {}
        # the defaults list as Hydra has it: names of files, and groups with their choices; "override hydra/..." is Hydra's own
        lines = (line for line in shipped.values(self.conf)["defaults"] if isinstance(line, dict))
        entries = {key: choice for line in lines for key, choice in line.items() if not key.startswith("override ")}
        return entries | {LAUNCHER: "basic"}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The groups of ``conf/`` that the command knows, each with its choices."""
        if not self.conf:
            return {}
        found = {name: shipped.choices(name) for name in sections(self.schema) if name in self.defaults}
        return found | {LAUNCHER: sorted([*shipped.choices(LAUNCHER), "basic"])}

    @property
    def mandatory(self) -> list[str]:
        """The groups that the user must choose: ``???`` in the command's defaults."""
        return [group for group, choice in self.defaults.items() if choice == "???"]


_TRAIN = (
    "data.root data.caption data.trigger adapter out resume gpus plan stage.steps stage.batch_size stage.accumulation"
)
_TRAIN += " lora.rank lora.alpha lora.targets optimizer.lr model.dtype memory.limit_gib checkpoint.every_steps"
_TRAIN += " preview.every_steps seed"
_INFER = "ckpt prompt prompts image negative_prompt out gpus plan mode seed compare num_frames model.height model.width"
_INFER += " sampler.steps sampler.guidance sampler.cache scale.style scale.motion adapters"
_EVALUATE = "ckpt prompts clips seeds seed out gpus plan report answers against metrics.names data.root mode num_frames"
_EVALUATE += " model.height model.width sampler.steps sampler.guidance adapters"
_STUDY = (
    "ckpt models prompt prompts seeds out gpus plan scales ranks merged steps distilled first_block taylorseer dtypes"
)
_STUDY += " partitions grid repetitions latency_only"
_PREPARE = "data.root data.prepared data.overrides data.caption data.caption_lines data.trigger data.description"
_PREPARE += " data.captioner data.judged data.limits.sharpness data.limits.text data.subtitles data.interlaced data.hdr"
_PREPARE += " data.lut data.stills_per_shot data.holdout data.buckets num_frames workers"

PROGRAMS = {
    "train": Program("train.py", TrainConfig, "train", tuple(_TRAIN.split())),
    "infer": Program("infer.py", InferConfig, "infer", tuple(_INFER.split())),
    "evaluate": Program("cinelora.evaluate", EvaluateConfig, "evaluate", tuple(_EVALUATE.split())),
    "study": Program("cinelora.study", StudyConfig, "study", tuple(_STUDY.split())),
    "prepare": Program("cinelora.prepare", PrepareConfig, "prepare", tuple(_PREPARE.split())),
}
