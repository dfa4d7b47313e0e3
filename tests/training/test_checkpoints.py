import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from cinelora.errors import TrainingError
from cinelora.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, saved_checkpoints


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"adapter.a": torch.full((4,), float(step)), "moments.0.step": torch.tensor(step)}, {"x": 1}
    )


def test_what_is_saved_is_loaded(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(5), keep=2)
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 5
    assert loaded.facts["x"] == 1
    assert torch.equal(loaded.group("adapter")["a"], torch.full((4,), 5.0))
    assert loaded.group("moments")["0.step"].dtype == torch.int64
    assert (tmp_path / "last").read_text() == "step-00000005"


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step-00000011", "step-00000010"]


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    damaged = tmp_path / "step-00000002" / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert load_checkpoint(tmp_path).step == 1
    assert "step-00000002 does not load" in caplog.text


def test_the_pointer_decides_and_what_lies_behind_it_goes_with_the_next_save(tmp_path: Path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=3)
    (tmp_path / "last").write_text("step-00000001")
    assert load_checkpoint(tmp_path).step == 1
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step-00000002"]


@pytest.mark.parametrize("pointer", [None, "", "step-00000009"])
def test_without_a_pointer_that_leads_somewhere_the_newest_is_taken(pointer: str | None, tmp_path: Path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    (tmp_path / "last").unlink()
    if pointer is not None:
        (tmp_path / "last").write_text(pointer)
    assert load_checkpoint(tmp_path).step == 2


def test_drafts_of_a_killed_save_are_swept(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    (tmp_path / ".draft-00000002").mkdir()
    assert load_checkpoint(tmp_path).step == 1
    assert not list(tmp_path.glob(".draft-*"))


def test_no_checkpoint_is_said(tmp_path: Path):
    with pytest.raises(TrainingError, match="holds no checkpoint that loads"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_never_takes_the_place_of_a_good_checkpoint(bad: float, tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1), keep=1)
    spoilt = Checkpoint(2, {"adapter.a": torch.tensor([0.0, bad])})
    with pytest.raises(TrainingError, match=r"after step 2 the adapter is not finite \(adapter\.a, 1 tensors"):
        save_checkpoint(tmp_path, spoilt, keep=1)
    assert load_checkpoint(tmp_path).step == 1


def save_with_a_small_disk(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with pytest.raises(TrainingError, match="full"):
        save_checkpoint(folder, Checkpoint(2, {"adapter.a": torch.zeros(10_000)}), keep=2)


def test_a_full_disk_loses_nothing(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    child = get_context("spawn").Process(target=save_with_a_small_disk, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert load_checkpoint(tmp_path).step == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["last", "step-00000001"]
