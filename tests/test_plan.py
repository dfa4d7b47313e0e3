"""What a run takes, said before it runs: exact counts, and policies that fit or are refused in words."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composed import compose_infer

from cinelora.cli.compose import compose_train
from cinelora.config.schema import TrainConfig
from cinelora.errors import ConfigError
from cinelora.families.machinery import machinery_of
from cinelora.families.vae_facts import WAN22_VAE
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B
from cinelora.planning.cards import GPUS, SHOWN, Gpu, gpu_named
from cinelora.planning.cards import card as card_of
from cinelora.planning.estimate import GIB, Drawing, Policy, Prediction, Shape, Step, tiled_vae_bytes, vae_bytes
from cinelora.planning.planner import choose_drawing, choose_policy, drawing_lines, plan_lines, step_of
from cinelora.planning.step_time import TEXT_S, ClipShape, Machine, rest_seconds

I2V = Shape(40, 5120, 13824, 4096, 1280, "i2v", WAN21)
WINDOW = Step(I2V, "bf16", 14_040, 1, 8, "cross_attention")
FULL = ["stage=motion", "data=noir", "model=wan21_14b_480p", "stage.batch_size=1"]


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        (I2V, 16_394_878_784),
        (Shape(40, 5120, 13824, 4096, None, "t2v", WAN21), 14_288_491_584),
        (Shape(30, 1536, 8960, 4096, None, "t2v", WAN21), 1_418_996_800),
    ],
)
def test_parameters_are_counted_to_the_last(shape: Shape, parameters: int):
    assert shape.parameters == parameters


def test_the_embedded_shape_is_counted_as_it_is_built():
    from cinelora.adapters.lora_layers import add_adapter
    from cinelora.config.schema import LoraSpec
    from cinelora.families.wan.load_weights import num_parameters
    from tools.scale_model.build_pair import grow, new_transformer

    config = compose_train(["stage=style", "data=noir"])
    t2v = new_transformer(0)
    for kind, transformer in (("t2v", t2v), ("i2v", grow(t2v, 0))):
        shape = Shape.of(config.model, kind)
        assert shape.parameters == num_parameters(transformer)
        for targets in ("cross_attention", "attention", "all_linear"):
            new = new_transformer(0) if kind == "t2v" else grow(new_transformer(0), 0)
            add_adapter(new, "style", LoraSpec(4, 8.0, 0.0, targets), seed=0)
            trained = sum(p.numel() for p in new.parameters() if p.requires_grad)
            assert shape.adapter(4, targets) == trained


def test_random_values_in_the_embedded_shape_are_fed_by_encoders_of_full_width(tmp_path: Path):
    """As ``model=tiny model.weights=random`` builds it, so that what is drawn as its input fits."""
    model = replace(compose_train(["stage=style", "data=noir"]).model, weights="random")
    for kind in ("t2v", "i2v"):
        built = machinery_of(model).from_config(model, kind, tmp_path, torch.device("cpu")).load_transformer()
        assert Shape.of(model, kind).parameters == sum(value.numel() for value in built.parameters())


def step(tokens: int, samples: int = 1) -> Step:
    return Step(I2V, "bf16", tokens, samples, 8, "cross_attention")


@pytest.mark.parametrize(
    ("work", "dtype", "policy", "gib"),
    [
        (step(14_040), "bf16", Policy(compile=True), 127.318),
        (step(14_040), "fp8", Policy(compile=True), 112.696),
        (step(3600, 4), "bf16", Policy(compile=True), 133.209),
        (step(3600, 4), "fp8", Policy(compile=True), 118.567),
        (step(3600), "bf16", Policy(compile=True), 56.163),
        (step(3600, 4), "fp8", Policy(20, compile=True), 71.240),
        (step(14_040), "bf16", Policy(40, compile=True), 39.175),
        (step(14_040), "fp8", Policy(30, compile=True), 45.309),
        (step(32_760), "fp8", Policy(32, compile=True), 73.752),
        (step(14_040), "fp8", Policy(40, True, compile=True), 19.898),
        (step(14_040), "fp8", Policy(40, True, 14, compile=True), 15.386),
        (step(14_040), "fp8", Policy(40, True, 20, compile=True), 13.152),
        (step(14_040), "fp8", Policy(40, True, 40, compile=True), 5.611),
        (step(14_040), "bf16", Policy(40, True, 40, compile=True), 5.583),
        (step(14_040), "bf16", Policy(40), 40.802),
        (step(3600, 4), "bf16", Policy(40), 41.260),
        (step(3600), "bf16", Policy(40), 33.4),
        (step(1560), "bf16", Policy(40), 32.0),
        (step(3600), "bf16", Policy(), 60.9),
    ],
)
def test_peaks_measured_on_an_h200_come_out(work: Step, dtype: str, policy: Policy, gib: float):
    """Of the full I2V shape; the compiled ones are benchmarks/memory.py's, the others of plain diffusers and peft."""
    assert sum(replace(work, dtype=dtype).peak(policy).values()) / GIB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("work", "dtype", "recompute", "seconds"),
    [
        (step(14_040), "bf16", 0, 2.294),
        (step(14_040), "bf16", 40, 3.172),
        (step(14_040), "fp8", 0, 1.957),
        (step(14_040), "fp8", 40, 2.662),
        (step(3600, 4), "bf16", 0, 1.628),
        (step(3600, 4), "fp8", 0, 1.240),
        (step(3600), "bf16", 0, 0.404),
        (step(3600), "fp8", 0, 0.334),
    ],
)
def test_seconds_measured_on_an_h200_come_out(work: Step, dtype: str, recompute: int, seconds: float):
    found = replace(work, dtype=dtype).seconds(Policy(recompute, compile=True), GPUS[0])
    assert found == pytest.approx(seconds, rel=0.11)


