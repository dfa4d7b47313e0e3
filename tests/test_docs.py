"""Pages say what is so: links lead somewhere, commands are ones that would be accepted, and every page can be found.

The site itself is built, without a warning, by ``make docs``; nothing here needs Sphinx.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cinelora.cli.compose import compose, members
from cinelora.cli.parse import Command, parse
from cinelora.cli.programs import LAUNCHER, PROGRAMS, Program
from tools.scale_model.__main__ import PROGRAMS as SCALE_MODEL
from tools.settings_page import SMALL, page

REPO = Path(__file__).parents[1]
CORPUS = REPO / "tests" / "corpus"
DOCS = REPO / "docs"
PAGES = [*(REPO / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")), *sorted(DOCS.rglob("*.md"))]
QUAINT = ("anew", "foretold", "foretells?", "so many", "goes? on", "took up")
"""Words that readers stumble over; the plain ones are again, estimated, that many, and to continue or resume."""
MADE_UP = "placeholder"
"""What ``<run>`` and its like are read as."""


@dataclass(frozen=True)
class Typed:
    """A command as a page prints it."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """Its words, as a shell would split them, without comment and with ``<run>`` and its like filled in."""
        return shlex.split(re.sub(r"<[^<>]*>", MADE_UP, self.line), comments=True)


@cache
def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def inline(path: Path) -> Iterator[Token]:
    for token in tokens(path):
        yield from token.children or ()


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every block of code."""
    for token in tokens(path):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def lines_of_code(path: Path) -> Iterator[str]:
    """Each line of a block, with lines that a backslash continues joined; and code inside sentences."""
    for language, text in blocks(path):
        if not language.startswith("{"):
            yield from text.replace("\\\n", " ").splitlines()
    yield from (token.content for token in inline(path) if token.type == "code_inline")


def commands(path: Path) -> list[Typed]:
    name = str(path.relative_to(REPO))
    lines = (re.sub(r"^(srun|sbatch)\s[^|]*?(?=python )", "", line.strip()) for line in lines_of_code(path))
    return [Typed(name, line) for line in lines if re.match(r"(python|make|pip|source|cinelora) ", line)]


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@cache
def anchors(path: Path) -> set[str]:
    headings = zip(tokens(path), tokens(path)[1:], strict=False)
    texts = [
        "".join(t.content for t in text.children or ()) for start, text in headings if start.type == "heading_open"
    ]
    return {slug(text) for text in texts}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    targets = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in inline(path)]
    broken = []
    for target in filter(None, targets):
        if re.match(r"(https?|mailto):", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
        # the site has the pages of docs/ alone
        if DOCS in path.parents and DOCS not in there.parents:
            broken.append(f"{target} is outside of docs/")
    assert broken == []


def test_every_page_is_in_the_contents() -> None:
    listed: set[str] = set()
    for name in ("index.md", "decisions.md"):
        for language, text in blocks(DOCS / name):
            if language == "{toctree}":
                listed |= {line.strip() for line in text.splitlines() if line.strip() and not line.startswith(":")}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if DOCS in path.parents} - {"index"}
    assert {name for name in pages if name not in listed and f"{Path(name).parent}/*" not in listed} == set()
    assert {name for name in listed if "*" not in name} <= pages


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_every_command_of_a_page_would_be_accepted(path: Path) -> None:
    for typed in dict.fromkeys(commands(path)):
        try:
            accept(typed)
        except Exception as error:
            raise AssertionError(f"{typed.page}: {typed.line}: {error}") from error


def accept(typed: Typed) -> None:
    """Raise where a command could not be typed: a target, an extra, a module or a setting that does not exist."""
    first, *words = typed.words
    words = [word for word in words if word not in ("-P", "-B")]
    if first == "make":
        makefile = (REPO / "Makefile").read_text()
        for word in words:
            name, equals, _ = word.partition("=")
            assert re.search(
                rf"^{name}\s*\??[:=]" if equals else rf"^[\w\- ]*\b{name}[\w\- ]*:", makefile, flags=re.M
            ), word
    elif first == "pip":
        extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {*re.findall(r"cinelora\[(\w+)\]", typed.line)} <= {*extras}
    elif first == "source":
        assert words == [".venv/bin/activate"]
    elif first == "python" and words[0] == "-m":
        accept_module(words[1] if len(words) > 1 else MADE_UP, words[2:])
    elif first == "python" and words[0] in ("train.py", "infer.py"):
        accept_program(PROGRAMS[words[0].removesuffix(".py")], words[1:])
    elif first == "python" and words[0] not in ("as", "-c"):
        assert (REPO / words[0]).is_file(), words[0]
    else:
        assert first != "cinelora", "there is no such command"


