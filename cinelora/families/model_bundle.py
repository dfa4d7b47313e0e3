"""A checkpoint, as training and sampling see it: its parts, each loaded when it is used, and what they turn into what.

Enters: pixels and prompts, or a part. Leaves: latents, embeddings, networks, pixels. What a part is, where it lies and how it is
fed, the class of the family knows; what all families do with their parts is here.

Shape suffixes: B batch, C channels, T frames (latent frames for latents), H and W height and width, D features.
"""

from __future__ import annotations

import copy
import gc
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from cinelora.config.schema import ModelConfig
from cinelora.errors import ModelError, first_line
from cinelora.families import family_of
from cinelora.families.conditioning import Conditioning
from cinelora.families.family import Family, Network, Part
from cinelora.families.text_limit import Lost, lost_of, may_be_long
from cinelora.io.hub import EMBEDDED, is_at_hand
from cinelora.io.plain_data import opened
from cinelora.io.waiting import waiting
from cinelora.memory.block_swap import StoredWeights, arrange
from cinelora.memory.weight_sharding import Shares
from cinelora.parallel.launch import rank_info
from cinelora.planning.estimate import Policy


class ConditionOf(Conditioning, Protocol):
    """How conditions come to be."""

    def __init__(self, text: Tensor, image: Any = None) -> None: ...

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], shows_image: bool) -> Self:
        """Those of a batch of the data set; ``shows_image``: with what is encoded of the first frame."""
        ...

    @staticmethod
    def drawn_image(network: Network, size: Any, width: int | None, draw: Callable[..., Tensor]) -> Any:
        """What would be shown of a first frame, of no meaning: ``draw`` fills the sizes after the batch's; None for none."""
        ...


