"""A study: which settings it compares, that rows are kept and not run twice, and that what is fast on paper is so in blocks."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from composed import compose_study
from rounding import LAYERS, units

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.lora_layers import adapter_state, add_adapter
from cinelora.adapters.resize_rank import at_rank
from cinelora.cli.preflight import check_study
from cinelora.config.clip_facts import clip_hash
from cinelora.config.clip_request import ClipRequest, Further, Take
from cinelora.config.schema import (
    LoggerConfig,
    LoraSpec,
    MetricsConfig,
    ModelConfig,
    SamplerConfig,
    ScaleConfig,
    StudyConfig,
    drawn_by,
)
from cinelora.config.shipped import values
from cinelora.errors import ConfigError
from cinelora.families import experts_of
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.html.figure import as_svg
from cinelora.io.tensor_files import load_tensors
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.sampling.sampler import Sampling
from cinelora.sampling.scene import TakeMaker
from cinelora.studies.pareto import Spot, as_png, front, labels, marks
from cinelora.studies.results import Result, Results, load_table, merged_results
from cinelora.studies.run_study import study, study_rank
from cinelora.studies.study_report import between_rows, plots, show
from cinelora.studies.variants import StudyVariant, acting, baseline, key_of, sampler_of, study_variants


@pytest.fixture
def config(small_model: ModelConfig, cache: Path) -> StudyConfig:
    return StudyConfig(
        model=small_model,
        sampler=SamplerConfig(steps=4, guidance=3.0),
        metrics=MetricsConfig(names=["tssim", "tssim_warped"]),
        logger=LoggerConfig(name="none"),
        against=["perceptual_scale", "psnr"],
        num_frames=5,
        repetitions=1,
        cache=str(cache),
    )


@pytest.fixture
def latency(config: StudyConfig) -> StudyConfig:
    return replace(config, latency_only=True, latency_steps=4, ranks=[2])


# -- settings ----------------------------------------------------------------------------------------------------------


def test_one_thing_changes_at_a_time(latency: StudyConfig):
    config = replace(latency, ranks=[2, 8], merged=[True, False], scales=[0.0, 1.0], first_block=[0.1], dtypes=["bf16"])
    first, *others = study_variants(config)
    assert first == baseline(config)
    assert [setting.named(first) for setting in others] == [
        *("live", "rank 8", "rank 8, live", "base model", "first_block 0.1", "bf16")
    ]


def test_a_grid_is_every_combination_once(latency: StudyConfig):
    config = replace(latency, scales=[0.0], first_block=[0.1], taylorseer=[2], dtypes=["bf16"], grid=True)
    assert len(study_variants(config)) == 2 * 3 * 2
    assert len(set(study_variants(config))) == 2 * 3 * 2


def test_a_base_model_has_no_rank(latency: StudyConfig):
    config = replace(latency, ranks=[2, 8], merged=[False], scales=[0.0], grid=True)
    assert [s for s in study_variants(config) if s.scale == 0] == [StudyVariant(steps=4, scale=0.0, dtype="fp32")]


def test_every_cache_is_drawn_by_every_partition(latency: StudyConfig):
    ways = {"partitions": ["sequence", "ring", "halves"], "first_block": [0.1], "taylorseer": [2]}
    found = study_variants(replace(latency, gpus=2, grid=True, **ways))
    pairs = itertools.product(("none", "first_block", "taylorseer"), ("alone", *ways["partitions"]))
    assert {(s.cache, s.partition) for s in found} == set(pairs)


def test_a_key_knows_what_decides_a_row_and_nothing_else(config: StudyConfig):
    config = replace(config, prompt="rain")
    one = baseline(config)
    key = key_of(one, config, {})
    assert key == key_of(one, replace(config, steps=[2], out="elsewhere", repetitions=5, cache="c"), {})
    others = [replace(config, prompt="snow"), replace(config, seed=1), replace(config, num_frames=9)]
    assert len({key, *(key_of(one, other, {}) for other in others), key_of(replace(one, cache="x"), config, {})}) == 5


def test_distilled_adapters_act_in_their_rows_alone(config: StudyConfig):
    further = {"fast": Further(Path("f"), clip=1.0, shift=2.0), "slow": Further(Path("s"), clip=0.5)}
    config = replace(config, prompt="x", adapters=["f", "s"], distilled=[2], steps=[2], scales=[0.0])
    first, base, few, fast = study_variants(config)
    assert [row.named(first) for row in (base, few, fast)] == ["base model", "2 steps", "2 distilled steps"]
    assert [set(acting(row, config, further)) for row in (first, base, few, fast)] == [
        *({"slow"}, set(), {"slow"}, {"slow", "fast"})
    ]
    samplers = [sampler_of(row, config, [], further) for row in (few, fast)]
    assert [(s.name, s.steps, s.guidance, s.shift) for s in samplers] == [
        ("unipc", 2, 3.0, None),
        ("euler", 2, 1.0, 2.0),
    ]
    always = replace(config, distilled=[])
    assert set(acting(baseline(always), always, further)) == {"fast", "slow"}


def test_rows_without_further_adapters_keep_their_keys():
    """A literal: what an older version wrote is found."""
    config = StudyConfig(
        model=ModelConfig(name="tiny", t2v="a", i2v="b"), prompt="rain", sampler=SamplerConfig(steps=4)
    )
    assert key_of(baseline(config), config, {}) == "c49dd8184366"


REFUSED = [
    (["model=tiny"], "say prompt="),
    (["prompt=x", "merged=[false]"], "there is no adapter to study; add ckpt="),
    (["latency_only=true", "prompt=x"], "leave prompt= and prompts= away"),
    (["latency_only=true", "steps=[3]"], "times latency_steps=3"),
    (["prompt=x", "distilled=[4]"], "there is no step-distilled adapter to study"),
    (["prompt=x", "adapters=[embedded:distilled@0]", "distilled=[4]"], "there is no step-distilled adapter to study"),
    (["prompt=x", "adapters=[embedded:distilled]", "ranks=[2]"], r"ranks=\[2\]: there is no adapter to study"),
    (["latency_only=true", "distilled=[4]"], r"distilled=\[4\]: latency_only=true times latency_steps=3"),
    (["latency_only=true", "scales=[1]"], r"or ranks=\[8\] for random adapters"),
    (["prompt=x", "sampler.cache=first_block"], "caches are studied by first_block="),
    (["prompt=x", "partitions=[sequence]"], "add gpus=2 or more"),
    (["prompt=x", "first_block=[-1]"], "first_block=-1: wants 0 or more"),
    (["prompt=x", "steps=[0]"], "steps=0: wants at least 1"),
    (["merge=[nowhere]", "out=x"], "holds no rows.json"),
    (["merge=[nowhere]"], "add out="),
]


@pytest.mark.parametrize(("argv", "sentence"), REFUSED)
def test_studies_of_nothing_are_refused(argv: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        check_study(compose_study(argv))


def test_a_study_goes_on_with_more_settings_in_its_directory(tmp_path: Path):
    one = compose_study(["prompt=x", "first_block=[0.1]"])
    assert clip_hash(one) == clip_hash(compose_study(["prompt=x", "steps=[3,4]", "repetitions=1"]))
    assert clip_hash(one) != clip_hash(compose_study(["prompt=y"]))


# -- adapters of another rank ------------------------------------------------------------------------------------------


def adapter(rank: int) -> AdapterFile:
    generator = torch.Generator().manual_seed(0)
    state = {
        "blocks.0.attn2.to_q.lora_A.weight": torch.randn(rank, 12, generator=generator),
        "blocks.0.attn2.to_q.lora_B.weight": torch.randn(10, rank, generator=generator),
    }
    return AdapterFile(state, LoraSpec(rank, 16.0), "motion")


def update(one: AdapterFile) -> torch.Tensor:
    down, up = one.state.values()
    return one.spec.scale * up @ down


def test_a_smaller_rank_is_the_nearest_there_is():
    whole = adapter(6)
    values = torch.linalg.svdvals(update(whole))
    for rank in (1, 3, 5):
        cut = at_rank(whole, rank)
        assert cut.state["blocks.0.attn2.to_q.lora_A.weight"].shape == (rank, 12)
        assert torch.linalg.norm(update(cut) - update(whole)) == pytest.approx(float(values[rank:].norm()), rel=1e-4)


def test_a_larger_rank_does_the_same():
    assert units(update(at_rank(adapter(6), 9)), update(adapter(6))) <= LAYERS


# -- rows and pictures -------------------------------------------------------------------------------------------------


def row(key: str, seconds: float, value: float, device: str = "one") -> Result:
    timed = {
        "seconds": {"denoise": seconds},
        "denoise_s": [seconds],
        "step_s": seconds,
        "numbers": {"tssim_warped": value},
    }
    return Result(key, f"<{key}>", {"cache": "none"}, {"clip": "tiny", "model": "tiny"}, {"device": device}, **timed)


def test_rows_of_several_machines_are_put_into_one_table(tmp_path: Path):
    one, two = Results([row("a", 2, 0.5), row("b", 1, 0.4)], ["said"]), Results([row("a", 1, 0.5, "two")], ["said"])
    both = merged_results([one, two, one])
    assert [(r.key, r.machine["device"]) for r in both.rows] == [("a", "one"), ("b", "one"), ("a", "two")]
    assert both.sentences == ["said"]
    both.save(tmp_path)
    assert load_table(tmp_path) == both
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4


def test_what_is_no_study_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "rows.json").write_text('{"rows": [{"key": 1, "other": 2}]}')
    with pytest.raises(ConfigError, match="is not what a study wrote"):
        load_table(tmp_path)


def test_the_front_is_what_nothing_beats():
    spots = [Spot(1, 2.0, 0.9), Spot(2, 1.0, 0.5), Spot(3, 3.0, 0.8), Spot(4, 1.0, 0.6), Spot(5, 4.0, 0.95)]
    assert [spot.number for spot in front(spots, more_is_better=True)] == [4, 1, 5]
    assert [spot.number for spot in front(spots, more_is_better=False)] == [2]


def test_the_picture_is_the_same_in_both_forms():
    assert labels([(10, 50, 3, False), (20, 55, 1, True), (20, 90, 2, False), (60, 50, 4, False)]) == [
        (20, 55, "1, 3", True),
        (20, 90, "2", False),
        (60, 50, "4", False),
    ]
    drawn = marks([Spot(1, 2.0, 0.9), Spot(2, 1.0, 0.5)], "a <b>", "seconds", True)
    assert "a &lt;b&gt;" in as_svg(drawn)
    pixels = as_png(drawn)
    assert pixels.shape == (800, 1280, 3)
    assert (np.abs(pixels.astype(int) - (27, 127, 121)).sum(axis=-1) == 0).sum() > 100, "two filled dots and their line"


def test_a_page_holds_every_row_and_escapes_it(config: StudyConfig, tmp_path: Path):
    paths = show(Results([row("a", 2, 0.5), row("b", 1, 0.4)], ["<said>"]), config, tmp_path)
    assert [path.name for path in paths] == ["study.html", "pareto.png"]
    text = paths[0].read_text()
    assert "&lt;a&gt;" in text
    assert "&lt;said&gt;" in text
    assert "<a>" not in text


def test_rows_that_were_not_made_alike_are_not_in_one_plot(config: StudyConfig, tmp_path: Path):
    rows = [
        row("a", 2, 0.5),
        row("b", 1, 0.4),
        row("a", 1, 0.5, "two"),
        row("b", 2, 0.4, "two"),
        row("c", 1, 0.3, "two"),
    ]
    rows[4].trouble, rows[4].seconds = "out of GPU memory at 79.0 GiB", {}
    assert len(plots(rows)) == 2, "one of each machine, and what failed late is in none"
    assert between_rows(rows) == []
    for one, compiled, sitting in zip(rows, [True, False] * 3, "aabbc", strict=False):
        one.facts |= {"compiled": compiled, "sitting": sitting, "swap": 2}
    assert len(between_rows(rows)) == 3
    assert len(show(Results(rows), config, tmp_path)) == 1, "no two of them can be compared"


# -- whole studies -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pooled")
def test_latency_alone_times_what_caches_let_through(latency: StudyConfig, tmp_path: Path):
    config = replace(latency, merged=[True, False], scales=[0.0], first_block=[10.0], taylorseer=[1], magcache=[5.0])
    assert study(config, tmp_path) == 0
    rows = {row.name: row for row in load_table(tmp_path).rows}
    assert list(rows) == ["baseline", "live", "base model", "first_block 10", "taylorseer 1", "magcache 5"]
    assert [rows[name].computed for name in ("baseline", "live", "base model")] == [1.0] * 3
    assert rows["taylorseer 1"].computed == 0.75
    assert rows["first_block 10"].computed == 0.25
    assert len(rows["magcache 5"].ratios) == 4
    for one in rows.values():
        assert one.step_s == pytest.approx(one.seconds["denoise"] / 4, rel=0.01)
        assert one.peak_gib is not None
        assert one.skipped_s is None or one.skipped_s < one.whole_s
    assert any("not whole clips" in sentence for sentence in load_table(tmp_path).sentences)
    assert (tmp_path / "study.html").is_file()


@pytest.mark.usefixtures("pooled")
def test_a_study_of_clips_compares_with_the_baseline_and_runs_no_row_twice(
    config: StudyConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config = replace(config, prompt="bars", sampler=replace(config.sampler, steps=3), steps=[2])
    assert study(config, tmp_path) == 0
    first, other = load_table(tmp_path).rows
    assert first.numbers["psnr"] == 100
    assert other.numbers["psnr"] < 100
    assert 0 < other.numbers["tssim_warped"] <= 1
    assert set(first.seconds) == {"text", "keyframe", "condition", "denoise", "decode"}
    more = replace(config, metrics=replace(config.metrics, names=[*config.metrics.names, "motion"]))
    assert study(more, tmp_path) == 0
    assert "2 are there, 0 to run" in capfd.readouterr().out
    assert all("motion" in one.numbers for one in load_table(tmp_path).rows), (
        "what is asked for later is measured later"
    )
    first, other = load_table(tmp_path).rows
    config = more
    assert study(replace(config, taylorseer=[0]), tmp_path) == 0
    assert "3 settings: 2 are there, 1 to run" in capfd.readouterr().out
    rows = load_table(tmp_path).rows
    assert [one.name for one in rows] == ["baseline", "2 steps", "taylorseer 0"]
    assert rows[:2] == [first, other]
    assert rows[2].numbers["psnr"] == 100, "a cache that skips nothing draws the baseline's clip"


def test_a_study_of_few_steps(config: StudyConfig, tmp_path: Path):
    """Without the distilled adapter the baseline is the base model's clip, and its own rows are others, at half the cost."""
    config = replace(
        config, prompt="rain", adapters=["embedded:distilled"], distilled=[4], scales=[0.0], merged=[False]
    )
    assert study_rank(config, {}, tmp_path, "now", further_adapters(config)) == 4
    rows = {row.name: row for row in load_table(tmp_path).rows}
    assert rows.keys() == {"baseline", "live", "base model", "4 distilled steps"}
    assert rows["base model"].numbers["psnr"] == rows["live"].numbers["psnr"] == 100
    assert rows["4 distilled steps"].numbers["psnr"] < 60
    assert rows["4 distilled steps"].setting["distilled"]


