"""AnimateDiff at full shapes: training steps and a clip, the plain diffusers + peft loop and ours, on random weights.

    python benchmarks/unets.py [style] [motion] [clip] [vae] [limits] [steps=10] [rounds=3] [small=true]

Without words all take part. ``style`` is a step of the image network on 8 stills of 512x512, ``motion`` one of the motion network
on a window of 16 frames of 512x512, ``clip`` the guided predictions of such a clip. The plain loop keeps all activations, as ours
does where they fit. ``limits`` trains in 12 and in 8 GiB, which the allocator enforces. Peaks stand beside what the plan says.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import report
from peft import LoraConfig
from train_step import peak_gib, start_afresh, timed

from cinelora.adapters.lora_layers import add_adapter, merge
from cinelora.config.schema import LoraSpec, MemoryConfig, ModelConfig, StageConfig, TrainConfig
from cinelora.config.shipped import values
from cinelora.families import family_of
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.families.noise_law import law_of
from cinelora.io.hardware import default_device
from cinelora.nn.flow_matching import keyed_generator
from cinelora.planning.estimate import GIB, Drawing, Policy, Prediction, Shape
from cinelora.planning.planner import choose_policy, step_of
from cinelora.sampling.denoise import Guided

GUIDANCE = 7.5


@dataclass(frozen=True)
class Job:
    """What is trained or drawn: a network, samples and frames of 512x512."""

    network: str
    frames: int
    samples: int

    def config(self, model: ModelConfig, memory: MemoryConfig) -> TrainConfig:
        """As settings of a run."""
        stage = StageConfig(
            name="style" if self.network == "image" else "motion",
            transformer=self.network,
            num_frames=self.frames,
            batch_size=self.samples,
        )
        targets = "cross_attention"
        return TrainConfig(model=model, stage=stage, lora=LoraSpec(targets=targets), memory=memory)


JOBS = {"style": Job("image", 1, 8), "motion": Job("motion", 16, 1)}


def random_model(small: bool) -> ModelConfig:
    """The model with random weights; the embedded one where the script is tried."""
    if small:
        return ModelConfig(**values("model/tiny_animatediff_random"))
    return replace(ModelConfig(**values("model/animatediff_sd15")), weights="random")


def network_of(config: TrainConfig, device: torch.device) -> Any:
    """The network that a run trains."""
    return machinery_of(config.model).from_config(config.model, config.stage.transformer, Path("/tmp/unets"), device)


def plain(config: TrainConfig, device: torch.device) -> Any:
    """What one would write with diffusers and peft: frozen bf16, an adapter by peft in float32."""
    unet = network_of(config, device).load_transformer()
    where = "attentions.*attn2" if config.stage.transformer == "image" else r"motion_modules.*attn[12]"
    unet.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=rf".*{where}\.(to_q|to_k|to_v|to_out\.0)"))
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return unet.train()


def ours(config: TrainConfig, device: torch.device, policy: Policy) -> Any:
    """As ``train.py`` builds it."""
    bundle = network_of(config, device)
    unet = bundle.load_transformer()
    add_adapter(unet, config.stage.name, config.lora, 0, config.stage.transformer)
    bundle.arrange(unet, policy)
    return unet.train()


def as_drawn(config: TrainConfig, device: torch.device) -> Any:
    """As ``infer.py`` has it: the adapter folded into the weights."""
    bundle, name = network_of(config, device), config.stage.name
    unet = bundle.load_transformer()
    add_adapter(unet, name, config.lora, 0, config.stage.transformer)
    same_factors(factors(unet, name))
    unet.requires_grad_(False)
    bundle.arrange(unet, Policy())
    merge(unet, {name: 1.0}, keep=False)
    return unet


def factors(unet: Any, name: str) -> list[torch.nn.Parameter]:
    """What is trained, in an order that both contenders share."""
    named = {key.replace(f".{name}", ""): p for key, p in unet.named_parameters() if p.requires_grad}
    return [named[key] for key in sorted(named)]


def same_factors(parameters: list[torch.nn.Parameter]) -> None:
    """Give both contenders one adapter, of which no factor is zero."""
    for number, parameter in enumerate(parameters):
        drawn = torch.randn(parameter.shape, generator=keyed_generator(0, "factor", number))
        parameter.data.copy_(drawn * 0.02)


def drawing_of(config: TrainConfig, device: torch.device, number: int) -> Callable[..., torch.Tensor]:
    """Values of a batch, the same for both contenders."""
    generator = torch.Generator(device).manual_seed(number)
    samples = config.stage.batch_size
    return lambda *size: torch.randn(samples, *size, device=device, generator=generator)


def stepper(
    unet: Any, config: TrainConfig, device: torch.device, parameters: list[Any], updates: bool = True
) -> Callable[[], None]:
    """One optimizer step on a fixed batch, at rate 0, which moves nothing; or its gradients alone, added to what is there."""
    family, model, draw = family_of(config.model), config.model, drawing_of(config, device, 0)
    size = family.geometry.latent_size(config.stage.num_frames, model.height, model.width)
    latents, noise = draw(*size), draw(*size)
    condition = machinery_of(model).condition(draw(family.text_tokens, unet.config.cross_attention_dim))
    law = law_of(family.network(config.stage.transformer))
    level = torch.linspace(0.3, 0.7, config.stage.batch_size, device=device)
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def step() -> None:
        if updates:
            optimizer.zero_grad()
        predicted = condition.predict(unet, law.add_noise(latents, noise, level), law.timestep(level))
        law.loss(predicted, law.target(latents, noise)).mean().backward()
        if updates:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    return step


def predicting(unet: Any, config: TrainConfig, device: torch.device, together: bool) -> tuple[Any, dict[str, Any]]:
    """A guided prediction of a clip, and where it is kept."""
    family, model, draw, kept = family_of(config.model), config.model, drawing_of(config, device, 1), dict[str, Any]()
    size = family.geometry.latent_size(config.stage.num_frames, model.height, model.width)
    latents, kind = draw(*size), machinery_of(model).condition
    halves = [kind(draw(family.text_tokens, unet.config.cross_attention_dim)) for _ in range(2)]
    denoise, time = Guided(unet.eval(), *halves, GUIDANCE, together), torch.full((1,), 500, device=device)

    @torch.no_grad()
    def predict() -> None:
        denoise(latents, time)

    # guidance of random weights, which answer nearly the same to every prompt, would show their rounding alone
    with torch.no_grad():
        kept["noise"] = halves[0].predict(unet, latents, time)

    return predict, kept


def compared(name: str, steps: int, rounds: int, small: bool, device: torch.device) -> dict[str, Any]:
    """Both contenders in turns, on one job."""
    job = JOBS["motion" if name == "clip" else name]
    config = job.config(random_model(small), MemoryConfig())
    names = ("plain", "ours") if name == "clip" else ("plain", "ours", "compiled", "recomputed")
    rows: dict[str, Any] = {who: {"seconds": []} for who in names if who != "compiled" or name == "motion"}
    for _ in range(rounds):
        for contender, row in rows.items():
            start_afresh(device)
            torch.manual_seed(0)
            policy = Policy(int(contender == "recomputed"), compile=contender == "compiled" and not small)
            if contender == "plain":
                unet = plain(config, device)
            else:
                unet = as_drawn(config, device) if name == "clip" else ours(config, device, policy)
            parameters = factors(unet, "default" if contender == "plain" else config.stage.name)
            same_factors(parameters)
            if name == "clip":
                run, kept = predicting(unet, config, device, together=True)
            else:
                run = stepper(unet, config, device, parameters)
            seconds, first = timed(run, steps, device)
            row["seconds"] += seconds
            result = kept["noise"].flatten() if name == "clip" else torch.cat([p.grad.flatten() for p in parameters])
            row |= {"first_s": first, "peak_gib": peak_gib(device), "result": result.double().cpu()}
            if name != "clip":
                row["adds_up"] = adds_up(unet, config, device, parameters)
            print(f"{name}, {contender}: {statistics.median(seconds):.4f} s, {row['peak_gib']:.2f} GiB", flush=True)
            del unet, parameters, run
    return {who: told(row, rows["plain"]) for who, row in rows.items()} | {"planned_gib": planned(name, config)}


def adds_up(unet: Any, config: TrainConfig, device: torch.device, parameters: list[Any]) -> float:
    """How far gradients of two like micro-batches are from twice those of one: what is replayed has to copy them."""
    step, found = stepper(unet, config, device, parameters, updates=False), []
    for parameter in parameters:
        parameter.grad = None
    for _ in range(2):
        step()
        found.append(torch.cat([parameter.grad.flatten().clone() for parameter in parameters]))
    return float((found[1] - 2 * found[0]).norm() / found[0].norm())


def told(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Median, spread, ratio to the plain loop, and how far the result is from its."""
    seconds, theirs = row["seconds"], reference["result"]
    found = {"median_s": statistics.median(seconds), "range_s": [min(seconds), max(seconds)]}
    found |= {key: row[key] for key in ("first_s", "peak_gib", "adds_up") if key in row}
    found["times_faster"] = statistics.median(reference["seconds"]) / found["median_s"]
    found["off_by"] = float((row["result"] - theirs).norm() / theirs.norm())
    return found


