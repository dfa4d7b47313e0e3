"""From a command line to a dataclass: the only module that knows Hydra and OmegaConf.

What enters is ``sys.argv[1:]``; what leaves is the program's dataclass with every text as it was typed.
Precedence: schema < groups < the script's own file < recipe < command line; where clips are drawn, the model of
``ckpt=`` takes the place of the default one, and ``resume=`` starts from the run's own settings. Hydra composes in this
process, creates nothing and starts nothing: of a sweep (``-m``) it reads the values, and the launcher's settings. Whether
the values make sense together is for ``check``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cinelora.adapters.run_directory import RunDirectory, lessons_in, trained_on
from cinelora.cli.parse import Command, missing_groups, parse, unknown_choice
from cinelora.cli.programs import LAUNCHER, PROGRAMS, Config, Program
from cinelora.config.adapter_words import AdapterWord, in_order
from cinelora.config.fields import MAY_BE_NONE, PLACES, assign, pick, sections
from cinelora.config.learning_rate import extend
from cinelora.config.lessons import lessons_of
from cinelora.config.schema import (
    EvaluateConfig,
    InferConfig,
    ModelConfig,
    PrepareConfig,
    StudyConfig,
    TrainConfig,
    data_ranks,
    own_guidance,
    samples_per_step,
)
from cinelora.config.shipped import CONF, PROJECT, choices, values
from cinelora.config.store import anchored, load, load_config
from cinelora.config.trust import (
    forget_typed_only,
    is_own,
    of_model,
    of_report,
    of_run,
    refuse_foreign_settings,
    word_of,
)
from cinelora.errors import ConfigError
from cinelora.families import family_of
from cinelora.io.hub import CONFIG_FILE, PREFIX, is_run, resolve
from cinelora.io.own_files import refuse_foreign
from cinelora.io.terminal import say

AUTO = "auto"
"""``resume=auto``: go on with what ``out=`` holds, or begin there."""

RESOURCES = ("gpus", "nodes", "workers")
"""What decides how large a job is."""


def compose(command: Command) -> Config:
    """The settings of one run, whichever script it is."""
    config = _asked(command)
    _settle_for_family(config, {*command.given, *command.texts})
    if (sampler := getattr(config, "sampler", None)) and sampler.guidance is None:
        sampler.guidance = own_guidance(config.model)
    return config


def _settle_for_family(config: Config, given: Collection[str]) -> None:
    """Let what was not typed be as the model's family has it, where that is other than the groups in ``conf/``."""
    family = family_of(config.model)
    own: dict[str, Any] = {}
    if isinstance(config, TrainConfig) and not config.resume:
        own = {f"stage.{key}": value for key, value in family.of_stage(config.stage.name).items() if value is not None}
    if isinstance(config, PrepareConfig) and family.window:
        own = {"num_frames": family.window}
    if isinstance(config, InferConfig | EvaluateConfig | StudyConfig):
        own = {} if config.model.expands else {"mode": "t2v"}
        own |= {"sampler.steps": family.steps} if family.steps and "sampler" not in given else {}
    for key, value in own.items():
        if key not in given:
            assign(config, key, value)


def _asked(command: Command) -> Config:
    # Each value is read by itself first, so that a mistake is named by its own key. Hydra would find it too, but speaks of
    # files and nodes of a tree that the user has never seen.
    for text in command.overrides:
        _refuse_value(_parsed(text), command.program)
    # a run that is resumed has its own settings, and takes from the command line what may change
    _refuse_foreign_runs(command)
    if command.texts.get("resume") == AUTO:
        return _begun_or_resumed(command)
    if command.texts.get("resume"):
        return _resumed(command)
    missing_groups(command)
    _refuse_launcher(command)
    config = _composed(command.program, command.overrides)
    # the order matters: a root in conf/ is the project's, one that was typed is the user's
    _anchor_shipped_data(config)
    _place_texts(config, command)
    _fetch_adapters(config)
    if isinstance(config, EvaluateConfig) and (config.report or config.answers):
        return _looked_at_anew(config, command)
    if isinstance(config, InferConfig | EvaluateConfig | StudyConfig) and config.ckpt and "model" not in command.given:
        _take_model(config, Path(config.ckpt), command)
    return config


