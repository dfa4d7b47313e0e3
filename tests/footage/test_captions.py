"""Whose caption counts, how lists are read, and that what a person wrote is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cinelora.errors import FootageError
from cinelora.footage.captions import (
    Captions,
    find_captions,
    read_lines,
    refuse_missing,
    to_write,
    whole_caption,
    write_lines,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with clips on three levels; captions do not look into them."""
    root = tmp_path / "footage"
    for path in ("a.mp4", "reel/b.mp4", "reel/day 2/c.mp4"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return tmp_path / "prepared"


SHOTS = {"a.mp4@0-40": "a.mp4", "reel/b.mp4@0-10": "reel/b.mp4", "reel/day 2/c.mp4@5-9": "reel/day 2/c.mp4"}


def texts(root: Path, prepared: Path, shots: dict[str, str] = SHOTS) -> list[str | None]:
    found = find_captions(root, shots, prepared)
    return [found.texts.get(name) for name in shots]


def put(path: Path, *lines: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


# -- among the footage -------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_footage_without_captions(root: Path, prepared: Path):
    assert find_captions(root, SHOTS, prepared) == Captions({}, tuple(SHOTS))
    with pytest.raises(
        FootageError, match=r"no caption for a\.mp4 and 2 more .*data\.caption=.*a\.txt.*data\.captioner"
    ):
        refuse_missing(find_captions(root, SHOTS, prepared), root, SHOTS)


def test_one_for_all_stands_before_everything(root: Path, prepared: Path):
    put(root / "a.txt", "beside it")
    assert set(find_captions(root, SHOTS, prepared, "for all").texts.values()) == {"for all"}


def test_the_nearest_list_wins_and_names_files_from_its_folder(root: Path, prepared: Path):
    put(
        root / "metadata.csv", "file_name,text", "a.mp4,from the top", "reel/b.mp4,from the top", "reel/day 2/c.mp4,top"
    )
    put(root / "reel/metadata.jsonl", {"file_name": "b.mp4", "caption": "from the reel"})
    put(root / "reel/day 2/captions.jsonl", {"file_name": "./c.mp4", "prompt": "from the day"})
    assert texts(root, prepared) == ["from the top", "from the reel", "from the day"]
    put(root / "reel/b.txt", "beside it")
    assert texts(root, prepared)[1] == "beside it"


def test_a_list_of_the_folder_stands_before_a_caption_of_the_folder(root: Path, prepared: Path):
    put(root / "caption.txt", "a film")
    put(root / "reel/caption.txt", "a reel")
    put(root / "metadata.csv", "file_name,text", "reel/b.mp4,this very clip")
    assert texts(root, prepared) == ["a film", "this very clip", "a reel"]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbffile_name,text\r\na.mp4,"rain, ""heavy"""\r\n',
        b'id;file_name;text\r\n1;a.mp4;"rain, ""heavy"""\r\n',
        b'text\tfile_name\n"rain, ""heavy"""\ta.mp4\n',
        b'file_name,caption\na.mp4,"rain, ""heavy"""',
    ],
)
def test_tables_as_programs_write_them(content: bytes, root: Path, prepared: Path):
    (root / "metadata.csv").write_bytes(content)
    assert texts(root, prepared)[0] == 'rain, "heavy"'


def test_a_caption_of_two_lines_and_one_with_odd_ends(root: Path, prepared: Path):
    put(root / "metadata.csv", "file_name,text", 'a.mp4,"one', 'two"')
    put(root / "captions.jsonl", json.dumps({"file_name": "reel/b.mp4", "text": "odd\u2028end"}, ensure_ascii=False))
    assert texts(root, prepared)[:2] == ["one\ntwo", "odd\u2028end"]


def test_accents_compare_however_they_are_written(tmp_path: Path):
    put(tmp_path / "f/metadata.jsonl", {"file_name": "cafe\u0301.mp4", "text": "found"})
    assert texts(tmp_path / "f", tmp_path / "p", {"x": "caf\u00e9.mp4"}) == ["found"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.csv", "file_name,text\n../x.mp4,a", r"metadata\.csv, line 2: \.\./x\.mp4 leads out of the folder"),
        ("metadata.csv", "file_name,text\n/etc/x.mp4,a", "line 2: /etc/x.mp4 leads out"),
        ("metadata.csv", "name,text\na.mp4,a", "line 2: want"),
        ("metadata.csv", "file_name,words\na.mp4,a", "line 2: want .*text being also caption or prompt"),
        ("metadata.csv", 'file_name,text\na.mp4,"never closed\nb', "line 3: not CSV"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "text": "x"}\n{"file_name": 3}', "line 2: want"),
        ("captions.jsonl", '\n{"file_name": "a.mp4"', "line 2, is damaged or no JSON"),
        ("captions.jsonl", '["a.mp4", "x"]', "line 1: want"),
    ],
)
def test_a_list_that_is_wrong_is_named_with_its_line(name: str, content: str, words: str, root: Path, prepared: Path):
    (root / name).write_text(content)
    with pytest.raises(FootageError, match=words):
        texts(root, prepared)


