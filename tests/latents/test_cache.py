"""What is encoded, when, and what it costs to change something."""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from rank_pool import forked

from cinelora.config.schema import DataConfig, ModelConfig
from cinelora.errors import EncodingLost, FootageError, TrainingError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.footage.manifest import Manifest, Sample
from cinelora.footage.read_frames import read_frames
from cinelora.footage.sample_source import find, wanted_by
from cinelora.footage.video_reader import Pixels
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.latents.cache import Framing, Index, LatentCache, encoding_path
from cinelora.latents.dataset import LatentDataset

STILLS = Framing(height=32, width=48, image_condition=False)
WINDOWS = Framing(height=32, width=48, image_condition=True)
TEXTS = {"null": ""}


@pytest.fixture
def clips(footage: Path, tmp_path: Path) -> Path:
    """A copy of the footage that a test may change."""
    return Path(shutil.copytree(footage, tmp_path / "clips"))


def survey(clips: Path, framing: Framing, **options) -> Manifest:
    options = {"holdout": 0.2, "stills_per_shot": 1, "window_stride": 9, **options}
    data = DataConfig(root=str(clips), prepared=str(clips.parent / "prepared"), judged=False, stills="even", **options)
    num_frames = 9 if framing is WINDOWS else 1
    return find(data, wanted_by(ModelConfig(height=framing.height, width=framing.width), num_frames, seed=0))


def reader(clips: Path) -> Callable[[Sample], Pixels]:
    return partial(read_frames, clips, height=32, width=48)


def build(root: Path, bundle: WanBundle, framing: Framing, clips: Path, **options) -> tuple[Index, set[Path]]:
    """Encode what is missing; the index, and the files that this call wrote, be it a second time."""
    latents, manifest = LatentCache(root, bundle, framing), survey(clips, framing, **options)
    before = dated(root)
    index = latents.index(manifest, TEXTS)
    skipped = latents.encode(reader(clips), manifest, index, TEXTS)
    return latents.complete(index, skipped), {path for path, _ in dated(root) - before}


def dated(root: Path) -> set[tuple[Path, int]]:
    """The files below ``root``, each with its date: one that is written again counts as another."""
    return {(path, path.stat().st_mtime_ns) for path in root.rglob("*.safetensors")}


def kinds(files: set[Path]) -> dict[str, int]:
    names = [path.name.split("-")[0] for path in files if "latents" in path.parts]
    return {kind: names.count(kind) for kind in sorted(set(names))}


def test_everything_is_encoded_once(clips: Path, t2v: WanBundle, tmp_path: Path):
    index, written = build(tmp_path / "c", t2v, STILLS, clips)
    assert kinds(written) == {"text": 7, "video": 6}  # six captions and the empty one
    again, nothing = build(tmp_path / "c", t2v, STILLS, clips)
    assert nothing == set()
    assert again == index


def test_windows_carry_their_image_condition(clips: Path, i2v: WanBundle, tmp_path: Path):
    index, written = build(tmp_path / "c", i2v, WINDOWS, clips)
    assert kinds(written) == {"image": 6, "text": 7, "video": 6}
    item = LatentDataset(tmp_path / "c", index, "train")[0]
    assert item["latents"].shape == item["image_latents"].shape == (16, 3, 4, 6)
    assert item["image_tokens"].shape == (257, 96)
    assert item["text"].shape == (512, 128)


def test_a_changed_caption_encodes_one_text(clips: Path, t2v: WanBundle, tmp_path: Path):
    before, _ = build(tmp_path / "c", t2v, STILLS, clips)
    (clips / "clip3.txt").write_text("something else")
    after, written = build(tmp_path / "c", t2v, STILLS, clips)
    assert kinds(written) == {"text": 1}
    assert before.data_hash != after.data_hash


