"""What a directory or file from somebody else may decide: shapes and numbers, never places, programs or accounts.

Enters: settings that were read from a file, and what the same command would set by itself. Leaves: nothing, or a refusal that
names what is to be typed. Which settings are private is declared in ``schema`` (``Field.is_private``).

Settings are taken as one's own where this user has obeyed the very same ones before. A hash of them is noted then, outside of the
directory (``io.state_folder``), so that a run may be moved or copied, and whoever repeats the hash gets what was typed here
once, and nothing else. The hash is of private settings alone: what may be changed freely needs no trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cinelora.config.fields import Field, assign, fields_of, pick
from cinelora.errors import ConfigError
from cinelora.io import state_folder
from cinelora.io.atomic import sha256_json
from cinelora.io.hub import EMBEDDED
from cinelora.io.terminal import shell_word

SHOWN = 100
"""Characters of a value from a file that are printed."""


# Which settings, and whose ------------------------------------------------------------------------------------------------


def of_run(field: Field) -> bool:
    """All that is private in the settings of a run."""
    return field.is_private and not field.typed_only


def of_model(field: Field) -> bool:
    """Where a model comes from, which clips by an adapter take from the run that it was trained in."""
    return of_run(field) and field.key.startswith("model.")


def of_report(field: Field) -> bool:
    """What clips are measured with, which is all that a report reads of the settings that they were drawn by."""
    return of_run(field) and field.key.startswith("metrics.")


def private_settings(config: Any, among: Callable[[Field], bool] = of_run) -> dict[str, Any]:
    """The private settings that name anything: those that are not as the schema declares them. Keys are dotted."""
    # The default of a setting that a later version adds is left out as well, so that hashes of older runs hold.
    found = {key: (field.default, pick(config, key)) for key, field in fields_of(type(config)).items() if among(field)}
    return {key: value for key, (default, value) in found.items() if value != default}


def is_own(config: Any, among: Callable[[Field], bool] = of_run) -> bool:
    """Whether this user has obeyed the very same private settings before; there is nothing to obey where there are none."""
    settings = private_settings(config, among)
    return not settings or state_folder.is_noted(sha256_json(settings))


def hashes(config: Any) -> Iterator[str]:
    """What is noted of settings that are obeyed: a hash of each kind of private ones that a later command may read of them."""
    # A report looks at clips whoever drew them, and of how they were drawn it obeys nothing.
    looks = getattr(config, "report", False) or getattr(config, "answers", None)
    for among in (of_report,) if looks else (of_run, of_model, of_report):
        if settings := private_settings(config, among):
            yield sha256_json(settings)


def note_as_own(config: Any) -> None:
    """Note that this user obeys the private settings of ``config``, as they are written down."""
    state_folder.note(hashes(config))


# Settings from a file -----------------------------------------------------------------------------------------------------


def forget_typed_only(config: Any) -> None:
    """Set what no file decides to its default."""
    for key, field in fields_of(type(config)).items():
        if field.typed_only:
            assign(config, key, field.default)


def refuse_foreign_settings(
    theirs: Any, here: Any, source: str, typed: Iterable[str] = (), among: Callable[[Field], bool] = of_run
) -> None:
    """Refuse private settings of somebody else, unless they are what the command sets ``here`` by itself.

    ``source`` names the file as the user typed it. Keys or groups in ``typed`` are about to be replaced, and count for nothing.

    Raises:
        ConfigError: the settings, and the two ways out.
    """
    fields, typed = fields_of(type(theirs)), {*typed}
    words = [
        word_of(fields[key], value)
        for key, value in private_settings(theirs, among).items()
        if not {key, key.partition(".")[0]} & typed and value not in (pick(here, key), *EMBEDDED)
    ]
    if words:
        raise ConfigError(
            f"{source} does not seem to be yours, and names places, programs or accounts: "
            f"{' '.join(words)}; type each of them yourself, or add trust=true to use all of them"
        )


def word_of(field: Field, value: Any) -> str:
    """A setting from a file as it would be typed, on one line and shortened, with nothing in it that a terminal obeys."""
    key = field.key.rpartition(".")[0] if field.by_group else field.key
    text = str(value)
    return shell_word(f"{key}={text if len(text) <= SHOWN else text[:SHOWN] + '...'}")
