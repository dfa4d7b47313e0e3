"""A picture or clip from what would be exported now, from the same noise each time.

The VAE is loaded for the preview and released after it; the text was encoded with the data. An I2V stage that shows its
transformer the first frame takes a held-out sample's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from cinelora.config.schema import SamplerConfig, TrainConfig
from cinelora.errors import FootageError
from cinelora.files import write_json, write_mp4, write_png
from cinelora.latents.dataset import LatentDataset
from cinelora.metrics.suite import measure
from cinelora.models.memory import as_they_are
from cinelora.models.wan import Condition, ImageCondition, Part, WanBundle, range_to_pixels
from cinelora.runs import RunDirectory
from cinelora.sampling.denoise import Guided, sample
from cinelora.sampling.generate import initial_noise
from cinelora.training.callbacks import AtStep, Ema, as_exported
from cinelora.training.stage import Stage


class Preview(AtStep):
    """Every few steps, ``previews/step-00000250.png`` (stills) or ``.mp4`` (windows), also to W&B and TensorBoard.

    Beside a clip are the numbers that ``metrics`` names, in ``.json`` and at the logger.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, shown: LatentDataset, ema: Ema | None) -> None:
        super().__init__()
        if not len(shown):
            raise FootageError(
                "previews show held-out samples and there are none; raise data.holdout or set preview.every_steps=0"
            )
        self.config, self.run, self.shown, self.ema = config, run, shown, ema
        self.said: set[str] = set()
        self.bundle = WanBundle.from_config(config.model, config.stage.transformer, Path(config.cache))

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Draw on rank 0, while the others wait."""
        if step % self.config.preview.every_steps:
            return
        if trainer.is_global_zero:
            self.show(trainer, self.draw(stage), step)
        trainer.strategy.barrier()

    def draw(self, stage: Stage) -> torch.Tensor:
        """Pixels (1, 3, T, H, W) in [0, 1] of the preview's prompt, or of the first held-out caption."""
        config, device = self.config, stage.device
        batch = {key: value[None].to(device) for key, value in self.shown[0].items()}
        if config.preview.prompt:
            batch["text"] = self.shown.text(self.shown.texts["preview"])[None].to(device)
        image = None
        if config.stage.image_condition:
            image = ImageCondition(batch["image_latents"], batch["image_tokens"])
        solver = SamplerConfig(name=config.sampler.name, steps=config.preview.sampler_steps)
        noise = initial_noise(config.seed, "preview", config.model, config.stage.num_frames, device)
        positive, negative = Condition(batch["text"], image), Condition(stage.null_text[None], image)
        guided = Guided(stage.transformer, positive, negative, config.sampler.guidance)
        shift = config.model.sampling_shift if config.sampler.shift is None else config.sampler.shift
        with as_exported(stage, self.ema), as_they_are():
            latents = sample(guided, noise, solver, shift)
        with self.bundle.loaded(Part.VAE):
            return self.bundle.decode(latents)

    def show(self, trainer: Trainer, pixels: torch.Tensor, step: int) -> None:
        """Write the preview and hand it to a logger that can show it."""
        self.run.previews.mkdir(exist_ok=True)
        video = range_to_pixels(pixels)
        still = len(video) == 1
        path = self.run.previews / f"step-{step:08d}.{'png' if still else 'mp4'}"
        if still:
            write_png(path, video[0])
        else:
            write_mp4(path, video, self.config.model.fps)
        report = measure(self.config.metrics, video, self.config.preview.prompt or self.shown.entries[0].caption)
        for sentence in report.sentences:
            if sentence not in self.said:
                print(f"WARNING: preview: {sentence}", flush=True)
                self.said.add(sentence)
        if report.numbers:
            write_json(path.with_suffix(".json"), report.numbers)
            if trainer.logger:
                trainer.logger.log_metrics({f"preview/{name}": value for name, value in report.numbers.items()}, step)
        match trainer.logger:
            case WandbLogger() as logger if still:
                logger.log_image("preview", [str(path)], step=step)
            case WandbLogger() as logger:
                logger.log_video("preview", [str(path)], step=step)
            case TensorBoardLogger() as logger:
                logger.experiment.add_images("preview", pixels[0].transpose(0, 1), step)  # add_video wants moviepy
            case _:
                pass