def _refuse_foreign_runs(command: Command) -> None:
    """Look through the directories of runs that are gone on with or copied from, before anything in them is read."""
    out, resume = command.texts.get("out"), command.texts.get("resume")
    if out:
        refuse_foreign(Path(out), CONFIG_FILE)
    # of the run in adapter= a file is copied, and perhaps uploaded with what is trained on top of it
    for source, copied in ((resume, bool(out)), (command.texts.get("adapter"), True)):
        if source and source != AUTO and not source.startswith(PREFIX):
            run = Path(source) if Path(source).is_dir() else Path(source).parent
            refuse_foreign(run, CONFIG_FILE, copied=copied)


def compose_train(argv: list[str]) -> TrainConfig:
    """The settings of one training run.

    Raises:
        ConfigError: a key or value that does not exist, with those that do.
    """
    return cast(TrainConfig, compose(parse(PROGRAMS["train"], argv)))


def _composed(program: Program, overrides: Sequence[str]) -> Config:
    # To an object here already: what OmegaConf leaves behind holds no references, and every other module sees dataclasses.
    with _composing(program):
        tree = hydra_compose(program.conf, [text for text in overrides if not _is_null_group(text, program)])
        return cast(Config, OmegaConf.to_object(tree))


def _is_null_group(text: str, program: Program) -> bool:
    """``recipe=null`` says what already is; Hydra has no override that means it."""
    group, _, choice = text.partition("=")
    return choice == "null" and group in program.groups


@cache
def _store_schemas() -> None:
    """Make the schemas known to Hydra, once a process: each is walked whole as it is stored."""
    for program in PROGRAMS.values():
        ConfigStore.instance().store(name=f"{program.conf}_schema", node=program.schema)


@contextmanager
def _composing(program: Program) -> Iterator[None]:
    _store_schemas()
    with _hydra_errors(), initialize_config_dir(str(CONF), job_name=program.conf, version_base="1.3"):
        yield


@contextmanager
def _hydra_errors() -> Iterator[None]:
    """Turns what Hydra still refuses after our own checks into one sentence."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra wraps what OmegaConf says, and each writes several lines: the first line of both is the sentence
        causes = [str(cause).strip().rstrip(".") for cause in (error, error.__cause__) if cause is not None]
        raise ConfigError("; ".join(cause.splitlines()[0] for cause in causes if cause)) from error


# One override ---------------------------------------------------------------------------------------------------------


def _parsed(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
        override.value()
        return override
    except HydraException as error:
        way_out = "quote the value for the settings too"
        raise ConfigError(f"{text} cannot be read; {way_out}: {text.partition('=')[0]}=\"'...'\"") from error


def _refuse_value(override: Override, program: Program) -> None:
    """Refuse one override whose value the schema or ``conf/`` does not allow, naming what they do."""
    key = override.key_or_group
    if override.is_sweep_override():
        raise ConfigError(f"{override.input_line} is several values: add -m to run once for each")
    if key in program.fields:
        return _refuse_type(override, program)
    text = override.get_value_element_as_str()
    # a group without a default, such as recipe, may be null: nothing of it is chosen
    is_none = override.value() is None and program.defaults.get(key) is None
    if key in program.groups and text not in program.groups[key] and not is_none:
        raise ConfigError(unknown_choice(key, text, program))


@cache
def _scratch(schema: Any) -> DictConfig:
    """The tree that values are tried on; no value is judged by what stood there before, and so it is walked once."""
    return cast(DictConfig, OmegaConf.structured(schema))


def _refuse_type(override: Override, program: Program) -> None:
    key, text = override.key_or_group, override.get_value_element_as_str()
    setting = program.fields[key]
    try:
        scratch = _scratch(program.schema)  # OmegaConf converts, and refuses, as it will when it composes
        OmegaConf.update(scratch, key, override.value())
        found = OmegaConf.select(scratch, key)
    except OmegaConfBaseException as error:
        raise setting.refuses(text) from error
    words = list(found) if setting.is_list else [found]
    if setting.choices and not all(word in setting.choices or word is None for word in words):
        raise setting.refuses(text)


def _refuse_launcher(command: Command) -> None:
    launcher = command.launcher
    options = [key for key in command.given if key.startswith("hydra.launcher.")]
    if launcher == "basic" and options:
        raise ConfigError(f"{options[0]} belongs to a launcher: choose {LAUNCHER}=slurm or {LAUNCHER}=local")
    if launcher != "basic" and not _has_plugin():
        raise ConfigError(f"{LAUNCHER}={launcher} is not installed: pip install cinelora[slurm]")
    if launcher == "slurm" and shutil.which("srun") is None:
        raise ConfigError(f"{LAUNCHER}=slurm: this machine has no srun; submit from the cluster, or choose =local")
    if launcher != "basic" and not command.multirun:
        raise ConfigError(f"{LAUNCHER}={launcher} starts the members of a sweep: add -m (a sweep may have one member)")


def _has_plugin() -> bool:
    # one name after the other: looking for a module in a package that is not there is an error
    return all(map(importlib.util.find_spec, ("hydra_plugins", "hydra_plugins.hydra_submitit_launcher")))


# After Hydra ----------------------------------------------------------------------------------------------------------


def _place_texts(config: Config, command: Command) -> None:
    """Set the free texts on the dataclass, after OmegaConf has nothing more to say about them; an empty path is none."""
    for key, text in command.texts.items():
        field = command.program.fields[key]
        if not text and field.role in PLACES and not field.optional:
            raise ConfigError(f"{key}= is empty: give a path ({field.help})")
        assign(config, key, None if not text and field.optional and field.role in MAY_BE_NONE else text)


def _anchor_shipped_data(config: Config) -> None:
    """A relative root in ``conf/data`` starts at the project's folder, so that any working directory finds it."""
    data = getattr(config, "data", None)
    if data and data.root:
        data.root = str(PROJECT / data.root)


