"""One Wan2.1 checkpoint: its parts loaded on demand and frozen, and every quirk of how Wan is fed.

Enters: a source (embedded, hub repository, directory, file, or random values), pixels and prompts. Leaves: latents,
embeddings, predicted velocities, pixels. It does not know about adapters, training or samplers.

Shape suffixes: B batch, C channels, T frames (latent frames for latents), H and W height and width, N tokens, D features.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor
from transformers import AutoTokenizer, ByT5Tokenizer

from cinelora.config.schema import ModelConfig
from cinelora.errors import CineloraError, ModelError, first_line
from cinelora.families.family import Part
from cinelora.families.model_bundle import Bundle, fetched, fetched_before, needs_no_hub
from cinelora.families.wan import checkpoint_layouts
from cinelora.families.wan.checkpoint_layouts import NAMES, FoundPart
from cinelora.families.wan.conditions import Condition, FirstFrameCondition, ImageCondition
from cinelora.families.wan.load_weights import Destination, load_part, random_part, settings_of
from cinelora.families.wan.token_times import embed_each_time_once
from cinelora.families.wan21 import WAN21
from cinelora.io.atomic import sha256_json
from cinelora.io.hardware import default_device, free_gpu_bytes
from cinelora.io.hub import EMBEDDED, RANDOM_MEMBERS, is_model_source
from cinelora.io.waiting import waiting
from cinelora.memory.weight_sharding import Shares
from cinelora.nn import vae_parallel, vae_unchunked
from cinelora.nn.fp8 import DTYPES, missing_fp8
from cinelora.nn.pixels import pixels_to_range
from cinelora.parallel.launch import rank_info
from cinelora.planning.estimate import vae_bytes

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


AT_ONCE_BYTES = 2**27
"""The largest tensor of a VAE that sees a clip as a whole: 33 frames of 112x192 have 68 MB in the embedded model."""


def clean_prompt(prompt: str) -> str:
    """Mend mojibake, unescape HTML, fold white space: what Wan does to a prompt before its tokenizer."""
    import ftfy  # here, because ranks that encode no text start sooner without it

    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


class WanBundle(Bundle):
    """The parts of one checkpoint, each fetched and loaded only when it is used, and never trained."""

    condition: type[Condition] = Condition
    """What the transformer is shown beside the noisy latents."""

    def __init__(
        self,
        source: str,
        revision: str = "main",
        *,
        dtype: str = "bf16",
        cache: Path,
        device: torch.device | None = None,
    ) -> None:
        self.source = source
        self.requested_revision = revision
        self.dtype, self.fp8 = DTYPES[dtype], dtype == "fp8"
        self.cache = cache
        self.device = device or default_device()
        self.model, self.kind = None, ""
        self._loaded: dict[Part, Any] = {}

    @classmethod
    def from_config(cls, model: ModelConfig, kind: str, cache: Path, device: torch.device | None = None) -> Self:
        """The ``t2v`` or ``i2v`` checkpoint of ``model``. Raises ``ModelError`` where the family has none."""
        source, revision = model.source(kind), getattr(model, f"{kind}_revision")
        if source is None:
            raise ModelError(
                f"model={model.name} has no {kind} checkpoint; set model.{kind}=<directory, file or hub repository>"
            )
        bundle = cls(source, revision, dtype=model.dtype, cache=cache, device=device)
        bundle.model, bundle.kind = model, kind
        return bundle

    # -- files ---------------------------------------------------------------------------------------------------------

    def part_source(self, part: Part) -> str | None:
        """Where ``part`` comes from, as the user named it; None where its values are random."""
        return checkpoint_layouts.source_of(self.model, self.kind, part, self.expert) if self.model else self.source

    def found(self, part: Part) -> FoundPart:
        """The files of ``part``; fetched from the hub, that part alone, where its source is a repository.

        Raises ``ModelError`` naming the part and what is missing.
        """
        source = self.part_source(part)
        if source is None:
            raise ModelError(f"{part} is not given: model.weights=random fills it with random values")
        path = _on_this_machine(source, self._revision(source), part, self.expert, self.cache)
        try:
            if self.kind:
                checkpoint_layouts.inspect(part, path, self.kind, self.model, self.expert)
            return checkpoint_layouts.locate(part, path, self.expert)
        except CineloraError as error:
            raise ModelError(f"{part} of {source}: {error}") from error

    def files(self, part: Part) -> tuple[Path, ...]:
        """Every file whose content decides what ``part`` is; raises as ``found``."""
        return self.found(part).files

    def is_at_hand(self, part: Part) -> bool:
        """Whether ``part`` can be loaded without the network."""
        source = self.part_source(part)
        if source is None or needs_no_hub(source):
            return True
        folder = fetched_before(source, self._revision(source))
        try:
            return folder is not None and bool(checkpoint_layouts.locate(part, folder, self.expert).files)
        except CineloraError:
            return False

    def _revision(self, source: str) -> str:
        """The revision that is asked for of the checkpoint itself; that of any other source is its main one."""
        return self.requested_revision if source == self.source else "main"

    def directory(self, part: Part) -> Path:
        """The local folder of ``part``; raises as ``found``."""
        return self.found(part).folder

    def fingerprint(self, part: Part) -> str:
        """As of every checkpoint; of random values their shape."""
        if self.part_source(part) is None:
            return sha256_json(["random", part, {} if part is Part.TOKENIZER else self._random_settings(part)])[:12]
        return super().fingerprint(part)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def load_transformer(
        self, on_host: int = 0, shares: Shares | None = None, num_frames: int | None = None
    ) -> WanTransformer3DModel:
        """A new frozen transformer in the bundle's dtype, in eval mode; the caller owns it.

        The matrices of its first ``on_host`` blocks stay on the host, for ``memory.Swap``; those of all blocks go into
        ``shares``, where ranks share them.
        """
        with waiting("loading transformer", rank_info().global_rank == 0):
            return self._load(Part.TRANSFORMER, on_host, shares)

    def _load(self, part: Part, on_host: int = 0, shares: Shares | None = None) -> Any:
        # the official code runs the VAE in float32, and CLIP is small enough for it
        dtype = self.dtype if part in (Part.TRANSFORMER, Part.TEXT_ENCODER) else torch.float32
        fp8 = self.fp8 and part is Part.TRANSFORMER
        if fp8 and (reason := missing_fp8(self.device)):
            raise ModelError(f"model.dtype=fp8: {reason}; choose model.dtype=bf16")
        to = Destination(self.device, dtype, fp8, on_host, shares)
        if self.part_source(part) is None:
            if part is Part.TOKENIZER:
                return ByT5Tokenizer()  # bytes: the one tokenizer that needs no file
            return random_part(part, self._random_settings(part), to)
        found = self.found(part)
        try:
            if part is Part.TOKENIZER:
                return load_tokenizer(found.folder)
            heads = self.model.num_heads if self.model else None
            return load_part(found, to, heads, self.family.geometry.channels)
        except (CineloraError, OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{part} of {self.part_source(part)} does not load: {first_line(error)}") from error

    def _random_settings(self, part: Part) -> dict[str, Any]:
        """The full shape of ``part``; a transformer fits the encoders that are given beside it."""
        if part is not Part.TRANSFORMER:
            is_residual = part is Part.VAE and self.family.geometry.channels != WAN21.geometry.channels
            return dict(NAMES["full_shapes"]["residual_vae" if is_residual else part])
        model, network = self.model, self.family.network(self.kind)
        assert model is not None  # nothing else has a part without a source
        settings = {
            "num_attention_heads": model.num_heads,
            "attention_head_dim": model.hidden_size // model.num_heads,
            "in_channels": network.channels,
            "out_channels": self.family.geometry.channels,
            "text_dim": self._width(Part.TEXT_ENCODER, "d_model"),
            "ffn_dim": model.ffn_dim,
            "num_layers": model.num_layers,
        }
        if network.image_tokens:
            settings["image_dim"] = self._width(Part.IMAGE_ENCODER, "hidden_size")
            settings["added_kv_proj_dim"] = model.hidden_size
        return settings

    def _width(self, part: Part, name: str) -> int:
        settings = self._random_settings(part) if self.part_source(part) is None else settings_of(self.found(part))
        return int(settings[name])

    # -- pixels and latents --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(self, video_BCTHW: Tensor, together: bool = False) -> Tensor:
        """Pixels in [-1, 1] to normalised latents (B, 16, T, H, W), float32: the posterior's mean, never a sample.

        ``together``: all ranks are here with the same pixels, and each encodes some rows of the picture (``_rows``).
        """
        vae, video = self._part(Part.VAE), video_BCTHW.to(self.device, torch.float32)
        num_frames, height, width = video.shape[2:]
        rows = self._rows(num_frames, height, width) if together else None
        with self._laid_out(num_frames, height, width, rows) as at_once:
            own = vae_parallel.own_rows(video, self._in_pixels(rows), dist.get_rank()) if rows else video
            mean = (vae_unchunked.encode(vae, own) if at_once else vae.encode(own).latent_dist).mode()
            mean = vae_parallel.everyones_rows(mean, rows) if rows else mean
        offset, scale = self._latent_statistics()
        latents: Tensor = (mean - offset) / scale
        return latents

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Normalised latents to pixels (B, 3, T, H, W) in [0, 1], float32."""
        return self._decoded(latents_BCTHW, None)

    @torch.no_grad()
    def decode_together(self, latents_BCTHW: Tensor) -> Tensor | None:
        """``decode`` by all ranks, each some rows of the picture (``_rows``): the same pixels on rank 0, None on the others."""
        rows = self._rows(*self._size_in_pixels(latents_BCTHW))
        if rows:
            return vae_parallel.on_first(self._decoded(latents_BCTHW, rows), self._in_pixels(rows))
        return self.decode(latents_BCTHW) if vae_parallel.rank_here() == 0 else None

    def _decoded(self, latents_BCTHW: Tensor, rows: list[int] | None) -> Tensor:
        """Pixels, where ``rows`` are given this rank's."""
        vae, (offset, scale) = self._part(Part.VAE), self._latent_statistics()
        raw = latents_BCTHW.to(self.device, torch.float32) * scale + offset
        with self._laid_out(*self._size_in_pixels(latents_BCTHW), rows) as at_once:
            own = vae_parallel.own_rows(raw, rows, dist.get_rank()) if rows else raw
            pixels = vae_unchunked.decode(vae, own) if at_once else vae.decode(own, return_dict=False)[0]
        return ((pixels + 1) / 2).clamp(0, 1)

    def _rows(self, num_frames: int, height: int, width: int) -> list[int] | None:
        """Rows of latents for each rank, where all work on one picture; None where a rank does for itself.

        That is: where it is the only one, where ``tile`` asks for tiles, whose seams are then the same on any number of
        ranks, where one has too little room for its share, and where there are fewer rows than ranks.
        """
        # Every rank has to come to the same answer, or some would wait for the others inside the VAE. What follows from sizes and
        # settings is the same everywhere; room on the GPU is not, so for that they ask each other.
        rows = vae_parallel.shares(height // self.family.geometry.spatial, vae_parallel.ranks_here())
        if len(rows) == 1 or min(rows) == 0 or self.tile:
            return None
        cramped = self.tile is None and self._too_large(num_frames, max(self._in_pixels(rows)), width)
        return None if vae_parallel.any_rank(cramped, self.device) else rows

    @contextmanager
    def _laid_out(self, num_frames: int, height: int, width: int, rows: list[int] | None) -> Iterator[bool]:
        """The VAE ready for pictures of a size, by ``rows``, in tiles or neither; and whether it takes a clip as a whole."""
        # Three ways, of which tiles exclude the others. By rows the largest part decides for all ranks whether it passes as one.
        # The VAE is one object for all callers, so that tiling is switched on or off each time.
        vae = self._part(Part.VAE)
        height = max(self._in_pixels(rows)) if rows else height
        tile = self._too_large(num_frames, height, width) if self.tile is None and not rows else self.tile
        vae.enable_tiling() if tile else vae.disable_tiling()
        at_once = self._at_once(num_frames, height, width)
        with (
            vae_unchunked.whole_clips(vae) if at_once else nullcontext(),
            vae_parallel.by_rows(vae, rows) if rows else nullcontext(),
        ):
            yield at_once

    def _at_once(self, num_frames: int, height: int, width: int) -> bool:
        """Whether a clip is so small, and the VAE so narrow, that it passes as a whole, which takes half the time."""
        widest = vae_unchunked.widest_bytes(self._part(Part.VAE), num_frames, height, width)
        return num_frames > 1 and not self.tile and widest <= AT_ONCE_BYTES

    def _too_large(self, num_frames: int, height: int, width: int) -> bool:
        """Whether a GPU has too little room for a clip as a whole."""
        return self.device.type == "cuda" and vae_bytes(num_frames, height, width, self.family.vae) > free_gpu_bytes(
            self.device
        )

    def _size_in_pixels(self, latents_BCTHW: Tensor) -> tuple[int, int, int]:
        """Frames, height and width of the clip that latents are of."""
        (frames, height, width), geometry = latents_BCTHW.shape[2:], self.family.geometry
        return geometry.temporal * (frames - 1) + 1, geometry.spatial * height, geometry.spatial * width

    def _in_pixels(self, rows: list[int]) -> list[int]:
        """Rows of pixels that each number of rows of latents stands for."""
        return [self.family.geometry.spatial * count for count in rows]

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        config = self._part(Part.VAE).config
        mean, std = torch.tensor([config.latents_mean, config.latents_std], device=self.device).view(2, 1, -1, 1, 1, 1)
        return mean, std

    def cleaned(self, text: str) -> str:
        """``clean_prompt`` of a text."""
        return clean_prompt(text)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> list[Tensor]:
        """UMT5 features (n, D) of each prompt, cut at its true length (at most 512 tokens)."""
        tokenizer, encoder = self._part(Part.TOKENIZER), self._part(Part.TEXT_ENCODER)
        # Padded to 512 as in training of Wan, and cut afterwards: the encoder sees the mask, the transformer zeros instead.
        length = {"padding": "max_length", "max_length": self.family.text_tokens, "truncation": True}
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        tokens = tokenizer(cleaned, return_attention_mask=True, return_tensors="pt", **length)
        mask = tokens.attention_mask.to(self.device)
        features = encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
        return [f[:n] for f, n in zip(features, mask.sum(dim=1).tolist(), strict=True)]

    @torch.no_grad()
    def encode_image(self, image_HWC: np.ndarray, num_frames: int, together: bool = False) -> ImageCondition:
        """What I2V is shown of a first frame (uint8, H and W whole cells): latents (1, 16, T, h, w), tokens (1, 257, D).

        The VAE sees the whole clip [frame, mid-grey ...] (zeros in [-1, 1]; zero latents would be something else). CLIP
        sees the frame squashed to 224x224 with torch's bicubic and no crop, as Wan's ``clip.py`` does; diffusers' own
        processor (PIL, or torchvision where it is installed) antialiases, so its features differ slightly.
        """
        return self.encode_images(pixels_to_range(image_HWC[None], self.device)[:, :, 0], num_frames, together)

    @torch.no_grad()
    def encode_images(self, frames_BCHW: Tensor, num_frames: int, together: bool = False) -> ImageCondition:
        """``encode_image`` of a batch of first frames (B, 3, H, W) in [-1, 1]: latents (B, 16, T, h, w), tokens (B, 257, D)."""
        if not self.family.image_is_encoded:
            return ImageCondition(self.encode_video(frames_BCHW[:, :, None], together))
        clips = F.pad(frames_BCHW[:, :, None], (0, 0, 0, 0, 0, num_frames - 1))
        tokens = self._image_tokens(frames_BCHW) if self.family.network(self.kind or "i2v").image_tokens else None
        return ImageCondition(self.encode_video(clips, together), tokens)

    def _image_tokens(self, frame_BCHW: Tensor) -> Tensor:
        encoder = self._part(Part.IMAGE_ENCODER)
        size = encoder.config.image_size
        # from [-1, 1] to [0, 1], which CLIP's mean and spread are of; the last layer but one is what Wan was trained on
        squashed = F.interpolate(frame_BCHW, size=(size, size), mode="bicubic", align_corners=False) / 2 + 0.5
        mean, std = torch.tensor([CLIP_MEAN, CLIP_STD], device=self.device).view(2, 1, 3, 1, 1)
        tokens: Tensor = encoder((squashed - mean) / std, output_hidden_states=True).hidden_states[-2]
        return tokens


class FirstFrameBundle(WanBundle):
    """The parts of a checkpoint of Wan2.2's TI2V-5B."""

    condition = FirstFrameCondition

    def load_transformer(
        self, on_host: int = 0, shares: Shares | None = None, num_frames: int | None = None
    ) -> WanTransformer3DModel:
        """The same; where tokens have times of their own, it embeds each time once."""
        transformer = super().load_transformer(on_host, shares, num_frames)
        embed_each_time_once(transformer)
        return transformer


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder; raises ``ModelError`` where it is code of the folder's own, which is not run."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        way_out = "take one of a class that transformers knows"
        raise ModelError(f"{folder} brings code of its own, which is not run; {way_out}") from error


def _on_this_machine(source: str, revision: str, part: Part, expert: str, cache: Path) -> Path:
    """The directory or file that holds ``part``, fetched where it has to be."""
    if not is_model_source(source):
        raise ModelError(
            f"model source {source!r} is neither a directory, a file, nor a hub repository owner/name "
            f"nor {' or '.join(EMBEDDED)}"
        )
    if source in EMBEDDED:
        name = source.removeprefix("embedded:tiny-")
        if source in RANDOM_MEMBERS:
            from cinelora.families.wan.random_members import random_member  # which brings diffusers' pipelines

            return random_member(name, cache)
        from cinelora.families.wan import embedded  # only the embedded model needs it

        return embedded.embedded(name, cache)
    if Path(source).exists():
        return Path(source)
    way_out = "give a local directory or file with model.t2v=<path> or model.i2v=<path> instead"
    return fetched(source, revision, checkpoint_layouts.patterns(part, expert), part, way_out)
