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
    """A command: ``name`` is a file of the clone or a module, ``conf`` the file of ``conf/`` that its groups stand in."""

    name: str
    schema: Any
    conf: str = ""

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


PROGRAMS = {
    "train": Program("train.py", TrainConfig, "train"),
    "infer": Program("infer.py", InferConfig, "infer"),
    "evaluate": Program("cinelora.evaluate", EvaluateConfig, "evaluate"),
    "study": Program("cinelora.study", StudyConfig, "study"),
    "prepare": Program("cinelora.prepare", PrepareConfig, "prepare"),
}
