"""Plain data from files that anybody may have written: text, JSON and YAML, read within limits and into a shape.

Enters: a path and a shape, which is a type. Leaves: a value of that type, or a ``FileError`` of one sentence. A file is refused
that is no regular file, is longer than the limit, nests deeper, says a key twice, names another part of itself (YAML's aliases,
by which 466 bytes become a gigabyte), or holds a number or character that nobody can use. Nothing in a file is ever run, or
looked up by name.

A shape is ``str``, ``int``, ``float``, ``bool``, a union of these, ``X | None``, ``Literal``, ``list[X]``, ``tuple[X, ...]``,
``dict[str, X]``, a dataclass or a TypedDict, and inside of these ``Any``. A dataclass knows all its keys, and another one is
refused; a TypedDict names those that a reader needs, and lets others pass.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import math
import os
import re
import reprlib
import stat
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from operator import countOf
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import yaml

from cinelora.errors import FileError, first_line, reason

T = TypeVar("T")
MOST_BYTES = 2**20
"""Of a file that a person, or one step of a run, wrote. The table of shards of a model of 14 B has a tenth of that."""
MOST_OF_LISTS = 2**30
"""Bytes of a file with a line or an entry for each sample, clip or file: two million of them, or more."""
MOST_SETTINGS = 2**16
"""Bytes of YAML, which takes far longer to read than JSON. The settings of a run have a tenth of that."""
MOST_DEPTH = 32
MOST_ALIKE = 64
"""Sets of keys and types that are remembered as fitting a dataclass."""
MANY_PARTS, LEAST_OF_PART = 10_000, 16
"""Lists and tables that a JSON file may hold, and the characters for each more: an empty one takes 30 times as much memory."""
LARGEST_INTEGER = 2**64
NO_LIMIT = int(1e30)
"""What transformers writes for a length without a limit (``model_max_length``): the one larger integer that files hold."""
NO_TEXT_AND_NO_NAME = "[\0\ud800-\udc7f\udd00-\udfff]"
"""Characters that no setting has. What a shell hands over may be no UTF-8, and such bytes are the characters between these."""


# -- bytes and text ----------------------------------------------------------------------------------------------------


@contextmanager
def without_collecting() -> Iterator[None]:
    """Inside the block Python does not look for garbage: what is made there by the ten thousand comes to stay.

    Every time a quarter more is there, the collector would walk through all of it and find nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes; raises ``FileError`` for whatever else is there, and never waits for a writer."""
    try:
        # Without O_NONBLOCK the open of a pipe waits until somebody writes into it, perhaps for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise FileError(f"cannot read {path} ({reason(error)})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileError(f"cannot read {path} (it is a folder, a pipe or a device, and no file)")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_bytes(path: Path, limit: int = MOST_BYTES) -> bytes:
    """All that a regular file holds; raises ``FileError``, also where that is more than ``limit`` bytes."""
    with opened(path) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise FileError(f"cannot read {path} ({reason(error)})") from error
    if len(content) > limit:
        raise FileError(f"{path} is too large: it has more than {limit:,} bytes, and no such file is read")
    return content


def read_text(path: Path, limit: int = MOST_BYTES) -> str:
    """A UTF-8 text, with or without a byte order mark, and without its seal; raises ``FileError``.

    That is also where it is no text, or not the text that was ``sealed``.
    """
    content = _unsealed(read_bytes(path, limit), path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise FileError(f"{path} is no text: its byte {content.index(0)} is zero")
    return text


# -- seals -------------------------------------------------------------------------------------------------------------
#
# A text that is read back begins with a line that holds a hash of all bytes after it: a single flipped bit would otherwise be
# another number of steps, or another caption, that nobody asked for. Who changes a file by hand removes that line, and what is
# left is whole in each of these forms. Texts without one are read as they are: older versions wrote none.

_SEALED = {"json": '{\n  "seal": "%s",\n', "yaml": "# seal: %s\n", "lines": '{"seal": "%s"}\n'}
_SEAL = re.compile("|".join(re.escape(form) % '([^"\n]{24})' for form in _SEALED.values()).encode())


def sealed(text: str, form: Literal["json", "yaml", "lines"]) -> str:
    """A text with the line that ``read_text`` holds it to; of JSON one that begins with the first key of a table."""
    rest = text.removeprefix("{\n") if form == "json" else text
    return _SEALED[form] % _digest(rest.encode()) + rest


def _unsealed(content: bytes, path: Path) -> bytes:
    found = _SEAL.match(content)
    if found is None:
        return content
    rest = content[found.end() :]
    if _digest(rest).encode() not in found.groups():
        raise FileError(
            f"{path} is not as it was written: it is damaged, or was changed; if you changed it, remove its line with 'seal'"
        )
    return b"{\n" + rest if found[0].startswith(b"{\n") else rest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


# -- JSON --------------------------------------------------------------------------------------------------------------


@overload
def read_json(path: Path, *, limit: int = MOST_BYTES, measured: bool = False) -> Any: ...
@overload
def read_json(path: Path, shape: type[T], *, limit: int = MOST_BYTES, measured: bool = False) -> T: ...
def read_json(path: Path, shape: Any = Any, *, limit: int = MOST_BYTES, measured: bool = False) -> Any:
    """What a JSON file holds, as ``shape``; raises ``FileError`` where it is missing, damaged or of another shape.

    ``measured`` says that its numbers were measured and may be infinite, or none at all (NaN).
    """
    return parse_json(read_text(path, limit), shape, path, measured=measured)


def parse_json(text: str, shape: type[T], origin: object, *, measured: bool = False) -> T:
    """A JSON text as ``shape``; ``origin`` is where it was read, for the sentence of an error. Raises as ``read_json``."""
    try:
        if text.count("[") + text.count("{") > MANY_PARTS + len(text) // LEAST_OF_PART:
            raise ValueError("it consists of nested empty lists and tables")
        with without_collecting():
            value = _decoder(measured).decode(text)
        if "\\u" in text:  # an escape may stand for half a character; nothing else needs a look at every text
            refuse_unusable(value)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{origin} is damaged or no JSON ({_why(error)})") from error
    with without_collecting():
        return build(shape, value, origin)


def json_lines(text: str, origin: object) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank. Raises ``FileError`` with the number of one that is no JSON."""
    scan, escapes = _decoder(False).scan_once, "\\u" in text  # type: ignore[attr-defined]
    for number, line in enumerate(text.split("\n"), start=1):  # other ends of lines may stand inside of a string
        # Python's parser without its wrapper, which looks for blanks around each value: 7 % of a list's time.
        value, end = None, -1
        try:
            if not escapes and len(line) <= MOST_BYTES:
                value, end = scan(line, 0)
        except (ValueError, RecursionError, StopIteration):  # what is wrong is said below
            end = -1
        if end != len(line):  # to be looked at to its end, or for the sentence of its error
            if not line or line.isspace():
                continue
            value = parse_json(line, object, f"{origin}, line {number},")
        yield number, value


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    # Python's own sentence for an integer of more than 4,300 digits is advice to programmers.
    return _TOO_LARGE if "int_max_str_digits" in str(error) else first_line(error)


