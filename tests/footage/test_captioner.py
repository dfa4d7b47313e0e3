"""A local model captions what has no caption, once, and in any company alike. Small real models of random weights."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from footage_clips import Put
from PIL import Image
from small_captioners import save_idefics, save_llava

from cinelora.config.schema import DataConfig
from cinelora.errors import FootageError
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Judged, Wanted
from cinelora.footage.captioner import Captioner, batches, frames_of, refuse_folder
from cinelora.footage.manifest import Manifest
from cinelora.footage.sample_source import find
from cinelora.footage.shot_detection import About
from cinelora.footage.shot_filter import Shot

PROMPT = "what is it here ?"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("models") / "small-llava")


@pytest.fixture(scope="module")
def idefics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_idefics(tmp_path_factory.mktemp("models") / "small-idefics")


def pictures(count: int, each: int) -> list[list[Image.Image]]:
    """Lists of pictures of different sizes."""
    draw = np.random.default_rng(0)
    return [
        [Image.fromarray(draw.integers(0, 256, (40 + 8 * i, 64, 3), dtype=np.uint8)) for _ in range(each)]
        for i in range(count)
    ]


@pytest.mark.parametrize(("kind", "each"), [("llava", 1), ("idefics", 4)])
def test_what_is_answered_depends_on_the_shot_alone(kind: str, each: int, request: pytest.FixtureRequest):
    model = Captioner(request.getfixturevalue(kind), PROMPT)
    assert model.num_frames == each
    shown = pictures(3, each)
    together = model.answers(shown)
    assert len(set(together)) == 3
    assert [model.answers([alone])[0] for alone in shown] == together
    again = Captioner(model.folder, PROMPT)
    assert again.answers(shown) == together
    assert again.name == model.name
    assert Captioner(model.folder, PROMPT + ".").name != model.name


def test_frames_lie_evenly_inside_a_shot_and_its_bars(put: Put, street: np.ndarray):
    barred = np.pad(street, ((0, 0), (16, 16), (0, 0), (0, 0)))
    put("a.mp4", barred)
    about = About(Fraction(16), (80, 80), Fraction(2), "pyav", "h264")
    shot = Judged("a.mp4", "", about, Shot(10, 30, bars=None))
    root = put("b.mp4", street).parent
    frames = list(frames_of(shot, root, 4))
    assert [frame.size for frame in frames] == [(80, 80)] * 4
    assert len({np.asarray(frame).tobytes() for frame in frames}) == 4
    short = [Judged("a.mp4", "", about, Shot(start, start + 2, bars=None)) for start in range(5)]
    assert len(list(frames_of(short[0], root, 4))) == 2
    assert [len(some) for some in batches([shot, *short, shot], 4)] == [4, 1, 2]


# -- a whole run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(footage: Path, idefics: Path, tmp_path: Path) -> DataConfig:
    settings = {"captioner": str(idefics), "captioner_prompt": PROMPT, "judged": False, "holdout": 0.0}
    return DataConfig(name="f", root=str(footage), prepared=str(tmp_path / "prepared"), **settings)


def stills(data: DataConfig) -> Manifest:
    return find(data, Wanted(1, 16, (48, 80), WAN21.geometry, 0))


def captions(data: DataConfig) -> dict[str, str]:
    return {sample.path: sample.caption for sample in stills(data).samples}


def test_a_run_captions_what_has_none_and_keeps_what_was_edited(
    data: DataConfig, put: Put, street: np.ndarray, room: np.ndarray, footage: Path, llava: Path
):
    put("a.mp4", street, caption=None)
    put("b.mp4", room, caption=None)
    put("c.mp4", street[::-1], caption="beside it")
    kept = Path(str(data.prepared)) / "captions.jsonl"
    first = captions(data)
    assert first["c.mp4"] == "beside it"
    assert first["a.mp4"] != first["b.mp4"]
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["shot"] for line in lines] == ["a.mp4@0-40", "b.mp4@0-40"]
    assert {line["written_by"] for line in lines} == {Captioner(Path(str(data.captioner)), PROMPT).name}
    assert not list(footage.glob("*.jsonl")), "the footage is never written to"

    before = kept.stat()
    assert captions(data) == first
    assert kept.stat().st_mtime_ns == before.st_mtime_ns, "nothing new, so nothing was asked or written"

    lines[0]["text"] = "a person says"
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    put("d.mp4", room[::-1], caption=None)
    data.trigger, data.description = "nwr", "hard light"
    second = captions(data)
    assert second["a.mp4"] == "nwr, a person says, hard light"
    assert second["b.mp4"].removeprefix("nwr, ").startswith(first["b.mp4"])
    assert second.keys() == {"a.mp4", "b.mp4", "c.mp4", "d.mp4"}

    data.captioner, data.trigger, data.description = str(llava), None, None
    third = captions(data)
    assert third["a.mp4"] == "a person says"
    assert third["b.mp4"] != first["b.mp4"]


def test_a_file_that_cannot_be_captioned_is_refused_as_one_without_caption(
    data: DataConfig, put: Put, street: np.ndarray, footage: Path
):
    put("a.mp4", street, caption=None)
    data.captioner = None
    with pytest.raises(FootageError, match=r"no caption for a\.mp4.*data\.captioner=<folder"):
        stills(data)


# -- folders that are refused ------------------------------------------------------------------------------------------


def changed(llava: Path, folder: Path, change: str) -> Path:
    shutil.copytree(llava, folder)
    config = folder / "config.json"
    match change:
        case "no config":
            config.unlink()
        case "code":
            (folder / "modeling.py").write_text("print('hello')")
        case "asks for code":
            config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "x--y.Z"}}))
        case "pickles":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "an adapter":
            (folder / "adapter_config.json").write_text("{}")
        case "no json":
            config.write_text("{")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no config", "holds no model: want a folder with config.json"),
        ("code", r"brings code of its own \(modeling\.py\)"),
        ("asks for code", r"brings code of its own \(config\.json\)"),
        ("pickles", "no weights as safetensors"),
        ("an adapter", "holds an adapter"),
        ("no json", r"config\.json is damaged or no JSON"),
    ],
)
def test_a_folder_that_cannot_be_run_is_refused_in_words(change: str, words: str, llava: Path, tmp_path: Path):
    with pytest.raises(FootageError, match=words):
        refuse_folder(changed(llava, tmp_path / "model", change))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(FootageError, match="holds no model"):
        Captioner(tmp_path / "none", PROMPT)


def test_another_kind_of_model_and_one_that_cannot_be_asked_are_refused(llava: Path, tmp_path: Path):
    other = Path(shutil.copytree(llava, tmp_path / "other"))
    (other / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FootageError, match=r"data\.captioner=.*other: transformers cannot load it \("):
        Captioner(other, PROMPT).answers(pictures(1, 1))
    with pytest.raises(FootageError, match="no chat template"):
        Captioner(save_llava(tmp_path / "mute", chat=None), PROMPT).answers(pictures(1, 1))


def test_a_picture_is_shown_once_and_captioned(data: DataConfig, footage: Path, room: np.ndarray):
    Image.fromarray(room[0]).save(footage / "e.png")
    found = captions(data)
    assert found.keys() == {"e.png"}
    assert found["e.png"]