def test_more_memory_never_gives_a_slower_policy_and_all_of_them_fit():
    seconds = []
    for room in range(8, 160, 4):
        policy = WINDOW.fastest(room * GIB, compile=True)
        assert policy is not None
        assert sum(WINDOW.peak(policy).values()) <= room * GIB
        seconds.append(WINDOW.seconds(policy, GPUS[0]))
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] < seconds[0]


def test_what_fits_nowhere_is_refused_with_what_would():
    config = compose_train([*FULL, "memory.limit_gib=4"])
    with pytest.raises(ConfigError, match=r"1 x 14040 tokens takes 5\.\d GiB at the least, and 2\.9 GiB"):
        choose_policy(config, 80.0)
    config = compose_train([*FULL[:-1], "stage.batch_size=16", "memory.limit_gib=16"])
    with pytest.raises(ConfigError, match=r"choose stage\.batch_size=\d+ with stage\.accumulation"):
        choose_policy(config, 80.0)


def test_a_limit_never_plans_with_more_than_there_is():
    roomy, own = (choose_policy(compose_train([*FULL, *more]), 80.0) for more in (["memory.limit_gib=141"], []))
    assert roomy == own


def test_full_size_without_a_gpu_is_refused_and_the_embedded_model_is_not():
    with pytest.raises(ConfigError, match=r"16\.4 billion parameters .* wants 5\.6 GiB .* about 3\.1 s .*plan=true"):
        choose_policy(compose_train(FULL), None)
    with pytest.raises(ConfigError, match="there is no GPU here"):
        choose_policy(compose_train([*FULL, "model.dtype=fp32"]), None)
    policy, _ = choose_policy(compose_train(["stage=style", "data=noir"]), None)
    assert policy == Policy()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["memory=plain"], Policy(compile=True)),
        (["memory=recompute"], Policy(40, compile=True)),
        (["memory=recompute", "memory.recompute=0.5"], Policy(20, compile=True)),
        (["memory=offload"], Policy(40, True, compile=True)),
        (["memory=swap", "memory.swap=0.25", "model.compile_blocks=false"], Policy(40, True, 10)),
    ],
)
def test_a_policy_that_is_named_is_taken(words: list[str], expected: Policy):
    assert choose_policy(compose_train([*FULL, *words]), 80.0)[0] == expected


def test_ranks_that_share_a_sequence_keep_and_compute_their_part_of_it():
    long = ["stage=motion", "data=noir", "model=wan21_14b_720p", "stage.batch_size=1", "stage.num_frames=81"]
    one, shared = (compose_train([*long, "gpus=2", *words]) for words in ([], ["strategy.sequence=2"]))
    assert plan_lines(shared, None, None)[1].endswith("1 x 75,600 tokens (37,800 on each of 2 ranks), 1,000 steps of 4")
    policy, seconds, kept = Policy(40, compile=True), [], []
    for config in (one, shared):
        seconds.append(step_of(config).seconds(policy, GPUS[0]))
        kept.append(step_of(config).peak(policy)["inputs of recomputed blocks"])
    assert seconds[1] == pytest.approx(seconds[0] / 2, rel=0.01), "all but the context's projections are shared"
    assert kept[1] == kept[0] / 2