def accept_module(name: str, words: list[str]) -> None:
    command = name.removeprefix("cinelora.")
    if command in PROGRAMS:
        accept_program(PROGRAMS[command], words)
    elif command in SMALL:
        parse(SMALL[command], words)
    elif name == "tools.scale_model" and words:
        parse(SCALE_MODEL[words[0]], [word for word in words[1:] if word != "..."])
    else:
        assert command == MADE_UP or importlib.util.find_spec(name), name


def accept_program(program: Program, words: list[str]) -> None:
    """A command line of one of the large commands: composed as it stands, on runs that the tests keep."""
    whole = not any(word == "..." or word.startswith("$") for word in words)
    command = parse(program, [word for word in words if word != "..." and not word.startswith("$")])
    open_ended = any("hub:" in word for word in words) or MADE_UP in command.given.values()
    if command.help or open_ended or not whole or not words or command.texts.get("models") or "models" in command.given:
        return
    launched = [text for text in command.overrides if not text.startswith("hydra")]
    # runs of the corpus name folders of another machine
    trusted = ["trust=true"] if "trust" in program.fields and "trust" not in command.given else []
    command = replace(command, overrides=[*launched, *trusted], texts=with_runs(command))
    if "-m" not in words:
        assert LAUNCHER not in command.given
    for member in members(command) if command.multirun else [command]:
        compose(member)


def with_runs(command: Command) -> dict[str, str]:
    """The texts of a command line, with runs of the corpus in place of runs that a reader would have."""
    texts = dict(command.texts)
    for key in texts:
        if command.program.fields[key].role == "run" and texts[key] != "auto":
            texts[key] = str(CORPUS / ("style" if key in ("adapter", "resume") else "motion"))
        if key == "answers" or command.given.get("report") == "true":
            texts["out"] = str(CORPUS / "evaluation")
    return texts


def test_the_test_finds_what_is_wrong() -> None:
    """Commands of every form, each with a mistake."""
    wrong = [
        *("make nothing", "make demo COLOUR=red", 'pip install "cinelora[sweets]"', "python -m cinelora.absent"),
        *("python train.py stage=style data=noir lora.rnak=4", "python infer.py ckpt=<run> sampler.steps=x prompt=a"),
        *("python train.py stage=style", "python -m cinelora.check runs=<run>", "python benchmarks/absent.py"),
        *("python train.py stage=style data=noir lora.rank=4,8", "python -m tools.scale_model adopt pairs=<pair>"),
    ]
    for line in wrong:
        with pytest.raises(Exception, match=r"."):
            accept(Typed("here", line))
    assert sum(len(commands(path)) for path in PAGES) > 100


def test_commands_of_the_front_page_follow_from_one_another() -> None:
    """Typed in order by copy and paste: what one reads lies where an earlier one writes, and nothing else is needed."""
    block = "\n".join(text for _, text in blocks(REPO / "README.md"))
    typed = [Typed("README.md", line).words for line in block.splitlines() if line.strip()]
    assert len(typed) == 10
    made = set()
    for first, *words in typed:
        read = re.findall(r"outputs/\w+/\w+/last", " ".join(words))
        assert {*read} <= made, words
        found = dict(word.split("=", 1) for word in words if "=" in word)
        if first in ("make", "source"):
            continue
        assert first == "python"
        if "stage" in found:
            made.add(f"outputs/{found['stage']}/{found['data']}/last")
        if words[0] == "infer.py":
            made.add("outputs/infer/last")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_code_of_a_page_can_be_read(path: Path) -> None:
    for language, text in blocks(path):
        if language == "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cinelora"):
                    module = importlib.import_module(node.module or "")
                    assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if language == "bash":
            done = subprocess.run(["bash", "-n"], input=text.replace("<", "_").replace(">", "_"), text=True, timeout=60)
            assert done.returncode == 0, text


def test_the_reference_has_every_setting_once() -> None:
    text = page()
    keys = {key for program in PROGRAMS.values() for key in program.fields}
    keys |= {f"{name}-{key}" for name, program in SMALL.items() for key in program.fields}
    found = re.findall(r"\{#set-([\w.-]+)\}", text)
    assert sorted(found) == sorted(key.replace(".", "-") for key in keys)
    assert "`checkpoint.best`" in text
    assert r"\<stage\>-best.safetensors" in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_pages_are_in_plain_words(path: Path) -> None:
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert re.findall(rf"[^.]*\b(?:{'|'.join(QUAINT)})\b", text) == []