def _fetch_adapters(config: Config) -> None:
    for key in ("ckpt", "adapter"):
        source = getattr(config, key, None)
        if source and source.startswith(PREFIX):
            setattr(config, key, str(resolve(source, key)))
    words = [AdapterWord.of(text) for text in getattr(config, "adapters", ())]
    for number, word in enumerate(words):
        if word.source.startswith(PREFIX):
            words[number] = dataclasses.replace(word, source=str(resolve(word.source, "adapters")))
    if words:
        config.adapters = in_order(words)  # type: ignore[union-attr]


def _take_model(config: InferConfig | EvaluateConfig | StudyConfig, source: Path, command: Command) -> None:
    """The model a checkpoint was trained on, with the user's ``model.*`` on top."""
    # A checkpoint knows its model, down to the directory that the weights came from. What was typed still goes above it, such
    # as another dtype; the values are those that Hydra has converted already, in the model that it composed by default.
    composed, found = config.model, trained_on(resolve(str(source)))
    if found is None:
        known = "|".join(command.program.groups["model"])
        raise ConfigError(f"ckpt={source} does not say which model it was trained on: add model={known}")
    given, theirs = [*command.given, *command.texts], dataclasses.replace(config, model=found)
    if not (config.trust or is_own(theirs, of_model)):
        here = dataclasses.replace(config, model=_shipped_model(found.name))
        refuse_foreign_settings(theirs, here, f"ckpt={source}", given, of_model)
    found.attention = composed.attention  # of the machine it was trained on; this may be another
    for key in given:
        if key.startswith("model."):
            name = key.removeprefix("model.")
            setattr(found, name, getattr(composed, name))
    config.model = found


def _shipped_model(name: str) -> ModelConfig:
    """A model of ``conf/`` as it is shipped, or one without a source."""
    return ModelConfig(**values(f"model/{name}")) if name in choices("model") else ModelConfig()


def _any_run(program: Program) -> list[str]:
    """The shortest overrides with which a script composes."""
    return [f"{group}={program.groups[group][0]}" for group in program.mandatory]


# Resuming -------------------------------------------------------------------------------------------------------------


