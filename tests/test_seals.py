"""What is read back is what was written: a flipped bit is an error, or a warning, or changes nothing that anybody reads."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import compose_infer
from safetensors.torch import load_file, save_file

from cinelora import check as checking
from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.adapter_header import judge_adapter
from cinelora.adapters.adapter_header import read_header as header_of
from cinelora.cli.compose import compose_train
from cinelora.config.schema import InferConfig, LoraSpec
from cinelora.config.store import load, save_config
from cinelora.config.trust import note_as_own
from cinelora.errors import CineloraError
from cinelora.footage.manifest import Manifest, Sample, Skipped, read_manifest, write_manifest
from cinelora.io.atomic import write_json
from cinelora.io.locks import LOCK, lock
from cinelora.io.plain_data import read_json, sealed
from cinelora.io.tensor_files import content_digest, load_tensors, save_tensors
from cinelora.latents.cache import Entry, Index, encoding_path
from cinelora.sampling.sampler import Texts
from cinelora.sampling.scene import Latents, Rendition

Read = Callable[[Path], Any]


def flips(path: Path, most: int = 400) -> Iterator[int]:
    """The file with one bit turned, again and again; every bit of a small file, and ``most`` by chance of a larger one."""
    content = path.read_bytes()
    bits = range(8 * len(content))
    for bit in bits if len(bits) <= most else random.Random(0).sample(bits, most):
        turned = bytearray(content)
        turned[bit // 8] ^= 1 << bit % 8
        path.write_bytes(turned)
        yield bit
    path.write_bytes(content)


def assert_no_flip_is_silent(path: Path, read: Read, same: Callable[[Any, Any], bool] | None = None) -> int:
    """Every flip ends in one sentence, or gives what was written; returns how many were found."""
    expected, found = read(path), 0
    for bit in flips(path):
        try:
            value = read(path)
        except CineloraError:
            found += 1
            continue
        assert same(value, expected) if same else value == expected, f"bit {bit} was taken in silence"
    assert read(path) == expected if same is None else same(read(path), expected)
    return found


def manifest() -> Manifest:
    sample = Sample("a@0-4", "a.mp4", "0" * 64, (0, 1, 2), "two men, 1,5 m apart \u2013 rain", "train", "window")
    return Manifest((sample,), (Skipped("b.mp4", "it is blank", (3, 7)),))


def tensors() -> dict[str, torch.Tensor]:
    return {"latents": torch.arange(12.0).view(3, 4), "more": torch.ones(2, dtype=torch.bfloat16)}


def alike(ours: tuple[dict[str, torch.Tensor], Any], theirs: tuple[dict[str, torch.Tensor], Any]) -> bool:
    return content_digest(ours[0]) == content_digest(theirs[0]) and ours[1] == theirs[1]


# -- texts and tensors -------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_text_is_taken_in_silence(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"steps": 1000, "loss": 0.25, "name": "λ", "n": [1, {"m": None}]})
    # of the seal's own line a flip may leave another key, and changes nothing else
    assert (
        assert_no_flip_is_silent(tmp_path / "a.json", read_json, lambda ours, theirs: {**ours, **theirs} == ours) > 300
    )
    save_config(compose_infer(["prompt=a man at dusk", "seed=7"]), tmp_path / "config.yaml")
    assert assert_no_flip_is_silent(tmp_path / "config.yaml", lambda path: load(InferConfig, path)) > 300
    write_manifest(tmp_path / "manifest.jsonl", manifest())
    assert assert_no_flip_is_silent(tmp_path / "manifest.jsonl", read_manifest) > 300


def test_a_text_whose_seal_was_removed_is_read_and_so_is_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"steps": 1000})
    path.write_text(path.read_text().replace("1000", "2000"))
    with pytest.raises(CineloraError, match=r"a.json is not as it was written: .* remove its line with 'seal'"):
        read_json(path)
    for name, write in {
        "a.json": lambda path: write_json(path, {"steps": 1000}),
        "config.yaml": lambda path: save_config(compose_infer(["prompt=x"]), path),
        "manifest.jsonl": lambda path: write_manifest(path, manifest()),
    }.items():
        path = tmp_path / name
        write(path)
        lines = path.read_text().splitlines(keepends=True)
        [seal] = [line for line in lines[:2] if "seal" in line]
        path.write_text("".join(line for line in lines if line != seal))
    assert read_json(tmp_path / "a.json") == {"steps": 1000}
    assert load(InferConfig, tmp_path / "config.yaml").prompt == "x"
    assert read_manifest(tmp_path / "manifest.jsonl") == manifest()


def test_a_seal_is_of_the_bytes_after_it() -> None:
    assert sealed("a: 1\n", "yaml").splitlines()[1:] == ["a: 1"]
    assert sealed('{\n  "a": 1\n}\n', "json").splitlines()[2:] == ['  "a": 1', "}"]
    assert sealed('{"a": 1}\n', "lines").splitlines()[1:] == ['{"a": 1}']


def test_a_list_and_a_file_for_others_have_no_seal(tmp_path: Path) -> None:
    for value, seals in (([1, 2], True), ({}, True), ({"a": 1}, False)):
        write_json(tmp_path / "a.json", value, seals=seals)
        assert "seal" not in (tmp_path / "a.json").read_text()
        assert read_json(tmp_path / "a.json") == value


def test_no_flipped_bit_of_sealed_tensors_is_taken_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "clip.latents"
    save_tensors(path, tensors(), {"made_of": "x"}, seals=True)
    assert load_tensors(path)[1] == {"made_of": "x"}
    values = 8 * (8 + int.from_bytes(path.read_bytes()[:8], "little"))
    content = path.read_bytes()
    for bit in range(values, 8 * len(content)):
        turned = bytearray(content)
        turned[bit // 8] ^= 1 << bit % 8
        path.write_bytes(turned)
        with pytest.raises(CineloraError, match="clip.latents is damaged"):
            load_tensors(path)
    save_file(tensors(), path)  # one without a seal is read as it is
    assert alike(load_tensors(path), (tensors(), {}))


# -- adapters ----------------------------------------------------------------------------------------------------------


def exported(path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {
        f"blocks.{n}.attn2.to_q.lora_{part}.weight": torch.randn(size, generator=generator)
        for n in range(2)
        for part, size in (("A", (2, 8)), ("B", (8, 2)))
    }
    spec = LoraSpec(2, 4.0, targets="cross_attention")
    facts = {"base_model": "tiny", "transformer": "t2v", "trigger": "noirlook", "data_hash": "0123456789ab"}
    export_adapter(path, AdapterFile(state=state, spec=spec, kind="style", **facts))
    return path


def test_no_flipped_bit_of_an_adapter_is_taken_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(tmp_path / "style.safetensors")
    expected, said = read_adapter(path), 0
    capsys.readouterr()
    for bit in flips(path, 600):
        try:
            found = read_adapter(path)
        except CineloraError:
            said += 1
            continue
        warned = "not what cinelora wrote" in capsys.readouterr().out
        same = content_digest(found.state) == content_digest(expected.state) and all(
            getattr(found, name) == getattr(expected, name)
            for name in ("spec", "kind", "base_model", "trigger", "data_hash")
        )
        assert warned or same, f"bit {bit} was taken in silence"
        said += warned
    assert said > 400


def test_what_another_tool_did_to_an_adapter_is_said_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(tmp_path / "style.safetensors")
    changed = {name: tensor * 0.5 for name, tensor in load_file(path).items()}
    save_file(changed, path, header_of(path)["__metadata__"])
    halved = read_adapter(path)
    assert "another tool changed it, or it is damaged" in capsys.readouterr().out
    assert len(halved.state) == 4
    # a header of an older version says nothing of its facts
    path = exported(tmp_path / "older.safetensors")
    facts = header_of(path)["__metadata__"]
    save_file(load_file(path), path, facts | {"mark": " ".join(facts["mark"].split()[:2])})
    assert judge_adapter(path).marked is True


def test_latents_in_waiting_that_are_damaged_are_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = Texts(torch.zeros(1), torch.zeros(1))
    rendition = Rendition({}, texts, 0, tmp_path / "adapted.latents", "what it is made of")
    rendition.keep(Latents(torch.ones(1, 2, 3)))
    kept = rendition.kept()
    assert kept is not None
    assert torch.equal(kept.of_clip, torch.ones(1, 2, 3))
    content = bytearray(rendition.draft.read_bytes())
    content[-1] ^= 1
    rendition.draft.write_bytes(content)
    assert rendition.kept() is None
    assert (
        "adapted.latents is damaged: its values are not the ones that were written: it is drawn again"
        in capsys.readouterr().out
    )


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory like a run's."""
    run = tmp_path / "run"
    run.mkdir()
    save_config(compose_infer(["prompt=x"]), run / "config.yaml")
    write_json(run / "summary.json", {"a": 1})
    exported(run / "style.safetensors")
    save_tensors(run / "adapted.latents", tensors(), {}, seals=True)
    (run / "clip.mp4").write_bytes(b"no video")
    return run