DRAW = ["model=wan21_14b_720p", "prompt=x"]


@pytest.mark.parametrize(
    ("tokens", "dtype", "compile", "gib", "seconds"),
    [
        (75_600, "bf16", True, 35.276, 11.245),
        (75_600, "fp8", True, 21.004, 10.163),
        (75_600, "bf16", False, 41.018, None),
    ],
)
def test_predictions_measured_on_an_h200_come_out(
    tokens: int, dtype: str, compile: bool, gib: float, seconds: float | None
):
    peak = sum(Prediction(I2V, tokens, dtype).peak(Drawing(compile=compile)).values())
    assert peak / GIB == pytest.approx(gib, rel=0.02)
    if seconds:
        assert Prediction(I2V, tokens, dtype).seconds(GPUS[0]) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("frames", "height", "width", "gib"),
    [(81, 720, 1280, 24.45), (81, 480, 832, 10.61), (33, 480, 832, 10.71), (1, 720, 1280, 7.60)],
)
def test_the_vaes_memory_measured_on_an_h200_comes_out(frames: int, height: int, width: int, gib: float):
    assert vae_bytes(frames, height, width) / GIB == pytest.approx(gib, rel=0.01)


def test_a_familys_vae_has_its_own_bytes_seconds_and_size():
    """Wan2.2's of 48 channels takes more for a clip, less for a still; its model is shown the still alone, not a clip of grey."""
    assert vae_bytes(81, 704, 1280, WAN22_VAE) > vae_bytes(81, 704, 1280) == vae_bytes(81, 704, 1280, WAN21.vae)
    assert vae_bytes(1, 704, 1280, WAN22_VAE) < vae_bytes(1, 704, 1280)
    assert tiled_vae_bytes(704, 1280, WAN22_VAE) < vae_bytes(121, 704, 1280, WAN22_VAE) / 3
    shape = Shape(30, 3072, 14336, 4096, None, "i2v", WAN22_5B)
    assert shape.parameters == 4_999_787_712
    found = rest_seconds(ClipShape(shape, 24, 81, 720, 1280, guided=True), 1, Machine(GPUS[0]))
    assert found == pytest.approx(TEXT_S + WAN22_VAE.decode_s)
    expert = Shape(40, 5120, 13824, 4096, None, "i2v", WAN22_A14B)
    assert expert.parameters == 14_288_901_184
    found = rest_seconds(ClipShape(expert, 40, 81, 720, 1280, guided=True), 1, Machine(GPUS[0]))
    assert found == pytest.approx(TEXT_S + WAN21.vae.decode_s + WAN21.vae.encode_s)


def test_a_clip_is_drawn_in_one_batch_then_in_turn_then_with_weights_on_the_host():
    ways = [Prediction(I2V, 75_600, "fp8", True).fastest(gib * GIB, True) for gib in (48, 22, 14, 8, 6)]
    assert ways[:2] == [Drawing(True, 0, True), Drawing(False, 0, True)]
    assert ways[2] is not None
    assert ways[3] is not None
    assert 0 < ways[2].swap < ways[3].swap
    assert not ways[2].together
    assert ways[4] is None


