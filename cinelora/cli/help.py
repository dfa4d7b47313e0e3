"""What a command prints about itself: its usage, and with ``--help`` every group and key with default and meaning.

Enters: a ``Program``. Leaves: text, read off the schema's declarations and ``conf/``.
"""

from __future__ import annotations

import os
import sys

import yaml

from cinelora.cli.programs import LAUNCHER, Program
from cinelora.config import shipped
from cinelora.config.fields import Field
from cinelora.io.terminal import say

_TEXTS = "Texts and paths (marked *) are taken verbatim, whatever they hold"
NOBODY_READS = 141
"""128 + SIGPIPE: how a program ends whose output is piped into one that has left, such as ``head``."""
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
    return f"{program.about}\n\nAll settings: {program.typed} --help"


def help_text(program: Program) -> str:
    """Everything a command takes: groups with choices, then every key with its default and meaning."""
    hidden = ("by_group", "not_in_training") if program.conf == "train" else ("by_group",)
    fields = [field for field in program.fields.values() if not any(getattr(field, why) for why in hidden)]
    keys = [_key_line(field, program) for field in fields]
    if not program.conf:
        return "\n".join([program.about, "", f"{_TEXTS}; --help is this.", "", "Settings", *keys])
    # Footage is prepared a folder at a time, without sweeps. What a group sets is shown with the group, and what training does
    # not read of a section that it shares with inference is not offered there.
    sweeps = "" if program.conf == "prepare" else _SWEEPS
    shown = [group for group in program.groups if not (program.conf == "prepare" and group == LAUNCHER)]
    notes = f"{_TEXTS}; `adapter=` with nothing behind it is none.\n{sweeps}--show prints the settings and stops; --help is this."
    groups = [_group_line(group, program) for group in shown]
    return "\n".join([program.about, "", notes, "", "Groups", *groups, "", "Settings", *keys])


def _group_line(group: str, program: Program) -> str:
    default = program.defaults[group]
    note = "must be chosen" if default == "???" else f"default {default or 'null'}"
    return f"  {group}={'|'.join(program.groups[group])}  ({note})"


def _key_line(field: Field, program: Program) -> str:
    mark = "*" if field.is_text else ""
    choices = f" [{'|'.join(field.choices)}]" if field.choices else ""
    return f"  {field.key + mark:<29} {_default_shown(field, program):<16} {field.help}{choices}"


def _default_shown(field: Field, program: Program) -> str:
    """A key's value when only the mandatory groups are given: the chosen group's, the command's own, or the schema's."""
    # A mandatory group has no default, so that neither have its settings. A setting of another group has the value in the
    # file of the group's default choice; one outside of all groups may be set in the command's own file.
    group, dot, name = field.key.partition(".")
    if group in program.mandatory:
        return f"by {group}="
    file = program.conf if not dot else f"{group}/{chosen}" if (chosen := program.defaults.get(group)) else ""
    own = shipped.values(file) if file else {}
    value = own.get(name or group, field.default)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return text if len(text) <= 32 else f"in conf/{program.conf}.yaml"
