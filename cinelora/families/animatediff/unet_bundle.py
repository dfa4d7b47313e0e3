"""A base of Stable Diffusion 1.5 with motion modules: its parts loaded on demand and frozen, and how its VAE and text are fed.

Enters: a source (embedded, hub repository, directory, or random values), pixels and prompts. Leaves: latents, embeddings,
networks, pixels. It does not know about adapters, training or samplers.

Shape suffixes: B batch, C channels, T frames, H and W height and width, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    MotionAdapter,
    SparseControlNetModel,
    UNet2DConditionModel,
    UNetMotionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from cinelora.config.schema import ModelConfig
from cinelora.errors import CineloraError, ModelError, first_line
from cinelora.families.animatediff import full_shapes, long_clips
from cinelora.families.animatediff.motion_modules import fold_domain, load_motion, refuse_other_base
from cinelora.families.animatediff.single_file import load_from_file
from cinelora.families.animatediff.sparse_frame import SparseFrame, load_control
from cinelora.families.animatediff.unet_blocks import arrange_unet
from cinelora.families.animatediff.unet_conditions import FrameCondition, UNet
from cinelora.families.animatediff.unet_parts import FOLDERS, UNetParts, base_folder, longest_clip, part_files
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Family, Part
from cinelora.families.model_bundle import Bundle, fetched, fetched_before, needs_no_hub
from cinelora.families.noise_law import NoiseLaw, law_of
from cinelora.io.hardware import default_device
from cinelora.io.hub import EMBEDDED
from cinelora.memory.block_swap import StoredWeights
from cinelora.memory.weight_sharding import Shares
from cinelora.nn.flow_matching import keyed_generator
from cinelora.nn.fp8 import DTYPES
from cinelora.nn.pixels import pixels_to_range
from cinelora.parallel.launch import rank_info
from cinelora.planning.estimate import Policy

FRAMES_AT_ONCE = 2
"""Frames that pass the VAE together: it makes each by itself, so this bounds its memory and nothing else."""


class AnimateDiffBundle(Bundle):
    """One of the two networks of a ``model``: ``image``, or ``motion``, which has motion modules in it.

    ``model.base`` is in diffusers' layout; ``model.tuned`` is a fine-tune of it as one file, whose weights take the place of the
    base's.
    """

    condition: type[FrameCondition] = FrameCondition
    model: ModelConfig

    def __init__(self, model: ModelConfig, kind: str, cache: Path, device: torch.device | None = None) -> None:
        self.model, self.kind, self.cache = model, kind, cache
        self.dtype, self.device = DTYPES[model.dtype], device or default_device()
        self._loaded = {}

    @classmethod
    def from_config(cls, model: ModelConfig, kind: str, cache: Path, device: torch.device | None = None) -> Self:
        """The network ``kind`` of ``model``. Raises ``ModelError`` where nothing names its base."""
        if model.weights != "random" and model.source(kind) is None:
            raise ModelError(f"model={model.name} has no base: set model.base=<directory or hub repository>")
        return cls(model, kind, cache, device)

    @property
    def family(self) -> Family:
        """The facts of its family."""
        return ANIMATEDIFF

    @property
    def noise_law(self) -> NoiseLaw:
        """That of its network: motion modules were taught another schedule than the image network."""
        return law_of(self.family.network(self.kind))

    # -- files ---------------------------------------------------------------------------------------------------------

    def part_source(self, part: Part) -> str | None:
        """Where ``part`` comes from, as the user named it; None where its values are random."""
        return UNetParts.source_of(self.model, self.kind, part)

    def files(self, part: Part) -> tuple[Path, ...]:
        """Every file whose content decides what ``part`` is, a fine-tune's and the motion modules' among them."""
        source = self.part_source(part)
        if source is None:
            raise ModelError(f"{part} is not given: model.weights=random fills it with random values")
        try:
            found = part_files(part, base_folder(self._on_this_machine(source, part, "base")))
        except CineloraError as error:
            raise ModelError(f"{part} of {source}: {error}") from error
        return (*found, *self._beside(part))

    def _beside(self, part: Part) -> tuple[Path, ...]:
        """Files of what is put into a part."""
        found = [Path(self.model.tuned)] if self.model.tuned and part is not Part.TOKENIZER else []
        if part is Part.TRANSFORMER and self.kind == "motion":
            motion = self._motion()
            found += sorted(motion.glob("*.*")) if motion.is_dir() else [motion]
            found += [Path(self.model.domain_adapter)] if self.model.domain_adapter else []
        return tuple(found)

    def is_at_hand(self, part: Part) -> bool:
        """Whether ``part`` can be loaded without the network."""
        source = self.part_source(part)
        if source is None or needs_no_hub(source):
            return True
        folder = fetched_before(source, self.model.base_revision)
        try:
            return folder is not None and bool(part_files(part, folder))
        except CineloraError:
            return False

    def fingerprint(self, part: Part) -> str:
        """As of every checkpoint; of random values their shape."""
        return super().fingerprint(part) if self.part_source(part) else full_shapes.fingerprint(part, self.kind)

    def _on_this_machine(self, source: str, part: Part, folder: str) -> Path:
        """The directory or file behind a source, fetched where it has to be; ``folder`` is that of an embedded member."""
        if source in EMBEDDED:
            return self._embedded(source) / folder
        if Path(source).exists():
            return Path(source)
        name = FOLDERS.get(part, str(part))
        patterns = (
            [f"{name}/*.json", f"{name}/*.safetensors", f"{name}/*.txt"]
            if folder == "base"
            else ["*.json", "*.safetensors"]
        )
        revision = self.model.base_revision if source == self.model.base else "main"
        return fetched(source, revision, patterns, name, f"give a local directory with model.{folder}=<path> instead")

    def _embedded(self, source: str) -> Path:
        """The folder of an embedded member of the family."""
        from cinelora.families.animatediff.embedded_unets import embedded_member  # which brings diffusers' pipelines

        return embedded_member(source, self.cache)

    def _motion(self) -> Path:
        source = self.model.motion_adapter
        if source is None:
            raise ModelError(
                "the motion network needs motion modules, and none are named: set model.motion_adapter=<path>"
            )
        return self._on_this_machine(source, Part.TRANSFORMER, "motion")

    # -- a first frame -------------------------------------------------------------------------------------------------

    @property
    def image_parts(self) -> tuple[Part, ...]:
        """The part that encodes a first frame, where SparseCtrl shows it to the motion network."""
        return (Part.VAE,) if self.model.sparse_control and self.kind == "motion" else ()

    @cached_property
    def _control(self) -> SparseControlNetModel:
        folder = self._on_this_machine(self.model.sparse_control or "", Part.TRANSFORMER, "sparse_control")
        return self._settled(load_control(folder), self.dtype)

    def encode_image(self, image_HWC: np.ndarray, num_frames: int, together: bool = False) -> SparseFrame:
        """What SparseCtrl is shown of a first frame. Raises ``ModelError`` for clips that are longer than it takes."""
        longest = self._control.config.motion_max_seq_length
        if num_frames > longest:
            raise ModelError(f"num_frames={num_frames}: SparseCtrl takes {longest} frames at most")
        return SparseFrame(self.encode_video(pixels_to_range(image_HWC[None], self.device)), self._control)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def load_transformer(self, on_host: int = 0, shares: Shares | None = None, num_frames: int | None = None) -> UNet:
        """A new frozen network; one of motion takes clips longer than its modules do, in windows (``long_clips``)."""
        unet: UNet2DConditionModel = self._load(Part.TRANSFORMER)
        adapter = None
        if self.kind == "motion":
            adapter = self._motion_adapter()
        refuse_other_base(unet, adapter)
        network: UNet = unet if adapter is None else UNetMotionModel.from_unet2d(unet, adapter)
        network = self._settled(network, self.dtype)
        if adapter is not None and self.model.domain_adapter:
            fold_domain(network, Path(self.model.domain_adapter), self.model.domain_scale)
        if isinstance(network, UNetMotionModel) and (num_frames or 0) > network.config.motion_max_seq_length:
            long_clips.attend_in_windows(network, self.window)
        return network

    def _motion_adapter(self) -> MotionAdapter:
        if self.model.weights == "random":
            with self.device:
                return MotionAdapter(**full_shapes.MOTION)
        try:
            return load_motion(self._motion())
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(
                f"motion modules of {self.model.motion_adapter} do not load: {first_line(error)}"
            ) from error

    @property
    def window(self) -> int:
        """Frames that motion modules see at once in a longer clip."""
        return self.family.window or 16

    @staticmethod
    def arrange(transformer: UNet, policy: Policy, shared: Sequence[StoredWeights] = (), num_lengths: int = 1) -> None:
        """Let a UNet's layers run by ``policy``."""
        arrange_unet(transformer, policy)

    def _load(self, part: Part) -> Any:
        match part:
            case Part.TRANSFORMER:
                return self._read(part, UNet2DConditionModel.from_pretrained)
            case Part.VAE:
                return self._settled(self._read(part, AutoencoderKL.from_pretrained), torch.float32)
            case Part.TEXT_ENCODER:
                return self._settled(self._read(part, CLIPTextModel.from_pretrained), self.dtype)
            case _:
                return self._read(part, CLIPTokenizer.from_pretrained)

    def _settled(self, module: Any, dtype: torch.dtype) -> Any:
        """A part in its place, frozen; diffusers' own way there warns of modules that none of these has."""
        return nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)

    def _read(self, part: Part, read: Callable[..., Any]) -> Any:
        """A part of the base, or of its fine-tune; pickles beside it are not looked at."""
        source = self.part_source(part)
        if source is None:
            return self._drawn(part)
        folder, name = self.files(part)[0].parent, FOLDERS.get(part, str(part))
        only_tensors = {} if part is Part.TOKENIZER else {"use_safetensors": True}
        try:
            if self.model.tuned and self._is_tuned(part):
                return load_from_file(Path(self.model.tuned), name, folder.parent)
            return read(folder, local_files_only=True, **only_tensors)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{name} of {source} does not load: {first_line(error)}") from error

    def _is_tuned(self, part: Part) -> bool:
        """Whether a fine-tune in one file has such a part, and no setting names another."""
        return part is not Part.TOKENIZER and getattr(self.model, part, None) is None

    def _drawn(self, part: Part) -> Any:
        """A part of random values, at full size."""
        return full_shapes.drawn(part, self.device)

    # -- pixels and text -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(self, video_BCTHW: Tensor, together: bool = False) -> Tensor:
        """Pixels in [-1, 1] to scaled latents (B, 4, T, H, W), float32: of each frame the posterior's mean, never a sample."""
        vae: AutoencoderKL = self._part(Part.VAE)
        frames = video_BCTHW.to(self.device, torch.float32).transpose(1, 2).flatten(0, 1)
        means = [vae.encode(some).latent_dist.mode() for some in torch.split(frames, FRAMES_AT_ONCE)]
        return _as_clips(torch.cat(means) * vae.config.scaling_factor, len(video_BCTHW))

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Scaled latents to pixels (B, 3, T, H, W) in [0, 1], float32."""
        vae: AutoencoderKL = self._part(Part.VAE)
        frames = latents_BCTHW.to(self.device, torch.float32).transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
        pixels = torch.cat([vae.decode(some, return_dict=False)[0] for some in torch.split(frames, FRAMES_AT_ONCE)])
        return _as_clips(((pixels + 1) / 2).clamp(0, 1), len(latents_BCTHW))

    def decode_together(self, latents_BCTHW: Tensor) -> Tensor | None:
        """``decode`` on rank 0: frames are small, and pass each by itself."""
        return self.decode(latents_BCTHW) if rank_info().global_rank == 0 else None

    def settled_noise(self, noise_BCTHW: Tensor, seed: int) -> Tensor:
        """The noise of a clip that is longer than motion modules take: windows of it that come again in another order."""
        longest = longest_clip(self.model) or self.family.network(self.kind).longest or 0
        if self.kind != "motion" or noise_BCTHW.shape[2] <= longest:
            return noise_BCTHW
        generator = keyed_generator(seed, "windows")
        return long_clips.windowed_noise(noise_BCTHW, self.window, generator)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> list[Tensor]:
        """CLIP's features (77, D) of each prompt, of its padding too: the networks were taught with it."""
        tokenizer, encoder = self._part(Part.TOKENIZER), self._part(Part.TEXT_ENCODER)
        length = {"padding": "max_length", "max_length": self.family.text_tokens, "truncation": True}
        tokens = tokenizer(prompts, return_tensors="pt", **length)
        return list(encoder(tokens.input_ids.to(self.device)).last_hidden_state)


def _as_clips(frames: Tensor, clips: int) -> Tensor:
    """Frames (B T, C, H, W), clip after clip, as (B, C, T, H, W)."""
    return frames.view(clips, -1, *frames.shape[1:]).transpose(1, 2).contiguous()