def test_a_clip_that_fits_nowhere_is_refused_with_what_would():
    for words, sentence in (
        (
            ["memory.limit_gib=6"],
            r"81 frames of 720x1280 take 6\.4 GiB at the least, and 4\.8 GiB .* choose fewer frames",
        ),
        (
            ["memory.limit_gib=8", "memory.swap=0"],
            r"take 35\.0 GiB at the least, and 6\.8 GiB .* choose memory\.swap=null",
        ),
        (["memory.limit_gib=24", "memory.swap=0"], r"and 22\.4 GiB can be used here: choose model\.dtype=fp8"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            choose_drawing(compose_infer([*DRAW, *words]), "i2v", 81, 1, "NVIDIA H200", 139.8)
    drawing, why = choose_drawing(compose_infer([*DRAW, "model.dtype=fp8"]), "i2v", 81, 1, None, 23.6)
    assert drawing == Drawing(compile=True)
    assert why == "blocks compiled, both halves of guidance in turn: 20.8 of 22.0 GiB"


def test_blocks_are_compiled_where_that_pays():
    for words, clips, pays in (
        (["num_frames=1"], 1, False),
        (["num_frames=1"], 100, True),
        ([], 1, True),
        (["gpus=2"], 1, False),
    ):
        config = compose_infer([*DRAW, *words])
        frames = config.num_frames or 81
        assert choose_drawing(config, "i2v", frames, clips, "NVIDIA H200", 139.8)[0].compile is pays


def test_the_plan_of_a_clip_names_both_transformers_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    from cinelora.cli.main import main

    def never(*_: object) -> int:
        raise AssertionError("a plan runs nothing")

    monkeypatch.chdir(tmp_path)
    assert main("infer", [*DRAW, "model.weights=random", "plan=true", "out=run"], never) == 0
    told = capsys.readouterr().out
    assert "keyframe: t2v, 14,288.5 million parameters, 3,600 tokens a rank" in told
    assert "clip: i2v, 16,394.9 million parameters, 75,600 tokens a rank" in told
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_many_gpus_is_called_a_prediction_and_needs_neither_gpu_nor_weights(tmp_path, monkeypatch, capsys):
    from cinelora.cli.main import main

    monkeypatch.chdir(tmp_path)
    argv = ["prompt=x", "model=wan21_14b_720p", "model.weights=random", "gpus=8", "plan=cluster"]
    assert main("infer", argv, lambda *_: 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("8 ranks: 2 halves of guidance x ulysses 4 (10 of 40 heads each): ") for line in lines)
    assert any("18,900 tokens a rank" in line for line in lines)
    assert any("by rows on 8 ranks 3.3 GiB each" in line for line in lines)
    told = next(i for i, line in enumerate(lines) if line.startswith("predicted, not measured, on H200s with NVLink 4"))
    rows = [line.split() for line in lines[told + 2 :]]
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert float(rows[3][4]) > 6.97, "times one GPU's clip, against the official table's"
    assert [float(row[5]) for row in rows[:2]] == [0.0, 0.019], "GB a step and rank"
    assert list(tmp_path.iterdir()) == []


def config_for(*words: str) -> TrainConfig:
    return compose_train([*FULL, *words])


def test_a_plan_begins_with_a_verdict_and_names_cards():
    first, _, about, _, *rows = plan_lines(config_for(), "NVIDIA H100 80GB HBM3", 79.2)
    assert first.startswith("Fits NVIDIA H100 80GB HBM3, 79 GiB: bf16, memory=auto: ")
    assert re.search(r"; about \d+\.\d\d s a step, \d+\.\d h \(measured\); host RAM 0\.0 GiB .* up to 91 GB", first)
    assert "16,394.9 million parameters; adapter 19.66 million" in about
    assert [row[:17].strip() for row in rows] == list(SHOWN)
    assert plan_lines(config_for(), None, None)[0].startswith("No GPU here, and this model needs one")


def test_a_small_model_gets_no_table():
    lines = plan_lines(compose_train(["stage=style", "data=noir"]), None, None)
    assert lines[0].startswith("No GPU here, and none is needed; nothing to download")
    assert len(lines) == 3


def seconds_on(text: str, *words: str) -> dict[str, float]:
    """Of a named card, seconds a step by dtype."""
    named = card_of(text)
    rows = plan_lines(config_for(*words), named.name, named.gib)
    found = [row[17:].split() for row in rows if row.startswith(f"{named.name} ")]
    return {row[1]: float(row[3]) for row in found if "nothing" not in row}


def test_a_faster_card_is_planned_faster_and_ampere_computes_no_fp8():
    bf16 = [
        seconds_on(text)["bf16"]
        for text in ("rtx3060", "rtx3090", "rtx4090", "RTX 5090", "a100", "h100", "h200", "b200")
    ]
    assert bf16 == sorted(bf16, reverse=True)
    assert len(set(bf16)) == len(bf16)
    for gpu in GPUS:
        assert set(seconds_on(gpu.name)) == {"bf16", "fp8"} & set(gpu.dtypes), gpu.name
        assert (gpu.fp8 is not None) == (gpu.capability >= (8, 9)), gpu.name
    refused = plan_lines(config_for("model.dtype=fp8"), "RTX 3090", 24)[0]
    assert refused.startswith(
        "Does not fit RTX 3090, 24 GiB: model.dtype=fp8: a card of compute capability 8.6 computes no fp8"
    )
    lean = plan_lines(compose_train([*FULL[:-1], "stage.batch_size=16", "stage.num_frames=81"]), "RTX 3060", 12)[0]
    assert "Does not fit RTX 3060" in lean
    assert "fp8" not in lean


MIB_BY_DRIVER = {
    "H200": 143_771,
    "H100": 81_559,
    "B200": 183_359,
    "A100 80GB": 81_920,
    "A40": 46_068,
    "A10": 23_028,
    "L40S": 46_068,
    "L4": 23_034,
    "RTX A6000": 49_140,
    "RTX 6000 Ada": 49_140,
}


@pytest.mark.parametrize(("name", "mib"), MIB_BY_DRIVER.items())
def test_a_card_is_planned_with_the_memory_that_its_driver_reports(name: str, mib: int):
    assert card_of(name).gib == pytest.approx(mib / 1024, rel=0.006)


@pytest.mark.parametrize(
    ("name", "multiprocessors", "ghz", "per_cycle"),
    [
        ("A100 80GB", 108, 1.41, 2048),
        ("A40", 84, 1.74, 1024),
        ("A10", 72, 1.695, 1024),
        ("RTX A6000", 84, 1.8, 1024),
        ("RTX 6000 Ada", 142, 2.505, 1024),
        ("RTX 5090", 170, 2.407, 512),
        ("RTX 4090", 128, 2.52, 512),
        ("RTX 4080 SUPER", 80, 2.55, 512),
        ("RTX 4080", 76, 2.505, 512),
        ("RTX 4070 Ti SUPER", 66, 2.61, 512),
        ("RTX 3090", 82, 1.695, 512),
        ("RTX 3060", 28, 1.777, 512),
    ],
)
def test_published_rates_are_multiprocessors_times_clock_and_a_geforce_has_half(
    name: str, multiprocessors: int, ghz: float, per_cycle: int
):
    gpu = card_of(name)
    assert gpu.bf16 == pytest.approx(multiprocessors * ghz * 1e9 * per_cycle, rel=1e-3)
    assert gpu.fp8 is None or gpu.fp8 == pytest.approx(2 * gpu.bf16, rel=1e-3)


def test_a_card_that_is_not_known_has_memory_and_no_seconds():
    first = plan_lines(config_for(), "NVIDIA GeForce RTX 9999", 40.0)[0]
    assert first.startswith("Fits NVIDIA GeForce RTX 9999, 40 GiB: bf16, ")
    assert "no seconds, as this card is not in the table" in first
    assert " h (" not in first
    clip = drawing_lines(compose_infer(DRAW), "NVIDIA GeForce RTX 9999", 40.0)[0]
    assert "no seconds" in clip
    assert "min a clip" not in clip


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER"),
        ("NVIDIA GeForce RTX 4080", "RTX 4080"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4070 Ti", None),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA B200", "B200"),
        (None, None),
    ],
)
def test_a_drivers_name_means_one_card(driver: str | None, name: str | None):
    found = gpu_named(driver)
    assert (found.name if found else None) == name


