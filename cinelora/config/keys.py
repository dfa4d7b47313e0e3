"""The words a command line may hold: keys, groups and their choices, read off the schema and ``conf/``.

What enters is ``sys.argv[1:]``; what leaves is a ``Command`` whose keys all exist, with the free texts taken out
verbatim. Values are not looked at here, and Hydra is not known.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

import cinelora
from cinelora.config.schema import (
    FREE_TEXT_KEYS,
    RENAMED_KEYS,
    SHARING,
    EvaluateConfig,
    InferConfig,
    PrepareConfig,
    StudyConfig,
    TrainConfig,
)
from cinelora.errors import ConfigError

Script = Literal["train", "infer", "evaluate", "study", "prepare"]
Config = TrainConfig | InferConfig | EvaluateConfig | StudyConfig
SCHEMAS: dict[Script, type[Config | PrepareConfig]] = {
    "train": TrainConfig,
    "infer": InferConfig,
    "evaluate": EvaluateConfig,
    "study": StudyConfig,
    "prepare": PrepareConfig,
}
PROGRAMS: dict[Script, str] = {
    "train": "train.py",
    "infer": "infer.py",
    "evaluate": "cinelora.evaluate",
    "study": "cinelora.study",
    "prepare": "cinelora.prepare",
}
"""What a script calls itself: a file of the clone, or a module behind ``python -m``."""

PROJECT = Path(cinelora.__file__).resolve().parents[1]
"""The folder where ``train.py`` lies: relative paths inside ``conf/`` start here."""
CONF = PROJECT / "conf"
LAUNCHER = "hydra/launcher"

_CHOSEN_BY_GROUP = frozenset({"stage.name", "strategy.name", "memory.name", "sampler.name", "logger.name"})
_NOT_IN_TRAINING = {
    "sampler.steps": "a preview takes preview.sampler_steps",
    **dict.fromkeys((f"sampler.{name}" for name in SHARING), "a preview is made by one rank"),
    **dict.fromkeys(("sampler.cache", "sampler.cache_threshold", "sampler.cache_ratios"), "a preview is drawn in full"),
}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


@dataclass(frozen=True)
class Setting:
    """One key of the schema: its type, what it means and, where it is a word, the words it may be."""

    key: str
    kind: type
    optional: bool
    is_list: bool
    help: str
    choices: tuple[str, ...]
    default: Any

    @property
    def wants(self) -> str:
        """What a value should be, in words."""
        what = "|".join(self.choices) or _KINDS[self.kind]
        what = f"a list [...] of {what}" if self.is_list else what
        return f"{what} or null" if self.optional else what


@cache
def settings(script: Script) -> dict[str, Setting]:
    """Every key of a script, dotted, in the schema's order."""
    return {setting.key: setting for setting in _walk(SCHEMAS[script], "")}


def _walk(schema: type, prefix: str) -> Iterable[Setting]:
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint, key = hints[entry.name], prefix + entry.name
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{key}.")
            continue
        kinds = [part for part in typing.get_args(hint) if part is not types.NoneType] or [hint]
        is_list = typing.get_origin(hint) is list
        optional = types.NoneType in typing.get_args(hint)
        about = entry.metadata
        default = [] if is_list else entry.default
        yield Setting(key, kinds[0], optional, is_list, about["help"], about.get("choices", ()), default)


@cache
def sections(script: Script) -> dict[str, list[str]]:
    """The sections of the schema with their keys, dotted."""
    found: dict[str, list[str]] = {}
    for key in settings(script):
        head, dot, _ = key.partition(".")
        if dot:
            found.setdefault(head, []).append(key)
    return found


@cache
def groups(script: Script) -> dict[str, list[str]]:
    """The groups of ``conf/`` a script knows, each with its choices."""
    found = {name: _stems(name) for name in sections(script) if name in defaults(script)}
    return found | {LAUNCHER: sorted([*_stems(LAUNCHER), "basic"])}


