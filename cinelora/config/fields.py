"""The keys of a schema with all that is declared of them, and the way from a dotted key to its value and back.

Enters: a dataclass of ``schema``, or a small command's own. Leaves: ``Field`` objects in the order of the declarations.
Whoever needs a list of keys (those that are paths, those that a resume may change) reads it off these, and keeps none.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import operator
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cinelora.errors import ConfigError

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
    help: str = ""
    choices: tuple[str, ...] = ()
    # what a number may be; ``frames`` and ``is_side`` (of a picture): what the family's VAE makes latents of
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    multiple_of: int | None = None
    frames: bool = False
    is_side: bool = False
    # one of PLACES, "model" (a place or a hub repository), "models" (words of ``models=``), "text" (what a network reads) or
    # "note" (any other text)
    role: str = ""
    # set by choosing its group of ``conf/``, never by itself
    by_group: bool = False
    # whether a run that is resumed may change it
    resumable: bool = False
    # whether another value gives another clip; a tuple names the values that do. A value that does not is left out of hashes, or
    # stands in them as ``hashed_as``, if that is not ...
    changes_clip: bool | tuple[str, ...] = True
    hashed_as: Any = ...
    # newer than the first hashes of clips: it stands in them where it is not its default, so that those of older runs hold
    since: bool = False
    # its key in older versions, under which it stands in hashes
    was: str = ""
    # read by report=true, answers= and merge=, which draw nothing
    without_drawing: bool = False
    # names an account or a program, or lets it reach further: like a place, nothing that a file from somebody else decides
    private: bool = False
    # taken from no file at all, and handed to nobody: each command line gives it again
    typed_only: bool = False
    # why train.py refuses it
    not_in_training: str = ""
    # names of the conditions under which anything reads it; see ``unread``
    read_when: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether its value reaches the program verbatim, whatever characters it holds: Hydra's grammar never sees it."""
        return bool(self.role) and not self.is_list

    @property
    def is_private(self) -> bool:
        """Whether it names a place, a program or an account: see ``trust``."""
        return self.private or self.typed_only or self.role in (*PLACES, "model")

    def decides(self, value: Any) -> bool:
        """Whether a clip with this value is another one than it would be by default."""
        return value in self.changes_clip if isinstance(self.changes_clip, tuple) else self.changes_clip

    @property
    def wants(self) -> str:
        """What a value should be, in words."""
        what = "|".join(self.choices) or _KINDS[self.kind]
        what = f"a list [...] of {what}" if self.is_list else what
        return f"{what} or null" if self.optional else what

    def refuses(self, value: Any, wants: str = "") -> ConfigError:
        """The error of a value that it cannot have."""
        return ConfigError(f"{self.key}={value}: wants {wants or self.wants} ({self.help})")


def fields_of(schema: type) -> dict[str, Field]:
    """Every key of a schema, dotted, in the schema's order."""
    return _fields(typing.cast(Any, schema))


@cache
def _fields(schema: Any) -> dict[str, Field]:
    return {field.key: field for field in _walk(schema, "", {})}


@cache
def _helps(module: str) -> dict[tuple[str, str], str]:
    """The texts after the settings of a module, by class (or none) and name; Python itself drops them."""
    tree, found = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")), {}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    scopes: list[ast.Module | ast.ClassDef] = [tree, *classes]
    for scope in scopes:
        for node, after in itertools.pairwise(scope.body):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                text = " ".join(str(ast.literal_eval(after.value)).split())
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found[getattr(scope, "name", ""), ast.unparse(target)] = text
    # a declaration that several classes share has its text where it is made, unless a class says more
    for schema in classes:
        for node in schema.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Name):
                found.setdefault((schema.name, ast.unparse(node.target)), found.get(("", node.value.id), ""))
    return found


def _walk(schema: type, prefix: str, of_section: dict[str, Any]) -> Iterator[Field]:
    """The fields of a dataclass; what is said ``of_section`` goes above what a setting says, conditions add up."""
    hints, helps = typing.get_type_hints(schema), _helps(schema.__module__)
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
        # a command may read a few settings of a section alone: no network stands behind the others there
        if entry.name not in about.pop("only", (entry.name,)):
            about["read_when"] = f"network {about['read_when']}"
        if "was" in of_section:
            about["was"] = f"{of_section['was']}.{entry.name}"
        # for a whole section that changes no clip: the values that stand in hashes, by name, and defaults for the rest
        if isinstance(of_section.get("hashed_as"), dict):
            about["hashed_as"] = of_section["hashed_as"].get(entry.name, default)
        about["read_when"] = tuple(about["read_when"].split())
        about["help"] = helps.get((schema.__name__, entry.name), "")
        yield Field(key, kinds[0], types.NoneType in typing.get_args(hint), is_list, default, **about)


@cache
def sections(schema: Any) -> dict[str, list[str]]:
    """The sections of a schema with their keys, dotted."""
    # the keys of a section stand side by side, in the order of the declarations
    dotted = [key for key in fields_of(schema) if "." in key]
    return {head: list(keys) for head, keys in itertools.groupby(dotted, lambda key: key.partition(".")[0])}


def pick(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    return operator.attrgetter(key)(config)


def assign(config: Any, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    section, _, name = key.rpartition(".")
    setattr(pick(config, section) if section else config, name, value)
