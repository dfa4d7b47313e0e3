"""Sizes and lengths that footage is trained at: within the model's tokens, in the picture's shape, and few."""

import math
import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from footage_clips import Put, write_plainly

from cinelora.config.schema import DataConfig
from cinelora.errors import FootageError
from cinelora.families.wan21 import WAN21
from cinelora.footage.buckets import SHAPES, Size, bucket, clip_size, enlargement, kept, shown, window_length
from cinelora.footage.build_dataset import Wanted
from cinelora.footage.manifest import Manifest, write_manifest
from cinelora.footage.read_frames import read_frames
from cinelora.footage.sample_source import find

MODELS = [(480, 832), (720, 1280), (112, 192)]


def pictures(count: int, seed: int = 0) -> list[Size]:
    draw = random.Random(seed)
    widest = math.log(4)
    return [(2000, round(2000 * math.exp(draw.uniform(-widest, widest)))) for _ in range(count)]


@pytest.mark.parametrize("model", MODELS)
def test_a_bucket_has_at_most_the_models_tokens_and_nearly_all(model: Size):
    for picture in pictures(500):
        height, width = bucket(picture, model, WAN21.geometry)
        assert height % 16 == width % 16 == 0
        share = height * width / (model[0] * model[1])
        assert (0.75 if model == (112, 192) else 0.9) <= share <= 1


@pytest.mark.parametrize(("model", "named", "anything"), [(MODELS[0], 0.03, 0.08), (MODELS[1], 0.03, 0.08)])
def test_a_picture_keeps_its_shape(model: Size, named: float, anything: float):
    for shape in SHAPES:
        assert kept(shape, bucket((3000, round(3000 * shape)), model, WAN21.geometry)) >= 1 - named
    for picture in pictures(500):
        assert kept(picture[1] / picture[0], bucket(picture, model, WAN21.geometry)) >= 1 - anything


def test_formats_have_the_sizes_that_are_written_down():
    sizes = {name: bucket(picture, (480, 832), WAN21.geometry) for name, picture in FORMATS.items()}
    assert sizes == {
        "16:9": (480, 832),
        "2.39": (400, 960),
        "1.85": (464, 848),
        "4:3": (544, 720),
        "upright": (832, 480),
        "square": (624, 624),
    }
    assert bucket(FORMATS["2.39"], (720, 1280), WAN21.geometry) == (624, 1472)
    assert bucket(FORMATS["16:9"], (720, 1280), WAN21.geometry) == (720, 1280)


FORMATS = {
    "16:9": (1080, 1920),
    "2.39": (804, 1920),
    "1.85": (1038, 1920),
    "4:3": (1080, 1440),
    "upright": (1920, 1080),
    "square": (1000, 1000),
}


def test_bars_found_a_few_lines_off_share_a_bucket():
    assert len({bucket((height, 1920), (480, 832), WAN21.geometry) for height in range(792, 828)}) == 1
    assert len({bucket((1080, width), (480, 832), WAN21.geometry) for width in range(1424, 1456)}) == 1


@pytest.mark.parametrize("model", MODELS)
def test_sizes_are_few_and_token_counts_fewer(model: Size):
    """Blocks are compiled anew for every number of tokens: a shape and the same upright have one."""
    sizes = {bucket(picture, model, WAN21.geometry) for picture in pictures(2000)}
    assert len(sizes) <= len(SHAPES) + 1
    assert len({height * width for height, width in sizes}) <= 16


@pytest.mark.parametrize(
    ("picture", "size"),
    [((360, 640), (480, 832)), ((180, 320), (240, 416)), ((240, 320), (272, 352)), ((90, 160), (240, 416))],
)
def test_a_small_picture_trains_at_half_or_a_quarter_of_the_pixels(picture: Size, size: Size):
    assert bucket(picture, (480, 832), WAN21.geometry) == size
    if picture != (90, 160):  # a quarter at the least, whatever comes
        assert enlargement(picture, size) <= 1.5


@pytest.mark.parametrize("picture", [(1, 1), (1, 4000), (4000, 1), (4320, 7680)])
def test_any_picture_has_a_bucket(picture: Size):
    height, width = bucket(picture, (480, 832), WAN21.geometry)
    assert 0 < height * width <= 480 * 832


@pytest.mark.parametrize("model", [(480, 832), (720, 1280), (112, 192)])
def test_a_clip_has_the_shape_of_any_picture_at_the_models_number_of_pixels(model: Size):
    for aspect in np.geomspace(0.1, 10, 200):
        size = clip_size(aspect, model, WAN21.geometry)
        shape = min(max(aspect, 0.25), 4.0)
        assert size[0] % 16 == size[1] % 16 == 0
        assert 0.9 * math.prod(model) <= math.prod(size) <= math.prod(model) or model == (112, 192)
        assert kept(shape, size) >= (0.97 if model != (112, 192) else 0.86)
        assert size == model or kept(shape, model) < 0.97


