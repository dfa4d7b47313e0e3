"""Captions: what footage comes with, what a person wrote for a shot, and what a model wrote where there was nothing.

Enters: shots, the footage folder and the prepared one. Leaves: a text for each shot, or its name where there is none. It does not
know pictures. Whose word counts, first to last:

1. ``data.caption``, for all there is;
2. a line of ``captions.jsonl`` in the prepared folder, of a shot or a file, that a person wrote or changed;
3. ``<clip>.txt`` beside the clip;
4. ``captions.jsonl``, ``metadata.jsonl`` or ``metadata.csv`` in its folder or, failing that, in one above: a row with
   ``file_name``, relative to that folder, and ``text``, ``caption`` or ``prompt``, as folders on the hub have them;
5. ``caption.txt`` in its folder or, failing that, in one above, for all in there;
6. a line of ``captions.jsonl`` in the prepared folder as a model wrote it.

With ``data.caption_lines=each`` every line of a text is a caption of its own. Before each comes ``data.trigger``, unless it
stands there already, and after it ``data.description``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from cinelora.errors import FootageError
from cinelora.footage.manifest import json_lines, read_text
from cinelora.io.atomic import write_text

OF_FOLDER = "caption.txt"
OF_SHOTS = "captions.jsonl"
LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class Captions:
    """A text for each shot, by its name; ``missing`` are the names of those without."""

    texts: dict[str, str]
    missing: tuple[str, ...]


def find_captions(
    root: Path, shots: Mapping[str, str], prepared: Path, caption: str | None = None, follow_links: bool = False
) -> Captions:
    """The captions of ``shots``, each named with the path of its file below ``root``; ``caption`` stands for all others.

    Texts that links lead to outside ``root`` are read only with ``follow_links``.

    Raises ``FootageError`` for a text or list that cannot be read, with its line.
    """
    if caption is not None:
        return Captions(dict.fromkeys(shots, caption), ())
    lines, texts_of = read_lines(prepared), OfFiles(root, follow_links)
    of_files = {path: texts_of[path] for path in dict.fromkeys(shots.values())}
    # The order at the top of this file. A model's line comes last: once a person puts a text beside the clip, that counts.
    found = {
        name: _by_hand(lines, name) or _by_hand(lines, path) or of_files[path] or _text(lines.get(name, {}))
        for name, path in shots.items()
    }
    return Captions({n: text for n, text in found.items() if text}, tuple(n for n, text in found.items() if not text))


def refuse_missing(captions: Captions, root: Path, paths: Mapping[str, str]) -> None:
    """Raise ``FootageError`` with the ways out where a shot has no caption."""
    files = list(dict.fromkeys(paths[name] for name in captions.missing))
    if files:
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise FootageError(
            f"no caption for {files[0]}{others} in {root}: set data.caption=<one for all clips>, "
            f"write {PurePosixPath(files[0]).with_suffix('.txt').name} beside it, list it in captions.jsonl, "
            "or set data.captioner=<folder of a vision-language model>"
        )


def lines_of(text: str) -> list[str]:
    """The captions of a text that has one a line; of a text that holds none, the empty one."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def whole_caption(text: str, trigger: str | None, description: str | None = None) -> str:
    """A caption after the trigger word, and before the description of the look."""
    text = prompt_with_trigger(text, trigger)
    if description:
        return f"{text} {description}" if text.endswith((".", "!", "?")) else f"{text}, {description}"
    return text


def prompt_with_trigger(text: str, trigger: str | None) -> str:
    """A caption or prompt after the trigger word, unless that is one of its words (``has_word``)."""
    if not trigger or not trigger.strip() or has_word(text, trigger):
        return text
    return f"{trigger}, {text}" if text.strip() else trigger


def has_word(text: str, word: str) -> bool:
    """Whether ``word``, which may be several, stands in ``text`` as a whole, whatever the case and the form of accents."""
    text, word = f" {_folded(text)} ", _folded(word)
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if _is_boundary(text[start - 1], text[start]) and _is_boundary(text[end - 1], text[end]):
            return True
        start = text.find(word, start + 1)
    return False


def _folded(text: str) -> str:
    """A text as words compare: neither case, nor how accents are written, nor how much space is between words counts."""
    return " ".join(_plain(_plain(text).casefold()).split())


def _is_boundary(before: str, after: str) -> bool:
    """Whether a word may end between two characters."""
    # A mark or a joiner belongs to the letter before it, so that nothing ends there. Chinese, Japanese, Thai and their like are
    # written without spaces: where words end in them a dictionary alone would know, so that any place will do.
    if after in _JOINERS or unicodedata.category(after)[0] == "M":
        return False
    return not (_is_in_word(before) and _is_in_word(after)) or _is_unspaced(before) or _is_unspaced(after)


def _is_in_word(character: str) -> bool:
    """Whether it is a letter, mark, digit or joiner of a word; hyphens and apostrophes part words."""
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Pc" or character in _JOINERS


def _is_unspaced(character: str) -> bool:
    """Whether its script is written without spaces between words."""
    return unicodedata.name(character, "").replace("-", " ").split(" ")[0] in _UNSPACED


_JOINERS = "\u200c\u200d"
"""Zero-width joiner and non-joiner, which stand inside words of Persian and of Indian scripts."""
_UNSPACED = "BOPOMOFO CJK HALFWIDTH HIRAGANA IDEOGRAPHIC KATAKANA KHMER LAO MYANMAR THAI TIBETAN".split()
"""First words of the Unicode names of characters of such scripts."""


