"""Two experts make a clip: caches begin anew at the change, a stopped run goes on there, and the next one is read meanwhile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cinelora.config.clip_request import ClipRequest, Take
from cinelora.config.schema import InferConfig, MetricsConfig, ModelConfig, SamplerConfig, ScaleConfig
from cinelora.config.shipped import values
from cinelora.families import experts_of
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.read_ahead import AT_ONCE, ReadAhead, read_ahead
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.nn.flow_matching import FlowMatching
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.sampling.denoise import Course
from cinelora.sampling.sampler import Sampling
from cinelora.sampling.scene import Rendition, TakeMaker

STEPS = 6
Loads = list[tuple[str, str]]


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return replace(ModelConfig(**values("model/tiny_wan22_a14b")), height=32, width=48, num_frames=5)


@pytest.fixture
def config(model: ModelConfig, cache: Path) -> InferConfig:
    sampler = SamplerConfig(steps=STEPS, guidance=None)
    return InferConfig(
        model=model, sampler=sampler, metrics=MetricsConfig(names=[]), prompt="rain", mode="t2v", cache=str(cache)
    )


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """The network and expert of each transformer that is loaded."""
    found: Loads = []
    whole = WanBundle.load_transformer

    def noted(bundle: WanBundle, *inputs: object, **named: object) -> object:
        found.append((bundle.kind, bundle.expert))
        return whole(bundle, *inputs, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(WanBundle, "load_transformer", noted)
    return found


def maker_of(config: InferConfig) -> TakeMaker:
    request = ClipRequest(config)
    return TakeMaker.on_this_rank(
        request, {}, Sampling(config.model, request.clip_sampler, Partition(1, 1, 1), rank_info())
    )


def planned(config: InferConfig, folder: Path, seeds: int = 1) -> tuple[TakeMaker, list[Rendition]]:
    maker = maker_of(config)
    takes = [Take("rain", seed, folder / str(seed)) for seed in range(seeds)]
    return maker, [one["adapted"] for one in maker.planned(takes, {"adapted": ScaleConfig()})]


def drawn(config: InferConfig, folder: Path, seeds: int = 1) -> list[torch.Tensor]:
    """Latents of clips, as ``infer`` makes them."""
    maker, renditions = planned(config, folder, seeds)
    return [latents.of_clip for latents in maker.denoised(renditions).values()]


# -- a course between two experts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_a_course_goes_on_from_a_file_bit_for_bit(solver: str, tmp_path: Path):
    def begun() -> Course:
        noise = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        return Course(noise, FlowMatching.solver(SamplerConfig(name=solver, steps=STEPS), 5.0))

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.sin(latents * 3) + timestep.view(-1, 1, 1, 1, 1) / 1000

    whole = begun()
    whole.go(velocity, STEPS)
    for stop in range(1, STEPS):
        first = begun()
        first.ratios = [1.0, 0.1 + 0.2]
        first.go(velocity, stop)
        save_tensors(tmp_path / "course", first.waypoint(), {})
        second = begun().at(load_tensors(tmp_path / "course")[0])
        assert (second.done, second.ahead(), second.ratios) == (stop, STEPS - stop, first.ratios)
        second.go(velocity, second.ahead())
        assert torch.equal(second.latents_BCTHW, whole.latents_BCTHW), stop


# -- caches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_name", "ratios"), [("first_block", []), ("taylorseer", []), ("magcache", [1.0] * STEPS)]
)
def test_a_threshold_of_nothing_changes_no_clip_of_two_experts(
    cache_name: str, ratios: list[float], config: InferConfig, tmp_path: Path
):
    (plain,) = drawn(config, tmp_path / "plain")
    sampler = replace(config.sampler, cache=cache_name, cache_threshold=0.0, cache_ratios=ratios)
    (cached,) = drawn(replace(config, sampler=sampler), tmp_path / "cached")
    assert torch.equal(cached, plain)


def test_ratios_are_one_list_over_both_experts_which_magcache_takes(
    config: InferConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (plain,) = drawn(config, tmp_path / "plain")
    (ours,) = drawn(replace(config, sampler=replace(config.sampler, cache="calibrate")), tmp_path / "ours")
    assert torch.equal(ours, plain)
    (said,) = [line for line in capfd.readouterr().out.splitlines() if "sampler.cache_ratios=" in line]
    assert said.startswith("clip 1/1: sampler.cache=magcache")
    ratios = [float(word) for word in said.split("cache_ratios=")[1].strip("[]").split(",")]
    high, _ = experts_of(config.model, "t2v")
    change = maker_of(config).sampling.begin(shown_of(config)).ahead(high.levels)
    assert len(ratios) == STEPS
    assert [place for place, ratio in enumerate(ratios) if ratio == 1.0] == [0, change]
    sampler = replace(config.sampler, cache="magcache", cache_threshold=10.0, cache_ratios=ratios)
    (skipped,) = drawn(replace(config, sampler=sampler), tmp_path / "skipped")
    assert torch.isfinite(skipped).all()
    assert not torch.equal(skipped, plain)


def shown_of(config: InferConfig):  # type: ignore[no-untyped-def]
    maker, (rendition,) = planned(config, Path())
    return maker.shown([rendition], "t2v", config.model.num_frames, {})[rendition]


@pytest.mark.parametrize("name", ["first_block", "taylorseer", "magcache"])
def test_a_cache_begins_anew_with_each_expert(name: str, config: InferConfig):
    """The first prediction of each is whole, however much is let pass: what was remembered is the other expert's."""
    computed: list[bool] = []
    maker = maker_of(config)
    sampler = replace(config.sampler, cache=name, cache_threshold=1e6 if name != "taylorseer" else 9.0)
    sampler = replace(sampler, cache_ratios=[1.0] * STEPS if name == "magcache" else [])
    sampling, shown = replace(maker.sampling, sampler=sampler), shown_of(config)
    course, firsts = sampling.begin(shown), []
    for expert in experts_of(config.model, "t2v"):
        transformer = maker.last.of_expert(expert.name).load_transformer()
        steps = course.ahead(expert.levels)
        with transformer.blocks[-1].attn1.register_forward_hook(lambda *_: computed.append(True)):
            sampling.go_on(course, transformer, shown, "clip", True, expert, most=1)
        firsts.append(len(computed))
        sampling.go_on(course, transformer, shown, "clip", True, expert, most=steps - 1)
    assert firsts == [1, 2]


