"""A rank that hangs is noticed: who stands where is said, and after a while all are ended. Real processes, stopped for real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cinelora.parallel import heartbeat
from cinelora.parallel.heartbeat import HEART, Beat, Heart, Listener, read_beat
from cinelora.parallel.launch import RankHung, launch, rank_info


def step_and_hang(how: str) -> int:
    """Four quick steps; then rank 1 hangs, and rank 0 waits for it as it would in a collective."""
    HEART.steps_on()
    for step in range(1, 5):
        time.sleep(0.02)
        HEART.has_stepped(step)
        HEART.steps_on()
    if rank_info().global_rank == 1:
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "a save":
            HEART.has_stepped(5)
            time.sleep(5)
            return 1
        while how == "a loop":
            pass
    wait_for_the_others(6 if how == "a save" else 600)
    return 0


def wait_for_the_others(seconds: float) -> None:
    HEART.has_stepped(5) if seconds < 10 else None
    time.sleep(seconds)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """A parent to which a step of a second is late, and one of three seconds hangs: minutes."""
    monkeypatch.setattr(heartbeat, "LEAST_S", 1.0)
    return 3 / 60


@pytest.mark.parametrize(
    ("how", "where"), [("stopped", "rank 1 stopped by a signal"), ("a loop", "rank 1 in step_and_hang (")]
)
def test_a_rank_that_hangs_is_named_and_ended(
    how: str, where: str, impatient: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    with pytest.raises(RankHung) as told:
        launch(step_and_hang, how, ranks=2, log_dir=tmp_path, hang_minutes=impatient)
    assert time.monotonic() - begun < 60
    assert where in str(told.value)
    assert "rank 0 in wait_for_the_others (tests/test_hanging_ranks.py:" in str(told.value)
    assert str(told.value).startswith("step 5 has taken 0.")
    # it was said before it was done
    assert "WARNING: step 5 has taken" in (said := capsys.readouterr().out)
    assert "after hang_minutes=0.05 all ranks are ended" in said
    for log in tmp_path.glob("rank-*.log"):
        pid = int(log.read_text().split("process ")[1].split(",")[0])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_is_no_step_may_take_its_time(
    impatient: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(step_and_hang, "a save", ranks=2, log_dir=tmp_path, hang_minutes=impatient) == 0
    assert "has taken" not in capsys.readouterr().out


# -- without processes -------------------------------------------------------------------------------------------------


def test_a_rank_says_what_it_does(tmp_path: Path) -> None:
    heart = Heart()
    heart.steps_on()  # nobody listens: nothing is written
    heart.descriptor = os.open(tmp_path / "0.beat", os.O_WRONLY | os.O_CREAT)
    assert read_beat(tmp_path, 0) is None
    for step in range(1, 4):
        heart.steps_on()
        heart.has_stepped(step)
    beat = read_beat(tmp_path, 0)
    assert beat is not None
    assert (beat.what, beat.step) == ("other", 3)
    assert beat.usual_s >= 0
    assert abs(beat.at - time.monotonic()) < 5
    os.close(heart.descriptor)


@pytest.mark.parametrize(
    ("beat", "late_after_s"),
    [
        (Beat("step", 0.0, 9, 2.0), 120.0),  # five times two seconds are less than two minutes
        (Beat("step", 0.0, 9, 60.0), 300.0),
        (Beat("step", 0.0, 2, 0.0), float("inf")),  # nobody knows yet how long one takes
        (Beat("other", 0.0, 9, 2.0), float("inf")),
    ],
)
def test_a_step_is_late_by_what_steps_take(beat: Beat, late_after_s: float) -> None:
    assert beat.late_after_s == late_after_s


def test_a_late_step_is_said_once_and_given_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stands_since(seconds: float, step: int) -> None:
        (tmp_path / "0.beat").write_text(f"step {time.monotonic() - seconds:.3f} {step} 1.0")

    monkeypatch.setattr(heartbeat, "STACK_S", 0.0)
    monkeypatch.setattr(heartbeat, "where_they_stand", lambda *_: "rank 0 in there")
    listener, alive = Listener(tmp_path, limit_s=900.0), {0: os.getpid()}
    stands_since(60, 7)
    assert listener.look(alive) == (None, False)
    stands_since(150, 7)
    assert listener.look(alive) == ("step 8 has taken 2.5 min, where one takes 1.0 s: rank 0 in there", False)
    assert listener.look(alive) == (None, False)
    stands_since(1000, 7)
    assert listener.look(alive)[1]
    stands_since(1, 8)
    assert listener.look(alive) == (None, False)
    assert Listener(tmp_path, limit_s=None).look(alive) == (None, False)
