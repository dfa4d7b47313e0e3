"""What decides how a clip looks, of all settings of a run: for directories that are found again, and clips that are done.

Enters: settings. Leaves: plain data and hashes, the same ones for settings that give the same clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from cinelora.config.fields import fields_of
from cinelora.io.atomic import sha256_json


def clip_facts(schema: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """``settings``, plain data of a ``schema``, without those that change no clip, under the names that they had at first.

    Of those that change none, a few were counted once: these stand in it with the value that they had by default, so that
    hashes of old runs hold. What is missing in ``settings`` stays missing, as in those that an older version wrote down.
    """
    # Settings may come from a run of any version. A key stands in them under its name of today or under its first one, and
    # always under the first one in what is hashed, so that a renamed key changes no hash.
    there, found = dict(_flat(settings)), dict[str, Any]()
    for key, field in fields_of(schema).items():
        first = field.was or key
        value = there.get(key, there.get(first, ...))
        value = value if field.decides(value) else field.hashed_as
        if value is ... or (field.since and value == field.default):
            continue
        *sections, name = first.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return found


def without_newer(schema: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a section without those keys, newer than the first hashes, that have their default."""
    newer = {key: field.default for key, field in fields_of(schema).items() if field.since}
    return {key: value for key, value in settings.items() if key not in newer or value != newer[key]}


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def clip_hash(config: Any) -> str:
    """A hash of everything that decides how the clips look."""
    return sha256_json(clip_facts(type(config), dataclasses.asdict(config)))