def test_ratios_of_another_number_of_steps_are_spread_over_this_one(config: InferConfig, tmp_path: Path):
    """Each twice for twice the steps, before each expert takes its own part of them."""
    ratios = [1.0, 0.9, 0.8, 1.0, 0.95, 0.9]
    sampler = replace(config.sampler, cache="magcache", cache_threshold=0.15, steps=2 * STEPS)
    short, spread = (replace(sampler, cache_ratios=one) for one in (ratios, [r for r in ratios for _ in range(2)]))
    (ours,), (theirs,) = (
        drawn(replace(config, sampler=one), tmp_path / str(len(one.cache_ratios))) for one in (short, spread)
    )
    assert torch.equal(ours, theirs)


# -- runs that are stopped ---------------------------------------------------------------------------------------------


class StoppedHere(Exception):
    """Somebody's Ctrl-C."""


@pytest.mark.parametrize("mode", ["t2v", "scene"])
def test_a_run_that_is_stopped_between_the_experts_goes_on_there(
    mode: str, config: InferConfig, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
):
    config, network = replace(config, mode=mode), "t2v" if mode == "t2v" else "i2v"
    whole = drawn(config, tmp_path / "whole", seeds=2)
    stopped = WanBundle.load_transformer

    def stops(bundle: WanBundle, *inputs: object, **named: object) -> object:
        if (bundle.kind, bundle.expert) == (network, "low_noise"):
            raise StoppedHere
        return stopped(bundle, *inputs, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(WanBundle, "load_transformer", stops)
        with pytest.raises(StoppedHere):
            drawn(config, tmp_path / "run", seeds=2)
    assert sorted(path.parent.name for path in tmp_path.rglob("run/*/adapted.course")) == ["0", "1"]
    assert not list(tmp_path.rglob("run/*/adapted.latents"))
    loads.clear()
    again = drawn(config, tmp_path / "run", seeds=2)
    assert loads == [(network, "low_noise")]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, whole, strict=True))
    assert not list(tmp_path.rglob("*.course")), "what was kept halfway goes when the whole is kept"


def test_a_course_that_was_made_of_something_else_is_not_taken_up(config: InferConfig, tmp_path: Path, loads: Loads):
    maker, (rendition,) = planned(config, tmp_path)
    rendition.keep_half(halfway(maker, rendition))
    assert rendition.kept_half() is not None
    _, (other,) = planned(replace(config, sampler=replace(config.sampler, guidance=2.0)), tmp_path)
    assert other.draft == rendition.draft
    assert other.kept_half() is None


def halfway(maker: TakeMaker, rendition: Rendition):  # type: ignore[no-untyped-def]
    from cinelora.sampling.scene import Half

    shown = maker.shown([rendition], "t2v", maker.request.num_frames, {})[rendition]
    return Half(maker.sampling.begin(shown).waypoint())


def test_an_expert_without_a_step_is_not_loaded(config: InferConfig, tmp_path: Path, loads: Loads):
    sampler = replace(config.sampler, steps=2)
    (clip,) = drawn(replace(config, sampler=sampler), tmp_path)
    assert loads == [("t2v", "high_noise")]
    assert torch.isfinite(clip).all()


# -- the next expert's files -------------------------------------------------------------------------------------------


def finished(files: list[Path]) -> ReadAhead:
    with read_ahead(files) as reading:
        reading.join(60)
    return reading


def test_files_are_read_to_their_ends_where_memory_holds_them(tmp_path: Path):
    sizes = {"a": AT_ONCE + 5, "b": 3}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert finished([tmp_path / name for name in sizes]).done == sum(sizes.values())
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**43)  # of holes, and larger than any memory
    assert finished([tmp_path / "a", tmp_path / "huge"]).done == 0
    assert finished([tmp_path / "gone", tmp_path / "a"]).done == 0
    assert finished([]).done == 0


def test_only_files_that_lie_on_a_disk_are_read_ahead(model: ModelConfig, cache: Path):
    bundle = machinery_of(model).from_config(model, "t2v", cache)
    assert bundle.of_expert("low_noise").files_at_hand(Part.TRANSFORMER) == ()
    folder = bundle.directory(Part.VAE).parent
    there = machinery_of(model).from_config(replace(model, t2v=str(folder)), "t2v", cache)
    files = there.of_expert("low_noise").files_at_hand(Part.TRANSFORMER)
    assert {path.parent.name for path in files} == {"transformer_2"}
    assert any(path.suffix == ".safetensors" for path in files)
    drawn_model = replace(model, weights="random")
    assert machinery_of(model).from_config(drawn_model, "t2v", cache).files_at_hand(Part.TRANSFORMER) == ()
