"""What is read from files is bounded and has a shape, and what is printed from them is seen, not obeyed."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from cinelora.errors import FileError
from cinelora.io import plain_data, terminal
from cinelora.io.plain_data import build, parse_json, parse_yaml, read_json, read_text

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "benchmarks"))

import hostile_files  # noqa: E402

SOURCE = [*sorted((REPO / "cinelora").rglob("*.py")), REPO / "train.py", REPO / "infer.py"]
OWN = {"fields.py", "moved.py", "template.py", "launch.py", "hardware.py", "adapter_file.py", "page_clips.py"}
"""What they read is no plain data of a stranger: our own source, the system's files, a private folder, a header, clips."""


class Extra(TypedDict):
    """A table that may hold more than it names."""

    step: int
    note: NotRequired[str | None]


@dataclass
class Part:
    """A dataclass in another."""

    name: str
    more: list[str] = field(default_factory=list)


@dataclass
class Thing:
    """Every kind of shape."""

    name: str
    size: float = 1.0
    kind: Literal["still", "window"] = "still"
    frames: tuple[int, ...] = ()
    box: tuple[int, int] | None = None
    parts: list[Part] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    extra: Extra | None = None


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_a_value_is_built_as_its_shape_says() -> None:
    told = {"name": "a", "size": 2, "kind": "window", "frames": [1, 2], "box": [3, 4], "parts": [{"name": "b"}]}
    told |= {"seconds": {"x": 1, "y": 0.5}, "extra": {"step": 3, "more": [1]}}
    thing = build(Thing, told, "f")
    assert thing == Thing("a", 2, "window", (1, 2), (3, 4), [Part("b")], {"x": 1, "y": 0.5}, thing.extra)
    assert thing.extra == {"step": 3, "more": [1]}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([], r"f: the file should hold settings, not \[\]"),
        ({}, "f: name is missing"),
        ({"name": 3}, "f: name cannot be 3"),
        ({"name": "a", "size": True}, "f: size cannot be True"),
        ({"name": "a", "kind": "film"}, "f: kind cannot be 'film'"),
        ({"name": "a", "kind": ["still"]}, r"f: kind cannot be \['still'\]"),
        ({"name": "a", "frames": [1, "2"]}, r"f: frames cannot be \[1, '2'\]"),
        ({"name": "a", "box": [1]}, r"f: box cannot be \[1\]"),
        ({"name": "a", "box": [1, None]}, r"f: box cannot be \[1, None\]"),
        (
            {"name": "a", "parts": [{"name": "b", "mor": []}]},
            "f holds the unknown key parts.0.mor",
        ),
        ({"name": "a", "seconds": {"x": None}}, "f: seconds.x cannot be None"),
        ({"name": "a", "extra": {}}, "f: extra.step is missing"),
        ({"name": "a", "extra": {"step": 1, "note": 2}}, "f: extra.note cannot be 2"),
        ({"name": "a", "x" * 9000: 2}, r"f holds the unknown key x{60}\.\.\.x{30}:"),
        ({"name": ["a" * 9000]}, r"f: name cannot be \['a{20,60}\.\.\.a{20,60}'\]$"),
    ],
)
def test_another_shape_is_one_sentence_with_its_place(told: Any, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence) as caught:
        build(Thing, told, "f")
    assert len(str(caught.value)) < 300


# -- JSON and YAML -----------------------------------------------------------------------------------------------------

NO_JSON = {
    "{": "damaged or no JSON",
    '{"a": 1, "a": 2}': "it says 'a' twice",
    "[NaN]": "NaN is not a number",
    "[-Infinity]": "-Infinity is not a number",
    "[1e999]": "1e999 is not a number",
    f"[{'9' * 25}]": "larger than any that is meant",
    f"[{'9' * 5000}]": "larger than any that is meant",
    '["\\ud800"]': "a character that is not valid in text",
    '["a\\u0000b"]': "a character that is not valid in text",
    "[" * 33 + "]" * 33: "nests too deeply",
    "[" * 100_000: "nests too deeply|nested empty lists and tables",
    "[" + "[]," * 100_000 + "1]": "nested empty lists and tables",
}


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: text[:20])
def test_json_that_nobody_can_use_is_refused(text: str) -> None:
    with pytest.raises(FileError, match=NO_JSON[text]):
        parse_json(text, object, "f")


