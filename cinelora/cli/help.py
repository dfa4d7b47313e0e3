"""What a command prints about itself: its usage, and with ``--help`` its settings with their values and meaning.

Enters: a ``Command`` that asks for help. Leaves: text, read off the schema's declarations and ``conf/``. The values shown are
those that the rest of the command line gives; where nothing else was typed, the defaults.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import Any

import yaml

from cinelora.cli.parse import Command, near_words
from cinelora.cli.programs import LAUNCHER, Program
from cinelora.config import shipped
from cinelora.config.fields import Field, pick
from cinelora.errors import CineloraError, ConfigError
from cinelora.io.hub import PREFIX
from cinelora.io.terminal import say

NOBODY_READS = 141
"""128 + SIGPIPE: how a program ends whose output is piped into one that has left, such as ``head``."""
EVERYTHING = "all"
"""``--help all``: every setting."""
WIDEST_VALUE = 32
"""Characters of a value before it is cut."""
_TEXTS = "Texts and paths (marked *) may hold any characters, without quoting beyond the shell's"
_SWEEPS = "-m runs once for each combination of comma-separated values; "


def answer(*lines: str) -> int:
    """Print all that was asked for, a line each; the exit code."""
    try:
        say(*lines)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more as it ends
        return NOBODY_READS
    return 0


def usage(program: Program) -> str:
    """The first lines of the help."""
    return f"{program.about}\n\nSettings: {program.typed} --help"


def help_text(command: Command) -> str:
    """The help that a command line asks for: the settings that people change, those of the words after it, or all.

    Raises:
        ConfigError: a word after ``--help`` that names no setting, section or group.
    """
    program = command.program
    config, trouble = _composed(command)
    found = _asked_for(command)
    lines = [_line(field, command, config) for field in found]
    if command.topics and EVERYTHING not in command.topics:
        groups = [_group_line(group, command) for group in _groups(program) if group in command.topics]
        return "\n".join([*trouble, *groups, *lines])
    if not program.conf:
        return "\n".join([program.about, "", f"{_TEXTS}; --help prints this.", *trouble, "", "Settings", *lines])
    whose = "with the values that this command line gives" if config else "with their defaults"
    title = "Settings" if command.topics else f"The {len(found)} settings that people change most"
    more = ["", *_more(program)] if not command.topics else []
    groups = [_group_line(group, command) for group in _groups(program)]
    # Footage is prepared a folder at a time, without sweeps.
    sweeps = "" if program.conf == "prepare" else _SWEEPS
    notes = f"{_TEXTS}; `adapter=` with nothing after it means none.\n{sweeps}--show prints all values and stops."
    head = [program.about, "", notes, *trouble, "", "Groups: each choice sets several settings", *groups, ""]
    return "\n".join([*head, f"{title}, {whose}", *lines, *more])


def _composed(command: Command) -> tuple[Any, list[str]]:
    """The settings that the command line gives, or None where it gives none; and why not, where it does not compose."""
    if command.mistake:
        return None, ["", f"The values below are defaults, because of a mistake: {command.mistake}"]
    if not command.program.conf or not (command.given or command.texts):
        return None, []
    if hub := next((text for text in command.texts.values() if text.startswith(PREFIX)), None):
        return None, ["", f"The values below are defaults: {hub} is not fetched for a help text"]
    # Hydra takes a third of a second to import, which a bare --help need not wait for
    from cinelora.cli.compose import compose, members

    try:
        return compose(members(command)[0] if command.multirun else command), []
    except CineloraError as error:
        return None, ["", f"The values below are defaults, until this is mended: {error}"]


def _asked_for(command: Command) -> list[Field]:
    """The fields to show, in the order of the declarations, or of ``Program.often``."""
    program, shown = command.program, _shown(command.program)
    if not command.topics and program.often:
        return [shown[key] for key in program.often]
    if not command.topics or EVERYTHING in command.topics:
        return list(shown.values())
    found = {key: field for word in command.topics for key, field in _of_topic(word, program, shown).items()}
    return [field for key, field in shown.items() if key in found]


def _shown(program: Program) -> dict[str, Field]:
    """The settings that can be typed: none that comes with its group alone, or that training refuses."""
    hidden = ("by_group", "not_in_training") if program.conf == "train" else ("by_group",)
    return {key: field for key, field in program.fields.items() if not any(getattr(field, why) for why in hidden)}


def _of_topic(word: str, program: Program, shown: dict[str, Field]) -> dict[str, Field]:
    """A section, a setting, or every setting whose name ends in the word."""
    exact = {key: field for key, field in shown.items() if key == word or key.startswith(f"{word}.")}
    found = exact or {key: field for key, field in shown.items() if key.endswith(f".{word}")}
    if not found and word not in program.groups:
        known = [*program.groups, *(part for key in shown for part in key.split(".")), *shown]
        raise ConfigError(
            f"--help {word}: there is no such setting{near_words(word, known)}; --help all lists every one"
        )
    return found


def _more(program: Program) -> list[str]:
    """What else can be asked for."""
    sections = dict.fromkeys(key.partition(".")[0] for key in _shown(program) if "." in key)
    return [
        f"The rest: {program.typed} --help all, or by section, such as --help {next(iter(sections))}: {', '.join(sections)}",
        f"Without a section: {', '.join(key for key in _shown(program) if '.' not in key and key not in program.often)}",
    ]


def _groups(program: Program) -> list[str]:
    return [group for group in program.groups if not (program.conf == "prepare" and group == LAUNCHER)]


def _group_line(group: str, command: Command) -> str:
    program = command.program
    default = program.defaults[group]
    chosen = command.given.get(group)
    note = f"here {chosen}" if chosen else "must be chosen" if default == "???" else f"default {default or 'null'}"
    return f"  {group}={'|'.join(program.groups[group])}  ({note})"


def _line(field: Field, command: Command, config: Any) -> str:
    # a small command composes nothing, and a value that was typed is the value
    typed = {} if command.program.conf else {**command.given, **command.texts}
    mark = "*" if field.is_text else ""
    choices = f" [{'|'.join(field.choices)}]" if field.choices else ""
    value = default_shown(field, command.program) if config is None else _as_typed(pick(config, field.key))
    head = f"  {field.key + mark:<29} {typed.get(field.key, value):<15}  "
    # a line a setting for grep; somebody at a terminal gets the text beside its name, wrapped
    if not sys.stdout.isatty():
        return f"{head}{field.help}{choices}"
    width = max(shutil.get_terminal_size().columns, 80)
    indent = " " * min(len(head), 48)
    return textwrap.fill(
        field.help + choices, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
    )


def default_shown(field: Field, program: Program) -> str:
    """A key's value when only the mandatory groups are given: the chosen group's, the command's own, or the schema's."""
    # A mandatory group has no default, so that neither have its settings. A setting of another group has the value in the
    # file of the group's default choice; one outside of all groups may be set in the command's own file.
    group, dot, name = field.key.partition(".")
    if group in program.mandatory:
        return f"by {group}="
    file = program.conf if not dot else f"{group}/{chosen}" if (chosen := program.defaults.get(group)) else ""
    own = shipped.values(file) if file else {}
    return _as_typed(own.get(name or group, field.default))


def _as_typed(value: Any) -> str:
    text = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).removesuffix("\n...\n").strip()
    )
    return text if len(text) <= WIDEST_VALUE else f"{text[: WIDEST_VALUE - 3]}..."