def test_what_is_seen_is_inside_the_bars_and_square():
    assert shown((576, 720), Fraction(16, 11)) == (576, 1047)
    assert shown((1080, 1920), 1, (0, 138, 1920, 942)) == (804, 1920)
    assert shown((576, 720), Fraction(16, 15), (10, 20, 710, 556)) == (536, 747)


@pytest.mark.parametrize(
    ("length", "least", "frames"),
    [
        (40, None, 33),
        (33, None, 33),
        (32, None, None),
        (32, 5, 17),
        (16, 5, 9),
        (8, 5, 5),
        (4, 5, None),
        (16, 17, None),
    ],
)
def test_short_shots_give_short_windows_only_where_told(length: int, least: int | None, frames: int | None):
    assert window_length(length, 33, least, WAN21.geometry) == frames


WIDE = replace(WAN21.geometry, spatial=16)
"""Tokens of 32 pixels a side."""


def test_sizes_and_lengths_are_of_whole_tokens_of_the_family() -> None:
    for picture in FORMATS.values():
        height, width = bucket(picture, (704, 1280), WIDE)
        assert height % 32 == width % 32 == 0
        assert height * width <= 704 * 1280
        assert clip_size(picture[1] / picture[0], (704, 1280), WIDE)[0] % 32 == 0
    assert bucket(FORMATS["2.39"], (704, 1280), WIDE) != bucket(FORMATS["2.39"], (704, 1280), WAN21.geometry)
    assert window_length(100, 121, 5, replace(WIDE, temporal=8)) == 57


def test_lengths_are_4n_plus_1():
    for wanted in range(5, 130, 4):
        for length in range(200):
            found = window_length(length, wanted, 1, WAN21.geometry)
            assert found is None or (found % 4 == 1 and 5 <= found <= length)


def found(
    footage: Path, num_frames: int, own_shapes: bool = True, size: Size = (112, 192), **settings: object
) -> Manifest:
    data = DataConfig(name="f", root=str(footage), prepared=str(footage.parent / "prepared"), judged=False, **settings)
    return find(data, Wanted(num_frames, 16, size, WAN21.geometry, 0, own_shapes))


# -- in footage --------------------------------------------------------------------------------------------------------


def bars(height: int, width: int, num_frames: int = 12) -> np.ndarray:
    """A clip of coloured bars that drift."""
    colours = np.random.default_rng(height).integers(0, 256, (8, 3), dtype=np.uint8)
    row = np.repeat(colours, -(-width // 8), axis=0)[:width]
    return np.stack([np.broadcast_to(np.roll(row, 3 * t, axis=0), (height, width, 3)) for t in range(num_frames)])


def test_samples_carry_their_size_and_are_read_at_it(footage: Path, put: Put):
    put("own.mp4", bars(112, 192))
    put("scope.mp4", bars(120, 286))
    put("upright.mp4", bars(192, 112))
    write_plainly(footage / "pal.mkv", bars(144, 180), 16, aspect="64:45")  # 16:9
    (footage / "pal.txt").write_text("a caption")
    samples = {sample.path: sample for sample in found(footage, 1, stills_per_shot=1).samples}
    sizes = {path: sample.size for path, sample in samples.items()}
    assert sizes == {"own.mp4": None, "pal.mkv": None, "scope.mp4": (96, 224), "upright.mp4": (192, 112)}
    shapes = {path: read_frames(footage, sample, 112, 192).shape[1:3] for path, sample in samples.items()}
    assert shapes == {path: size or (112, 192) for path, size in sizes.items()}


def test_without_buckets_or_a_model_to_train_all_have_the_models_size(footage: Path, put: Put):
    put("scope.mp4", bars(120, 286))
    assert {sample.size for sample in found(footage, 1, buckets=False).samples} == {None}
    assert {sample.size for sample in found(footage, 1, own_shapes=False).samples} == {None}


def test_short_shots_are_trained_on_where_a_setting_says_so(footage: Path, put: Put):
    put("long.mp4", bars(112, 192, 20))
    put("short.mp4", bars(112, 192, 11))
    assert {len(sample.frames) for sample in found(footage, 17).samples} == {17}
    lengths = {sample.path: len(sample.frames) for sample in found(footage, 17, min_frames=9).samples}
    assert lengths == {"long.mp4": 17, "short.mp4": 9}
    assert {len(sample.frames) for sample in found(footage, 17, min_frames=9, own_shapes=False).samples} == {17}


def test_a_manifest_for_a_larger_model_is_refused(footage: Path, put: Put, tmp_path: Path):
    put("scope.mp4", bars(120, 286))
    manifest = tmp_path / "manifest.jsonl"
    write_manifest(manifest, found(footage, 1))
    assert {sample.size for sample in found(footage, 1, manifest=str(manifest)).samples} == {(96, 224)}
    with pytest.raises(FootageError, match=r"at 96x224, more pixels than the model's 96x96; prepare the footage again"):
        found(footage, 1, size=(96, 96), manifest=str(manifest))
