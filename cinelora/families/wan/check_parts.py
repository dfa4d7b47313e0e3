"""What a run checks of a Wan's parts before anything is loaded: files, headers, and whether two experts are two. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from cinelora.config.schema import ModelConfig
from cinelora.errors import ConfigError, ModelError
from cinelora.families.family import Expert, Part
from cinelora.families.wan.checkpoint_layouts import source_of, survey
from cinelora.families.wan.experts import expert_lines, refuse_one_for_two


class WanParts:
    """See ``parts.Parts``."""

    @staticmethod
    def source_of(model: ModelConfig, kind: str, part: Part, expert: str = "") -> str | None:
        """Where a part comes from; None where its values are drawn, or nothing names it."""
        return source_of(model, kind, part, expert)

    @staticmethod
    def check(model: ModelConfig, kind: str, wanted: Sequence[Part], experts: Sequence[Expert]) -> list[str]:
        """Look at the parts that lie on this machine, and at the ``experts`` of the network that take part."""
        named = [expert for expert in experts if expert.name]
        refuse_one_for_two(model, kind, named)
        try:
            lines = survey(model, kind, wanted, named)
        except ModelError as error:
            raise ConfigError(f"{_named(model, kind, named)}: {error}") from error
        return [*lines, *expert_lines(model, kind, named)]

    @staticmethod
    def check_length(model: ModelConfig, kind: str, num_frames: int, trains: bool) -> list[str]:
        """Nothing in a transformer bounds its frames."""
        return []


def _named(model: ModelConfig, kind: str, experts: Sequence[Expert]) -> str:
    """The settings that say where a network lies."""
    keys = dict.fromkeys((kind, *(model.key_of(kind, expert.name) for expert in experts)))
    given = [f"model.{key}={getattr(model, key)}" for key in keys if getattr(model, key)]
    return " ".join(given) or f"model.t2v={model.t2v}"
