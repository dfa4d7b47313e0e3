"""A command line, sorted: keys that exist, the free texts taken out verbatim, flags.

What enters is ``sys.argv[1:]``; what leaves is a ``Command``. Values are not looked at here, and Hydra is not known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cinelora.cli.programs import LAUNCHER, Program
from cinelora.config.fields import sections
from cinelora.errors import ConfigError
from cinelora.io.terminal import say


@dataclass(frozen=True)
class Command:
    """A command line whose keys exist: ``overrides`` are for Hydra, ``texts`` are not; ``added`` ones nobody typed."""

    program: Program
    overrides: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    multirun: bool = False
    help: bool = False
    show: bool = False
    # the words after --help, and what is wrong with the rest of such a command line
    topics: tuple[str, ...] = ()
    mistake: str = ""
    added: frozenset[str] = frozenset()

    @property
    def given(self) -> dict[str, str]:
        """Key to value, as typed, of what is not free text."""
        return {key: value for key, _, value in (override.partition("=") for override in self.overrides)}

    @property
    def launcher(self) -> str:
        """What starts the members of a sweep; ``basic`` is this process."""
        return self.given.get(LAUNCHER, "basic")


def parse(program: Program, argv: list[str]) -> Command:
    """Sort a command line: flags, free texts (verbatim), and overrides whose keys are in the schema or ``conf/``.

    Raises:
        ConfigError: an argument that is not ``key=value``, an unknown key, a key given twice, Hydra's own keys.
    """
    flags = {"-h": "help", "--help": "help"}
    flags |= {"-m": "multirun", "--multirun": "multirun", "--show": "show"} if program.conf else {}
    on = {flags[argument] for argument in argv if argument in flags}
    if "help" in on:
        return _asking_for_help(program, argv)
    # A free text goes round Hydra, whose grammar would take quotes, commas and brackets of a prompt for its own. All other
    # values stay overrides, as typed, for Hydra to read.
    overrides: list[str] = []
    values: dict[str, str] = {}
    for argument in argv:
        if argument in flags:
            continue
        key, value = _split(argument, program)
        key = _name_today(key, program)
        _refuse_key(key, value, program)
        if key in values:
            raise ConfigError(f"{key} is given twice: {key}={values[key]} and {key}={value}")
        values[key] = value
        if not _is_text(key, program):
            overrides.append(_plain(key, value))
    texts = {key: value for key, value in values.items() if _is_text(key, program)}
    return Command(program, overrides, texts, multirun="multirun" in on, show="show" in on)


def _asking_for_help(program: Program, argv: list[str]) -> Command:
    """A command line with ``--help``, which is answered whatever else was typed, also beside a mistake."""
    begins = next(place for place, word in enumerate(argv) if word in ("-h", "--help"))
    topics = [word for word in argv[begins:] if "=" not in word and not word.startswith("-")]
    rest = [word for word in argv if word not in ("-h", "--help")]
    try:
        command = parse(program, [word for word in rest if word not in topics])
    except ConfigError as error:
        command = Command(program, mistake=str(error))
    return replace(command, help=True, topics=tuple(topics))


def _is_text(key: str, program: Program) -> bool:
    return key in program.fields and program.fields[key].is_text


def _split(argument: str, program: Program) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if argument.startswith("-"):
        bare = key.lstrip("-").replace("-", "_")
        flags = "the flags are -m, --show, --help" if program.conf else "the flag is --help"
        way_out = f"write {bare}=..., without dashes" if bare in program.fields else flags
        raise ConfigError(f"{argument}: settings are written key=value; {way_out}")
    if not equals and (argument in program.fields or argument in program.groups):
        raise ConfigError(f"{argument} has no value: write {argument}=...")
    if not equals:
        raise ConfigError(f"{argument!r} is not key=value; a text with spaces goes in quotes: 'prompt=a man waits'")
    return key, value


def _name_today(key: str, program: Program) -> str:
    """The name that a renamed key has now, which is printed (on stderr: stdout may be ``--show``'s); others as they are."""
    today = next((field.key for field in program.fields.values() if key and field.was == key), key)
    if today != key:
        say(f"{key} is now {today}", error=True)
    return today


def _plain(key: str, value: str) -> str:
    for mark, why in (("${", "references are not read"), ("_target_", "settings are values and never name code")):
        if mark in value:
            raise ConfigError(f"{key}={value}: {why}; write the value itself")
    return f"{key}={value}"


def _refuse_key(key: str, value: str, program: Program) -> None:
    bare = key.lstrip("+~")
    if key != bare:
        raise ConfigError(
            f"{key}: + and ~ cannot be used, settings are neither added nor removed; write {bare}={value}"
        )
    if "_target_" in key:
        raise ConfigError(f"{key}: settings are values and never name code")
    if key.startswith("hydra") and key != LAUNCHER and not key.startswith("hydra.launcher."):
        raise ConfigError(f"{key} is Hydra's own and stays as it is; only {LAUNCHER}= and hydra.launcher.* can be set")
    field = program.fields.get(key)
    if field and field.by_group:
        group = key.partition(".")[0]
        if group not in program.groups:
            raise ConfigError(f"{key} is not typed: {field.help}")
        raise ConfigError(f"{key} is set by its group: choose {group}={'|'.join(program.groups[group])}")
    if field and field.not_in_training and program.conf == "train":
        raise ConfigError(f"{key} has no effect in training: {field.not_in_training}; leave it away")
    if not (field or key in program.groups or key.startswith("hydra.launcher.")):
        raise ConfigError(unknown_key(key, program))


def unknown_key(key: str, program: Program) -> str:
    """The sentence for a key that does not exist: the nearest ones, and what there is at its level."""
    known = sections(program.schema)
    # From the most to the least that is known of what was meant: a whole section, a setting of a section that is there, one
    # of a section that was mistyped, and at last a bare word, which may be the end of any key.
    head, dot, _ = key.partition(".")
    if key in known:
        return f"{key} is a section, not a setting; set one of {', '.join(known[key])}"
    if head in known:
        return f"{key} is not a setting{near_words(key, known[head])}; {head} has {', '.join(known[head])}"
    level = list(dict.fromkeys([*program.groups, *(key.partition(".")[0] for key in program.fields)]))
    if dot:
        likely = [key.replace(head, section, 1) for section in difflib.get_close_matches(head, known, n=1)]
        hint = near_words(likely[0], program.fields) if likely else ""
        return f"{key} is not a setting{hint}; there is no section {head}, but {', '.join(known)}"
    return f"{key} is not a setting{near_words(key, [*level, *program.fields])}; there are {', '.join(level)}"


def near_words(word: str, known: Iterable[str]) -> str:
    """``: did you mean a or b?``; a key that ends in the word counts as near (``rank`` is ``lora.rank``)."""
    known = list(dict.fromkeys(known))
    same_end = [key for key in known if key.endswith(f".{word}")]
    near = same_end or difflib.get_close_matches(word, known, n=2)
    return f", did you mean {' or '.join(near[:3])}?" if near else ""


def unknown_choice(group: str, value: str, program: Program) -> str:
    """The sentence for a choice that a group does not have."""
    choices = program.groups[group]
    extra = "; for clips of your own: data=folder data.root=<folder>" if group == "data" else ""
    return f"{group}={value} does not exist{near_words(value, choices)}; choose {group}={'|'.join(choices)}{extra}"


def missing_groups(command: Command) -> None:
    """Refuse a command line that leaves a mandatory group open.

    Raises:
        ConfigError: naming the choices.
    """
    missing = [group for group in command.program.mandatory if group not in command.given]
    if not missing:
        return
    what = " and ".join(missing) + (" is missing" if len(missing) == 1 else " are missing")
    choose = " ".join(f"{group}={'|'.join(command.program.groups[group])}" for group in missing)
    raise ConfigError(f"{what}: choose {choose}")