@pytest.mark.usefixtures("pooled")
def test_ranks_that_share_a_clip_draw_the_baselines(config: StudyConfig, tmp_path: Path):
    config = replace(config, prompt="bars", mode="t2v", sampler=replace(config.sampler, steps=2), gpus=2)
    config = replace(config, partitions=["sequence", "ring", "halves"])
    assert study(config, tmp_path) == 0
    rows = load_table(tmp_path).rows
    assert [one.name for one in rows] == ["baseline", "sequence", "ring", "halves"]
    assert [one.facts["ranks"] for one in rows] == [1, 2, 2, 2]
    assert all(one.numbers["psnr"] > 60 for one in rows)


class Loads(list[tuple[str, str]]):
    """Network and expert of each transformer that is loaded; none may be there beside one before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, there = WanBundle.load_transformer, list[torch.nn.Module]()

        def noted(bundle: WanBundle, *inputs: object, **named: object) -> torch.nn.Module:
            assert all(parameter.is_meta for before in there for parameter in before.parameters())
            there.append(whole(bundle, *inputs, **named))  # type: ignore[arg-type]
            self.append((bundle.kind, bundle.expert))
            return there[-1]

        monkeypatch.setattr(WanBundle, "load_transformer", noted)


def expert_adapters(model: ModelConfig, folder: Path, cache: Path) -> dict[str, Path]:
    """A style adapter with values for each text-to-video expert."""
    found = {}
    for expert in experts_of(model, "t2v"):
        name, bundle = expert.suffix("style"), WanBundle.from_config(model, "t2v", cache).of_expert(expert.name)
        transformer, spec = bundle.load_transformer(), LoraSpec(4, 8.0)
        add_adapter(transformer, name, spec, seed=0)
        generator = torch.Generator().manual_seed(len(name))
        state = {k: torch.randn(v.shape, generator=generator) for k, v in adapter_state(transformer, name).items()}
        found[name] = folder / f"{name}.safetensors"
        export_adapter(found[name], AdapterFile(state, spec, "style", transformer="t2v"))
    return found


def test_a_row_of_two_experts_is_the_clip_of_both_one_loaded_after_the_other(
    config: StudyConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = replace(ModelConfig(**values("model/tiny_wan22_a14b")), height=32, width=48)
    config = replace(config, model=model, prompt="rain", mode="t2v", ckpt=str(tmp_path), against=["psnr"])
    config = replace(
        config, sampler=SamplerConfig(steps=5, guidance=None), scales=[0.0], taylorseer=[0], magcache=[0.0], steps=[2]
    )
    config.metrics = replace(config.metrics, names=["motion"])
    files = expert_adapters(model, tmp_path, cache)
    loads = Loads(monkeypatch)
    assert study_rank(config, files, tmp_path / "study", "now") == 5
    assert loads == [("t2v", "high_noise"), ("t2v", "low_noise")]
    rows = {row.name: row for row in load_table(tmp_path / "study").rows}
    assert list(rows) == ["baseline", "base model", "2 steps", "taylorseer 0", "magcache 0"]
    assert "guidance 4 and 3" in rows["baseline"].facts["clip"]
    assert rows["taylorseer 0"].numbers["psnr"] == rows["magcache 0"].numbers["psnr"] == 100
    assert rows["base model"].numbers["psnr"] < 100
    ratios = rows["magcache 0"].ratios
    assert len(ratios) == 5
    assert ratios.count(1.0) == 2
    # what was timed part by part is what ``infer`` draws
    for name, scale, steps in (("baseline", ScaleConfig(), 5), ("base model", None, 5), ("2 steps", ScaleConfig(), 2)):
        drawing = replace(drawn_by(config), sampler=replace(config.sampler, steps=steps))
        request = ClipRequest(drawing, adapters=files)
        sampling = Sampling(model, request.clip_sampler, Partition(1, 1, 1), rank_info())
        maker = TakeMaker.on_this_rank(request, {key: read_adapter(path) for key, path in files.items()}, sampling)
        (rendition,) = maker.planned([Take("rain", 0, tmp_path / name)], {"one": scale})[0].values()
        ours = load_tensors(tmp_path / "study" / "latents" / f"{rows[name].key}.safetensors")[0]["clip-0"]
        assert units(ours, maker.denoised([rendition])[rendition].of_clip) <= LAYERS, name
    loads.clear()
    assert study_rank(config, files, tmp_path / "study", "later") == 0
    assert loads == []


def test_steps_of_two_experts_are_timed_without_clips(
    latency: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = replace(ModelConfig(**values("model/tiny_wan22_a14b")), height=32, width=48)
    config = replace(latency, model=model, sampler=SamplerConfig(guidance=None), latency_steps=6, magcache=[50.0])
    loads = Loads(monkeypatch)
    assert study_rank(config, {}, tmp_path, "now") == 2
    assert loads == [("i2v", "high_noise"), ("i2v", "low_noise")]
    rows = {row.name: row for row in load_table(tmp_path).rows}
    assert rows["baseline"].computed == 1
    assert 0 < rows["magcache 50"].computed < 1
    assert len(rows["magcache 50"].ratios) == 6


def test_a_study_of_one_network_for_both_expands_its_own_frames(config: StudyConfig, tmp_path: Path):
    model = replace(ModelConfig(**values("model/tiny_wan22_5b")), height=32, width=64)
    config = replace(config, model=model, prompt="rain", sampler=SamplerConfig(steps=4, guidance=5.0), against=["psnr"])
    config = replace(config, taylorseer=[0], first_block=[0.0], magcache=[0.0])
    config.metrics = replace(config.metrics, names=["motion"])
    assert study_rank(config, {}, tmp_path, "now") == 4
    rows = load_table(tmp_path).rows
    assert [row.numbers["psnr"] for row in rows] == [100] * 4, (
        "what skips nothing draws the same, by a time for each token"
    )
    assert set(rows[0].seconds) == {"text", "keyframe", "condition", "denoise", "decode"}


@pytest.mark.usefixtures("pooled")
def test_wandb_gets_the_table_offline(latency: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = replace(latency, logger=LoggerConfig(name="wandb", offline=True))
    assert study(config, tmp_path) == 0
    tables = list((tmp_path / "wandb").rglob("*.table.json"))
    assert json.loads(tables[0].read_text())["data"][0][0] == "baseline"


def test_latency_needs_no_package_that_reads_footage(tmp_path: Path):
    """A machine with a GPU and no decoder can run it, at random weights of any shape."""
    program = (
        "import sys; sys.modules.update(av=None, decord=None)\n"
        "from pathlib import Path\n"
        "from cinelora.config.schema import ModelConfig, StudyConfig\n"
        "from cinelora.studies.run_study import study_rank\n"
        "from cinelora.studies.results import load_table\n"
        "model = ModelConfig(name='drawn', t2v='o/t', i2v='o/i', weights='random', dtype='bf16', num_layers=2, num_heads=2,\n"
        "                    hidden_size=256, ffn_dim=64, height=32, width=48, num_frames=5)\n"
        "config = StudyConfig(model=model, latency_only=True, latency_steps=2, repetitions=1, ranks=[2], merged=[True, False])\n"
        f"study_rank(config, {{}}, Path({str(tmp_path)!r}), 'now')\n"
        f"assert [row.name for row in load_table(Path({str(tmp_path)!r})).rows] == ['baseline', 'live']\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