def planned(name: str, config: TrainConfig) -> float:
    """What the plan says of our peak."""
    step = step_of(config)
    if name != "clip":
        return sum(step.peak(Policy()).values()) / GIB
    one = Prediction(Shape.of(config.model, "motion"), step.tokens, config.model.dtype, guided=True)
    return sum(one.peak(Drawing(together=True, compile=True)).values()) / GIB


def decoded(small: bool, device: torch.device) -> dict[str, Any]:
    """The VAE on frames of 512x512, encoded and decoded."""
    model, found = random_model(small), dict[str, Any]()
    bundle = machinery_of(model).from_config(model, "motion", Path("/tmp/unets"), device)
    for frames in (1, 16):
        start_afresh(device)
        with bundle.loaded(Part.VAE):
            pixels = torch.rand(1, 3, frames, model.height, model.width, device=device) * 2 - 1
            kept: dict[str, torch.Tensor] = {}
            encoding, _ = timed(lambda p=pixels, k=kept: k.update(z=bundle.encode_video(p)), 3, device)
            decoding, _ = timed(lambda k=kept: k.update(p=bundle.decode(k["z"])), 3, device)
            row = {"encode_s": statistics.median(encoding), "decode_s": statistics.median(decoding)}
            found[f"{frames}"] = row | {"peak_gib": peak_gib(device)}
    return found