def test_a_card_is_named_as_one_types_it_and_a_wrong_one_is_refused_with_all():
    named: list[Gpu] = [card_of(text) for text in ("rtx4090", "RTX 4090", "rtx-4090", "a100", "a100-40gb", "h200")]
    assert [gpu.name for gpu in named] == ["RTX 4090"] * 3 + ["A100 80GB", "A100 40GB", "H200"]
    assert all(gpu_named(gpu.name) == card_of(gpu.name) == gpu for gpu in GPUS)
    with pytest.raises(ConfigError, match=r"plan=rtx: wants true, cluster or a card: h200, .*rtx3060|plan=voodoo"):
        card_of("voodoo")


def test_an_h100_takes_what_was_measured_more_than_an_h200():
    clip = Prediction(I2V, 32_760, "bf16")
    h200, h100 = (clip.seconds(card_of(text)) for text in ("h200", "h100"))
    assert h100 / h200 == pytest.approx(1.015, abs=0.002)


@pytest.mark.parametrize(
    ("samples", "recompute", "compile", "mib"),
    [
        (64, 0, True, 2950),
        (32, 0, True, 1517),
        (64, 6, True, 718),
        (64, 0, False, 4983),
        (32, 0, False, 2530),
        (64, 6, False, 1162),
    ],
)
def test_peaks_of_training_every_weight_measured_on_an_h200_come_out(samples, recompute, compile, mib):
    config = compose_train(["stage=pretrain", "data=rendered", f"stage.batch_size={samples}"])
    step = replace(step_of(config), dtype="bf16")
    peak = sum(step.peak(Policy(recompute, compile=compile)).values())
    assert peak / 2**20 == pytest.approx(mib, rel=0.04)


