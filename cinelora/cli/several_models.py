"""A study of several models from one command line: each as it would be studied alone, and all rows in one table.

Enters: a ``Command`` with ``models=``. Leaves: an exit code, and in the study's directory a folder for each model and geometry,
which is a study by itself, beside the table of all. What a study does is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from cinelora.adapters.run_directory import trained_on
from cinelora.cli.compose import compose
from cinelora.cli.help import answer
from cinelora.cli.one_run import Run, accepted, planned, run_one
from cinelora.cli.parse import Command, unknown_choice
from cinelora.config.clip_request import ClipRequest
from cinelora.config.model_words import ModelWord
from cinelora.config.schema import StudyConfig
from cinelora.config.sentences import sentence
from cinelora.config.store import to_yaml
from cinelora.errors import ConfigError
from cinelora.families import family_of
from cinelora.io.hub import resolve
from cinelora.io.terminal import say
from cinelora.studies.variants import left_as_settled, possible_variants

OF_ONE_MODEL = ("model", "ckpt", "adapters", "distilled", "merge")
"""Settings that say of one model what ``models=`` says of each, or that only one has."""
OF_ALL = ("models", "geometry")
OF_ADAPTERS = ("ranks", "scales", "merged", "only")
"""Lists that have nothing to act on where a model has no adapters."""


def has_models(command: Command) -> bool:
    """Whether it is a study of several models."""
    return command.program.schema is StudyConfig and "models" in command.given


def run_models(command: Command, run: Run) -> int:
    """Check the study of every model before the first starts, run them one after the other, and put their rows into one table."""
    if command.multirun:
        raise ConfigError("-m: models= is one study of several models already; leave -m away")
    members = members_of(command)
    if command.show:
        return answer(*"---\n".join(to_yaml(compose(member)) for member in members.values()).rstrip("\n").split("\n"))
    settled = {name: _settled(member, name) for name, member in members.items()}
    if any(config.plan for config in settled.values()):
        return answer(*(line for name, config in settled.items() for line in [f"[{name}]", *planned(config)]))
    return run_one(command, partial(_run_members, members=members, run=run))


def _run_members(config: StudyConfig, run_dir: Path, members: Mapping[str, Command], run: Run) -> int:
    """Run the study of each model in its own folder, then join the tables. One that is stopped stops the whole."""
    for name, member in members.items():
        say("", f"[{name}]", *_without_adapters(config, member))
        if code := run_one(replace(member, texts={**member.texts, "out": str(run_dir / name)}), run):
            return code
    say("", "[all]")
    return run(replace(config, merge=[str(run_dir / name) for name in members]), run_dir)


def _without_adapters(config: StudyConfig, member: Command) -> list[str]:
    """A line about the lists that have nothing to act on in a model without adapters."""
    lists = [key for key in OF_ADAPTERS if getattr(config, key) and key not in member.given]
    return [f"no adapters, so that {' and '.join(f'{key}=' for key in lists)} change nothing here"] if lists else []


def members_of(command: Command) -> dict[str, Command]:
    """The command line of each study by itself, by the name of its folder: a model at its own geometry, and at the common one.

    Raises:
        ConfigError: models that are unknown or named twice, settings of one model beside them, nothing that could be compared.
    """
    _refuse_beside(command)
    config = cast(StudyConfig, compose(command))
    words = [ModelWord.of(text) for text in config.models or [""]]
    _refuse_names(command, [word.name for word in words])
    own = {word.name: _alone(command, word, config.latency_only) for word in words}
    settled = {name: _settled(member, name) for name, member in own.items()}
    _refuse_nothing_shared(settled)
    if config.geometry == "own":
        return own
    common = common_geometry(settled.values())
    found = dict[str, Command]()
    for name, member in own.items():
        alike = common == {key: value for key, value in geometry_of(settled[name]).items() if key in common}
        if config.geometry == "both" or alike:
            found[name] = member
        if not alike:
            found[f"{name}-common"] = _at(member, common)
    return found


def _refuse_beside(command: Command) -> None:
    """Refuse settings of one model beside several."""
    typed = {**command.given, **command.texts}
    if beside := next((key for key in OF_ONE_MODEL if key in typed), None):
        raise ConfigError(sentence("models", "beside", key=beside, value=typed[beside]))


def _refuse_names(command: Command, names: list[str]) -> None:
    """Refuse names that no model has, and those that stand twice."""
    typed = command.given["models"]
    for name in names:
        if name not in command.program.groups["model"]:
            raise ConfigError(f"models={typed}: {unknown_choice('model', name, command.program)}")
        if names.count(name) > 1:
            raise ConfigError(sentence("models", "twice", models=typed, name=name))


def _alone(command: Command, word: ModelWord, latency_only: bool) -> Command:
    """What would be typed to study one of the models alone."""
    # steps that are timed alone may have drawn adapters, of any rank and of neither stage
    without = ("only",) if latency_only else OF_ADAPTERS
    left = {*OF_ALL, *(without if word.ckpt is None else ())}
    overrides = [text for text in command.overrides if text.partition("=")[0] not in left]
    if word.ckpt is None:
        return replace(command, overrides=[*overrides, f"model={word.name}"])
    # a run says itself which model it was trained on, down to where its weights lie; files of other tools do not
    theirs = trained_on(resolve(word.ckpt, "models"))
    if theirs is not None and theirs.name != word.name:
        raise ConfigError(sentence("models", "other_model", word=word, theirs=theirs.name))
    named = [] if theirs else [f"model={word.name}"]
    return replace(command, overrides=[*overrides, *named], texts={**command.texts, "ckpt": word.ckpt})


def _settled(member: Command, name: str) -> StudyConfig:
    """The accepted settings of one of the models, whose name stands before what is refused."""
    try:
        return cast(StudyConfig, accepted(member)[0])
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _refuse_nothing_shared(settled: Mapping[str, StudyConfig]) -> None:
    """Refuse models of which no setting is drawn by all."""
    drawn = {
        name: {left_as_settled(setting, config) for setting in possible_variants(config)}
        for name, config in settled.items()
    }
    if not set.intersection(*drawn.values()):
        base = [name for name, config in settled.items() if config.ckpt is None]
        raise ConfigError(sentence("models", "nothing_shared", names=", ".join(settled), base=", ".join(base)))


# -- geometry ----------------------------------------------------------------------------------------------------------


def geometry_of(config: StudyConfig) -> dict[str, int]:
    """Size, frames and steps of a study's clips, by the settings that say them."""
    size = {"model.height": config.model.height, "model.width": config.model.width}
    return size | {"num_frames": ClipRequest.of(config).num_frames, "sampler.steps": config.sampler.steps}


def common_geometry(configs: Iterable[StudyConfig]) -> dict[str, int]:
    """The largest size and frames that every model makes, none of them beyond its own, and the fewest steps that any takes.

    A side shorter than the smallest that all make is that one. With ``latency_only`` steps are alike as they are.
    """
    configs = list(configs)
    families = [family_of(config.model) for config in configs]
    least = {key: min(geometry_of(config)[key] for config in configs) for key in geometry_of(configs[0])}
    cell = math.lcm(*(family.geometry.cell for family in families))
    temporal = math.lcm(*(family.geometry.temporal for family in families))
    sides = {key: max(cell, least[key] // cell * cell) for key in ("model.height", "model.width")}
    frames = min(least["num_frames"], *(family.clips.longest or least["num_frames"] for family in families))
    found = {**sides, "num_frames": (frames - 1) // temporal * temporal + 1}
    return found if configs[0].latency_only else found | {"sampler.steps": least["sampler.steps"]}


def _at(member: Command, geometry: Mapping[str, int]) -> Command:
    """The same at another geometry, in place of what was typed of it."""
    kept = [text for text in member.overrides if text.partition("=")[0] not in geometry]
    return replace(member, overrides=[*kept, *(f"{key}={value}" for key, value in geometry.items())])
