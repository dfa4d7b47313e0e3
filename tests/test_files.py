"""Files are whole or absent, whatever happens while they are written; what is written reads back the same."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from planted import SECRET, THINGS, make_outside, planted, state_of
from rank_pool import PROCESSES, forked
from safetensors.torch import load_file

from cinelora.errors import FileError, TrainingError
from cinelora.io import atomic, locks, media, own_files, plain_data, tensor_files

MEGABYTE = 1 << 20


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f"{locks.TEMPORARY}*"))


def gradient(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Flat, saturated halves that move: colours survive h264 where they are flat."""
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    video[:, :, : width // 2] = (200, 40, 60)
    video[:, :, width // 2 :] = (30, 160, 90)
    video[:, : height // 2] //= 2
    return video


def test_text_and_json_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.json"
    atomic.write_json(path, {"prompt": "a man, smoking (alone) \u2013 λ", "n": [1, 2.5, None]})
    assert plain_data.read_json(path) == {"prompt": "a man, smoking (alone) \u2013 λ", "n": [1, 2.5, None]}
    atomic.write_text(path, "line\n")
    assert path.read_text() == "line\n"
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~current_umask()
    assert leftovers(path.parent) == []
    with pytest.raises(FileError, match=r"a\.json is damaged or no JSON"):
        plain_data.read_json(path)
    with pytest.raises(FileError, match=r"cannot read .*none\.json"):
        plain_data.read_json(tmp_path / "none.json")


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_failing_writer_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "before")

    def interrupted(draft: Path) -> None:
        draft.write_text("half of it")
        assert draft.suffix == ".txt"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.write_whole(path, interrupted)
    assert path.read_text() == "before"
    assert leftovers(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*file/a\.txt"):
        atomic.write_text(tmp_path / "file" / "a.txt", "x")
    atomic.write_text(tmp_path / ("long" * 63), "names up to 255 bytes are fine")


def fill_the_disk(folder: Path, errors: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = np.random.default_rng(0).integers(0, 255, (24, 256, 256, 3), dtype=np.uint8)
    writers = {
        "a.txt": lambda path: atomic.write_text(path, "x" * 2 * MEGABYTE),
        "a.safetensors": lambda path: tensor_files.save_tensors(path, {"w": torch.zeros(MEGABYTE)}, {}),
        "a.mp4": lambda path: media.write_mp4(path, noise, 16),
        "a.png": lambda path: media.write_png(path, np.concatenate(noise)),
    }
    for name, write in writers.items():
        try:
            write(folder / name)
            errors.send((name, "nothing raised"))
        except TrainingError as error:
            errors.send((name, str(error)))
    errors.send(None)


def test_a_full_disk_keeps_the_previous_files_and_leaves_nothing_broken(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: it needs no root and breaks off in mid-write just so."""
    names = ["a.txt", "a.safetensors", "a.mp4", "a.png"]
    for name in names:
        (tmp_path / name).write_text(f"the previous {name}")
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = forked(fill_the_disk, tmp_path, sender)
    sender.close()
    said = dict(iter(receiver.recv, None))
    process.join()
    assert list(said) == names
    for name, sentence in said.items():
        assert sentence.startswith(f"disk full while writing {tmp_path / name} (")
        assert (tmp_path / name).read_text() == f"the previous {name}"
    assert leftovers(tmp_path) == []


def write_and_wait(path: Path, started: Connection) -> None:
    def write(draft: Path) -> None:
        draft.write_text("half")
        started.send(True)
        signal.pause()

    atomic.write_whole(path, write)


def test_a_sweep_removes_the_dead_and_spares_the_living(tmp_path: Path) -> None:
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = forked(write_and_wait, tmp_path / "a.txt", sender)
    assert receiver.recv()
    atomic.sweep_temporaries(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    process.kill()
    process.join()
    (tmp_path / "mine.txt").write_text("stays")
    atomic.sweep_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def stay_in_a_folder(started: Connection) -> None:
    with locks.own_folder("kept-") as folder:
        started.send(folder)
        signal.pause()


def test_the_folder_of_a_killed_process_goes_with_the_next_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = forked(stay_in_a_folder, sender)
    theirs = receiver.recv()
    with locks.own_folder("kept-") as ours:
        assert {theirs, ours} == set(tmp_path.glob("kept-*"))
        assert ours.stat().st_mode & 0o777 == 0o700
    process.kill()
    process.join()
    assert list(tmp_path.glob("kept-*")) == [theirs]
    with locks.own_folder("kept-") as ours:
        assert list(tmp_path.glob("kept-*")) == [ours]
    assert not list(tmp_path.glob("kept-*"))


def test_folders_that_somebody_else_made_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's temporary folder is anybody's; what is opened there may act on it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "own").write_text("mine")
    planted = [tmp_path / f"kept-{number}" for number in range(4)]
    for folder in planted[:3]:
        folder.mkdir()
    (planted[0] / locks.HELD).symlink_to(tmp_path / "own")
    os.mkfifo(planted[1] / locks.HELD)
    (planted[2] / locks.HELD).hardlink_to(tmp_path / "own")
    planted[3].symlink_to(planted[2])
    if os.geteuid() == 0:
        others = tmp_path / "kept-others"
        others.mkdir()
        (others / locks.HELD).touch()
        os.chown(others, 12345, 12345)
        planted.append(others)
    with locks.own_folder("kept-") as ours:
        assert {*planted, ours} == set(tmp_path.glob("kept-*"))
    assert (tmp_path / "own").read_text() == "mine"


def hold(path: Path, started: Connection) -> None:
    with locks.lock(path):
        started.send(os.getpid())
        signal.pause()


def test_two_runs_on_one_cache_are_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = forked(hold, tmp_path / "cache" / "lock", sender)
    pid = receiver.recv()
    with (
        pytest.raises(FileError, match=f"cache is in use by another run .process {pid} on .*folder of its own"),
        locks.lock(tmp_path / "cache" / "lock"),
    ):
        pass
    process.kill()
    process.join()
    with locks.lock(tmp_path / "cache" / "lock"):
        pass
    with locks.lock(tmp_path / "cache" / "lock"):
        pass


def test_tensors_are_written_as_the_library_writes_them(tmp_path: Path) -> None:
    """Every dtype, a scalar, nothing at all, a view and a transposed one; what is returned is the file's hash."""
    dtypes = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
    dtypes += ["int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in dtypes}
    tensors |= {"scalar": torch.tensor(3.0), "nothing": torch.zeros(0, 4), "turned": torch.randn(4, 3).t()}
    tensors["part"] = torch.randn(8)[2:5]
    digest = tensor_files.save_tensors(tmp_path / "a.safetensors", tensors, {"rank": "8"})
    assert atomic.sha256_file(tmp_path / "a.safetensors") == digest
    theirs = load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (theirs[name].dtype, theirs[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(theirs[name].float(), tensor.float())


def test_tensors_come_back_bit_for_bit_and_aligned(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weight = torch.randn(7, 5)
    tensors = {"w": weight, "view": weight[:, 1:3], "turned": weight.T, "half": torch.randn(3).bfloat16()}
    tensors["step"] = torch.tensor(7)
    tensor_files.save_tensors(path, tensors, {"rank": "8"})
    loaded, metadata = tensor_files.load_tensors(path)
    assert metadata == {"rank": "8"}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].data_ptr() % 64 == 0
    header = tensor_files.read_header(path)
    assert header["__metadata__"] == {"rank": "8"}
    assert header["turned"]["shape"] == [5, 7]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "header"])
def test_a_damaged_tensor_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.safetensors"
    tensor_files.save_tensors(path, {"w": torch.zeros(64)}, {})
    whole = path.read_bytes()
    broken = {"cut": whole[:-8], "empty": b"", "text": b"not a tensor " * 9, "header": whole[:8] + b"{" * len(whole)}
    path.write_bytes(broken.get(damage, b""))
    if damage == "missing":
        path.unlink()
    for read in (tensor_files.load_tensors, tensor_files.read_header):
        with pytest.raises(
            FileError, match=r"a\.safetensors (is missing, damaged or no safetensors file )?\("
        ) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_reading_a_header_needs_no_torch(tmp_path: Path) -> None:
    tensor_files.save_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(2)}, {"kind": "style"})
    program = (
        "import sys; from pathlib import Path; from cinelora.io.tensor_files import read_header\n"
        "print(read_header(Path(sys.argv[1]))['__metadata__']['kind'], 'torch' in sys.modules, 'av' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.safetensors")]
    assert subprocess.check_output(command, text=True).split() == ["style", "False", "False"]


def test_an_mp4_shows_the_same_colours_at_the_right_speed(tmp_path: Path) -> None:
    video = gradient(33)
    media.write_mp4(tmp_path / "clip.mp4", video, fps=16)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16
        assert float(stream.duration * stream.time_base) == pytest.approx(33 / 16)
        frames = list(container.decode(video=0))
        tags = (frames[0].colorspace, frames[0].color_range, frames[0].color_primaries, frames[0].color_trc)
    assert tags == (1, 1, 1, 1)  # ITU-T H.273: BT.709 matrix, primaries and transfer; limited range is FFmpeg's 1
    decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    assert decoded.shape == video.shape
    inner = np.s_[:, [8, 40], :, :][:2]
    for columns in (np.s_[8:24], np.s_[40:56]):
        seen, made = decoded[inner][:, :, columns], video[inner][:, :, columns]
        assert np.abs(seen.astype(int) - made).max() <= 4
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with pytest.raises(ValueError, match="even height and width"):
        media.write_mp4(tmp_path / "odd.mp4", gradient(2, 47), fps=16)
    assert not (tmp_path / "odd.mp4").exists()


def test_a_contact_sheet_holds_every_row_under_its_label(tmp_path: Path) -> None:
    rows = [("base", gradient(9)), ("a long label " * 12, gradient(1)), ("style and motion", gradient(3))]
    sheet = media.contact_sheet(rows, columns=4)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 4 * 64 + 3 * media.SHEET_GAP
    red = (sheet == (200, 40, 60)).all(-1)
    columns, lines = red.any(0), red.any(1)
    assert np.diff(columns.astype(int)).clip(0).sum() + columns[0] == 4
    assert np.diff(lines.astype(int)).clip(0).sum() + lines[0] == 3
    assert (sheet[: media.SHEET_TEXT] < 128).any(), "no label drawn"
    media.write_png(tmp_path / "sheet.png", sheet)
    assert (np.asarray(Image.open(tmp_path / "sheet.png")) == sheet).all()


def test_a_pointer_moves_in_one_step_and_survives_a_move_of_the_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        atomic.point_to(tmp_path / "runs" / "last", tmp_path / "runs" / name)
    assert os.readlink(tmp_path / "runs" / "last") == "two"
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "last").resolve() == tmp_path / "moved" / "two"
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileError, match="mine is not a link"):
        atomic.point_to(tmp_path / "mine", tmp_path / "moved")


def test_hashes_are_those_of_the_content(tmp_path: Path) -> None:
    assert atomic.sha256_json({"b": 1, "a": [1.5, "é"]}) == atomic.sha256_json({"a": [1.5, "é"], "b": 1})
    assert atomic.sha256_json({"a": 1}) != atomic.sha256_json({"a": 1.5})
    (tmp_path / "a").write_bytes(json.dumps({"a": 1}, separators=(",", ":")).encode())
    assert atomic.sha256_file(tmp_path / "a") == atomic.sha256_json({"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.sha256_json({"a": float("nan")})


# -- files of a folder's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_not_the_folders_own_is_not_opened(thing: str, tmp_path: Path) -> None:
    outside, path = make_outside(tmp_path / "outside"), tmp_path / "folder" / "a"
    path.parent.mkdir()
    before = state_of(outside)
    openers = [own_files.open_own, own_files.append_own, lambda path: own_files.read_inside(path.parent, path)]
    with planted(path, thing, outside):
        for opener in openers:
            with pytest.raises(FileError, match="folder/a is a "):
                opener(path)
        with pytest.raises(FileError, match="folder/a is a "), locks.lock(path):
            pass
        if thing in ("pipe", "link to /dev/zero"):
            readers = (plain_data.read_bytes, tensor_files.read_header, tensor_files.load_tensors, atomic.sha256_file)
            for read in readers:
                with pytest.raises(FileError, match="folder/a"):
                    read(path)
    assert state_of(outside) == before


def test_what_is_handed_to_others_lies_inside_also_when_folders_are_links(tmp_path: Path) -> None:
    outside = make_outside(tmp_path / "outside")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/previews").symlink_to(outside / "folder")
    with pytest.raises(FileError, match="lies outside"):
        own_files.read_inside(tmp_path / "run", tmp_path / "run/previews/metrics.csv")
    (tmp_path / "last").symlink_to("outside")
    assert own_files.read_inside(tmp_path / "last", tmp_path / "last/secret") == SECRET.encode()


def run_to_copy(folder: Path, megabytes: int = 1) -> dict[str, object]:
    (folder / "checkpoints/empty").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "checkpoints/state").write_bytes(os.urandom(megabytes * MEGABYTE))
    (folder / ".lock").write_text("process 1 on somewhere")
    (folder / f"{locks.TEMPORARY}0-left").write_text("half of something")
    os.utime(folder / "a.txt", ns=(10**18, 10**18))
    return {name: state for name, state in state_of(folder).items() if not name.startswith(".")}


def copied(folder: Path) -> dict[str, object]:
    """What ``run_to_copy`` returns, of a copy; folders have times of their own."""
    return {name: state for name, state in state_of(folder).items() if name != ".lock"}


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    return {name: (mode, content) for name, (mode, _, content, _) in state.items()}


def test_a_copy_is_whole_and_takes_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    there = run_to_copy(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for target in ("new", "empty"):
        atomic.copy_whole(tmp_path / "run", tmp_path / target)
        assert without_times(copied(tmp_path / target)) == without_times(there)
        assert (tmp_path / target / "a.txt").stat().st_mtime_ns == 10**18
    assert leftovers(tmp_path) == []
    with pytest.raises(FileError, match="cannot look through"):
        atomic.copy_whole(tmp_path / "none", tmp_path / "other")
    with pytest.raises(FileError, match="cannot write .*new"):
        atomic.copy_whole(tmp_path / "run", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "new", "run"]


def copy_on_a_full_disk(folder: Path, target: Path, said: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        atomic.copy_whole(folder, target)
    except TrainingError as error:
        said.send(str(error))


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """On a full disk; by what is refused half-way; by a kill, whose leftovers go with the next copy."""
    there = run_to_copy(tmp_path / "run", megabytes=64)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    forked(copy_on_a_full_disk, tmp_path / "run", tmp_path / "new", sender).join()
    assert receiver.recv().startswith(f"disk full while writing {tmp_path / 'new'} (")
    assert os.listdir(tmp_path) == ["run"]
    with planted(tmp_path / "run/checkpoints/z", "pipe", tmp_path), pytest.raises(FileError, match="is a pipe"):
        atomic.copy_whole(tmp_path / "run", tmp_path / "new")
    assert os.listdir(tmp_path) == ["run"]
    process = forked(atomic.copy_whole, tmp_path / "run", tmp_path / "new")
    while not list(tmp_path.glob(f"{locks.TEMPORARY}*/a.txt")) and process.is_alive():
        pass
    process.kill()
    process.join()
    atomic.copy_whole(tmp_path / "run", tmp_path / "other")
    assert process.exitcode == 0 or len(list(tmp_path.glob(f"{locks.TEMPORARY}*"))) == 1  # it is of another target
    if process.exitcode:
        atomic.copy_whole(tmp_path / "run", tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "other", "run"]
    assert without_times(copied(tmp_path / "new")) == without_times(there)