def test_peaks_of_training_every_weight_measured_on_an_h100_come_out():
    config = compose_train(["stage=pretrain", "data=rendered", "model=wan21_1_3b", "model.weights=random"])
    shape, kept, recomputed = Shape.of(config.model, "t2v"), Policy(0), Policy(30)
    window, stills = (
        Step(shape, "bf16", tokens, samples, 8, "all_linear", whole=True)
        for tokens, samples in ((14_040, 1), (1_560, 2))
    )
    measured = (
        65_425 + 8 * shape.parameters / 2**20
    )  # the first step's, when AdamW has no moments yet; the next were stills
    assert sum(window.peak(kept).values()) / 2**20 == pytest.approx(measured, rel=0.02)
    assert sum(stills.peak(recomputed).values()) / 2**20 == pytest.approx(24_862, rel=0.02)


def test_a_plan_of_training_every_weight_names_what_it_takes():
    config = compose_train(["stage=pretrain", "data=rendered", "model=wan21_1_3b", "model.weights=random"])
    lines = plan_lines(config, "NVIDIA H200", 139.8)
    assert lines[2].endswith("million parameters; all trained")
    assert "weights, gradients and optimizer 23.8" in lines[0]
    cards = {row[:17].strip(): row for row in lines[4:]}
    assert "nothing fits" in cards["RTX 4070 Ti SUPER"]
    assert "nothing fits" in cards["RTX 4090"]
    assert "recomputed" in cards["H200"]
    assert "weights of" not in cards["H200"]


def test_steps_and_accumulation_make_hours():
    plans = (plan_lines(config_for(f"stage.steps={steps}"), None, None) for steps in (1000, 10_000))
    one, many = (next(row for row in plan if row.startswith("RTX 3090")).split() for plan in plans)
    assert float(many[6]) == pytest.approx(10 * float(one[6]), rel=0.05)
    assert many[5] == one[5]


def test_swapping_weights_that_are_not_recomputed_is_refused():
    from cinelora.cli.preflight import check_train

    with pytest.raises(
        ConfigError, match=r"memory\.swap=1 needs at least as many blocks recomputed, not memory\.recompute=0"
    ):
        check_train(config_for("memory=plain", "memory.swap=1"))
    with pytest.raises(ConfigError, match="memory.offload=true .* choose memory=offload"):
        check_train(config_for("memory.offload=true"))
    whole = ["stage=pretrain", "data=rendered"]
    with pytest.raises(ConfigError, match="stage=pretrain trains them all: choose memory=recompute"):
        check_train(compose_train([*whole, "memory=swap"]))
    with pytest.raises(ConfigError, match="stage=pretrain trains them all: choose model.dtype=fp32"):
        check_train(compose_train([*whole, "model.dtype=fp8"]))


def test_plan_true_says_it_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    from cinelora.cli.main import main

    def never(*_: object) -> int:
        raise AssertionError("a plan runs nothing")

    monkeypatch.chdir(tmp_path)
    assert main("train", [*FULL, "plan=true", "out=run"], never) == 0
    assert "plan of stage=motion on wan21_14b_480p, i2v: 1 x 14,040 tokens" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_shared_weights_leave_a_part_and_two_blocks_on_a_rank():
    asked = [*FULL, "gpus=8", "strategy=zero3"]
    alone, shared, parked = (
        step_of(compose_train(words)) for words in (FULL, asked, [*asked, "strategy.cpu_offload=true"])
    )
    policy = Policy(40)
    base, parts, none = (work.peak(policy)["weights"] for work in (alone, shared, parked))
    matrices = I2V.block_matrices * 2
    assert base - parts == pytest.approx(40 * matrices * 7 / 8 - 2 * matrices)
    assert parts - none == pytest.approx(40 * matrices / 8)
    told = "\n".join(plan_lines(compose_train(asked), None, None))
    assert "strategy=zero3 over 8 ranks: each has 0.03 GiB of 0.22 of what AdamW keeps and 3.76 GiB of 30.08" in told
    assert all(shared.fastest(room * GIB, compile=True).recompute == 40 for room in (20, 80))


def test_shards_of_what_adamw_keeps_are_counted():
    words = ["stage=pretrain", "data=noir", "model=wan21_1_3b", "stage.batch_size=1", "gpus=4"]
    sizes = {}
    for strategy in ("ddp", "zero1", "zero2", "zero3"):
        step = step_of(compose_train([*words, f"strategy={strategy}"]))
        sizes[strategy] = step.peak(Policy(30))["weights, gradients and optimizer"] / step.shape.parameters
    assert sizes == pytest.approx({"ddp": 18.0, "zero1": 13.0, "zero2": 10.0, "zero3": 5.0})