_TOO_DEEP = "it nests too deeply"
_TOO_LARGE = "a number in it is larger than any that is meant"


@cache
def _decoder(measured: bool) -> json.JSONDecoder:
    # Made once, as a file of lines asks for it at every line; Python's own parser stays as fast with these three.
    floats: dict[str, Any] = {} if measured else {"parse_float": _finite, "parse_constant": _finite}
    return json.JSONDecoder(object_pairs_hook=_once, **floats)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table whose keys are each there once: of two values, other programs may take the other."""
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it says {quoted(next(name for name in names if names.count(name) > 1))} twice")
    return table


def _finite(number: str | float) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{str(number)[:40]} is not a number that can be used")
    return value


def refuse_unusable(value: Any, no_text: str = "[\0\ud800-\udfff]", depth: int = MOST_DEPTH) -> None:
    """Raise ``ValueError`` for what nests too deeply, integers beyond 64 bits, and texts with half a character or a zero byte."""
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(_TOO_DEEP)
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            refuse_unusable(inner, no_text, depth - 1)
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER and value != NO_LIMIT:
        raise ValueError(_TOO_LARGE)
    elif isinstance(value, str) and re.search(no_text, value):
        raise ValueError("a text in it holds a character that is not valid in text")


# -- YAML --------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path, shape: type[T]) -> T:
    """What a YAML file holds, as ``shape``; raises ``FileError`` as ``read_json``."""
    return parse_yaml(read_text(path, MOST_SETTINGS), shape, path)


def parse_yaml(text: str, shape: type[T], origin: object) -> T:
    """A YAML text as ``shape``: one document without tags and aliases; raises as ``parse_json``."""
    try:
        # The events come one by one and need no memory. Only what they let pass is built: PyYAML recurses into what nests.
        loader = _Patient if "\\uDC" in text else _Quick
        if loader is _Patient and len(text) > MOST_SETTINGS // 4:
            raise ValueError("it is too large for one with bytes that are no UTF-8")
        _refuse_tricks(text, loader)
        value = yaml.load(text, loader)
        refuse_unusable(value, NO_TEXT_AND_NO_NAME)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise FileError(f"{origin} cannot be read as YAML: {_why(error)}") from error
    return build(shape, value, origin)


def _refuse_tricks(text: str, loader: Any) -> None:
    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("YAML aliases (*name) are not read: write the value itself")
        if getattr(event, "tag", None):
            raise ValueError(f"the tag {quoted(getattr(event, 'tag', None))} is not read: write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(_TOO_DEEP)


class _Once:
    """What PyYAML's safe loaders are taught: to refuse a key that is said twice or is no text, and numbers without end."""

    construct_object: Any
    construct_yaml_float: Any

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        return _once([(self._key(key), self.construct_object(value, deep=True)) for key, value in node.value])

    def _number(self, node: Any) -> float:
        return _finite(self.construct_yaml_float(node))

    def _key(self, node: Any) -> str:
        key = self.construct_object(node, deep=True)
        if not isinstance(key, str):
            raise ValueError(f"the key {quoted(key)} is no text")
        return key