def _resumed(command: Command, as_typed: TrainConfig | None = None) -> TrainConfig:
    """A run's own settings, with the few that may change taken from the command line.

    ``as_typed`` is the whole run as the command line says it, where it does: places and accounts of a file that this user did not
    write here then come from that. Elsewhere they have to be typed, or trusted.
    """
    given = [*command.given, *command.texts]
    for key in given:
        _refuse_change(key)
    run = _run_of(command.texts["resume"])
    own_style = next((path for role, path in RunDirectory(run).adapters().items() if role.startswith("style")), None)
    if "adapter" in given and own_style:
        raise ConfigError(f"the resumed run has its own style adapter, {own_style}: leave adapter= away")
    config = load_config(run)
    # now, as the command line may change them below
    before, planned = samples_per_step(config), {one.stage.expert: one.stage.steps for one in lessons_of(config)}
    # what was typed is read as for a new run, of any stage and data, and picked out of it key by key
    fresh = _composed(PROGRAMS["train"], [*_any_run(PROGRAMS["train"]), *command.overrides])
    _place_texts(fresh, command)
    if not (fresh.trust or is_own(config)):
        _disobey(config, command, as_typed, carried=["adapter"] if own_style else [])
    _forget_typed_only(config, given)
    for key in given:
        assign(config, key, pick(fresh, key))
    if config.adapter and own_style:
        # the run it was copied from may be gone, or trained further, by now
        config.adapter = str(own_style if own_style == RunDirectory(run).adapter("style") else run)
    _refuse_other_steps(config, before)
    config.resume, config.out = str(run), command.texts.get("out") or None
    if config.out is None and command.texts["resume"].startswith(PREFIX):
        raise ConfigError(
            f"resume={command.texts['resume']}: add out=<directory>, where the downloaded run is continued"
        )
    say(*_extended(config, planned, run))
    return config


def _extended(config: TrainConfig, planned: dict[str, int], run: Path) -> list[str]:
    """Settle the rates of a run whose lessons get more steps than the ``planned`` ones; a line for each whose rates change."""
    found = []
    for lesson, there in lessons_in(config, run):
        lines = extend(lesson, planned.get(lesson.stage.expert, lesson.stage.steps), there.last_step)
        if there.expert:
            setattr(config.optimizer, f"{lesson.stage.expert}_extended", lesson.optimizer.extended)
        found += [f"{there.expert}: {line}" if there.expert else line for line in lines]
    return found


def _disobey(config: TrainConfig, command: Command, as_typed: TrainConfig | None, carried: list[str]) -> None:
    """Put what the command line says in the place of a stranger's places, programs and accounts, or refuse these."""
    if as_typed is None:
        typed = [*command.given, *command.texts, *carried]
        return refuse_foreign_settings(config, _begun_here(config), f"resume={command.texts['resume']}", typed)
    for key, field in command.program.fields.items():
        if of_run(field):
            assign(config, key, pick(as_typed, key))


def _begun_here(config: TrainConfig) -> TrainConfig:
    """What a run of this model and data would be by itself here: shipped sources and roots, the default cache and logger."""
    program, groups = PROGRAMS["train"], ("model", "data")
    shipped = {group: name for group in groups if (name := pick(config, f"{group}.name")) in program.groups[group]}
    chosen = {"stage": program.groups["stage"][0], "data": "folder"} | shipped
    here = cast(TrainConfig, _composed(program, [f"{group}={name}" for group, name in chosen.items()]))
    _anchor_shipped_data(here)
    if "model" not in shipped:
        here.model = ModelConfig()
    return anchored(here)


def _forget_typed_only(config: TrainConfig, given: list[str]) -> None:
    if config.push and "push" not in given:
        word = word_of(PROGRAMS["train"].fields["push"], config.push)
        say(f"{word} is in the run's settings, but uploads must be typed: type it again to upload", error=True)
    forget_typed_only(config)


