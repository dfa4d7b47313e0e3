"""What can be measured is, and what cannot is said, whatever is handed in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_pool import on_ranks

from cinelora.config.schema import CLIP_METRICS, MetricsConfig
from cinelora.errors import MetricError
from cinelora.io.atomic import write_json
from cinelora.io.plain_data import read_json
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.networks import Networks
from cinelora.metrics.suite import ALONE, ELSEWHERE, KNOWN, OFFLINE, PAIRED, Suite, as_clip, measure
from cinelora.parallel.launch import process_group, rank_info

CPU = torch.device("cpu")
LIGHT = [name for name in (*ALONE, *PAIRED) if "scale" not in name and name in OFFLINE]


def frames(seed: int, num_frames: int = 5, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_default_needs_no_file():
    suite = Suite.of(OFFLINE, Networks(device=CPU))
    assert suite.left_out == {}
    for seed in range(3):
        suite.add(Clip(frames(seed), frames(seed + 10)))
        suite.add_real(Clip(frames(seed + 20)))
    report = suite.report()
    assert list(report.numbers) == OFFLINE
    assert set(report.clips.values()) == {3}
    assert set(report.networks) == {"scale"}
    (caution,) = report.sentences
    assert "3 real and 3 generated clips span no covariance of 48 features" in caution


def test_no_number_of_the_embedded_model_has_a_published_name():
    assert all(name in OFFLINE for name in KNOWN if name.endswith("_scale"))
    assert not any(name.startswith(("fvd", "lpips", "clip")) for name in OFFLINE)


def test_missing_networks_are_said_and_the_rest_still_comes():
    wanted = [
        "motion",
        "clip_sim_text",
        "subject_consistency",
        "background_consistency",
        "lpips_alex",
        "tlp_alex",
        "fvd_i3d",
    ]
    suite = Suite.of(wanted, Networks(MetricsConfig(clip="/nowhere"), CPU))
    suite.add(Clip(frames(0)))
    report = suite.report()
    assert list(report.numbers) == ["motion"]
    assert len(report.sentences) == 6
    assert "clip_sim_text is left out: metrics.clip=/nowhere is neither a directory" in report.sentences[0]
    assert any(sentence.startswith("fvd_i3d is left out: it needs I3D") for sentence in report.sentences)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_unclear_names_are_explained(name: str):
    report = Suite.of([name, "motion"], Networks(device=CPU))
    assert report.left_out == {name: ELSEWHERE[name]}


def test_an_unknown_name_is_refused():
    with pytest.raises(MetricError, match="no measure is called psnrr; there are tssim,"):
        Suite.of(["psnrr"])


def test_an_empty_set_has_sentences_and_no_numbers():
    report = Suite.of(LIGHT, Networks(device=CPU)).report()
    assert report.numbers == {}
    assert f"{LIGHT[0]} is left out: no clip was measured" in report.sentences
    assert len(report.sentences) == len(LIGHT)


def test_a_bad_clip_spoils_nothing():
    good, broken = frames(0), frames(1)
    broken[2, 0, 3, 4] = float("nan")
    suite = Suite.of(LIGHT, Networks(device=CPU))
    suite.add(Clip(good, good))
    suite.add(Clip(broken, good), name="take-2.mp4")
    suite.add(Clip(255 * good, good))
    alone = Suite.of(LIGHT, Networks(device=CPU))
    alone.add(Clip(good, good))
    report = suite.report()
    assert report.numbers == alone.report().numbers
    assert set(report.clips.values()) == {1}
    assert "take-2.mp4 has 1 frames with values that are not finite: it is left out" in report.sentences
    assert any(
        "clip 3 has frames from" in sentence and "pixels lie from 0 to 1" in sentence for sentence in report.sentences
    )


def test_what_does_not_fit_is_left_out_of_what_it_does_not_fit():
    suite = Suite.of(["motion", "ssim", "psnr", "frechet_scale"], Networks(device=CPU))
    suite.add(Clip(frames(0), frames(1)))
    suite.add(Clip(frames(2, num_frames=7), frames(3)))
    suite.add(Clip(frames(4, height=8, width=40)))
    for seed in range(3):
        suite.add_real(Clip(frames(seed)))
    report = suite.report()
    assert report.clips == {"motion": 3, "ssim": 1, "psnr": 1}
    said = "\n".join(report.sentences)
    assert "clip 2 is 7x24x32 and its reference 5x24x32" in said
    assert "clip 2 is 7x24x32 and the set 5x24x32" in said
    assert "clip 3 is 8x40, and this needs 16 pixels each way: it is left out of frechet_scale" in said
    assert "clip 3 has no reference to be compared with: it is left out of psnr" in said
    assert "frechet_scale is left out: a Fréchet distance needs two generated clips or more, and there are 1" in said
    assert "clips have 3 lengths or sizes" in said


def test_sentences_do_not_grow_without_end():
    suite = Suite.of(["motion"], Networks(device=CPU))
    for _ in range(30):
        suite.add(Clip(frames(0, num_frames=1)))
    assert len(suite.report().sentences) == 22
    assert suite.report().sentences[-1] == "10 more troubles like these"


RANKED = ["motion", "psnr", "flow_motion", "frechet_scale", "ssim"]


def on_a_rank(out: Path) -> None:
    rank = rank_info().global_rank
    with process_group(rank_info()):
        suite = Suite.of(RANKED, Networks(device=CPU))
        early = suite.report()  # nothing yet, on both
        if rank == 0:  # the other sees real clips alone
            for seed in range(3):
                suite.add(Clip(frames(seed), frames(seed + 10)))
        suite.add_real(Clip(frames(20 + rank)))
        report = suite.report()
    write_json(out / f"{rank}.json", [early.numbers, report.numbers, report.clips])


def test_two_ranks_report_what_one_does(tmp_path: Path):
    on_ranks(on_a_rank, tmp_path, ranks=2, log_dir=tmp_path)
    suite = Suite.of(RANKED, Networks(device=CPU))
    for seed in range(3):
        suite.add(Clip(frames(seed), frames(seed + 10)))
    for seed in (20, 21):
        suite.add_real(Clip(frames(seed)))
    alone = suite.report()
    for rank in (0, 1):
        early, numbers, clips = read_json(tmp_path / f"{rank}.json")
        assert early == {}
        assert numbers == {name: pytest.approx(value, rel=1e-5) for name, value in alone.numbers.items()}
        assert clips == dict.fromkeys(RANKED, 3)


def test_measure_takes_pixels_as_they_are_written():
    video = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    report = measure(MetricsConfig(["motion", "clip_sim_text"]), video, prompt="rain")
    expected = np.abs(np.diff(video.astype(float), axis=0)).mean()
    assert report.numbers == {"motion": pytest.approx(expected, abs=1e-4)}
    assert report.sentences[0].startswith("clip_sim_text is left out: it needs CLIP ViT-B/32: set metrics.clip")
    assert measure(MetricsConfig(["motion"]), video[:1]).numbers == {}
    assert as_clip(video).frames_TCHW.shape == (5, 3, 24, 32)


def test_what_settings_may_name_is_what_one_clip_allows():
    assert set(CLIP_METRICS) == set(ALONE)
