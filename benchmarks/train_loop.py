"""What a step costs through ``train.py``, against the same step in a bare PyTorch loop.

    python benchmarks/train_loop.py [turns]
    python benchmarks/train_loop.py full [style] [window] [bf16] [turns=6] [small=true] [<setting of train.py> ...]

Without ``full``, on the embedded model: floor 0.95 of the peer's speed. The peer is what one would write without a
framework: diffusers' transformer, peft's LoRA, AdamW, the batches of encoded samples already in memory.

With ``full``, on the 14 B shapes and random weights, in fp8 unless ``bf16`` is said: at most 3 % more seconds a step. The
peer is the step of ``train_step.py`` on the very transformer that ``train.py`` trains, adapter and memory policy with it, as
two of them would not fit: what is compared is all that ``train.py`` does around that step (Lightning, loader, draws of
noise, loss checked, average, logger, callbacks). ``small=true`` takes small shapes, to try it without a GPU.

Both are in one process and take turns of a few steps, so that a machine whose speed drifts drifts for both; the ratio is
taken turn by turn.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import ROOT, report
from diffusers import WanTransformer3DModel
from lightning import Trainer
from peft import LoraConfig
from train_step import Built, peak_gib, start_afresh, stepper, wait

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.main import main as command
from cinelora.config.schema import TrainConfig
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.hardware import default_device
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.training.callbacks.at_step import AtStep
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.gpu_policy import policy_at_hand
from cinelora.training.module import Stage

Step = Callable[[], None]
MakeStep = Callable[[Stage, RunDirectory], Step]

SETTINGS = {"style": ["stage=style"], "motion": ["stage=motion", "dropout.image=0", "stage.accumulation=1"]}
TURN = 10
WARM_UP_TURNS = 2

FULL = {
    "style": ["stage=style", "stage.batch_size=4", "model=wan21_14b_720p", "data.clips=8", "data.heldout_clips=4"],
    "window": [
        *("stage=motion", "stage.batch_size=1", "stage.accumulation=1", "model=wan21_14b_480p"),
        "dropout.image=0",  # a step without image has another shape
        *("data.clips=4", "data.heldout_clips=4"),
    ],
}
FULL_SETTINGS = [
    *("data=rendered", "data.look=noir", "model.weights=random", "memory=auto", "ema_decay=0.999", "logger=csv"),
    # what is done once in hundreds of steps is no part of one
    *("validation.every_steps=0", "checkpoint.every_steps=0"),
]
FULL_TURN = 3
FULL_TURNS = 6
AT_MOST = 1.03
"""Seconds of a step through ``train.py``, over those of the bare step."""
ENCODERS = ROOT / "data" / "scale_model"
SMALL_SETTINGS = [
    *("model.num_layers=4", "model.num_heads=4", "model.hidden_size=128", "model.ffn_dim=256"),
    *("model.height=64", "model.width=96"),
    *(f"model.{part}={ENCODERS / 't2v'}" for part in ("vae", "text_encoder", "tokenizer")),
    f"model.image_encoder={ENCODERS / 'i2v'}",
]
SMALL_OF = {"style": [], "window": ["stage.num_frames=9"]}


# -- in turns ----------------------------------------------------------------------------------------------------------


class Turns(AtStep):
    """After every ``length`` steps of a run, as many of a bare loop; the seconds of each turn."""

    def __init__(self, make: Callable[[Stage], Step], length: int) -> None:
        super().__init__()
        self.make, self.length = make, length
        self.ours, self.bare = list[float](), list[float]()

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Begin the first turn."""
        super().on_train_start(trainer, stage)
        self.step = self.make(stage)
        self.since = self.now(stage)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Where a turn is over, let the bare loop have its own; the run finds all as it was."""
        if step % self.length:
            return
        ended = self.now(stage)
        for _ in range(self.length):
            self.step()
        self.ours.append(ended - self.since)
        self.bare.append(self.now(stage) - ended)
        # the bare step may have used the same parameters; Lightning itself lets go of gradients after a forward pass only
        trainer.optimizers[0].zero_grad()
        self.since = self.now(stage)

    def on_train_end(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Let go of the bare loop's transformer."""
        del self.step

    @staticmethod
    def now(stage: Stage) -> float:
        """The time, once the device has done all it was given."""
        wait(stage.device)
        return time.perf_counter()


@contextmanager
def joined(turns: Turns) -> Iterator[None]:
    """Inside the block, ``turns`` is the last callback of every run."""
    chosen = RunCallbacks.all
    RunCallbacks.all = lambda crew: [*chosen(crew), turns]  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunCallbacks.all = chosen  # type: ignore[method-assign]


def take_turns(settings: list[str], make: MakeStep, length: int) -> tuple[TrainConfig, Turns]:
    """Train as ``train.py`` does in its rank, in turn with a bare loop."""
    found: list[tuple[TrainConfig, Turns]] = []

    def work(config: TrainConfig, run_dir: Path) -> int:
        run = RunDirectory(run_dir)
        encode_rank(config, run)
        turns = Turns(lambda stage: make(stage, run), length)
        with joined(turns):
            train_rank(config, run)
        found.append((config, turns))
        return 0

    if code := command("train", settings, work):
        sys.exit(code)
    return found[0]


