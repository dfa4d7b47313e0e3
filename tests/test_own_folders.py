"""A folder that a setting names is written into where it is new, empty or our own, and refused where it is anybody else's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cinelora.cli.one_run import accepted
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.config.fields import PLACES
from cinelora.errors import ConfigError
from cinelora.io.hub import shadowed
from cinelora.io.own_folders import CACHE, PREPARED, SIGNATURE, TAG, Ours, is_tagged, refuse_occupied, tag_cache

CORPUS = Path(__file__).parent / "corpus"
READ = (
    *"root manifest overrides lut lettering_weights cuts_weights captioner alexnet i3d prompts image answers".split(),
    *"merge ckpt adapter adapters".split(),
)
"""Settings that name what is there, and is read alone. ``resume`` names a run, and ``out`` is known by its config.yaml."""
WRITTEN = {"cache": CACHE, "data.prepared": PREPARED}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's own project."""
    folder = tmp_path / "project"
    (folder / "latents").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    (folder / "manifest.jsonl").write_text("{}")
    return folder


def test_every_setting_that_names_a_place_is_read_or_known_here() -> None:
    fields = {key: field for program in PROGRAMS.values() for key, field in program.fields.items()}
    places = {key for key, field in fields.items() if field.role in PLACES}
    assert {key for key in places if key.rpartition(".")[2] not in READ} == {*WRITTEN, "out", "resume"}


@pytest.mark.parametrize("key", WRITTEN)
@pytest.mark.parametrize("command", ["train", "prepare"])
def test_somebody_s_project_is_refused_and_stays_as_it_is(command: str, key: str, project: Path, footage: Path) -> None:
    if key not in PROGRAMS[command].fields:
        return
    before = snapshot(project)
    stage = ["stage=style"] if command == "train" else []
    words = [*stage, "data=folder", f"data.root={footage}", f"{key}={project}"]
    with pytest.raises(ConfigError, match=f"^{key}={project} is no .*'README.md'.*new or empty$") as refused:
        accepted(parse(PROGRAMS[command], words))
    assert "\n" not in str(refused.value)
    assert snapshot(project) == before


CLIPS = {
    "infer": ["prompt=rain", "mode=t2v"],
    "study": ["prompt=rain", "steps=[2]"],
    "evaluate": ["prompts=prompts.txt", "mode=t2v"],
}


@pytest.mark.parametrize("command", CLIPS)
def test_a_cache_that_clips_write_to_is_looked_at_first(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They build the embedded model there, where it is not shipped; else they write nothing, and the cache may be anything."""
    monkeypatch.chdir(project.parent)
    Path("prompts.txt").write_text("rain\n")
    before, asked = snapshot(project), parse(PROGRAMS[command], [*CLIPS[command], f"cache={project}"])
    monkeypatch.setattr("cinelora.cli.preflight.SHIPPED", project / "latents")
    accepted(asked)
    monkeypatch.setattr("cinelora.cli.preflight.SHIPPED", project / "none")
    with pytest.raises(ConfigError, match=f"^cache={project} is no cache of cinelora's and holds 'README.md'"):
        accepted(asked)
    assert snapshot(project) == before


@pytest.mark.parametrize(("name", "ours"), [("cache", CACHE), ("prepared", PREPARED)])
def test_what_an_older_version_made_is_known(name: str, ours: Ours, tmp_path: Path) -> None:
    refuse_occupied("key", CORPUS / name, ours)
    other = {"cache": PREPARED, "prepared": CACHE}[name]
    with pytest.raises(ConfigError, match=f"^key=.* is no {other.what}"):
        refuse_occupied("key", CORPUS / name, other)


def test_an_older_cache_gets_its_tag_and_is_known_by_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(CORPUS / "cache", cache)
    tag_cache(cache)
    assert (cache / TAG).read_text().splitlines()[0] == SIGNATURE
    shutil.rmtree(cache / "latents")
    (cache / "notes.txt").touch()
    assert is_tagged(cache)
    refuse_occupied("cache", cache, CACHE)
    with pytest.raises(ConfigError):
        refuse_occupied("data.prepared", cache, PREPARED)


def test_a_folder_that_is_new_or_as_good_as_empty_is_free(tmp_path: Path) -> None:
    refuse_occupied("cache", tmp_path / "new", CACHE)
    for name in (".lock", "lost+found", "overrides.json"):
        (tmp_path / name).touch()
    refuse_occupied("data.prepared", tmp_path, PREPARED)  # verdicts may be there before the footage is looked at
    with pytest.raises(ConfigError, match="holds 'overrides.json'"):
        refuse_occupied("cache", tmp_path, CACHE)


def test_another_program_s_cache_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / TAG).write_text(f"{SIGNATURE}\n# of another program\n")
    with pytest.raises(ConfigError, match=f"holds '{TAG}'"):
        refuse_occupied("cache", tmp_path, CACHE)


def test_a_name_with_a_line_break_is_shown_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2Jb").touch()
    with pytest.raises(ConfigError, match=r"holds 'a\\n\\x1b\[2Jb'"):
        refuse_occupied("cache", tmp_path, CACHE)


def test_a_folder_that_takes_the_place_of_a_repository_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    wanted = f"model.t2v=owner/model is the folder {tmp_path}/owner/model, and not the hub's repository of that name"
    assert shadowed("model.t2v", "owner/model") == [wanted]
    for plain in ("owner/other", "./owner/model", str(tmp_path / "owner/model"), "embedded:tiny-t2v", None):
        assert shadowed("model.t2v", plain) == []


def test_a_cache_that_another_start_tags_meanwhile_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Path.iterdir

    def tagged_meanwhile(folder: Path) -> Iterator[Path]:
        if folder == tmp_path:
            tag_cache(folder)
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", tagged_meanwhile)
    refuse_occupied("cache", tmp_path, CACHE)
    assert is_tagged(tmp_path)
