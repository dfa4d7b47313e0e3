"""An adapter with which the embedded model draws in few steps and without guidance what it else draws in many with it.

Enters: a transformer of the embedded pair, captions and first frames of rendered scenes. Leaves: an adapter, and how near its
clips come to those of the transformer itself (the teacher), of which nothing but its own clips is asked.

A clip is the end of a path from noise, which the sampler follows in Euler steps: x_next = x + (sigma_next - sigma) * v(x, sigma).
The teacher takes ``fine`` small guided steps where the adapter is to take one. Its paths are drawn once, and the points at
which the large steps begin and end are kept (nodes). The adapter then learns the velocity that leads from the beginning of a
large step to the teacher's node at its end: v = (x - node_next) / (sigma - sigma_next). That is what "progressive
distillation" (Salimans and Ho 2022) does in one go, with guidance distilled along with it (Meng et al. 2023).

A large step never ends exactly at the node. So x is, half of the time, where the adapter's own steps have led to from an
earlier node: it learns to come back to the path, and errors do not add up over the steps.

Shape suffixes: N samples, S nodes of a path, B batch, C channels, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm.auto import tqdm

from cinelora.adapters.adapter_file import AdapterFile, export_adapter
from cinelora.adapters.lora_layers import adapter_state, add_adapter, set_scales, trainable
from cinelora.config.schema import LoraSpec, ModelConfig, SamplerConfig
from cinelora.config.shipped import values
from cinelora.families import family_of
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.conditions import Condition, ImageCondition, predict_velocity
from cinelora.io.hardware import default_device
from cinelora.io.waiting import waiting
from cinelora.nn.flow_matching import NUM_TRAIN_TIMESTEPS, FlowMatching, keyed_generator
from cinelora.nn.text_padding import pad_text
from cinelora.sampling.denoise import Denoise, Guided, Unguided
from tools.scale_model.distil_request import DistilRequest
from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import describe, draw_scene

NAME = "distilled"
FIRST_SEED, HELDOUT_SEED = 3_000_000, 900_700
"""Scenes to learn from, and those that are measured on."""
WARM_UP = 100
"""Steps over which the learning rate rises."""
LOOKS = ("daylight", "daylight", "daylight", "noir", "western", "neon")
"""Half of the first frames are of the look that the model was trained on; the others are what style adapters draw."""


@dataclass(frozen=True)
class Scenes:
    """Conditions of N scenes on the device, and the noise that each path begins with."""

    text: Tensor
    image: ImageCondition | None
    noise_NCTHW: Tensor

    def condition(self, rows: Tensor) -> Condition:
        """Of some scenes."""
        image = self.image and self.image.rows(rows)
        return Condition(self.text[rows], image)


# -- what is learnt from -----------------------------------------------------------------------------------------------


def sigmas_of(request: DistilRequest, device: torch.device) -> Tensor:
    """The sigmas of the teacher's steps, (steps * fine + 1,), from nearly 1 to 0; the adapter's own are among them."""
    solver = FlowMatching.solver(SamplerConfig(name="euler", steps=request.steps * request.fine), request.shift)
    return torch.as_tensor(solver.sigmas, dtype=torch.float32, device=device)


def draw_scenes(bundle: WanBundle, request: DistilRequest, first_seed: int, number: int) -> Scenes:
    """Captions and, for i2v, first frames of ``number`` rendered scenes, encoded."""
    model, device = bundle.model, bundle.device
    assert model is not None
    size = family_of(model).geometry.latent_size(request.frames, model.height, model.width)
    noise = torch.empty(number, *size, device=device)
    captions, frames = [], []
    for row, seed in enumerate(tqdm(range(first_seed, first_seed + number), "rendering", unit="scene")):
        scene, look = draw_scene(seed), LOOKS[seed % len(LOOKS)]
        captions.append(describe(scene, look))
        noise[row] = torch.randn(noise.shape[1:], generator=keyed_generator(seed, "distil"))
        if request.kind == "i2v":
            frames.append(
                render_scene(scene, look, 1, model.height, model.width, model.fps, grain=False, device=device)
            )
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        text = torch.cat([pad_text(bundle.encode_text(captions[at : at + 64]), 512) for at in range(0, number, 64)])
    return Scenes(text, encode_frames(bundle, frames, request.frames) if frames else None, noise)


def encode_frames(bundle: WanBundle, frames_1HWC: list[Tensor], num_frames: int) -> ImageCondition:
    """What i2v is shown of each first frame, a few frames at a time."""
    pixels_NCHW = torch.cat(frames_1HWC).permute(0, 3, 1, 2).float() / 127.5 - 1
    with bundle.loaded(Part.VAE, Part.IMAGE_ENCODER):
        parts = [bundle.encode_images(some, num_frames, together=True) for some in torch.split(pixels_NCHW, 16)]
    return reduce(ImageCondition.beside, parts)


@torch.no_grad()
def follow(denoise: Denoise, noise_BCTHW: Tensor, sigmas: Tensor, keep: list[int]) -> Tensor:
    """The points ``keep`` (B, S, C, T, H, W) of the path from ``noise`` in Euler steps along ``sigmas``."""
    x_BCTHW, kept = noise_BCTHW, [noise_BCTHW]
    for number, (sigma, after) in enumerate(itertools.pairwise(sigmas), start=1):
        velocity = denoise(x_BCTHW, (sigma * NUM_TRAIN_TIMESTEPS).expand(len(x_BCTHW)))
        x_BCTHW = x_BCTHW + (after - sigma) * velocity
        if number in keep:
            kept.append(x_BCTHW)
    return torch.stack(kept, dim=1)


def teach(transformer: WanTransformer3DModel, scenes: Scenes, negative: Tensor, request: DistilRequest) -> Tensor:
    """The teacher's nodes (N, S, C, T, H, W): guided paths of the transformer without the adapter."""
    set_scales(transformer, {NAME: 0.0})
    sigmas, found = sigmas_of(request, scenes.noise_NCTHW.device), []
    for rows in tqdm(
        torch.split(torch.arange(len(scenes.noise_NCTHW), device=sigmas.device), request.batch), "teacher"
    ):
        condition = scenes.condition(rows)
        without = replace(condition, text=negative.expand(len(rows), -1, -1))
        guided = Guided(transformer, condition, without, request.guidance)
        found.append(follow(guided, scenes.noise_NCTHW[rows], sigmas, request.nodes))
    set_scales(transformer, {NAME: 1.0})
    return torch.cat(found)


