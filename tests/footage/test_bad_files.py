"""Whatever lies in a folder reads or is named with its reason, quickly, quietly, and without a look elsewhere."""

from __future__ import annotations

import gc
import hashlib
import re
import resource
import time
from pathlib import Path

import bad_files
import pytest

from cinelora.footage.scan_folder import find_clips, open_clip
from cinelora.footage.video_reader import UnreadableClip

SECONDS_EACH = 3.0
MEMORY_KIB = 900 * 1024
"""More than this process may grow by: an 8K picture takes 50 MiB as it is decoded, and 100 as RGB."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("zoo")
    return folder / "footage", folder / "outside", bad_files.make(folder / "footage", folder / "outside")


def told(root: Path) -> dict[str, str]:
    """What is said of every path: a reason, or "" where all of its frames read twice, small and whole."""
    found = find_clips(root)
    said = dict(found.left_out)
    for clip in found.clips:
        begun = time.process_time()
        try:
            reader = open_clip(root / clip)
            times = [seconds for seconds, _ in reader.scaled(36, 64)]
            assert times == sorted(times)
            for number in sorted({0, len(times) // 2, max(len(times) - 1, 0)}):
                assert [frame.shape for frame in reader.frames([number])] == [(*reader.size, 3)]
            said[clip] = ""
        except UnreadableClip as error:
            said[clip] = error.reason
        assert time.process_time() - begun < SECONDS_EACH, clip
    return said


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_bad_file_reads_or_is_named(
    zoo: tuple[Path, Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    root, _, patterns = zoo
    assert len(patterns) >= 60
    before, grown = digests(root), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    capfd.readouterr()
    said = told(root)
    assert set(said) == set(patterns)
    wrong = {
        path: (reason, patterns[path])
        for path, reason in said.items()
        if not (re.search(patterns[path], reason) if patterns[path] else reason == "")
    }
    assert wrong == {}
    assert all("\n" not in reason and str(root) not in reason for reason in said.values())
    assert capfd.readouterr() == ("", "")
    assert digests(root) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < MEMORY_KIB


def test_no_playlist_opens_what_it_names(zoo: tuple[Path, Path, dict[str, str]]) -> None:
    root, outside, _ = zoo
    read = {path: path.stat().st_atime_ns for path in outside.iterdir()}
    for name in ("playlist.mp4", "concat.mp4", "session.mp4"):
        for backend in (None, "pyav", "decord"):
            with pytest.raises(UnreadableClip):
                open_clip(root / name, backend)  # type: ignore[arg-type]
    assert {path: path.stat().st_atime_ns for path in outside.iterdir()} == read


def test_no_handle_stays_open(zoo: tuple[Path, Path, dict[str, str]]) -> None:
    root, _, _ = zoo

    def handles() -> int:
        gc.collect()  # a reader and what it decodes with may know each other; only their collection closes the file
        return len(list(Path("/proc/self/fd").iterdir()))

    told(root)
    before = handles()
    told(root)
    assert handles() <= before