def test_measured_numbers_may_be_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"psnr": Infinity, "loss": NaN}')
    assert read_json(tmp_path / "a.json", dict[str, float], measured=True)["psnr"] == float("inf")
    with pytest.raises(FileError, match="Infinity is not a number"):
        read_json(tmp_path / "a.json", dict[str, float])


NO_YAML = {
    "a: &x [1]\nb: *x": "are not read",
    "a: &x 1": "are not read",
    "a: !!binary aaaa": "the tag .* is not read",
    "a: !!python/name:os.system": "the tag .* is not read",
    "a: 1\na: 2": "it says 'a' twice",
    "1: a": "the key 1 is no text",
    "<<: {a: 1}": "cannot be read as YAML",
    "a: .nan": "is not a number",
    "a: 2020-99-99": "cannot be read as YAML",
    f"a: {'9' * 5000}": "larger than any that is meant",
    "a: " + "[" * 40 + "]" * 40: "nests too deeply",
    "a: 1\n---\nb: 1": "cannot be read as YAML",
    'a: "\\0"': "a character that is not valid in text",
}


@pytest.mark.parametrize("text", NO_YAML, ids=lambda text: text[:20])
def test_yaml_that_nobody_can_use_is_refused(text: str) -> None:
    with pytest.raises(FileError, match=NO_YAML[text]):
        parse_yaml(text, dict[str, Any], "f")


def test_a_file_is_read_within_its_limit_and_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, sentence in {
        b"12345": "more than 4 bytes",
        b"\xff": r"not UTF-8 text \(byte 0\)",
        b"a\0": "byte 1 is zero",
    }.items():
        path.write_bytes(content)
        with pytest.raises(FileError, match=sentence):
            read_text(path, 4)
    path.write_bytes(b"\xef\xbb\xbfabcd")
    assert read_text(path, 7) == "abcd"


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "missing", "zero byte", "link to itself"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.json"
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "zero byte":
            path = tmp_path / "a\0b"
        case "link to itself":
            path.symlink_to(path)
    with pytest.raises(FileError, match="cannot read"):
        read_json(path, dict[str, Any])


def test_hostile_files_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """A witness of ``benchmarks/hostile_files.py``, which makes thousands; what is slow to read stands there alone."""
    hostile_files.make_files(tmp_path)
    slow = {"plan", "numbers", "take", "preferences", "key"}
    for reader in (one for one in hostile_files.readers(tmp_path) if one.name not in slow):
        path = tmp_path / reader.file
        whole = path.read_bytes()
        assert hostile_files.outcome(reader, tmp_path).kind == "read", reader.name
        for number in range(10):
            content = hostile_files.mutated(reader, whole, random.Random(f"witness {reader.name} {number}"))
            path.write_bytes(content)
            wrong = hostile_files.outcome(reader, tmp_path).wrong
            assert not wrong or wrong.endswith(" s"), (reader.name, wrong, content[:300])
        path.write_bytes(whole)


# -- what is printed ---------------------------------------------------------------------------------------------------