# -- on the embedded model ---------------------------------------------------------------------------------------------


def bare_step(ours: Stage, run: RunDirectory, shared: Callable[[Any], Any] = lambda transformer: transformer) -> Step:
    """One step of the plain loop, on a transformer of its own, which ``shared`` may wrap for several ranks."""
    config = ours.config
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
    generator = torch.Generator().manual_seed(ours.global_rank)
    model = shared(transformer)

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
        predicted = model(inputs, sigma * 1000, text, tokens, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise - latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()

    return step


def embedded(settings: list[str], turns: int) -> dict[str, Any]:
    """Speed of both, and the ratio of each turn."""
    steps = TURN * (turns + WARM_UP_TURNS)
    settings = [*settings, "data=noir", "logger=csv", f"stage.steps={steps}", "validation.every_steps=0"]
    _, taken = take_turns(settings, bare_step, TURN)
    ours, bare = taken.ours[WARM_UP_TURNS:], taken.bare[WARM_UP_TURNS:]
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


def measure_embedded(turns: int) -> None:
    """Both stages, and whether the floor is met."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in SETTINGS.items():
            r = results[name] = embedded([*settings, f"out={scratch}/{name}", f"cache={scratch}/cache"], turns)
            low, high = r["ratio_middle_half"]
            print(
                f"{name}: train.py {r['train_py_steps_per_s']:.2f}, bare loop {r['bare_steps_per_s']:.2f} steps/s; ratio "
                f"{r['ratio_median']:.3f} (middle half {low:.3f} to {high:.3f}, of totals {r['ratio_of_totals']:.3f})"
            )
    results["floor_met"] = all(results[name]["ratio_median"] >= 0.95 for name in SETTINGS)
    report("train_loop", results)


# -- at full size ------------------------------------------------------------------------------------------------------


def same_step(ours: Stage, run: RunDirectory) -> Step:
    """One bare step on the transformer and the adapter of the run itself, which it does not move."""
    return stepper(Built(ours.transformer, ours.trained.parameters, "the run's own"), ours.config, ours.device)


def costs(settings: list[str], turns: int) -> dict[str, Any]:
    """Seconds per step of both, turn by turn, and how many times the bare step's ours are."""
    device = default_device()
    start_afresh(device)
    steps = FULL_TURN * (turns + WARM_UP_TURNS) + 1  # the last, which saves, belongs to no turn
    config, taken = take_turns([*settings, f"stage.steps={steps}"], same_step, FULL_TURN)
    ours, bare = ([s / FULL_TURN for s in seconds[WARM_UP_TURNS:]] for seconds in (taken.ours, taken.bare))
    times = [o / b for o, b in zip(ours, bare, strict=True)]
    return {
        "dtype": config.model.dtype,
        "policy": policy_at_hand(config)[1],
        "steps_per_turn": FULL_TURN,
        "train_py_s": ours,
        "train_py_median_s": statistics.median(ours),
        "bare_s": bare,
        "bare_median_s": statistics.median(bare),
        "times_bare": times,
        "times_bare_median": statistics.median(times),
        "times_bare_range": [min(times), max(times)],
        "met": statistics.median(times) <= AT_MOST,
        "peak_gib": peak_gib(device),
    }


def measure_full(words: list[str]) -> None:
    """The jobs that ``words`` name, by default both."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    turns, small = int(options.pop("turns", FULL_TURNS)), options.pop("small", "") == "true"
    shared = [*FULL_SETTINGS, f"model.dtype={'bf16' if 'bf16' in words else 'fp8'}"]
    given = [f"{key}={value}" for key, value in options.items()]
    found: dict[str, Any] = {"at_most": AT_MOST, "settings": given, "jobs": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in [name for name in FULL if name in words] or list(FULL):
            settings = [*FULL[name], *shared, *(SMALL_SETTINGS + SMALL_OF[name] if small else []), *given]
            settings += [f"out={scratch}/{name}", f"cache={scratch}/cache"]
            last_words = {setting.split("=", 1)[0]: setting for setting in settings}  # train.py takes each but once
            r = found["jobs"][name] = costs(list(last_words.values()), turns)
            low, high = r["times_bare_range"]
            print(
                f"{name}, {r['dtype']}: train.py {r['train_py_median_s']:.4f}, bare step {r['bare_median_s']:.4f} s; "
                f"{r['times_bare_median']:.4f} times the bare step ({low:.4f} to {high:.4f} in {turns} turns of {FULL_TURN}), "
                f"{r['peak_gib']:.1f} GiB; {r['policy']}",
                flush=True,
            )
            if not small:
                report("train_loop_full", found)


def main(words: list[str]) -> None:
    """Measure and report."""
    if words[:1] == ["full"]:
        measure_full(words[1:])
    else:
        measure_embedded(int(words[0]) if words else 60)


if __name__ == "__main__":
    main(sys.argv[1:])