def within_limits(small: bool, device: torch.device) -> dict[str, Any]:
    """Both stages in 12 and in 8 GiB, by the policy that the plan chooses there."""
    found: dict[str, Any] = {}
    for gib in (12.0, 8.0):
        for name, job in JOBS.items():
            config = job.config(random_model(small), MemoryConfig(limit_gib=gib))
            start_afresh(device)
            try:
                policy, how = choose_policy(config, gib)
                if device.type == "cuda":
                    whole = torch.cuda.get_device_properties(device).total_memory
                    torch.cuda.set_per_process_memory_fraction(gib * GIB / whole)
                unet = ours(config, device, replace(policy, compile=False))
                parameters = factors(unet, config.stage.name)
                seconds, _ = timed(stepper(unet, config, device, parameters), 3, device)
                row = {"peak_gib": peak_gib(device), "s": statistics.median(seconds), "how": how}
                del unet, parameters
            except Exception as error:  # what does not fit is a result, too
                row = {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            found[f"{name}_{gib:.0f}"] = row
            print(f"{name}_{gib:.0f}", row, flush=True)
    return found


def main(words: list[str]) -> None:
    """Measure and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    small, device = options.get("small") == "true", default_device()
    steps, rounds = int(options.get("steps", 10)), int(options.get("rounds", 3))
    every = [*JOBS, "clip", "vae", "limits"]
    jobs = [name for name in every if name in words] or every
    found: dict[str, Any] = {}
    for name in jobs:
        apart = {"limits": within_limits, "vae": decoded}.get(name)
        found[name] = apart(small, device) if apart else compared(name, steps, rounds, small, device)
        print(name, found[name], flush=True)
    if not small:
        report("unets", found)


if __name__ == "__main__":
    main(sys.argv[1:])
