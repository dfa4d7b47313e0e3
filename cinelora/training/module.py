"""A training stage: a transformer learns to denoise by its family's law, as an adapter on it or every weight of it is trained.

Enters: batches of encoded samples. Leaves: a loss. What differs between stages is whether the transformer is shown the first
frame beside the text; how it is shown, its family knows. It does not know about files, loggers or checkpoints.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width, N tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn

from cinelora.adapters.trainable import Trained
from cinelora.config.learning_rate import learning_rate
from cinelora.config.lessons import expert_of
from cinelora.config.schema import TrainConfig, data_ranks, effective_lr, zero_level
from cinelora.errors import TrainingError
from cinelora.families import family_of
from cinelora.families.conditioning import Conditioning
from cinelora.families.machinery import machinery_of
from cinelora.families.noise_law import law_of
from cinelora.latents.dataset import LatentDataset
from cinelora.nn.flow_matching import keyed_generator
from cinelora.parallel.sequence_parallel import sharing_of

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Draw:
    """The chance in one batch: noise like the latents, sigma (B,), and which samples lose caption or image (host bools)."""

    noise: Tensor
    sigma: Tensor
    drop_caption: list[bool]
    drop_image: list[bool]


class Velocities(NamedTuple):
    """What is predicted of a batch and what it should be, (B, C, T, H, W), and which of it is judged; None for all."""

    predicted: Tensor
    target: Tensor
    counts: Tensor | None


def is_still_step(seed: int, step: int, share: float) -> bool:
    """Whether a pretraining step sees first frames alone: the same on every rank, in ``share`` of all steps."""
    return share > 0 and float(torch.rand((), generator=keyed_generator(seed, "stills", step))) < share


class Stage(LightningModule):
    """Trains a part of ``transformer``. The ids of samples key the noise; ``null_text`` is (512, D)."""

    null_text: Tensor
    transformer: nn.Module

    def __init__(self, config: TrainConfig, transformer: nn.Module, trained: Trained, training: LatentDataset) -> None:
        super().__init__()
        self.config, self.trained = config, trained
        self.shows_image = config.stage.image_condition
        network = family_of(config.model).network(config.stage.transformer)
        self.noise_law = law_of(network)
        self.levels = expert_of(config).taught
        self.sample_ids = [entry.id for entry in training.entries]
        # What is frozen is where it should be, on this device or on the host: Lightning shall neither move nor broadcast it. A
        # module that is set as an attribute becomes a part of the stage, so it is set past torch's own way of doing that.
        object.__setattr__(self, "transformer", transformer)
        self.peak_lr = effective_lr(config)
        self.register_buffer("null_text", training.text(training.texts["null"]), persistent=False)
        self.weights = torch.nn.ParameterList(trained.parameters)
        self.gradient_norm = torch.zeros(())
        self.shares_weights = zero_level(config.strategy) == 3
        always_shown = self.shows_image and not config.dropout.image
        self.may_drop_image = network.image_tokens > 0 and not always_shown

    def adopt_transformer(self) -> None:
        """Let the transformer be a part of the stage, below which DeepSpeed's ZeRO-3 looks for what it brings and releases."""
        self.add_module("transformer", self.__dict__.pop("transformer"))

    def train(self, mode: bool = True) -> Stage:
        """Training or eval mode, of the transformer as well."""
        self.transformer.train(mode)
        return super().train(mode)

    def on_fit_start(self) -> None:
        """Make the groups that share sequences: by all ranks together, before one without held-out samples waits elsewhere."""
        if sharing := sharing_of(self.transformer):
            sharing.ready()

    def on_train_start(self) -> None:
        """Loaded in eval mode, and Lightning leaves it so: LoRA dropout and activation checkpointing need train mode."""
        self.train()

    # -- the step ------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss over the batch. Raises ``TrainingError`` where it is not finite."""
        # Nothing here depends on how a step is cut: neither on micro-batches nor on ranks. Noise, sigma and dropout are drawn
        # for (seed, sample, step, slot), where a slot counts the samples of a whole optimizer step. So two ranks with two
        # samples each draw what one rank with four draws, and a resumed run draws what an uninterrupted one would have.
        batch = self.cut(batch)
        draw = self.draw(batch, batch_idx % self.config.stage.accumulation)
        loss = self.loss(batch, draw).mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.global_step + 1}; the last checkpoint is kept: "
                "resume it with a lower optimizer.lr or optimizer.clip_norm"
            )
        return loss + self.touch_all_parameters() if self.may_drop_image else loss

    def cut(self, batch: Batch) -> Batch:
        """The batch, or in the share ``stage.stills`` of steps its first latent frames alone.

        Wan's VAE is causal, and its first latent frame holds one frame: that is exactly the still's encoding.
        """
        if not is_still_step(self.config.seed, self.global_step, self.config.stage.stills):
            return batch
        return {**batch, "latents": batch["latents"][:, :, :1]}

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """Loss of each sample, (B,)."""
        return self.noise_law.loss(*self.velocities(batch, draw))

    def velocities(self, batch: Batch, draw: Draw) -> Velocities:
        """What is predicted for each sample, and what it should be."""
        clean_BCTHW = batch["latents"]
        noisy_BCTHW = self.noise_law.add_noise(clean_BCTHW, draw.noise, draw.sigma)
        if any(draw.drop_caption):
            dropped_B = torch.tensor(draw.drop_caption, device=clean_BCTHW.device)
            batch = {**batch, "text": torch.where(dropped_B[:, None, None], self.null_text, batch["text"])}
        condition = self.condition(batch)
        given = (noisy_BCTHW, self.noise_law.timestep(draw.sigma), condition)
        with self.low_precision():
            predicted_BCTHW = self.predict(*given, draw.drop_image)
        counts = condition.counts(clean_BCTHW)
        if counts is not None and any(draw.drop_image):
            # a sample that has lost its image is judged as a whole
            dropped_B = torch.tensor(draw.drop_image, device=counts.device)
            counts = counts | dropped_B.view(-1, *[1] * (counts.ndim - 1))
        return Velocities(predicted_BCTHW, self.noise_law.target(clean_BCTHW, draw.noise), counts)

    def low_precision(self) -> torch.autocast:
        """Weights that are all trained are float32, and compute in bfloat16 on a GPU; adapters bring their own rule."""
        enabled = self.trained.mixed_precision and self.device.type == "cuda"
        # a cache would keep the bf16 copies of all blocks, of which a rank that shares the weights has room for one
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=not self.shares_weights)

    def predict(
        self, noisy_BCTHW: Tensor, timestep_B: Tensor, condition: Conditioning, drop_image: list[bool]
    ) -> Tensor:
        """Velocities of a batch; samples without their image have fewer tokens, so they run apart from the others."""
        # A batch is one tensor, and its samples have equally many tokens. Where some have lost their image, the two sorts are run
        # one after the other, each as a batch of its own, and put back in their rows.
        if len(set(drop_image)) == 1:
            shown = condition.without_image() if drop_image[0] else condition
            return shown.predict(self.transformer, noisy_BCTHW, timestep_B)
        predicted = torch.empty_like(noisy_BCTHW)
        for dropped in (False, True):
            rows = torch.tensor([d is dropped for d in drop_image], device=predicted.device)
            predicted[rows] = self.predict(noisy_BCTHW[rows], timestep_B[rows], condition.rows(rows), [dropped])
        return predicted

    def condition(self, batch: Batch) -> Conditioning:
        """What the transformer is shown beside the noisy latents."""
        return machinery_of(self.config.model).condition.of_batch(batch, self.shows_image)

    @property
    def data_rank(self) -> int:
        """This rank's place among those with samples of their own; ranks that share a sequence have one together."""
        return self.global_rank // self.config.strategy.sequence

    # -- chance --------------------------------------------------------------------------------------------------------

    def draw(self, batch: Batch, micro: int) -> Draw:
        """Noise, sigma and dropout of a batch, keyed by (seed, sample, step) and the sample's slot in the step.

        LoRA's dropout is drawn by the layers for the whole micro-batch, so it is keyed by (seed, step, its first slot) and
        depends on how the step is cut, and on which of the ranks that share a sequence this is.
        """
        size, place = len(batch["index"]), self.global_rank % self.config.strategy.sequence
        first_slot = (micro * data_ranks(self.config) + self.data_rank) * size
        if self.config.lora.dropout:
            others = [place] if place else []
            generator = keyed_generator(self.config.seed, "dropout", self.global_step, first_slot, *others)
            torch.manual_seed(generator.initial_seed())
        return self.draw_at(batch, self.global_step, first_slot)

    def draw_at(self, batch: Batch, step: int, first_slot: int = 0, sigma: float | None = None) -> Draw:
        """``draw`` for a given step; a given ``sigma`` is used for every sample, and then nothing is dropped."""
        latents, dropout = batch["latents"], self.config.dropout
        # The noise of one sample is drawn by one generator from its own start, never from a stream shared with its
        # neighbours. On a GPU it comes from that device's generator, since 33 frames of 720p would take longer on the host;
        # what decides sigma and dropout is always drawn on the host, where it is the same on every machine.
        keys = [
            (self.config.seed, self.sample_ids[position], step, first_slot + slot)
            for slot, position in enumerate(batch["index"].tolist())
        ]
        noise, normals, chances = torch.empty(latents.shape, device=latents.device), [], []
        for key, own_noise in zip(keys, noise, strict=True):
            generator = keyed_generator(*key)
            normals.append(torch.randn((), generator=generator))
            chances.append(torch.rand(2, generator=generator))
            own_noise.normal_(generator=generator if latents.is_cpu else keyed_generator(*key, device=latents.device))
        if sigma is not None:
            kept = [False] * len(keys)
            return Draw(noise, torch.full((len(keys),), sigma, device=latents.device), kept, kept)
        drops = torch.stack(chances) < torch.tensor([dropout.caption, dropout.image * self.shows_image])
        captions, images = drops.T.tolist()
        spatial = family_of(self.config.model).geometry.spatial
        height, width = (spatial * side for side in latents.shape[3:])  # a bucket's own, which may be of fewer pixels
        levels = self.noise_law.from_config(self.config.flow, height, width)
        sigmas = levels.sigmas(torch.stack(normals), self.levels)
        return Draw(noise, sigmas.to(latents.device), captions, images)

    def touch_all_parameters(self) -> Tensor:
        """Zero, with a gradient path to every trained weight.

        Without image tokens k_img and v_img are not run. DDP would wait for their gradients for ever, and AdamW would skip
        their decay on one rank and not on another; a zero gradient treats all ranks and steps alike.
        """
        return 0.0 * torch.stack([parameter.sum() for parameter in self.trained.parameters]).sum()

    # -- optimisation --------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; the rate is set before each step from the step's number alone."""
        settings = self.config.optimizer
        how: dict[str, Any] = {
            "betas": (settings.beta1, settings.beta2),
            "eps": settings.eps,
            "weight_decay": settings.weight_decay,
        }
        return torch.optim.AdamW(self.trained.parameters, lr=self.peak_lr, fused=True, **how)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip as Lightning would, and keep the norm that it had before, on the device: nobody waits for it here."""
        # The norm before clipping is the number worth watching, and Lightning's own clipping keeps it to itself. Under ZeRO
        # this is not called: there the gradients are in parts, and DeepSpeed clips them.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained.parameters if p.grad is not None])
        if clip_norm := self.config.optimizer.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.trained.parameters, clip_norm, norm)
        self.gradient_norm = norm

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set this step's learning rate."""
        rate = learning_rate(self.global_step, self.config.optimizer, self.peak_lr, self.config.stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
