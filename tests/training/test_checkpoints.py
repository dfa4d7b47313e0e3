import json
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rank_pool import forked
from small_runs import as_of_an_older_version

from cinelora.errors import CineloraError, FileError, TrainingError
from cinelora.training.checkpoint_files import (
    Checkpoint,
    amend_facts,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)


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


def damaged_copies(file: Path) -> Iterator[str]:
    """``file`` cut off at several places, emptied, overwritten with zeros and with one byte flipped, one after the other."""
    whole = file.read_bytes()
    cuts = sorted({0, 1, 8, len(whole) // 3, len(whole) // 2, len(whole) - 2})
    flips = [8, len(whole) // 2, len(whole) - 2] if file.suffix == ".safetensors" else []
    damaged = {f"cut at {end}": whole[:end] for end in cuts} | {"zeros": bytes(len(whole))}
    damaged |= {f"flipped {at}": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in flips}
    for name, content in damaged.items():
        file.write_bytes(content)
        yield name
    file.unlink()
    yield "missing"


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_whatever_happens_to_a_file_of_the_newest_checkpoint_the_one_before_is_taken(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    for damage in damaged_copies(tmp_path / "step-00000002" / name):
        capsys.readouterr()
        assert load_checkpoint(tmp_path).step == 1, damage
        assert "step-00000002 does not load" in capsys.readouterr().out, damage
    save_checkpoint(tmp_path, checkpoint(2), keep=2)
    assert load_checkpoint(tmp_path).step == 2, "the run has come to the same step again"


PROGRESS = {
    "losses": [[1.0]],
    "accumulation": 1,
    "lr": 1e-4,
    "gradient_norm": 1.0,
    "latest_loss": None,
    "told_at": None,
}
SEEN = {"name": "heldout/loss", "lower": True, "best": 0.5, "step": 4, "since": 0}


def test_what_callbacks_remember_is_looked_at_as_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Else a run would fail when it has loaded its model, in the words of whatever stumbles over it."""
    for step in (1, 2):
        file = save_checkpoint(tmp_path, checkpoint(step), keep=2) / "state.json"
    as_of_an_older_version(file)
    whole = json.loads(file.read_text()) | {"settled": True}
    bad: list[dict[str, object]] = [
        *({"memory": {"progress": PROGRESS | {"losses": losses}}} for losses in (None, "a", [1.0], [["a"]], [[None]])),
        *({"memory": {"progress": {k: v for k, v in PROGRESS.items() if k != name}}} for name in PROGRESS),
        *({"memory": {"early_stopping": {key: SEEN | {"since": "a"}}}} for key in ("best", "stopping")),
        *({"memory": memory} for memory in (None, [], "a", {"journal": {"step": 1}}, {"journal": "a"})),
        {"memory": {"validation_loss": {"latest": {"a": "b"}, "measured_at": 1}}},
        {"memory": {"validation_clips": {"base": 1}}},
        {"memory": {"of a later version": 2**70}},
        {"settled": 1},
        {"step": -1},
    ]
    for facts in bad:
        file.write_text(json.dumps(whole | facts))
        assert load_checkpoint(tmp_path).step == 1, facts
        assert "step-00000002 does not load" in capsys.readouterr().out, facts
    judged = {"early_stopping": {"best": SEEN, "stopped": False, "judged_at": None}, "of a later version": [1]}
    file.write_text(json.dumps(whole | {"memory": {"progress": PROGRESS, **judged}}))
    assert load_checkpoint(tmp_path).facts["memory"] == {"progress": PROGRESS, **judged}


def test_a_checkpoint_of_an_earlier_version_has_no_hash_and_loads(tmp_path: Path):
    facts = save_checkpoint(tmp_path, checkpoint(5), keep=2) / "state.json"
    as_of_an_older_version(facts)
    facts.write_text(
        json.dumps({key: value for key, value in json.loads(facts.read_text()).items() if key != "sha256"})
    )
    assert load_checkpoint(tmp_path).facts == {"x": 1}


def test_no_flipped_bit_of_a_state_is_taken(tmp_path: Path):
    """Of each byte one bit; and the same file in the folder of another step."""
    for step in (1, 2):
        file = save_checkpoint(tmp_path, checkpoint(step), keep=2) / "state.json"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises((CineloraError, OSError)):
            read_checkpoint(file.parent)
    file.write_bytes((tmp_path / "step-00000001" / "state.json").read_bytes())
    with pytest.raises(FileError, match="is not what was written"):
        read_checkpoint(file.parent)


def test_what_became_known_after_a_save_leaves_the_checkpoint_whole(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1), keep=1)
    amend_facts(tmp_path, 1, {"y": 3})
    assert load_checkpoint(tmp_path).facts == {"x": 1, "y": 3}


def save_the_same_step_for_ever(folder: Path) -> None:
    while True:
        save_checkpoint(folder, Checkpoint(1, {"adapter.a": torch.zeros(300_000)}), keep=1)


def test_a_kill_while_the_same_step_is_saved_once_more_leaves_a_checkpoint(tmp_path: Path):
    """Of one that is kept alone there is no other to fall back to."""
    save_checkpoint(tmp_path, Checkpoint(1, {"adapter.a": torch.zeros(300_000)}), keep=1)
    for number in range(6):
        saved_at = (tmp_path / "last").stat().st_mtime_ns
        child = forked(save_the_same_step_for_ever, tmp_path)
        while (tmp_path / "last").stat().st_mtime_ns == saved_at:
            time.sleep(0.001)
        time.sleep(0.003 * number)
        child.kill()
        child.join()
        assert load_checkpoint(tmp_path).step == 1


def test_the_pointer_decides_and_what_lies_behind_it_goes_with_the_next_save(tmp_path: Path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=3)
    (tmp_path / "last").write_text("step-00000001")
    assert load_checkpoint(tmp_path).step == 1
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step-00000002"]


@pytest.mark.parametrize("pointer", [None, b"", b"step-00000009", b"\xff\x00\xfe"])
def test_without_a_pointer_that_leads_somewhere_the_newest_is_taken(pointer: bytes | None, tmp_path: Path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    (tmp_path / "last").unlink()
    if pointer is not None:
        (tmp_path / "last").write_bytes(pointer)
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
    child = forked(save_with_a_small_disk, tmp_path)
    child.join()
    assert child.exitcode == 0
    assert load_checkpoint(tmp_path).step == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["last", "step-00000001"]
