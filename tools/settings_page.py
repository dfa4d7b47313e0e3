"""The reference of all settings, as Markdown, made from their declarations in ``cinelora/config/schema.py``.

The documentation site puts it into ``docs/settings.md`` as it is built (``docs/conf.py``), so that it is never out of date.

    python -m tools.settings_page    # prints it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cinelora.card import CardRequest
from cinelora.check import CheckRequest
from cinelora.cli.help import default_shown
from cinelora.cli.programs import LAUNCHER, PROGRAMS, Program
from cinelora.config import shipped
from cinelora.config.fields import Field

SMALL = {
    "card": Program("cinelora.card", CardRequest),
    "check": Program("cinelora.check", CheckRequest),
}
"""The small commands, whose settings are few and shared with nothing."""
TOP = "Settings without a section"


def page() -> str:
    """The groups, then every setting of the large commands by section, then the small commands, each with its own."""
    parts = [*_groups(), *_sections(), *_small()]
    return "\n".join(parts) + "\n"


def _groups() -> Iterator[str]:
    yield "## Groups"
    yield ""
    yield "A group sets several settings at once: `model=wan21_14b_720p` sets all of `model.*`. Each choice is a file in `conf/`."
    yield ""
    known: dict[str, dict[str, str]] = {}
    for name, program in PROGRAMS.items():
        for group in program.groups:
            default = program.defaults[group]
            known.setdefault(group, {})[name] = "must be chosen" if default == "???" else f"`{default or 'null'}`"
    for group, defaults in known.items():
        every = shipped.choices(group) if group != LAUNCHER else [*shipped.choices(group), "basic"]
        yield f"`{group}=`"
        yield f": {', '.join(f'`{choice}`' for choice in sorted(every))}"
        yield ""
        yield f"  Default: {_by_command(defaults)}."
        yield ""


def _by_command(said: dict[str, str], among: Iterable[str] = PROGRAMS) -> str:
    """``x`` where all commands say it, else what each says; the commands are named where some have no such thing."""
    if len({*said.values()}) == 1:
        return f"{next(iter(said.values()))}" + ("" if {*among} == {*said} else f" ({', '.join(said)})")
    return ", ".join(f"{value} in `{name}`" for name, value in said.items())


def _sections() -> Iterator[str]:
    # a section that several commands have stands once, with the commands beside each setting
    found: dict[str, dict[str, dict[str, Field]]] = {}
    for name, program in PROGRAMS.items():
        for key, field in program.fields.items():
            section = key.rpartition(".")[0] or TOP
            found.setdefault(section, {}).setdefault(key, {})[name] = field
    for section in sorted(found, key=lambda name: (name == TOP, list(found).index(name))):
        yield f"## {section}"
        yield ""
        for key, fields in found[section].items():
            yield from _entry(key, fields)


def _small() -> Iterator[str]:
    for name, program in SMALL.items():
        yield f"## python -m cinelora.{name}"
        yield ""
        yield program.about.splitlines()[0]
        yield ""
        for key, field in program.fields.items():
            yield from _entry(key, {name: field}, anchor=f"{name}-{key}")


def _entry(key: str, fields: dict[str, Field], anchor: str = "") -> Iterator[str]:
    """One setting as a definition: its name, what it means, and its facts; by command where commands differ."""
    yield f"[`{key}`]{{#set-{anchor or key.replace('.', '-')}}}"
    helps: dict[str, list[str]] = {}
    for name, field in fields.items():
        helps.setdefault(_escaped(field.help), []).append(name)
    for number, (text, names) in enumerate(helps.items()):
        told = f" ({', '.join(names)})" if len(helps) > 1 else ""
        yield f": {text[:1].upper()}{text[1:]}{told}." if number == 0 else f"\n  {text[:1].upper()}{text[1:]}{told}."
    field = next(iter(fields.values()))
    defaults = {name: _default(field, program_of(name)) for name, field in fields.items()}
    commands = f" In {', '.join(f'`{name}`' for name in fields)}." if len(fields) < len(PROGRAMS) else ""
    yield ""
    yield f"  *{_wanted(field)}. Default: {_by_command(defaults, fields)}.{_when(field)}*{commands}"
    yield ""


def _wanted(field: Field) -> str:
    """The type and bounds of a value, in words."""
    if field.choices:
        what = "one of " + ", ".join(f"`{choice}`" for choice in field.choices)
        what = f"a list of {what[7:]}" if field.is_list else what
    elif field.role:
        places = {
            "path": "a path",
            "run": "a run or adapter",
            "directory": "a folder",
            "model": "a file, folder or repository",
        }
        what = places.get(field.role, "any text")
        what = f"a list [...]: {what}" if field.is_list else what
    else:
        what = field.wants.removesuffix(" or null")
    bounds = {"at least": field.at_least, "above": field.above, "at most": field.at_most, "below": field.below}
    said = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    text = ", ".join([what, *said]) + (", or `null`" if field.optional else "")
    return text[:1].upper() + text[1:]


def _default(field: Field, program: Program) -> str:
    """The value that a command has where nothing is typed: its own file's in ``conf/``, a default group's, or the schema's."""
    if field.by_group:
        return "none"
    text = default_shown(field, program)
    return text if text.startswith("by ") else "empty" if text == "''" else f"`{text}`"


def program_of(name: str) -> Program:
    """A command by its short name."""
    return PROGRAMS.get(name) or SMALL[name]


def _when(field: Field) -> str:
    """What else is to be known: whether it comes with its group, a resume may change it, or no file may set it."""
    facts = [
        (field.by_group, "Comes with its group"),
        (field.resumable, "A resumed run may change it"),
        (field.typed_only, "Taken from the command line alone"),
    ]
    said = [text for holds, text in facts if holds]
    return f" {'. '.join(said)}." if said else ""


def _escaped(text: str) -> str:
    """Characters that Markdown would obey: ``<run>`` stays as it is written."""
    for mark in ("\\", "<", ">", "*", "_", "[", "]", "`", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    print(page())
