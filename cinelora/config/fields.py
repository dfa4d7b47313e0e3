"""The keys of a schema with all that is declared of them, and the way from a dotted key to its value and back.

Enters: a dataclass of ``schema``, or a small command's own. Leaves: ``Field`` objects in the order of the declarations.
Whoever needs a list of keys (those that are paths, those that a resume may change) reads it off these, and keeps none.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

PLACES = ("path", "run", "directory")
"""Roles of what lies on this machine: something that is there, a run or adapter that may be a link, a folder to be made."""
MAY_BE_NONE = (*PLACES, "model", "note")
"""Roles whose empty text is none; an empty ``text`` (a prompt, a caption) is one."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


@dataclass(frozen=True)
class Field:
    """One key of a schema: its type, what it means, and what else a declaration says of it."""

    key: str
    kind: type
    optional: bool
    is_list: bool
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    # what a number may be; ``frames``: 4n+1, which the VAE makes latents of
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    multiple_of: int | None = None
    frames: bool = False
    # one of PLACES, "model" (a place or a hub repository), "text" (what a network reads) or "note" (any other text)
    role: str = ""
    # set by choosing its group of ``conf/``, never by itself
    by_group: bool = False
    # whether a run that is resumed may change it
    resumable: bool = False
    # whether another value gives another clip; ``hashed_as`` stands in a hash in its place, if it is not ...
    changes_clip: bool = True
    hashed_as: Any = ...
    # read by report=true, answers= and merge=, which draw nothing
    without_drawing: bool = False
    # for who trains; not for whoever goes on with a copy of the run
    ones_own: bool = False
    # why train.py refuses it
    not_in_training: str = ""
    # names of the conditions under which anything reads it; see ``unread``
    read_when: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether its value reaches the program verbatim, whatever characters it holds: Hydra's grammar never sees it."""
        return bool(self.role) and not self.is_list

    @property
    def wants(self) -> str:
        """What a value should be, in words."""
        what = "|".join(self.choices) or _KINDS[self.kind]
        what = f"a list [...] of {what}" if self.is_list else what
        return f"{what} or null" if self.optional else what


def fields_of(schema: type) -> dict[str, Field]:
    """Every key of a schema, dotted, in the schema's order."""
    return _fields(typing.cast(Any, schema))


@cache
def _fields(schema: Any) -> dict[str, Field]:
    return {field.key: field for field in _walk(schema, "", {})}


def _walk(schema: type, prefix: str, of_section: dict[str, Any]) -> Iterator[Field]:
    """The fields of a dataclass; what is said ``of_section`` goes above what a setting says, conditions add up."""
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint, key = hints[entry.name], prefix + entry.name
        about = {**entry.metadata, **of_section}
        about["read_when"] = f"{of_section.get('read_when', '')} {entry.metadata.get('read_when', '')}".strip()
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{key}.", about)
            continue
        kinds = [part for part in typing.get_args(hint) if part is not types.NoneType] or [hint]
        is_list = typing.get_origin(hint) is list
        default = [] if is_list else entry.default
        if entry.name not in about.pop("only", (entry.name,)):
            about["read_when"] = f"network {about['read_when']}"
        if isinstance(of_section.get("hashed_as"), dict):
            about["hashed_as"] = of_section["hashed_as"].get(entry.name, default)
        about["read_when"] = tuple(about["read_when"].split())
        yield Field(key, kinds[0], types.NoneType in typing.get_args(hint), is_list, default, **about)


@cache
def sections(schema: Any) -> dict[str, list[str]]:
    """The sections of a schema with their keys, dotted."""
    found: dict[str, list[str]] = {}
    for key in fields_of(schema):
        head, dot, _ = key.partition(".")
        if dot:
            found.setdefault(head, []).append(key)
    return found


def pick(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def assign(config: Any, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    section, _, name = key.rpartition(".")
    setattr(pick(config, section) if section else config, name, value)