def test_touching_renaming_or_moving_a_clip_encodes_nothing(clips: Path, t2v: WanBundle, tmp_path: Path):
    build(tmp_path / "c", t2v, STILLS, clips)
    os.utime(clips / "clip1.mp4")
    (clips / "sub").mkdir()
    for suffix in ("mp4", "txt"):
        (clips / f"clip2.{suffix}").rename(clips / "sub" / f"renamed.{suffix}")
    _, written = build(tmp_path / "c", t2v, STILLS, clips)
    assert written == set()


def test_a_changed_clip_encodes_that_clip(clips: Path, t2v: WanBundle, tmp_path: Path):
    build(tmp_path / "c", t2v, STILLS, clips)
    shutil.copy(clips / "clip1.mp4", clips / "clip0.mp4")
    with (clips / "clip0.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")  # an empty box: other bytes, same pictures; content is judged by its bytes
    _, written = build(tmp_path / "c", t2v, STILLS, clips)
    assert kinds(written) == {"video": 1}


def test_another_vae_encodes_every_sample_and_no_text(clips: Path, t2v: WanBundle, tmp_path: Path):
    build(tmp_path / "c", t2v, STILLS, clips)
    folder = shutil.copytree(t2v.directory(Part.VAE).parent, tmp_path / "model")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors, _ = load_tensors(weights)
    from safetensors.torch import save_file

    save_file({name: value * 1.01 for name, value in tensors.items()}, weights, {"format": "pt"})
    other = WanBundle(str(folder), dtype="fp32", cache=tmp_path)
    _, written = build(tmp_path / "c", other, STILLS, clips)
    assert kinds(written) == {"video": 6}


def test_another_dtype_encodes_every_text_and_no_sample(clips: Path, t2v: WanBundle, tmp_path: Path):
    build(tmp_path / "c", t2v, STILLS, clips)
    other = WanBundle("embedded:tiny-t2v", dtype="bf16", cache=t2v.cache)
    _, written = build(tmp_path / "c", other, STILLS, clips)
    assert kinds(written) == {"text": 7}


def test_what_a_killed_writer_left_is_swept(clips: Path, t2v: WanBundle, tmp_path: Path):
    index, _ = build(tmp_path / "c", t2v, STILLS, clips)
    folder = LatentCache(tmp_path / "c", t2v, STILLS).path(index.entries[0].video).parent
    (folder / ".partial-0badcafe-video.safetensors").write_bytes(b"half")
    build(tmp_path / "c", t2v, STILLS, clips)
    assert not list((tmp_path / "c").rglob(".partial-*"))


def test_stills_and_windows_share_their_texts(clips: Path, i2v: WanBundle, tmp_path: Path):
    build(tmp_path / "c", i2v, STILLS, clips)
    _, written = build(tmp_path / "c", i2v, WINDOWS, clips)
    assert kinds(written) == {"image": 6, "video": 6}


def test_ranks_share_the_work_without_overlap(clips: Path, t2v: WanBundle, tmp_path: Path):
    """Each rank fills a cache of its own here: in a shared one, what the first has done would hide that the second does it."""
    manifest = survey(clips, STILLS)
    shares = []
    for rank in range(3):
        latents = LatentCache(tmp_path / str(rank), t2v, STILLS)
        latents.encode(reader(clips), manifest, latents.index(manifest, TEXTS), TEXTS, rank, 3)
        shares.append({path.name: path for path, _ in dated(tmp_path / str(rank))})
    index, _ = build(tmp_path / "whole", t2v, STILLS, clips)
    whole = {path.name: path for path, _ in dated(tmp_path / "whole")}
    assert sorted(name for share in shares for name in share) == sorted(whole)
    assert all(len(share) in (4, 5) for share in shares)  # 7 captions and 6 stills
    with pytest.raises(FootageError, match="none of the 6 samples"):
        LatentCache(tmp_path / "half", t2v, STILLS).complete(index, [])
    for share in shares:
        for name, path in share.items():
            mine, theirs = load_tensors(path)[0], load_tensors(whole[name])[0]
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def build_in_a_child(root: Path, cache: Path, clips: Path) -> None:
    build(root, WanBundle("embedded:tiny-i2v", dtype="fp32", cache=cache), WINDOWS, clips)


