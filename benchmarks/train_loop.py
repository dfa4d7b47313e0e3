"""Speed of training as ``train.py`` does it against a bare PyTorch loop that does the same step: floor 0.95.

The peer is what one would write without a framework: diffusers' transformer, peft's LoRA, AdamW, the batches of encoded
samples already in memory. Both are in one process and take turns of ten steps, so that a machine whose speed drifts
drifts for both; the ratio is taken turn by turn.

    python benchmarks/train_loop.py [turns]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import report
from diffusers import WanTransformer3DModel
from lightning import Trainer
from peft import LoraConfig

from cinelora.config.command import main as command
from cinelora.config.schema import TrainConfig
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.models.wan import Part, WanBundle
from cinelora.runs import RunDirectory
from cinelora.training import run as training
from cinelora.training.callbacks import AtStep
from cinelora.training.stage import Stage

SETTINGS = {"style": ["stage=style"], "motion": ["stage=motion", "dropout.image=0", "stage.accumulation=1"]}
TURN = 10
WARM_UP_TURNS = 2


def bare_step(config: TrainConfig, run: RunDirectory) -> Callable[[], None]:
    """One step of the plain loop."""
    stage, cache = config.stage, Path(config.cache)
    bundle = WanBundle.from_config(config.model, stage.transformer, cache)
    transformer = WanTransformer3DModel.from_pretrained(bundle.directory(Part.TRANSFORMER)).requires_grad_(False)
    projections = "to_q|to_k|to_v|to_out.0" + ("|add_k_proj|add_v_proj" if stage.image_condition else "")
    transformer.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=rf".*attn2\.({projections})"))
    transformer.train()
    parameters = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    data = LatentDataset(cache, Index.load(run.dataset), "train")
    items = [data[i] for i in range(len(data))]
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        picked = [items[i] for i in torch.randint(len(items), (stage.batch_size,), generator=generator)]
        latents, text = (torch.stack([item[key] for item in picked]) for key in ("latents", "text"))
        sigma = torch.sigmoid(torch.randn(stage.batch_size, generator=generator))
        noise = torch.randn(latents.shape, generator=generator)
        at = sigma.view(-1, 1, 1, 1, 1)
        inputs, tokens = (1 - at) * latents + at * noise, None
        if stage.image_condition:
            image, tokens = (torch.stack([item[key] for item in picked]) for key in ("image_latents", "image_tokens"))
            mask = torch.zeros_like(latents[:, :4])
            mask[:, :, 0] = 1
            inputs = torch.cat([inputs, mask, image], dim=1)
        predicted = transformer(inputs, sigma * 1000, text, tokens, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise - latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()

    return step


class Turns(AtStep):
    """After every ten steps of the run, ten of the bare loop; the seconds of each turn."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__()
        self.step, self.ours, self.bare = step, list[float](), list[float]()

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:
        super().on_train_start(trainer, stage)
        self.since = time.perf_counter()

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        if step % TURN:
            return
        ended = time.perf_counter()
        for _ in range(TURN):
            self.step()
        self.ours.append(ended - self.since)
        self.since = time.perf_counter()
        self.bare.append(self.since - ended)


def take_turns(config: TrainConfig, run_dir: Path) -> dict[str, Any]:
    """Train as ``train.py`` does in its rank, in turn with the bare loop."""
    run, chosen = RunDirectory(run_dir), training.Crew.all
    training.encode_rank(config, run)
    turns = Turns(bare_step(config, run))
    training.Crew.all = lambda crew: [*chosen(crew), turns]  # type: ignore[method-assign]
    training.train_rank(config, run)
    training.Crew.all = chosen  # type: ignore[method-assign]
    ours, bare = turns.ours[WARM_UP_TURNS:], turns.bare[WARM_UP_TURNS:]
    ratios = sorted(b / o for o, b in zip(ours, bare, strict=True))
    quarter = len(ratios) // 4
    return {
        "turns": len(ratios),
        "train_py_steps_per_s": TURN / statistics.median(ours),
        "bare_steps_per_s": TURN / statistics.median(bare),
        "ratio_median": statistics.median(ratios),
        "ratio_middle_half": [ratios[quarter], ratios[-1 - quarter]],
        "ratio_of_totals": sum(bare) / sum(ours),
    }


def main(turns: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        results: dict[str, Any] = {}
        for name, settings in SETTINGS.items():
            steps = TURN * (turns + WARM_UP_TURNS)
            words = [*settings, "data=noir", f"out={scratch}/{name}", f"cache={scratch}/cache", "logger=csv"]
            words += [f"stage.steps={steps}", "validation.every_steps=0"]

            def work(config: Any, run_dir: Path, name: str = name) -> int:
                results[name] = take_turns(config, run_dir)
                return 0

            if code := command("train", words, work):
                sys.exit(code)
            r = results[name]
            low, high = r["ratio_middle_half"]
            print(
                f"{name}: train.py {r['train_py_steps_per_s']:.2f}, bare loop {r['bare_steps_per_s']:.2f} steps/s; ratio "
                f"{r['ratio_median']:.3f} (middle half {low:.3f} to {high:.3f}, of totals {r['ratio_of_totals']:.3f})"
            )
        results["floor_met"] = all(results[name]["ratio_median"] >= 0.95 for name in SETTINGS)
        report("train_loop", results)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