OBEYED = {
    "a\nb": r"a\nb",
    "\t\r": r"\t\r",
    "\x1b[2J\x07": r"\x1b[2J\x07",
    "\x7f\x85\x9b": r"\x7f\x85\x9b",
    "\u2028\u2029": r"\u2028\u2029",
    "a\u202eb\u2066": r"a\u202eb\u2066",
    "\u200b\ufeff\u2060\xad": r"\u200b\ufeff\u2060\xad",
    "a\u200db": r"a\u200db",
    "\udcff": r"\udcff",
    "\U000e0041": r"\U000e0041",
}
LEGIBLE = (
    *("caf\xe9", "cafe\u0301", "\U0001f468\u200d\U0001f4bb", "\U0001f3f3\ufe0f\u200d\U0001f308"),  # accents, emoji
    *("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc", "\u0915\u094d\u200d\u0937", "a\u3000b", r"C:\n"),  # Persian, Hindi
)


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_shown(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.visible(text) == OBEYED[text]
    terminal.say(text, "next")
    terminal.warn(text)
    assert capsys.readouterr().out == f"{OBEYED[text]}\nnext\nWARNING: {OBEYED[text]}\n"


@pytest.mark.parametrize("text", LEGIBLE)
def test_what_people_write_stays_legible(text: str) -> None:
    assert terminal.visible(text) == text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_word_to_be_copied_is_that_word_in_a_shell() -> None:
    words = ["run=a b", "it's", "a\nb; echo no", "\x1b]0;x\x07'\\", "a\u202eb!", "\udcff", "café \u200b0", *LEGIBLE]
    line = " ".join(map(terminal.shell_word, words))
    assert line == terminal.visible(line)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_what_libraries_log_and_warn_of_and_what_ends_a_process_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import logging, warnings; from cinelora.io.terminal import show_logged_text as show; show(); show();"
        "logging.getLogger('x').warning('tensor %s\\nnext', 'a\\x1b[2J');"
        "warnings.warn('tensor a\\x1b[2J');"
        "raise RuntimeError('tensor a\\x1b[2J\\nnext\\x07')"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    said = capfd.readouterr().err
    assert said.startswith("tensor a\\x1b[2J\nnext\n<string>:1: UserWarning: tensor a\\x1b[2J\nTraceback (most recent")
    assert said.endswith("RuntimeError: tensor a\\x1b[2J\nnext\\x07\n")


# -- laws over the source ----------------------------------------------------------------------------------------------


def calls(path: Path) -> set[str]:
    """The functions that a module calls, as it writes them."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


def test_everything_is_printed_through_one_function() -> None:
    ways = {
        "print",
        "sys.stdout.write",
        "sys.stderr.write",
        "log.warning",
        "log.info",
        "logging.warning",
        "logger.warning",
        "traceback.print_exc",
        "traceback.print_exception",
    }
    assert {path.name: found for path in SOURCE if path.name != "terminal.py" and (found := calls(path) & ways)} == {}


def test_everything_is_read_through_one_module() -> None:
    ways = {"json.load", "json.loads", "yaml.safe_load", "yaml.load", "read_text", "read_bytes"}
    offenders = {
        f"{path.name}: {call}"
        for path in SOURCE
        if path.name not in {"plain_data.py", *OWN}
        for call in calls(path)
        if call in ways - {"read_text", "read_bytes"} or call.endswith((".read_text", ".read_bytes"))
    }
    assert offenders - {
        "manifest.py: plain_data.read_text",
        "checkpoint_files.py: json.loads",  # what this program has just written, as a reader would have it
        "model_card.py: json.loads",
        "model_card.py: path.read_bytes",
    } == {"networks.py: Path(source).read_bytes"}  # a program, whose bytes are hashed and then run


def test_every_reader_says_which_shape_it_wants() -> None:
    shapeless = [
        f"{path.name}:{node.lineno}"
        for path in SOURCE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"read_json", "read_yaml"} and len(node.args) < 2
    ]
    assert shapeless == []


def test_a_long_list_of_samples_is_within_the_limits() -> None:
    entry = dict.fromkeys(("id", "split", "caption", "text", "video"), "0123456789abcdef" * 4) | {"image": None}
    assert len(json.dumps([entry] * 20)) * 100_000 < plain_data.MOST_OF_LISTS