# -- learning ----------------------------------------------------------------------------------------------------------


def learn(
    transformer: WanTransformer3DModel, scenes: Scenes, nodes_NSCTHW: Tensor, request: DistilRequest
) -> list[float]:
    """Train the adapter; returns the mean squared error of the velocity, averaged over each tenth of the steps."""
    device, losses, started = nodes_NSCTHW.device, list[Tensor](), time.perf_counter()
    weights, chance = trainable(transformer, NAME), torch.Generator(device).manual_seed(0)
    sigmas = sigmas_of(request, device)[request.nodes]
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == "cuda")
    for step in tqdm(range(request.training_steps), "learning", unit="step"):
        # what is further, the steps or the time, decides the rate, so that it has come down to zero where either ends
        elapsed = (time.perf_counter() - started) / request.limit_s if request.limit_s else 0.0
        progress = max(step / request.training_steps, elapsed)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / WARM_UP)
            group["lr"] = request.rate * rise * (1 + math.cos(math.pi * progress)) / 2
        rows = torch.randint(len(nodes_NSCTHW), (request.batch,), generator=chance, device=device)
        loss = step_loss(transformer, scenes, nodes_NSCTHW, sigmas, rows, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if step % 50 == 49:
            float(loss)  # waits for the GPU, which would else be behind the clock
    return [float(tenth.mean()) for tenth in torch.stack(losses).tensor_split(10) if len(tenth)]


def step_loss(
    transformer: WanTransformer3DModel,
    scenes: Scenes,
    nodes_NSCTHW: Tensor,
    sigmas: Tensor,
    rows: Tensor,
    step: int,
) -> Tensor:
    """How far the velocity at the beginning of one of the adapter's steps is from that which ends at the teacher's node.

    ``sigmas`` are those of the nodes, ``rows`` the scenes of this training step.
    """
    # The adapter's steps in turn; each begins at the path, or where the adapter itself comes to from an earlier node.
    turn, now = divmod(step, len(sigmas) - 1)
    since = now if turn % 2 == 0 else turn % (now + 1)
    condition, start = scenes.condition(rows), nodes_NSCTHW[rows, since]
    x_BCTHW = follow(Unguided(transformer, condition), start, sigmas[since : now + 1], [now - since])[:, -1]
    target = (x_BCTHW - nodes_NSCTHW[rows, now + 1]) / (sigmas[now] - sigmas[now + 1])
    timestep_B = (sigmas[now] * NUM_TRAIN_TIMESTEPS).expand(len(rows))
    return mse_loss(predict_velocity(transformer, x_BCTHW, timestep_B, condition), target)


def psnr_db(found: Tensor, wanted: Tensor) -> float:
    """Mean peak signal-to-noise ratio of clips in [0, 1], each against its own."""
    errors = (found - wanted).square().flatten(1).mean(1).clamp_min(1e-12)
    return float((-10 * errors.log10()).mean())


def measure(
    bundle: WanBundle, transformer: WanTransformer3DModel, scenes: Scenes, negative: Tensor, request: DistilRequest
) -> dict[str, float]:
    """PSNR in dB of ways to draw held-out scenes in few steps, against the teacher's clips in all of its steps."""
    wanted, device = teach(transformer, scenes, negative, request)[:, -1], scenes.noise_NCTHW.device
    everything = torch.arange(len(scenes.noise_NCTHW), device=device)
    condition, few = scenes.condition(everything), sigmas_of(request, device)[request.nodes]
    without = replace(condition, text=negative.expand(len(everything), -1, -1))
    ways: dict[str, tuple[float, Denoise]] = {
        "adapter, unguided": (1.0, Unguided(transformer, condition)),
        "base, guided": (0.0, Guided(transformer, condition, without, request.guidance)),
        "base, unguided": (0.0, Unguided(transformer, condition)),
    }
    drawn = {}
    for name, (scale, denoise) in ways.items():
        set_scales(transformer, {NAME: scale})
        drawn[name] = follow(denoise, scenes.noise_NCTHW, few, [request.steps])[:, -1]
    set_scales(transformer, {NAME: 1.0})
    with bundle.loaded(Part.VAE):
        pixels = [
            torch.cat([bundle.decode(one) for one in torch.split(clips, 1)]) for clips in (wanted, *drawn.values())
        ]
    return {name: psnr_db(found, pixels[0]) for name, found in zip(ways, pixels[1:], strict=True)}


# -- the whole of it ---------------------------------------------------------------------------------------------------


def distil(request: DistilRequest) -> dict[str, Any]:
    """Distil, measure, and write the adapter in bf16; returns what came out: PSNR, losses, seconds."""
    torch.set_float32_matmul_precision("high")
    out, device, started = Path(request.out), default_device(), time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    model = ModelConfig(**values("model/tiny"))
    bundle = WanBundle.from_config(model, request.kind, out.parent / "cache", device)
    scenes = draw_scenes(bundle, request, FIRST_SEED, request.samples)
    others = draw_scenes(bundle, request, HELDOUT_SEED, request.heldout)
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        negative = pad_text(bundle.encode_text([model.negative_prompt]), 512)
    transformer = bundle.load_transformer()
    spec = LoraSpec(rank=request.rank, alpha=float(request.rank), targets="all_linear")
    add_adapter(transformer, NAME, spec, seed=0)
    nodes = teach(transformer, scenes, negative, request)
    taught = time.perf_counter()
    losses = learn(transformer, scenes, nodes, request)
    seconds = {"preparation": taught - started, "learning": time.perf_counter() - taught}
    with waiting("measuring"):
        found = measure(bundle, transformer, others, negative, request)
    state = {key: value.cpu() for key, value in adapter_state(transformer, NAME).items()}
    facts = {key: value for key, value in asdict(request).items() if key not in ("out", "limit_s")}
    revision = bundle.fingerprint(Part.TRANSFORMER)
    adapter = AdapterFile(state, spec, NAME, model.name, revision, request.kind, config={NAME: facts})
    export_adapter(out, adapter, dtype="bfloat16")
    return {"psnr_db": found, "losses": losses, "seconds": seconds}