def _stems(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def mandatory(script: Script) -> tuple[str, ...]:
    """The groups the user must choose: ``???`` in the script's defaults."""
    return tuple(group for group, choice in defaults(script).items() if choice == "???")


@cache
def defaults(script: Script) -> dict[str, str | None]:
    """What each group is when it is not given."""
    if not CONF.is_dir():
        raise ConfigError(f"there is no conf/ beside {PROJECT / 'cinelora'}: run from a clone")
    lines = yaml.safe_load((CONF / f"{script}.yaml").read_text(encoding="utf-8"))["defaults"]
    entries = {key: choice for line in lines if isinstance(line, dict) for key, choice in line.items()}
    return {key: choice for key, choice in entries.items() if not key.startswith("override ")} | {LAUNCHER: "basic"}


@cache
def models_with_i2v() -> list[str]:
    """The models that have an image-to-video transformer."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "model").glob("*.yaml")}
    return sorted(name for name, model in found.items() if model["i2v"] is not None)


@cache
def trained_shape(model: str) -> tuple[int, int, int] | None:
    """Frames, height and width of the clips a model of ``conf/`` was trained on, whatever a run sets; None for others."""
    if model not in _stems("model"):
        return None
    values = _values(CONF / "model" / f"{model}.yaml")
    return values["num_frames"], values["height"], values["width"]


@dataclass(frozen=True)
class Command:
    """A command line whose keys exist: ``overrides`` are for Hydra, ``texts`` are not."""

    script: Script
    overrides: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    multirun: bool = False
    help: bool = False
    show: bool = False

    @property
    def given(self) -> dict[str, str]:
        """Key to value, as typed, of what is not free text."""
        return {key: value for key, _, value in (override.partition("=") for override in self.overrides)}


def parse(script: Script, argv: list[str]) -> Command:
    """Sort a command line: flags, free texts (verbatim), and overrides whose keys are in the schema or ``conf/``.

    Raises:
        ConfigError: an argument that is not ``key=value``, an unknown key, a key given twice, Hydra's own keys.
    """
    flags = {"-m": "multirun", "--multirun": "multirun", "-h": "help", "--help": "help", "--show": "show"}
    on = {flags[argument]: True for argument in argv if argument in flags}
    if "help" in on:
        return Command(script, help=True)
    overrides: list[str] = []
    values: dict[str, str] = {}
    for argument in argv:
        if argument in flags:
            continue
        key, value = _split(argument, script)
        key = _name_today(key, script)
        _refuse_key(key, value, script)
        if key in values:
            raise ConfigError(f"{key} is given twice: {key}={values[key]} and {key}={value}")
        values[key] = value
        if key not in FREE_TEXT_KEYS:
            overrides.append(_plain(key, value))
    texts = {key: value for key, value in values.items() if key in FREE_TEXT_KEYS}
    return Command(script, overrides, texts, **on)


def _split(argument: str, script: Script) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if argument.startswith("-"):
        bare = key.lstrip("-").replace("-", "_")
        way_out = (
            f"write {bare}=..., without dashes" if bare in settings(script) else "the flags are -m, --show, --help"
        )
        raise ConfigError(f"{argument}: settings are written key=value; {way_out}")
    if not equals and (argument in settings(script) or argument in groups(script)):
        raise ConfigError(f"{argument} has no value: write {argument}=...")
    if not equals:
        raise ConfigError(f"{argument!r} is not key=value; a text with spaces goes in quotes: 'prompt=a man waits'")
    return key, value


def _name_today(key: str, script: Script) -> str:
    """The name that a renamed key has now, which is printed (on stderr: stdout may be ``--show``'s); others as they are."""
    today = RENAMED_KEYS.get(key, key)
    if today == key or today not in settings(script):
        return key
    print(f"{key} is now {today}", file=sys.stderr)
    return today


def _plain(key: str, value: str) -> str:
    for mark, why in (("${", "references are not read"), ("_target_", "settings are values and never name code")):
        if mark in value:
            raise ConfigError(f"{key}={value}: {why}; write the value itself")
    return f"{key}={value}"


def _refuse_key(key: str, value: str, script: Script) -> None:
    bare = key.lstrip("+~")
    if key != bare:
        raise ConfigError(f"{key}: keys are neither added nor removed; write {bare}={value}")
    if "_target_" in key:
        raise ConfigError(f"{key}: settings are values and never name code")
    if key.startswith("hydra") and key != LAUNCHER and not key.startswith("hydra.launcher."):
        raise ConfigError(f"{key} is Hydra's own and stays as it is; only {LAUNCHER}= and hydra.launcher.* can be set")
    if key in _CHOSEN_BY_GROUP or key.startswith("recipe."):
        group = key.partition(".")[0]
        raise ConfigError(f"{key} comes with its group: choose {group}={'|'.join(groups(script)[group])}")
    if script == "train" and key in _NOT_IN_TRAINING:
        raise ConfigError(f"{key} has no effect in training: {_NOT_IN_TRAINING[key]}; leave it away")
    if key in settings(script) or key in groups(script) or key.startswith("hydra.launcher."):
        return
    raise ConfigError(unknown_key(key, script))


def unknown_key(key: str, script: Script) -> str:
    """The sentence for a key that does not exist: the nearest ones, and what there is at its level."""
    known = sections(script)
    head, dot, _ = key.partition(".")
    if key in known:
        return f"{key} is a section, not a setting; set one of {', '.join(known[key])}"
    if head in known:
        return f"{key} is not a setting{_nearest(key, known[head])}; {head} has {', '.join(known[head])}"
    level = list(dict.fromkeys([*groups(script), *(key.partition(".")[0] for key in settings(script))]))
    if dot:
        likely = [key.replace(head, section, 1) for section in difflib.get_close_matches(head, known, n=1)]
        hint = _nearest(likely[0], settings(script)) if likely else ""
        return f"{key} is not a setting{hint}; there is no section {head}, but {', '.join(known)}"
    return f"{key} is not a setting{_nearest(key, [*level, *settings(script)])}; there are {', '.join(level)}"


def _nearest(word: str, known: Iterable[str]) -> str:
    """``: did you mean a or b?``; a key that ends in the word counts as near (``rank`` is ``lora.rank``)."""
    known = list(dict.fromkeys(known))
    same_end = [key for key in known if key.endswith(f".{word}")]
    near = same_end or difflib.get_close_matches(word, known, n=2)
    return f", did you mean {' or '.join(near[:3])}?" if near else ""


def unknown_choice(group: str, value: str, script: Script) -> str:
    """The sentence for a choice that a group does not have."""
    choices = groups(script)[group]
    extra = "; for clips of your own: data=folder data.root=<folder>" if group == "data" else ""
    return f"{group}={value} does not exist{_nearest(value, choices)}; choose {group}={'|'.join(choices)}{extra}"


def missing_groups(command: Command) -> None:
    """Refuse a command line that leaves a mandatory group open.

    Raises:
        ConfigError: naming the choices.
    """
    missing = [group for group in mandatory(command.script) if group not in command.given]
    if not missing:
        return
    what = " and ".join(missing) + (" is missing" if len(missing) == 1 else " are missing")
    choose = " ".join(f"{group}={'|'.join(groups(command.script)[group])}" for group in missing)
    raise ConfigError(f"{what}: choose {choose}")


# Help ---------------------------------------------------------------------------------------------------------------

_ABOUT: dict[Script, str] = {
    "train": "Train a LoRA adapter of Wan2.1: stage=style on stills, then stage=motion on windows above it.",
    "infer": "Make clips: a keyframe with the style adapter, expanded with the style and motion adapters.",
    "evaluate": "Did it work? The base against its adapters, stage by stage: numbers, a page to look at, a blind test.",
    "prepare": "Footage in, dataset out: shots found, judged and cut into samples, with a contact sheet to look at.",
    "study": "What does it cost: the same clips by many settings, in seconds, memory, steadiness and likeness.",
}
_EXAMPLES: dict[Script, tuple[str, ...]] = {
    "train": (
        "python train.py stage=style data=noir",
        "python train.py stage=motion data=noir adapter=outputs/style/noir/last",
        "python train.py stage=style data=folder data.root=/my/footage model=wan21_14b_720p gpus=4",
        "python train.py -m stage=style data=noir lora.rank=4,8,16",
        "python train.py resume=outputs/style/noir/last stage.steps=2000",
    ),
    "infer": (
        "python infer.py ckpt=outputs/motion/noir/last prompt='a man, smoking (alone), waits'",
        "python infer.py ckpt=outputs/motion/noir/last prompts=prompts.txt gpus=4",
        "python infer.py ckpt=outputs/motion/noir/last image=frame.png prompt='rain on a window'",
        "python infer.py mode=t2v prompt='a street at night'",
    ),
    "evaluate": (
        "python -m cinelora.evaluate ckpt=outputs/motion/noir/last data=noir",
        "python -m cinelora.evaluate ckpt=outputs/motion/noir/last data=noir prompts=prompts.txt seeds=4 gpus=4",
        "python -m cinelora.evaluate out=outputs/evaluate/last report=true",
        "python -m cinelora.evaluate out=outputs/evaluate/last answers=answers.json",
    ),
    "prepare": (
        "python -m cinelora.prepare data=folder data.root=/my/footage",
        "python -m cinelora.prepare data=folder data.root=/my/footage model=wan21_14b_720p data.limits.still=null",
        "python -m cinelora.prepare data=folder data.root=/my/footage data.captioner=/models/captioner data.trigger=myfilm",
    ),
    "study": (
        "python -m cinelora.study ckpt=outputs/motion/noir/last prompts=prompts.txt merged=[true,false] scales=[0,1]",
        "python -m cinelora.study ckpt=outputs/motion/noir/last prompt='a man waits' steps=[10,25] first_block=[0.05,0.1]",
        "python -m cinelora.study model=wan21_14b_480p model.weights=random latency_only=true ranks=[8,32]",
        "python -m cinelora.study merge=[outputs/study/a,outputs/study/b] out=outputs/study/both",
    ),
}
_NOTES = """\
Texts and paths (marked *) are taken verbatim, whatever they hold; `adapter=` with nothing behind it is none.
{sweeps}--show prints the settings and stops; --help is this."""

_SWEEPS = "-m runs once for each combination of comma-separated values; "


def typed(script: Script) -> str:
    """How a script is started."""
    program = PROGRAMS[script]
    return f"python {program}" if program.endswith(".py") else f"python -m {program}"


def usage(script: Script) -> str:
    """The first lines of the help."""
    examples = "\n".join(f"  {line}" for line in _EXAMPLES[script])
    return f"{_ABOUT[script]}\n\n{examples}\n\nAll settings: {typed(script)} --help"


def help_text(script: Script) -> str:
    """Everything a script takes: groups with choices, then every key with its default and meaning."""
    shown = [group for group in groups(script) if not (script == "prepare" and group == LAUNCHER)]
    groups_ = [_group_line(group, script) for group in shown]
    hidden = _CHOSEN_BY_GROUP | {key for key in settings(script) if key.startswith("recipe.")}
    hidden |= set(_NOT_IN_TRAINING) if script == "train" else set()
    keys = [_key_line(setting, script) for key, setting in settings(script).items() if key not in hidden]
    head = usage(script).rpartition("\n\n")[0]
    notes = _NOTES.format(sweeps="" if script == "prepare" else _SWEEPS)
    return "\n".join([head, "", notes, "", "Groups", *groups_, "", "Settings", *keys])


def _group_line(group: str, script: Script) -> str:
    default = defaults(script)[group]
    note = "must be chosen" if default == "???" else f"default {default or 'null'}"
    return f"  {group}={'|'.join(groups(script)[group])}  ({note})"


def _key_line(setting: Setting, script: Script) -> str:
    mark = "*" if setting.key in FREE_TEXT_KEYS else ""
    choices = f" [{'|'.join(setting.choices)}]" if setting.choices else ""
    return f"  {setting.key + mark:<29} {_default_shown(setting, script):<16} {setting.help}{choices}"


def _default_shown(setting: Setting, script: Script) -> str:
    """A key's value when only the mandatory groups are given: the chosen group's, the script's own, or the schema's."""
    group, dot, name = setting.key.partition(".")
    if group in mandatory(script):
        return f"by {group}="
    chosen = defaults(script).get(group)
    own = _values(CONF / f"{script}.yaml") if not dot else _values(CONF / group / f"{chosen}.yaml") if chosen else {}
    value = own.get(name or group, setting.default)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return text if len(text) <= 32 else f"in conf/{script}.yaml"


def _values(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def is_plain_name(text: str) -> bool:
    """Whether a text can be one component of a path: letters, digits, ``_ . -``, not starting with a dot."""
    return re.fullmatch(r"[\w-][\w.-]*", text) is not None