def test_what_is_whole_is_said_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checking.main([f"run={run}"]) == 0
    assert capsys.readouterr().out == "4 files whole, 0 damaged, 0 missing; 1 pictures, pages and logs not looked at\n"
    assert checking.main([f"adapter={run / 'style.safetensors'}"]) == 0


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "style.safetensors", "adapted.latents"])
def test_what_is_damaged_is_named(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / name).read_bytes())
    content[-3] ^= 4
    (run / name).write_bytes(content)
    assert checking.main([f"run={run}"]) == checking.DAMAGED
    out = capsys.readouterr()
    assert out.out.startswith(f"damaged: {run / name}")
    assert "3 files whole, 1 damaged, 0 missing" in out.err


def test_a_cache_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        kept = tensors()
        file = tmp_path / "latents" / "00" / f"text-{number:032x}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, kept, {}, seals=True)
    assert checking.main([f"cache={tmp_path}"]) == 0
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert checking.main([f"cache={tmp_path}"]) == checking.DAMAGED
    assert f"{file} is damaged" in capsys.readouterr().out


def test_an_encoding_that_is_gone_is_missing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose_train(["stage=style", "data=noir", f"cache={tmp_path / 'cache'}"])
    save_config(config, run / "config.yaml")
    note_as_own(config)
    names = {kind: f"{kind}-{0:032x}" for kind in ("text", "video")}
    Index((Entry("a", "train", "a man", names["text"], names["video"], None),), {}).save(run / "dataset.json")
    there = encoding_path(tmp_path / "cache" / "latents", names["text"])
    there.parent.mkdir(parents=True)
    save_tensors(there, tensors(), {}, seals=True)
    assert checking.main([f"run={run}"]) == checking.MISSING
    gone = encoding_path(tmp_path / "cache" / "latents", names["video"])
    out = capsys.readouterr()
    assert f"missing: {gone} (the next run on this footage encodes it again)" in out.out
    assert "0 damaged, 1 missing" in out.err


def test_a_run_in_use_is_said_to_be(run: Path) -> None:
    with lock(run / LOCK):
        assert checking.main([f"run={run}"]) == checking.IN_USE
    assert checking.main([f"run={run}"]) == 0


def test_what_cannot_be_checked_is_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "other" / "config.yaml").unlink()
    for words, said in (
        ([], "say what to read: one of run=<run>, cache=<folder>, adapter=<file>"),
        ([f"run={run}", "cache=x"], "say what to read"),
        ([f"run={tmp_path / 'other'}"], "holds no config.yaml: give the directory of a run"),
        (["cache=/no/where"], "there is no such folder"),
        (["adapter=/no/where"], "there is no such file"),
        (["rum=x"], "rum is not a setting, did you mean run?"),
    ):
        assert checking.main(words) == 2
        assert said in capsys.readouterr().err
