"""A study of several models: each is studied as it would be alone, at its own geometry and a common one, in one table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from composed import compose_study

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.main import main
from cinelora.cli.one_run import accepted
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.cli.several_models import common_geometry, members_of
from cinelora.config.model_words import ModelWord
from cinelora.config.schema import StudyConfig
from cinelora.config.store import anchored
from cinelora.errors import ConfigError
from cinelora.studies.family_plots import family_plots, geometries_of
from cinelora.studies.results import CONTROLS, Result, Results, load_table, merged_results
from cinelora.studies.run_study import study_rank
from cinelora.studies.study_report import between, lines, show
from cinelora.studies.variants import StudyVariant, cannot, left_as_settled, study_variants
from cinelora.study import run

BOTH = "models=[tiny,tiny_animatediff_random]"
SMALL = ["model.height=64", "model.width=64", "num_frames=5", "sampler.steps=2", "repetitions=1"]


def members(*argv: str) -> dict[str, StudyConfig]:
    """The accepted settings of each study of a command line."""
    found = members_of(parse(PROGRAMS["study"], [*argv]))
    settings = {name: accepted(command)[0] for name, command in found.items()}
    return {name: config for name, config in settings.items() if isinstance(config, StudyConfig)}


# -- settings ----------------------------------------------------------------------------------------------------------


def test_each_is_settled_as_it_would_be_alone():
    for name, config in members(BOTH, "prompt=rain", "steps=[3]", "geometry=own").items():
        assert config == compose_study([f"model={name}", "prompt=rain", "steps=[3]"]), name


def test_a_common_geometry_is_the_largest_that_all_make():
    found = members(BOTH, "prompt=rain")
    assert [*found] == [
        *("tiny", "tiny-common", "tiny_animatediff_random", "tiny_animatediff_random-common"),
    ]
    # multiples of 16 and 64 within 112x192 and 64x64; 4n+1 frames within 33 and 16; the fewer of 40 and 25 steps
    for name in ("tiny-common", "tiny_animatediff_random-common"):
        config = found[name]
        assert (config.model.height, config.model.width, config.num_frames, config.sampler.steps) == (64, 64, 13, 25)
    assert [*members(BOTH, "prompt=rain", "geometry=common")] == ["tiny-common", "tiny_animatediff_random-common"]
    assert [*members(BOTH, "prompt=rain", *SMALL)] == ["tiny", "tiny_animatediff_random"], "they are alike already"
    assert "sampler.steps" not in common_geometry(members(BOTH, "latency_only=true").values())


def test_a_side_that_is_too_short_for_all_is_the_shortest_that_all_make():
    configs = list(members(BOTH, "prompt=rain", "geometry=own").values())
    short = replace(configs[0], model=replace(configs[0].model, height=48))
    assert common_geometry([short, configs[1]])["model.height"] == 64


def test_adapters_go_to_their_model_alone(both_adapters: RunDirectory):
    words = f"models=[tiny@{both_adapters.path},tiny_animatediff_random]"
    lists = ["prompt=rain", "ranks=[2]", "scales=[0]", "merged=[true,false]", "only=[style,motion]", "steps=[3]"]
    found = members(words, *lists, "geometry=own")
    adapted, base = found.values()
    assert adapted.ckpt == str(both_adapters.path)
    assert (base.ckpt, base.ranks, base.scales, base.merged, base.only) == (None, [], [], [], [])
    first = study_variants(adapted)[0]
    assert [setting.named(first) for setting in study_variants(adapted)] == [
        *("baseline", "rank 2", "rank 2, live", "base model", "style alone", "motion alone", "3 steps"),
    ]
    # the model without adapters draws its base in full, as that with adapters does where their scale is 0
    shared = [{left_as_settled(one, config) for one in study_variants(config)} for config in found.values()]
    assert set.intersection(*shared) == {StudyVariant(steps=0, scale=0.0, dtype="")}


REFUSED = [
    (["models=[]"], r"models=\[\] names no model"),
    (["models=[tiny@,tiny_wan22_5b]"], r"models=\[tiny@\] names no adapters"),
    (["models=[tiny,tiny]"], "names tiny twice"),
    (["models=[tiny,tinny]"], "tinny does not exist, did you mean tiny"),
    ([BOTH, "model=tiny"], "models= beside model=tiny"),
    ([BOTH, "ckpt=run"], "models= beside ckpt=run"),
    ([BOTH, "adapters=[embedded:distilled]"], "models= beside adapters="),
    ([BOTH, "merge=[a]", "out=b"], "models= beside merge="),
    ([BOTH, "num_frames=6"], "tiny: num_frames=6"),
    (["models=[tiny@nowhere,tiny_wan22_5b]"], "nowhere"),
]


@pytest.mark.parametrize(("argv", "sentence"), REFUSED)
def test_what_cannot_be_studied_together_is_refused(argv: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        members(*argv, "prompt=rain")


def test_models_that_share_no_setting_are_refused(both_adapters: RunDirectory):
    words = f"models=[tiny@{both_adapters.path},tiny_animatediff_random]"
    with pytest.raises(ConfigError, match="share no setting.*tiny_animatediff_random has no adapters"):
        members(words, "prompt=rain", "steps=[3]")
    with pytest.raises(ConfigError, match="were trained on tiny; write tiny@"):
        members(f"models=[tiny_wan22_5b@{both_adapters.path}]", "prompt=rain")


def test_words_of_models_keep_what_stands_after_the_first_at(tmp_path: Path):
    word = ModelWord.of("tiny@hub:owner/name@main")
    assert (word.name, word.ckpt, str(word)) == ("tiny", "hub:owner/name@main", "tiny@hub:owner/name@main")
    config = compose_study([f"models=[tiny@{tmp_path},tiny_wan22_5b,tiny_wan22_a14b@hub:o/n]", "prompt=rain"])
    assert anchored(config).models == [f"tiny@{tmp_path}", "tiny_wan22_5b", "tiny_wan22_a14b@hub:o/n"]


def test_what_a_family_has_not_is_said():
    config = compose_study(["model=tiny_animatediff_random", "prompt=rain"])
    first = study_variants(config)[0]
    for change in ({"cache": "taylorseer"}, {"dtype": "fp8"}, {"partition": "ring"}):
        setting = replace(first, **change)  # type: ignore[arg-type]
        assert "AnimateDiff (SD1.5) has no row of alike blocks" in (cannot(setting, config) or "")
        assert cannot(setting, compose_study(["prompt=rain"])) is None
    for setting in (first, replace(first, partition="halves"), replace(first, dtype="bf16")):
        assert cannot(setting, config) is None


# -- rows and pictures -------------------------------------------------------------------------------------------------


def row(model: str, size: tuple[int, int, int], seconds: float, values: list[float | None], name: str = "a") -> Result:
    facts = dict(zip(("frames", "height", "width"), size, strict=True)) | {"fps": 8, "model": model}
    facts["clip"] = f"{model}, {size[0]} frames of {size[1]}x{size[2]}, guidance 5, 2 clips"
    found = Result(f"{model}-{size[0]}-{size[2]}-{name}", name, {}, facts, {"device": "one"})
    found.seconds, found.denoise_s, found.step_s = {"denoise": seconds, "decode": 1.0}, [seconds], seconds / 2
    found.of_clips = {"tssim_warped": values}
    found.numbers = {"tssim_warped": float(np.mean([value for value in values if value is not None]))}
    return found


def test_seconds_are_of_film_and_of_pixels():
    one = row("a", (16, 100, 250), 3.0, [0.5])
    assert one.costs() == {"film_second_s": 2.0, "megapixel_frame_s": 7.5, "step_megapixel_frame_s": 3.75}
    del one.seconds["decode"]
    assert one.costs() == {"step_megapixel_frame_s": 3.75}, "without clips a step is timed alone"
    one.facts.pop("frames")
    assert one.costs() == {}, "a row of an older version"


def test_a_mean_has_its_interval(tmp_path: Path):
    one = row("a", (16, 64, 64), 3.0, [0.2, None, 0.4])
    assert one.interval("tssim_warped") == (0.2, 0.4), "of two clips the bounds are these two"
    assert one.interval("psnr") is None
    assert between(one, "tssim_warped") == " (0.2 to 0.4)"
    assert between(row("a", (16, 64, 64), 3.0, [0.2]), "tssim_warped") == "", "one clip says nothing of others"
    table = Results([one])
    table.save(tmp_path)
    assert load_table(tmp_path) == table
    head, cells = ((tmp_path / "rows.csv").read_text().splitlines()[i].split(",") for i in (0, 1))
    found = dict(zip(head, cells, strict=True))
    assert (found["tssim_warped_low"], found["tssim_warped_high"], found["film_second_s"]) == ("0.2", "0.4", "2.0")


def test_models_stand_in_one_picture_at_geometries_of_their_own_and_shared(tmp_path: Path):
    small, large, wide = (4, 64, 64), (9, 64, 64), (8, 64, 128)
    rows = [
        row(m, s, t, [0.5, 0.6])
        for m, s, t in [
            (
                "a",
                large,
                4,
            ),
            ("a", small, 1),
            ("b", wide, 3),
            ("b", small, 2),
        ]
    ]
    assert geometries_of(rows) == {
        "each at its own size": {"a": large, "b": wide},
        "4 frames of 64x64": {"a": small, "b": small},
    }
    assert geometries_of(rows[:2]) == {}
    assert len(family_plots(rows)) == 2
    assert family_plots(rows[:2]) == []
    assert "b, 4 frames of 64x64: a" in lines(rows)[3]
    config = compose_study([BOTH, "prompt=rain"])
    assert [path.name for path in show(Results(rows), config, tmp_path)] == ["study.html", "families.png"]


# -- whole studies -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pooled")
def test_a_study_of_two_families_resumes_and_merges(
    both_adapters: RunDirectory, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out, prompts = tmp_path / "study", tmp_path / "prompts.txt"
    prompts.write_text("bars\nrain\n")
    words = [f"models=[tiny@{both_adapters.path},tiny_animatediff_random]", f"prompts={prompts}", f"cache={cache}"]
    words += [*SMALL, "scales=[0]", "first_block=[10]", "metrics.names=[tssim]", "against=[psnr]", f"out={out}"]
    assert main("study", words, run) == 0
    rows = load_table(out).rows
    assert [(one.facts["model"], one.name) for one in rows] == [
        ("tiny", "baseline"),
        ("tiny", "base model"),
        ("tiny", "first_block 10"),
        ("tiny_animatediff_random", "baseline"),
        ("tiny_animatediff_random", "first_block 10"),
    ]
    assert len({one.key for one in rows}) == 5
    assert rows[4].trouble == "AnimateDiff (SD1.5) has no row of alike blocks to skip"
    assert rows[2].computed == 0.5
    assert rows[3].computed == 1.0
    assert {len(one.of_clips["tssim"]) for one in rows[:4]} == {2}
    assert (out / "families.png").is_file()
    assert [one.key for one in rows[3:]] == [one.key for one in load_table(out / "tiny_animatediff_random").rows]
    capfd.readouterr()
    assert main("study", [*words[:-1], "steps=[1]", words[-1]], run) == 0
    said = capfd.readouterr().out
    assert "4 settings: 3 are there, 1 to run" in said
    assert "3 settings: 1 are there, 1 to run, 1 cannot be generated" in said
    assert "no adapters, so that scales= change nothing here" in said
    mine, other = load_table(out), load_table(out)
    assert [one for one in mine.rows if one.name != "1 steps"] == rows
    for one in other.rows:
        one.machine = {"device": "another"}
    assert len(merged_results([mine, other, mine]).rows) == 14


def test_steps_of_a_unet_are_timed_with_drawn_adapters(cache: Path, tmp_path: Path):
    words = [
        "latency_only=true",
        "latency_steps=2",
        "ranks=[2]",
        "merged=[true,false]",
        "repetitions=1",
        "taylorseer=[1]",
    ]
    config = compose_study(["model=tiny_animatediff_random", "num_frames=4", f"cache={cache}", *words])
    assert study_rank(config, {}, tmp_path, "now") == 2
    rows = load_table(tmp_path).rows
    assert [one.name for one in rows] == ["baseline", "live", "taylorseer 1"]
    assert [one.computed for one in rows] == [1.0, 1.0, None]
    assert [[*one.costs()] for one in rows] == [["step_megapixel_frame_s"], ["step_megapixel_frame_s"], []]


@pytest.mark.usefixtures("pooled")
def test_held_out_footage_has_a_row_and_a_distance(footage: Path, cache: Path, tmp_path: Path):
    out = tmp_path / "study"
    words = ["prompt=bars", "seeds=2", "model.height=32", "model.width=48", "num_frames=5", "sampler.steps=1"]
    words += ["repetitions=1", "mode=t2v", "data=folder", f"data.root={footage}", "data.holdout=0.5", "steps=[2]"]
    words += [f"data.prepared={tmp_path / 'prepared'}", "data.judged=false", f"cache={cache}", f"out={out}"]
    assert main("study", [*words, "metrics.names=[tssim]", "against=[psnr,frechet_scale]"], run) == 0
    table = load_table(out)
    found = {one.name: one for one in table.rows}
    assert found["baseline"].numbers["frechet_scale"] == 0
    assert all(found[name].numbers["heldout_frechet_scale"] > 0 for name in ("baseline", "2 steps"))
    real = found["held-out footage"]
    assert (real.setting, [*real.numbers], real.denoise_s) == ({}, ["tssim"], [])
    assert main("study", [*words, "metrics.names=[tssim]", "against=[psnr,frechet_scale]"], run) == 0
    assert load_table(out) == table
    # a later question adds rows of the baseline's frames, and draws nothing
    assert main("study", [*words, "metrics.names=[tssim]", "against=[psnr,frechet_scale]", "controls=true"], run) == 0
    found = {one.name: one for one in load_table(out).rows}
    assert [one for one in load_table(out).rows if one.name not in CONTROLS] == table.rows
    assert found["control: frozen"].numbers["tssim"] == 1
    assert found["control: shuffled"].numbers["tssim"] < 1
    assert all(found[name].numbers["psnr"] < 100 and not found[name].denoise_s for name in CONTROLS)


@pytest.mark.usefixtures("pooled")
def test_one_stage_alone_leaves_the_other_out(both_adapters: RunDirectory, cache: Path, tmp_path: Path):
    words = [f"ckpt={both_adapters.path}", "prompt=bars", "model.height=32", "model.width=48", "num_frames=5"]
    words += ["sampler.steps=1", "repetitions=1", "metrics.names=[tssim]", "against=[psnr]", f"cache={cache}"]
    assert main("study", [*words, "only=[style,motion]", "scales=[0]", f"out={tmp_path / 'study'}"], run) == 0
    psnr = {one.name: one.numbers["psnr"] for one in load_table(tmp_path / "study").rows}
    assert psnr["baseline"] == 100
    assert len({round(value, 3) for value in psnr.values()}) == 4
    with pytest.raises(ConfigError, match="random adapters are neither style nor motion"):
        accepted(parse(PROGRAMS["study"], ["latency_only=true", "ranks=[2]", "only=[style]"]))
    style = both_adapters.adapter("style")
    with pytest.raises(ConfigError, match="holds only style"):
        accepted(parse(PROGRAMS["study"], [f"ckpt={style}", "prompt=rain", "only=[motion]"]))
