"""The whole of it on the embedded model: what is drawn, what is not drawn again, and that noise is shared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import DataConfig, EvaluateConfig, MetricsConfig, ModelConfig, SamplerConfig
from cinelora.config.store import save_config
from cinelora.errors import FootageError
from cinelora.evaluation.clip_list import load_plan
from cinelora.evaluation.generate import Seen, chosen_and_others, heldout, plan
from cinelora.evaluation.measure import Book, frames
from cinelora.evaluation.run_evaluation import evaluate
from cinelora.footage.manifest import Manifest, Sample, write_manifest
from cinelora.footage.sample_source import find, wanted_by


@pytest.fixture
def config(
    both_adapters: RunDirectory, footage: Path, small_model: ModelConfig, cache: Path, tmp_path: Path
) -> EvaluateConfig:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a man, smoking (alone), waits\n\n")
    return EvaluateConfig(
        model=small_model,
        data=DataConfig(name="bars", root=str(footage), prepared=f"{footage}-prepared", judged=False, holdout=0.4),
        sampler=SamplerConfig(steps=1, guidance=3.0),
        metrics=MetricsConfig(names=["motion"]),
        against=["psnr"],
        ckpt=str(both_adapters.path),
        prompts=str(prompts),
        num_frames=5,
        clips=1,
        cache=str(cache),
    )


@pytest.mark.usefixtures("pooled")
def test_every_variant_is_drawn_from_the_same_noise_and_only_once(
    config: EvaluateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(config, out) == 0
    assert "2 clips of base, style, style+motion: 0 exist, 2 to generate" in capfd.readouterr().out
    drawn = sorted(path.relative_to(out).as_posix() for path in out.glob("clips/*/*.mp4"))
    variants = ("base", "style+motion", "style")
    assert drawn == [f"clips/{take}-seed-0/{name}.mp4" for take in ("0000", "0001") for name in variants]
    assert not list(out.rglob("*.latents"))
    base, style, both = (
        frames(out / f"clips/0000-seed-0/{name}.mp4", name, Book()) for name in ("base", "style", "style+motion")
    )
    assert base is not None
    assert style is not None
    assert both is not None
    assert base.shape == (5, 32, 48, 3)
    apart = [np.abs(one.astype(int) - other).mean() for one, other in ((base, style), (style, both))]
    assert min(apart) > 1
    # the keyframe is the style adapter's in both stages, so the same noise gives the same picture
    keyframes = [(out / f"clips/0000-seed-0/{name}.png").read_bytes() for name in ("style", "style+motion")]
    assert keyframes[0] == keyframes[1]
    summary = json.loads((out / "numbers.json").read_text())
    assert set(summary["seconds"]) == {"text", "keyframe", "condition", "denoise", "decode"}
    assert set(summary["sources"]) == {"style", "motion"}
    (out / "clips/0001-seed-0/style.mp4").unlink()
    kept = (out / "clips/0000-seed-0/base.mp4").stat().st_mtime_ns
    evaluate(config, out)
    assert "2 clips of base, style, style+motion: 1 exist, 1 to generate" in capfd.readouterr().out
    assert (out / "clips/0000-seed-0/base.mp4").stat().st_mtime_ns == kept
    evaluate(config, out)
    assert "2 exist, 0 to generate" in capfd.readouterr().out


def test_further_adapters_are_the_last_stage_and_distilled_ones_act_in_all(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    width, names = config.model.hidden_size, ("mine.safetensors", "lightx2v.safetensors")
    for name in names:
        key = "diffusion_model.blocks.0.self_attn.v"
        factors = {"A": torch.randn(4, width, generator=generator), "B": torch.randn(width, 4, generator=generator)}
        save_file({f"{key}.lora_{part}.weight": factor for part, factor in factors.items()}, tmp_path / name)
    alone = dataclasses.replace(config, data=DataConfig(), against=[], ckpt=None)
    mine, distilled = (f"{tmp_path / name}@0.3" for name in names)
    out = tmp_path / "out"
    assert evaluate(dataclasses.replace(alone, adapters=[mine, distilled]), out) == 0
    assert load_plan(out).names() == ["base", "adapters"]
    summary = json.loads((out / "clips/0000-seed-0/summary.json").read_text())
    (own,), (fast,) = ([name for name in summary["sources"] if name.startswith(word)] for word in ("mine", "lightx2v"))
    acting = {name: {kind: set(of) for kind, of in scales.items()} for name, scales in summary["variants"].items()}
    assert acting["base"] == {"t2v": {fast}, "i2v": {fast}}
    assert acting["adapters"] == {"t2v": {own, fast}, "i2v": {own, fast}}
    one, other = (frames(out / f"clips/0000-seed-0/{name}.mp4", name, Book()) for name in ("base", "adapters"))
    assert one is not None
    assert other is not None
    assert np.abs(one.astype(int) - other).mean() > 1
    # nothing but a distilled adapter: there is no stage to compare
    assert plan(dataclasses.replace(alone, adapters=[distilled]), tmp_path).names() == ["base"]
    assert plan(dataclasses.replace(alone, ckpt=config.ckpt, adapters=[mine]), tmp_path).names() == [
        "base", "style", "style+motion", "style+motion+adapters",
    ]  # fmt: skip


def test_what_the_adapter_was_trained_on_is_not_held_out(config: EvaluateConfig, tmp_path: Path, style_config) -> None:  # type: ignore[no-untyped-def]
    run = RunDirectory(tmp_path / "trained")
    run.path.mkdir()
    save_config(dataclasses.replace(style_config, data=config.data), run.config)
    manifest = find(config.data, wanted_by(config.model, 5, 0))
    samples, _ = heldout(dataclasses.replace(config, ckpt=None))
    assert len({sample.path for sample in samples}) == 2
    seen = [dataclasses.replace(s, split="train") if s.path == samples[0].path else s for s in manifest.samples]
    write_manifest(run.manifest, dataclasses.replace(manifest, samples=tuple(seen)))
    kept, sentences = heldout(dataclasses.replace(config, ckpt=str(run.path)))
    assert {sample.path for sample in kept} == {samples[-1].path}
    assert "held-out windows are left out: the adapters were trained on those clips" in sentences[-1]
    everything = tuple(dataclasses.replace(s, split="train") for s in manifest.samples)
    write_manifest(run.manifest, dataclasses.replace(manifest, samples=everything))
    with pytest.raises(FootageError, match="holds out no clip that the adapters were not trained on"):
        heldout(dataclasses.replace(config, ckpt=str(run.path)))


def test_the_prompts_are_spread_over_the_clips() -> None:
    windows = [
        Sample(f"{clip}@{start}", f"{clip}.mp4", str(clip), (start,), "", "heldout", "window")
        for clip in range(9)
        for start in (0, 9)
    ]
    chosen, others = chosen_and_others(windows, 3)
    assert [sample.id for sample in chosen] == ["0@0", "4@0", "8@0"]
    assert len(others) == 15
    assert len(chosen_and_others(windows, 99)[0]) == 9


def test_what_a_run_saw_is_told_by_shot_where_it_held_out_shots_of_the_clip(tmp_path: Path):
    def sample(content: str, first: int, split: str) -> Sample:
        return Sample(f"{content}@{first}", content, content, (first, first + 8), "", split, "window")  # type: ignore[arg-type]

    trained = [sample("whole", 0, "train"), sample("cut", 0, "train"), sample("cut", 100, "heldout")]
    write_manifest(tmp_path / "manifest.jsonl", Manifest(tuple(trained), ()))
    seen = Seen.by(tmp_path / "manifest.jsonl")
    asked = [sample("whole", 100, "heldout"), sample("cut", 100, "heldout"), sample("cut", 8, "heldout")]
    assert [one in seen for one in [*asked, sample("new", 0, "heldout")]] == [True, False, True, False]
    assert sample("whole", 0, "heldout") not in Seen.by(tmp_path / "none.jsonl")