# -- what footage comes with -------------------------------------------------------------------------------------------


class OfFiles:
    """The captions that lie among the footage, by the path of a clip; every list is read once."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root, self.follow_links = root, follow_links
        self._listed, self._for_all = cache(self._read_lists), cache(self._read_caption)

    def __getitem__(self, path: str) -> str:
        """The caption of a clip, empty where it has none."""
        # `parents` goes upwards, from the clip's own folder to the root: of two lists or two caption.txt the nearer counts.
        # All lists are read, whether they are needed or not, so that one that is damaged is reported.
        clip = PurePosixPath(path)
        listed = [self._listed(folder).get(_plain(clip.relative_to(folder).as_posix()), "") for folder in clip.parents]
        beside = self._text(clip.with_suffix(".txt")).strip()
        return beside or next(filter(None, chain(listed, map(self._for_all, clip.parents))), "")

    def _text(self, file: PurePosixPath) -> str:
        """What a text file below the root holds, "" where there is none."""
        return read_text(self.root, str(file), self.follow_links) if (self.root / file).is_file() else ""

    def _read_caption(self, folder: PurePosixPath) -> str:
        """The caption of all clips in a folder."""
        return self._text(folder / OF_FOLDER).strip()

    def _read_lists(self, folder: PurePosixPath) -> dict[str, str]:
        """The caption of each clip, by its path from the folder; of two lines for one the first counts."""
        texts: dict[str, str] = {}
        for name in LISTS:
            path, rows = self.root / folder / name, _csv_rows if name.endswith(".csv") else json_lines
            for number, record in rows(path, self._text(folder / name)):
                file_name, text = _file_and_text(record, f"{path}, line {number}")
                texts.setdefault(_plain(file_name), text)
        return texts


def _file_and_text(record: Any, where: str) -> tuple[str, str]:
    """The file that a row names, relative to the folder of its list and inside of it, and the caption."""
    columns = [name for name in COLUMNS if name in record] if isinstance(record, dict) else []
    if not columns or not isinstance(record.get("file_name"), str):
        raise FootageError(f'{where}: want {{"file_name": "...", "text": "..."}}, text being also caption or prompt')
    path = PurePosixPath(record["file_name"])
    if path.is_absolute() or ".." in path.parts:
        raise FootageError(f"{where}: {path} leads out of the folder of the list; name files below it")
    return str(path), _text({"text": record[columns[0]]})


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows below a header, separated as its line is: by commas, semicolons or tabs."""
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise FootageError(f"{path}, line {rows.reader.line_num}: not CSV ({error})") from error


def _plain(name: str) -> str:
    """A file name as it compares: macOS writes accents as letters of their own."""
    return unicodedata.normalize("NFC", name)


# -- of shots, in the prepared folder ----------------------------------------------------------------------------------

Line = dict[str, Any]
"""``{"shot": "<file>@<first>-<end>", "text": ...}``, and where a model wrote it ``written_by`` and ``text_hash``, a hash of that
text: a line with another text has been edited."""


def read_lines(prepared: Path) -> dict[str, Line]:
    """The lines of ``captions.jsonl`` in the prepared folder, by shot, or by file where a line is for all its shots.

    Raises ``FootageError`` for a line that is something else.
    """
    path, lines = prepared / OF_SHOTS, dict[str, Line]()
    if path.is_file():
        for number, line in json_lines(path, read_text(prepared, OF_SHOTS)):
            if not (isinstance(line, dict) and isinstance(line.get("shot"), str) and "text" in line):
                raise FootageError(f'{path}, line {number}: want {{"shot": "<file>@<first>-<end>", "text": "..."}}')
            lines[line["shot"]] = line
    return lines


def write_lines(prepared: Path, written: Mapping[str, str], written_by: str) -> None:
    """Add what a model wrote for shots to ``captions.jsonl``, whole or not at all.

    The file is read again for that: what a person has written or changed in the meantime stays.
    """
    lines = read_lines(prepared)
    for shot, text in written.items():
        if not _by_hand(lines, shot):
            lines[shot] = {"shot": shot, "text": text, "written_by": written_by, "text_hash": _hash(text)}
    prepared.mkdir(parents=True, exist_ok=True)
    write_text(prepared / OF_SHOTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()))


def to_write(
    root: Path, shots: Mapping[str, str], prepared: Path, written_by: str, follow_links: bool = False
) -> list[str]:
    """The shots that a model is to caption: those with no caption but another model's, or another prompt's.

    A line whose text a person deleted counts as none.
    """
    lines, of_files = read_lines(prepared), OfFiles(root, follow_links)
    done = {name for name, line in lines.items() if _text(line) and line.get("written_by") == written_by}
    said = {path for path in dict.fromkeys(shots.values()) if _by_hand(lines, path) or of_files[path]}
    return [s for s, path in shots.items() if s not in done and path not in said and not _by_hand(lines, s)]


def _by_hand(lines: Mapping[str, Line], name: str) -> str:
    """The text of a line if a person wrote or changed it."""
    # A model's line carries the hash of what the model wrote. While the text still has that hash nobody has touched it;
    # a text that was changed, be it by one letter, is a person's, and no model overwrites it.
    line = lines.get(name, {})
    text = _text(line)
    return "" if "written_by" in line and line.get("text_hash") == _hash(text) else text


def _text(line: Line) -> str:
    return str("" if line.get("text") is None else line["text"]).strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