class _Quick(_Once, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    pass


class _Patient(_Once, yaml.SafeLoader):  # type: ignore[misc]
    """The one in Python, which alone reads the characters that stand for bytes of a name that is no UTF-8."""


_LOADERS: tuple[Any, ...] = (_Quick, _Patient)
for _loader in _LOADERS:
    _loader.add_constructor("tag:yaml.org,2002:float", _Once._number)


# -- shapes ------------------------------------------------------------------------------------------------------------


class _Misfit(Exception):
    """A value that does not fit: a sentence around its place, and the place, innermost name last."""

    def __init__(self, before: str, after: str, *where: str) -> None:
        super().__init__(before, after)
        self.before, self.after, self.where = before, after, list(where)


Check = Callable[[Any], Any]
"""Gives the value as its shape has it (a list where a tuple is wanted, a table where a dataclass is), or raises ``_Misfit``."""


def builder(shape: type[T], origin: object) -> Callable[[Any], T]:
    """``build`` for values by the ten thousand, of one shape and origin."""
    check = _check(typing.cast(Any, shape))

    def of(value: Any) -> T:
        try:
            built: T = check(value)
        except _Misfit as misfit:
            key = short_key(".".join(misfit.where)) or "the file"
            raise FileError(f"{origin}{misfit.before}{key}{misfit.after}") from None
        return built

    return of


def build(shape: type[T], value: Any, origin: object) -> T:
    """``value``, which is plain data, as ``shape``. Raises ``FileError`` with its place in ``origin``, where it does not fit."""
    return builder(shape, origin)(value)


def quoted(value: Any) -> str:
    """A value as it can stand in a sentence: of a long one its beginning and end, of a large one what is on top."""
    return _SHORT.repr(value)


def short_key(key: str) -> str:
    """A key as it can stand in a sentence."""
    return key if len(key) <= 100 else f"{key[:60]}...{key[-30:]}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxlong = 2, 3, 4, 40
_SHORT.maxstring = _SHORT.maxother = 100
_PLAIN = (str, int, float, bool, type(None))


@cache
def _check(shape: Any) -> Check:
    # A shape is looked at once, and leaves a function for its values: that of a plain type asks for the type alone, and those of
    # lists and tables call those of their parts.
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    kinds = _kinds(shape)
    if shape in (Any, object):
        return _check_usable
    if dataclasses.is_dataclass(shape):
        return _check_dataclass(shape)
    if typing.is_typeddict(shape):
        return _check_table(shape)
    if origin is Literal:
        of_these = {*map(type, parts)}
        return lambda value: value if type(value) in of_these and value in parts else _refuse(value)
    if _is_plain(shape):
        return _check_plain(kinds)
    if len(kinds) > 1:
        return _check_union([_check(kind) for kind in kinds if kind is not types.NoneType], types.NoneType in kinds)
    if Any in parts or shape in (dict, list):
        of_kind = _check_plain((origin or shape,))
        return lambda value: _check_usable(of_kind(value))
    if origin is dict:
        return _check_dict(_check(parts[1]))
    if origin is list:
        return _check_list(_check(parts[0]))
    if origin is tuple:
        return _check_tuple(parts)
    raise TypeError(f"{shape} is no shape of plain data")


def _refuse(value: Any) -> Any:
    raise _Misfit(": ", f" cannot be {quoted(value)}")


def _check_usable(value: Any) -> Any:
    """What has no shape is looked at to its end."""
    try:
        refuse_unusable(value, NO_TEXT_AND_NO_NAME)
    except ValueError as error:
        raise _Misfit(": ", f" is damaged: {error}") from None
    return value


def _check_integer(value: Any) -> Any:
    return value if type(value) is int and abs(value) <= LARGEST_INTEGER else _refuse(value)


def _check_plain(kinds: tuple[Any, ...]) -> Check:
    # bool is an int to Python, not to a user; an int is a fine float.
    fitting = {*kinds, *((int,) if float in kinds else ())}
    if int in fitting:
        return lambda value: (
            _check_integer(value) if type(value) is int else value if type(value) in fitting else _refuse(value)
        )
    return lambda value: value if type(value) in fitting else _refuse(value)


def _check_union(checks: list[Check], may_be_none: bool) -> Check:
    # What is wrong inside of the last one is said: as a rule there is one, beside None.
    def check(value: Any) -> Any:
        if value is None and may_be_none:
            return None
        for inner in checks[:-1]:
            with suppress(_Misfit):
                return inner(value)
        return checks[-1](value)

    return check


def _check_list(inner: Check) -> Check:
    def check(value: Any) -> Any:
        return (
            [_at(str(place), inner, one) for place, one in enumerate(value)] if type(value) is list else _refuse(value)
        )

    return check


def _check_tuple(parts: tuple[Any, ...]) -> Check:
    """A tuple from a list, of any length where an ellipsis follows its one kind."""
    kind, length = parts[0], None if parts[-1] is Ellipsis else len(parts)
    if kind in _PLAIN and {*parts} <= {kind, Ellipsis}:
        others = (int,) if kind is float else ()
        bounded = length is not None and int in (kind, *others)

        def check(value: Any) -> Any:
            # Types alone of a long list, at once: frames of a sample.
            if type(value) is not list or length not in (None, len(value)):
                return _refuse(value)
            fitting = countOf(map(type, value), kind)
            for other in others:
                fitting += countOf(map(type, value), other)
            if fitting != len(value) or (bounded and max(map(abs, value)) > LARGEST_INTEGER):
                return _refuse(value)
            return tuple(value)

        return check
    if length is not None:
        raise TypeError(f"{parts} are several shapes in one tuple")
    as_list = _check_list(_check(kind))
    return lambda value: tuple(as_list(value))


def _check_dict(inner: Check) -> Check:
    def check(value: Any) -> Any:
        return {key: _at(key, inner, one) for key, one in value.items()} if type(value) is dict else _refuse(value)

    return check


def _check_table(shape: Any) -> Check:
    """The keys of a TypedDict that are there, checked, beside all others as they are."""
    hints = typing.get_type_hints(shape, include_extras=True)
    needed = [name for name, hint in hints.items() if typing.get_origin(hint) is not typing.NotRequired]
    checks = {name: _check(hint if name in needed else typing.get_args(hint)[0]) for name, hint in hints.items()}

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _Misfit(": ", f" should be a table, not {quoted(value)}")
        _refuse_missing(needed, value)
        return {name: _at(name, checks.get(name, _check_usable), one) for name, one in value.items()}

    return check


def _refuse_missing(needed: list[str], value: dict[str, Any]) -> None:
    for name in needed:
        if name not in value:
            raise _Misfit(": ", " is missing: it is damaged, or from another version or program", name)


def _check_dataclass(shape: Any) -> Check:
    """An object from a table; a field may have had another name before (``was``)."""
    fields, hints = dataclasses.fields(shape), typing.get_type_hints(shape)
    checks = {field.name: _check(hints[field.name]) for field in fields}
    today = {field.metadata["was"]: field.name for field in fields if "was" in field.metadata}
    needed = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    constant = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    made = {field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING}
    plain = {name for name in checks if _is_plain(hints[name]) and int not in _kinds(hints[name])}
    deep = [(name, _check(_without_none(hints[name]))) for name in checks if name not in plain]
    fitting: dict[tuple[Any, ...], tuple[dict[str, Any], list[tuple[str, Check]], list[str]]] = {}
    make_empty = shape.__new__

    def examine(value: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Check]], list[str]]:
        """What is left to do for a table of these keys and types: constants that it lacks, values to look into, and to make.

        Refused where its keys are not those, or a type of its plain values is another.
        """
        if unknown := value.keys() - checks.keys():
            raise _Misfit(" holds the unknown key ", ": it is from another version or program", min(unknown))
        _refuse_missing(needed, value)
        for name in value:
            if name in plain or value[name] is None:
                _at(name, checks[name], value[name])
        lacking = {name: one for name, one in constant.items() if name not in value}
        inner = [(name, check) for name, check in deep if value.get(name) is not None]
        return lacking, inner, [name for name in made if name not in value]

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _Misfit(": ", f" should hold settings, not {quoted(value)}")
        if today:
            value = {today.get(name, name): one for name, one in value.items()}
        # The samples of a data set come by the ten thousand, all with the same keys and types: those were checked with the first.
        alike = (*value, *map(type, value.values()))
        known = fitting.get(alike)
        if known is None:
            known = examine(value)
            if len(fitting) < MOST_ALIKE:
                fitting[alike] = known
        lacking, inside, unmade = known
        # Its own constructor sets a frozen field at a time, four times as slowly as this; none of ours does more than that.
        built = make_empty(shape)
        kept = built.__dict__
        kept.update(value)
        kept.update(lacking)
        name = ""
        try:
            for name, inner in inside:
                kept[name] = inner(value[name])
        except _Misfit as misfit:
            misfit.where.insert(0, name)
            raise
        for name in unmade:
            kept[name] = made[name]()
        return built

    if hasattr(shape, "__post_init__") or hasattr(shape, "__slots__"):
        raise TypeError(f"{shape} has a constructor of its own, which is not called here")
    return check


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``, and any other shape as it is."""
    others = [kind for kind in _kinds(hint) if kind is not types.NoneType]
    return others[0] if len(others) == 1 else hint


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _is_plain(hint: Any) -> bool:
    return all(kind in _PLAIN for kind in _kinds(hint))


def _at(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except _Misfit as misfit:
        misfit.where.insert(0, name)
        raise