class Bundle(ABC):
    """One checkpoint. ``device`` is where its parts are put, ``kind`` the network that they are asked for."""

    condition: type[ConditionOf]
    """What its networks are conditioned on."""
    device: torch.device
    dtype: torch.dtype
    cache: Path
    model: ModelConfig | None
    kind: str
    expert: str = ""
    tile: bool | None = None
    """Whether the VAE works in tiles; None where the room decides."""
    _loaded: dict[Part, Any]

    @classmethod
    @abstractmethod
    def from_config(cls, model: ModelConfig, kind: str, cache: Path, device: torch.device | None = None) -> Self:
        """The checkpoint of the network ``kind`` of ``model``. Raises ``ModelError`` where the model has none."""

    def of_expert(self, expert: str) -> Self:
        """The same checkpoint, with the transformer of that one of its experts; nothing of it is loaded."""
        other = copy.copy(self)
        other.expert, other._loaded = expert, {}
        return other

    @property
    def family(self) -> Family:
        """The facts of its family."""
        return family_of(self.model or ModelConfig())

    @property
    def image_parts(self) -> tuple[Part, ...]:
        """The parts that encode what its transformer is shown of a first frame."""
        return self.family.image_parts(self.kind or self.family.clips.name)

    # -- files ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def part_source(self, part: Part) -> str | None:
        """Where ``part`` comes from, as the user named it; None where its values are random."""

    @abstractmethod
    def files(self, part: Part) -> tuple[Path, ...]:
        """The files of ``part`` on this machine; fetched, that part alone, where its source is a repository.

        Raises ``ModelError`` naming the part and what is missing.
        """

    @abstractmethod
    def is_at_hand(self, part: Part) -> bool:
        """Whether ``part`` can be loaded without the network."""

    def files_at_hand(self, part: Part) -> tuple[Path, ...]:
        """The files of ``part`` that a disk may take long to give: none where they are embedded, random or not fetched yet."""
        source = self.part_source(part)
        return () if source is None or source in EMBEDDED or not self.is_at_hand(part) else self.files(part)

    def fingerprint(self, part: Part) -> str:
        """12 hex digits of the part's content: names, sizes, and samples spread over every file."""
        return fingerprint_of(self.files(part))

    # -- parts ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, *parts: Part) -> Iterator[None]:
        """Hold ``parts`` in memory inside the block and release them after it."""
        for part in parts:
            self._part(part)
        try:
            yield
        finally:
            for part in parts:
                self._loaded.pop(part, None)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _part(self, part: Part) -> Any:
        if part not in self._loaded:
            with waiting(f"loading {part}", rank_info().global_rank == 0):
                self._loaded[part] = self._load(part)
        return self._loaded[part]

    @abstractmethod
    def _load(self, part: Part) -> Any:
        """Read one part."""

    @abstractmethod
    def load_transformer(self, on_host: int = 0, shares: Shares | None = None, num_frames: int | None = None) -> Any:
        """A new frozen network in the bundle's dtype, in eval mode; the caller owns it. Raises ``ModelError``.

        The matrices of its first ``on_host`` blocks stay on the host, those of all blocks go into ``shares`` where ranks share
        them. ``num_frames`` are those of the clips it is to make, where that changes how it works.
        """

    @staticmethod
    def taught_by(stage: str, network: str) -> str:
        """What of its layers a network is taught in a stage, as ``LayerNames.taught_in`` calls that: what is its own."""
        return network

    @staticmethod
    def arrange(transformer: Any, policy: Policy, shared: Sequence[StoredWeights] = (), num_lengths: int = 1) -> None:
        """Let the blocks of a network run by ``policy``, as ``memory.block_swap.arrange``."""
        arrange(transformer, policy, shared, num_lengths)

    # -- pixels and latents --------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_video(self, video_BCTHW: Tensor, together: bool = False) -> Tensor:
        """Pixels in [-1, 1] to latents, float32; ``together``: by all ranks, which have the same pixels."""

    @abstractmethod
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents to pixels (B, 3, T, H, W) in [0, 1], float32."""

    @abstractmethod
    def decode_together(self, latents_BCTHW: Tensor) -> Tensor | None:
        """``decode`` by all ranks: the pixels on rank 0, None on the others."""

    def encode_image(self, image_HWC: np.ndarray, num_frames: int, together: bool = False) -> Any:
        """The condition of a clip of ``num_frames`` frames on its first, uint8 (H, W, 3). Raises ``ModelError`` without one."""
        raise ModelError(f"{self.family.title} is shown no first frame")

    def encode_images(self, frames_BCHW: Tensor, num_frames: int, together: bool = False) -> Any:
        """``encode_image`` of a batch of first frames in [-1, 1]."""
        raise ModelError(f"{self.family.title} is shown no first frame")

    def settled_noise(self, noise_BCTHW: Tensor, seed: int) -> Tensor:
        """The noise that a clip begins at, of what was drawn for it."""
        return noise_BCTHW

    # -- text ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> list[Tensor]:
        """Features (n, D) of each prompt, as ``pad_text`` takes them."""

    def lost(self, texts: Iterable[str | None]) -> dict[str, Lost]:
        """What is lost of those of ``texts`` that are longer than the text encoder reads; raises as ``files``."""
        limit = self.family.text_tokens
        long = [text for text in dict.fromkeys(texts) if text and may_be_long(text, limit)]
        if not long:
            return {}  # without a tokenizer, which some take a while to load
        with self.loaded(Part.TOKENIZER):
            found = {text: lost_of(self.cleaned(text), self._part(Part.TOKENIZER), limit) for text in long}
        return {text: lost for text, lost in found.items() if lost}

    def cleaned(self, text: str) -> str:
        """A text as the family's tokenizer gets it."""
        return text


def fetched(repository: str, revision: str, patterns: list[str], part: str, way_out: str) -> Path:
    """The folder of a repository on this machine, with what is called as ``patterns`` say, fetched where it is not there.

    Raises ``ModelError`` naming the ``part`` and the ``way_out``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot fetch {part} of {repository}@{revision} from the hub: {first_line(error)}; {way_out}"
        ) from error


def fetched_before(repository: str, revision: str) -> Path | None:
    """The folder of a repository as far as it was fetched; None where nothing of it was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def needs_no_hub(source: str | None) -> bool:
    """Whether a source lies on this machine for certain, or is none."""
    return source is None or is_at_hand(source)


def fingerprint_of(files: Iterable[Path], blocks: int = 64, block_size: int = 65536) -> str:
    """12 hex digits of the content of files: names, sizes, and samples spread over each."""
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with opened(path) as file:
            # Tens of gigabytes would take minutes. A file that was changed or cut short differs in its size, or in some of the
            # samples, the first of which has its header and the last its end.
            whole = size <= blocks * block_size
            for place in [0] if whole else [i * (size - block_size) // (blocks - 1) for i in range(blocks)]:
                file.seek(place)
                digest.update(file.read(size if whole else block_size))
    return digest.hexdigest()[:12]