def _begun_or_resumed(command: Command) -> TrainConfig:
    """The run in ``out=`` where it has got to a checkpoint, with what may change; else a new one, in the same words."""
    out = command.texts.get("out")
    if not out:
        raise ConfigError("resume=auto continues the run in out=, or starts it there: add out=<directory>")
    rest = {key: text for key, text in command.texts.items() if key not in ("out", "resume")}
    fresh = cast(TrainConfig, compose(dataclasses.replace(command, texts={**rest, "out": out})))
    # Without a checkpoint there is nothing to resume from, whatever else a run wrote before it was killed: it begins again.
    if not (Path(out) / CONFIG_FILE).is_file() or not RunDirectory(Path(out)).has_checkpoint():
        return fresh
    _refuse_other_run(command, load_config(Path(out)), fresh)
    # What may not change has just been compared, and is the same: it is dropped here, as a resume refuses to hear of it. So is
    # the adapter, of which the run has a copy.
    may_change = [text for text in command.overrides if _may_change(text.partition("=")[0])]
    texts = {key: text for key, text in rest.items() if _may_change(key) and key != "adapter"}
    return _resumed(dataclasses.replace(command, overrides=may_change, texts={**texts, "resume": out}), fresh)


def _may_change(key: str) -> bool:
    """Whether a resume may change a setting, or all that a group sets: where things lie may, as what is there is compared."""
    fields = PROGRAMS["train"].fields
    found = [field for name, field in fields.items() if name == key or name.startswith(f"{key}.")]
    return bool(found) and all(field.resumable or of_run(field) for field in found)


def _refuse_other_run(command: Command, there: TrainConfig, asked: TrainConfig) -> None:
    """Refuse to go on with a run of other settings; what lies somewhere is compared when it is read."""
    fields = command.program.fields
    for key in [*command.given, *command.texts]:
        if _may_change(key) or key == LAUNCHER:
            continue
        # a group that was typed is compared by the name of its choice, which its section keeps
        name = next(name for name in (key, f"{key}.name", f"{key}.names") if name in fields)
        if pick(there, name) != pick(asked, name):
            raise ConfigError(
                f"out={command.texts['out']} holds a run with {key}={pick(there, name)}, and {key}={pick(asked, name)} "
                "is asked for: choose another out="
            )


def _refuse_change(key: str) -> None:
    if _may_change(key):
        return
    # sections that may change whole are listed as such, and single settings of the others by name
    program = PROGRAMS["train"]
    may = [name for name, field in program.fields.items() if field.resumable and name != "resume"]
    whole = [name for name, keys in sections(program.schema).items() if {*keys} <= {*may}]
    single = [name for name in may if name.partition(".")[0] not in whole]
    listed = ", ".join([*single, *(f"{name}.*" for name in whole)])
    raise ConfigError(
        f"a resumed run keeps its settings, so {key} cannot change; these can: {listed}, and places such as data.root"
    )