@pytest.mark.parametrize("name", ["a.txt", "caption.txt", "metadata.csv", "captions.jsonl"])
def test_what_is_not_utf8_is_said(name: str, root: Path, prepared: Path):
    (root / name).write_bytes("file_name,text\na.mp4,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(FootageError, match=f"{name} is not UTF-8 text \\(byte \\d+\\): save it as UTF-8"):
        texts(root, prepared)


def test_a_link_out_of_the_footage_is_not_read(root: Path, prepared: Path, tmp_path: Path):
    put(tmp_path / "secret", "secret")
    (root / "a.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(FootageError, match="leads out of the footage folder"):
        texts(root, prepared)
    assert find_captions(root, SHOTS, prepared, follow_links=True).texts["a.mp4@0-40"] == "secret"


def test_an_empty_caption_is_none(root: Path, prepared: Path):
    put(root / "metadata.csv", "file_name,text", "a.mp4,", "reel/b.mp4,  ")
    put(root / "reel/day 2/captions.jsonl", {"file_name": "c.mp4", "text": None})
    assert texts(root, prepared) == [None] * 3


def test_trigger_and_description_stand_around_a_caption():
    assert whole_caption("a man walks", None) == "a man walks"
    assert whole_caption("a man walks", "nwr", "hard light") == "nwr, a man walks, hard light"
    assert whole_caption("A man walks.", "nwr", "Hard light.") == "nwr, A man walks. Hard light."


# -- of shots ----------------------------------------------------------------------------------------------------------


def test_what_a_model_wrote_fills_gaps_alone(root: Path, prepared: Path):
    put(root / "a.txt", "beside it")
    write_lines(prepared, dict.fromkeys(SHOTS, "a model says"), "model:1")
    assert texts(root, prepared) == ["beside it", "a model says", "a model says"]


def test_what_a_person_wrote_for_a_shot_stands_before_files(root: Path, prepared: Path):
    put(root / "caption.txt", "a film")
    put(
        prepared / "captions.jsonl",
        {"shot": "a.mp4@0-40", "text": "this shot", "note": "mine"},
        {"shot": "reel/b.mp4", "text": "all its shots"},
    )
    assert texts(root, prepared) == ["this shot", "all its shots", "a film"]


def test_edited_and_added_lines_survive_every_run(root: Path, prepared: Path):
    first, second, third = SHOTS
    write_lines(prepared, dict.fromkeys(SHOTS, "a model says"), "model:1")
    lines = read_lines(prepared)
    lines[first]["text"] = "a person says"
    lines[second]["text"] = ""
    added = {"shot": "gone.mp4@0-1", "text": "of a file that is away", "note": 3}
    put(prepared / "captions.jsonl", *lines.values(), added)

    assert to_write(root, SHOTS, prepared, "model:1") == [second], "a line that was emptied is written anew"
    assert to_write(root, SHOTS, prepared, "model:2") == [second, third]
    write_lines(prepared, dict.fromkeys(SHOTS, "another says"), "model:2")
    assert texts(root, prepared) == ["a person says", "another says", "another says"]
    after = read_lines(prepared)
    assert after[first] == lines[first]
    assert after["gone.mp4@0-1"] == added
    assert to_write(root, SHOTS, prepared, "model:2") == []


def test_only_what_is_new_is_written(root: Path, prepared: Path):
    write_lines(prepared, {"a.mp4@0-40": "a model says"}, "model:1")
    put(root / "reel/b.txt", "beside it")
    assert to_write(root, SHOTS, prepared, "model:1") == ["reel/day 2/c.mp4@5-9"]
    assert to_write(root, SHOTS, prepared, "model:2") == ["a.mp4@0-40", "reel/day 2/c.mp4@5-9"]


@pytest.mark.parametrize("line", ['{"shot": "a.mp4"}', '["a.mp4"]', "{", '{"shot": 3, "text": "x"}'])
def test_a_line_that_is_none_is_named_and_nothing_is_overwritten(line: str, root: Path, prepared: Path):
    put(prepared / "captions.jsonl", line)
    for look in (lambda: texts(root, prepared), lambda: write_lines(prepared, {"a.mp4@0-40": "x"}, "m")):
        with pytest.raises(FootageError, match=r"captions\.jsonl, line 1(: want|, is damaged or no JSON)"):
            look()
    assert (prepared / "captions.jsonl").read_text() == line + "\n"
