"""What decides how a clip looks, of all settings of a run: for directories that are found again, and clips that are done.

Enters: settings. Leaves: plain data and hashes, the same ones for settings that give the same clips.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cinelora.config.fields import fields_of
from cinelora.config.schema import RENAMED_SECTIONS
from cinelora.io.atomic import sha256_json


def clip_facts(schema: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """``settings``, plain data of a ``schema``, without those that change no clip.

    A few that were counted once stand in it with the value that they had by default: so hashes of old runs hold. Keys that are
    missing stay missing, as of settings that an older version wrote down. A section that was renamed has its first name here,
    whichever it has in ``settings``.
    """
    settings = {RENAMED_SECTIONS.get(name, name): value for name, value in settings.items()}
    first_names = {new: old for old, new in RENAMED_SECTIONS.items()}
    found: dict[str, Any] = {}
    for key, field in fields_of(schema).items():
        *sections, name = key.split(".")
        node, kept = settings, found
        for section in sections:
            node = node.get(section, {})
        if field.changes_clip and name not in node:
            continue
        value = node[name] if field.changes_clip else field.hashed_as
        if value is not ...:
            for section in sections:
                kept = kept.setdefault(section, {})
            kept[name] = value
    return {first_names.get(name, name): value for name, value in found.items()}


def clip_hash(config: Any) -> str:
    """A hash of everything that decides how the clips look."""
    return sha256_json(clip_facts(type(config), dataclasses.asdict(config)))