def test_a_killed_build_goes_on_where_it_stopped(clips: Path, i2v: WanBundle, cache: Path, tmp_path: Path):
    root = tmp_path / "c"
    child = forked(build_in_a_child, root, cache, clips)
    while len(list(root.rglob("video-*.safetensors"))) < 2:
        assert child.is_alive()
        time.sleep(0.005)
    child.kill()
    child.join()
    done = set(root.rglob("*.safetensors"))
    index, written = build(root, i2v, WINDOWS, clips)
    assert len(index.entries) == 6
    assert len(done | written) == 6 + 6 + 7
    whole, _ = build(tmp_path / "whole", i2v, WINDOWS, clips)
    assert whole == index
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        ours, theirs = load_tensors(root / path.relative_to(tmp_path / "whole"))[0], load_tensors(path)[0]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_clip_that_breaks_between_scan_and_encoding_is_named_and_left_out(
    clips: Path, t2v: WanBundle, tmp_path: Path
):
    latents, manifest = LatentCache(tmp_path / "c", t2v, STILLS), survey(clips, STILLS)
    index = latents.index(manifest, TEXTS)
    (clips / "clip4.mp4").write_bytes(b"\0" * 100)
    skipped = latents.encode(reader(clips), manifest, index, TEXTS)
    assert [clip.path for clip in skipped] == ["clip4.mp4"]
    assert len(latents.complete(index, skipped).entries) == 5


def test_an_index_survives_its_file(clips: Path, t2v: WanBundle, tmp_path: Path):
    index, _ = build(tmp_path / "c", t2v, STILLS, clips)
    index.save(tmp_path / "dataset.json")
    assert Index.load(tmp_path / "dataset.json") == index


@pytest.mark.parametrize("length", [0, 40, -1])
def test_a_damaged_file_is_named_with_the_way_out(length: int, clips: Path, t2v: WanBundle, tmp_path: Path):
    index, _ = build(tmp_path / "c", t2v, STILLS, clips)
    samples = LatentDataset(tmp_path / "c", index, "train")
    video, text = (encoding_path(samples.root, name) for name in (samples.entries[0].video, samples.entries[1].text))
    for path in (video, text):
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TrainingError, match=rf"{video} is missing, damaged .*: it was removed; start again"):
        samples.shape(0)
    with pytest.raises(TrainingError, match=rf"{text} is missing, damaged .*: it was removed; start again"):
        samples[1]
    assert not video.exists()
    assert not text.exists()
    with pytest.raises(EncodingLost, match=rf"{video} is gone from the cache: start again"):
        samples.shape(0)


def test_no_flipped_bit_of_an_encoding_is_trained_on(clips: Path, t2v: WanBundle, tmp_path: Path):
    """Each is removed, and what is encoded in its place is the same."""
    index, _ = build(tmp_path / "c", t2v, STILLS, clips)
    entry = LatentDataset(tmp_path / "c", index, "train").entries[0]
    for number, name in enumerate((entry.video, entry.text) * 3):
        path = encoding_path(tmp_path / "c" / "latents", name)
        whole = path.read_bytes()
        at = len(whole) - 1 - number * 97
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << number]) + whole[at + 1 :])
        with pytest.raises(
            EncodingLost, match=f"{path} is damaged: its values are not the ones that were written: it was removed"
        ):
            LatentDataset(tmp_path / "c", index, "train")[0]
        build(tmp_path / "c", t2v, STILLS, clips)
        assert path.read_bytes() == whole


def test_an_encoding_of_an_older_version_has_no_digest_and_is_read(clips: Path, t2v: WanBundle, tmp_path: Path):
    index, _ = build(tmp_path / "c", t2v, STILLS, clips)
    entry = LatentDataset(tmp_path / "c", index, "train").entries[0]
    path = encoding_path(tmp_path / "c" / "latents", entry.video)
    tensors, _ = load_tensors(path)
    save_tensors(path, tensors, {"version": "2"})
    assert torch.equal(LatentDataset(tmp_path / "c", index, "train")[0]["latents"], tensors["latents"])