def _refuse_other_steps(config: TrainConfig, samples: int) -> None:
    """Refuse a resume whose steps would take another number of samples than before, which their order rests on."""
    counts = (config.gpus, config.nodes, config.strategy.sequence, config.stage.batch_size, config.stage.accumulation)
    if min(counts) < 1 or config.gpus * config.nodes % config.strategy.sequence or samples_per_step(config) == samples:
        return
    # The order of samples is that of whole steps: the first N go to step 1, the next N to step 2, however many ranks there
    # are. So the ranks may change as long as N = batch x ranks x accumulation stays, and a way to keep it is worked out.
    ranks, batch_size = data_ranks(config), config.stage.batch_size
    shared = f" / {config.strategy.sequence} a sequence" if config.strategy.sequence > 1 else ""
    parts = f"{batch_size} x {config.gpus * config.nodes} ranks{shared} x {config.stage.accumulation}"
    if samples % ranks:
        way_out = f"take a number of ranks{shared} that divides {samples}"
    else:
        # the largest batch up to the one asked for, which is known to fit, that divides a rank's samples of a step
        batch = max(size for size in range(1, batch_size + 1) if samples // ranks % size == 0)
        way_out = f"add stage.batch_size={batch} stage.accumulation={samples // ranks // batch}"
    asked = f"stage.batch_size x ranks x stage.accumulation is {parts} = {samples_per_step(config)}"
    raise ConfigError(f"the resumed run has {samples} samples per step, but {asked}: {way_out}")


def _run_of(source: str) -> Path:
    """The run directory behind ``resume=``: the run itself, or the run an adapter file lies in."""
    path = resolve(source, "resume")
    run = path.parent if path.is_file() else path
    if is_run(run):
        return run
    raise ConfigError(
        f"resume={source} holds an adapter but no run: without the optimizer's state it cannot be resumed"
    )


# Looking at an evaluation again -----------------------------------------------------------------------------------------


def _looked_at_anew(fresh: EvaluateConfig, command: Command) -> EvaluateConfig:
    """The settings of the evaluation in ``out=``, with what is measured taken from the command line."""
    given, what = [*command.given, *command.texts], "report=true and answers="
    if fresh.out is None:
        raise ConfigError(f"{what} look at clips that are drawn: add out=<an evaluation's run directory>")
    # Clips are there and stay as they are. So all that decides them is read from the run, and a command line may change what
    # is measured of them, and where networks for that lie. Sections are refused or allowed whole.
    free = (name for name, field in command.program.fields.items() if field.without_drawing)
    may = dict.fromkeys(name.partition(".")[0] for name in free)
    for key in given:
        if key.partition(".")[0] not in may:
            raise ConfigError(f"{what} draw nothing, so {key} cannot change; these can: {', '.join(may)}")
    if not is_run(Path(fresh.out)):
        raise ConfigError(f"out={fresh.out} holds no {CONFIG_FILE}: it is no run of {PROGRAMS['evaluate'].name}")
    config = load(EvaluateConfig, Path(fresh.out) / CONFIG_FILE)
    if not (fresh.trust or is_own(config, of_report)):
        refuse_foreign_settings(config, anchored(fresh), f"out={fresh.out}", given, of_report)
    forget_typed_only(config)  # answers of the last time, too: a report that is asked for now counts none
    for key in given:
        assign(config, key, pick(fresh, key))
    return config


# Sweeps ---------------------------------------------------------------------------------------------------------------


def members(command: Command) -> list[Command]:
    """The runs of a sweep in the order Hydra takes them; a sweep runs over settings and groups, never over texts.

    Raises:
        ConfigError: what a sweep cannot be made over.
    """
    if command.texts.get("resume") not in (None, AUTO):
        raise ConfigError("resume= continues one run: leave -m away")
    _refuse_launcher(command)
    overrides = [_parsed(text) for text in command.overrides]
    for override in filter(Override.is_sweep_override, overrides):
        if override.key_or_group.startswith("hydra"):
            raise ConfigError(f"{override.key_or_group} must be the same for the whole sweep: give one value")
        if override.key_or_group in RESOURCES and command.launcher == "slurm":
            raise ConfigError(
                f"{override.input_line} would ask SLURM for jobs of different sizes, and a sweep is one job array: "
                f"choose one {override.key_or_group}=, or start a sweep for each"
            )
    task = [override for override in overrides if not override.key_or_group.startswith("hydra")]
    if len(task) < len(overrides):
        launcher_settings(command)  # composed to be refused here, where it may be, and not after members were checked
    # the last of the swept keys varies fastest, as in Hydra's own sweeps
    combinations = itertools.product(*map(_values, task))
    return [dataclasses.replace(command, overrides=list(values), multirun=False) for values in combinations]


def _values(override: Override) -> Iterator[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        yield f"{key}={override.get_value_element_as_str()}"
        return
    if override.value_type not in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP):
        raise ConfigError(f"{key}: a sweep wants its values one by one, as in {key}=a,b,c or range(1,4)")
    with _hydra_errors():
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())


def launcher_settings(command: Command) -> dict[str, Any]:
    """What ``hydra.launcher`` is for a sweep, with the command line's own ``hydra.launcher.*``."""
    options = [text for text in command.overrides if text.startswith("hydra")]
    with _composing(command.program):
        tree = hydra_compose(command.program.conf, [*_any_run(command.program), *options], return_hydra_config=True)
        tree.hydra.sweep.dir = ""  # submitit's folder is named after it, and is ours to name
        return cast("dict[str, Any]", OmegaConf.to_container(tree.hydra.launcher, resolve=True))
