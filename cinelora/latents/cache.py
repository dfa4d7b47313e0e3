"""The cache of encoded samples: every still, window and caption goes through its encoder once, ever.

Enters: a manifest of samples and a bundle. Leaves: one safetensors file per encoding, named by a hash of everything it
depends on, and an ``Index`` that says which files make up a data set. Files appear whole or not at all, so a killed build
resumes where it stopped and two runs can share a folder. It does not know what the latents are used for.

What a name covers: the content of the clip (not its path or date), the frames taken and how they are blended, the size, what
bars leave of the picture, what its colours go through, the encoder's own fingerprint (for texts also the dtype it runs in) and
``VERSION``. A changed caption therefore re-encodes one text, another
VAE every sample, a touched file none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from cinelora.errors import FileError, FootageError, TrainingError
from cinelora.families.family import Part
from cinelora.footage.manifest import Manifest, Sample, Skipped
from cinelora.io.atomic import sha256_json, sweep_temporaries, write_json
from cinelora.io.live_bar import LiveBar
from cinelora.io.own_folders import tag_cache
from cinelora.io.plain_data import MOST_OF_LISTS, quoted, read_json
from cinelora.io.tensor_files import save_tensors

if TYPE_CHECKING:
    from cinelora.families.model_bundle import Bundle
    from cinelora.footage.video_reader import Pixels

    Read = Callable[[Sample], Pixels | Tensor]

VERSION = 2
"""Raised whenever the same inputs would be encoded to other values."""
PIXELS_AT_ONCE = 6 * 2**20
"""Pixels of a batch on a GPU: 8 windows of 33 frames at 112x192, one at 480p. On a CPU batches gain nothing."""
TEXTS_AT_ONCE = 64
NAME = re.compile(r"(text|video|image)-[0-9a-f]{32}")
"""What an encoding is called; its file is named so."""


@dataclass(frozen=True)
class Entry:
    """One sample: where it came from, and the names of its encodings (``image`` only where I2V is shown its first frame)."""

    id: str
    split: str
    caption: str
    text: str
    video: str
    image: str | None


Todo = list[tuple[Sample, Entry]]
Batch = list[tuple[Entry, Tensor]]


@dataclass(frozen=True)
class Index:
    """A data set in the cache. ``texts`` holds what belongs to no sample: the empty caption and the preview's prompt."""

    entries: tuple[Entry, ...]
    texts: dict[str, str]

    @property
    def data_hash(self) -> str:
        """12 hex digits over every encoding and caption, recorded in adapters."""
        return sha256_json([asdict(entry) for entry in self.entries])[:12]

    def split(self, name: str) -> list[Entry]:
        """The entries of ``train`` or ``heldout``."""
        return [entry for entry in self.entries if entry.split == name]

    def save(self, path: Path) -> None:
        """Write the index as JSON."""
        write_json(path, {"entries": [asdict(entry) for entry in self.entries], "texts": self.texts})

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read what ``save`` wrote. Raises ``FileError`` where it is damaged."""
        return read_json(path, cls, limit=MOST_OF_LISTS)


@dataclass(frozen=True)
class Framing:
    """How pixels reach the encoder: the size of samples that name none, and whether I2V will be shown the first frame."""

    height: int
    width: int
    image_condition: bool

    def shape(self, sample: Sample) -> tuple[int, int, int]:
        """Frames, height and width of a sample."""
        return len(sample.frames), *(sample.size or (self.height, self.width))


class LatentCache:
    """The folder of encodings of one bundle. Building is resumable and sharded over ranks; ``workers`` processes read."""

    def __init__(self, root: Path, bundle: Bundle, framing: Framing, workers: int = 0) -> None:
        self.root, self.bundle, self.framing, self.workers = root / "latents", bundle, framing, workers

    def path(self, name: str) -> Path:
        """The file of an encoding."""
        return encoding_path(self.root, name)

    def index(self, manifest: Manifest, texts: dict[str, str]) -> Index:
        """Names of everything ``manifest`` and ``texts`` (role -> prompt) encode to; nothing is encoded."""
        # A name is a hash of everything that its tensors follow from, and of nothing else. What is left out on purpose:
        #   the path and date of the clip   a file that is moved or copied keeps its encodings;
        #   the sample's id and split       another hold-out re-encodes nothing;
        #   the VAE, in the names of texts  it has no part in them, as the text encoder has none in videos.
        # The order within each list is part of the name. Whatever is added here must leave the names of old samples as they
        # are, or else raise VERSION: `_treatment` adds nothing for a sample that is treated as all samples once were.
        fingerprint, framing = self.bundle.fingerprint, self.framing
        text_seed = [VERSION, str(self.bundle.dtype), fingerprint(Part.TEXT_ENCODER), fingerprint(Part.TOKENIZER)]
        vae = fingerprint(Part.VAE)
        encodes_image = framing.image_condition and self.bundle.family.image_is_encoded
        parts = self.bundle.image_parts
        clip = fingerprint(Part.IMAGE_ENCODER) if encodes_image and Part.IMAGE_ENCODER in parts else None

        def name(kind: str, *facts: Any) -> str:
            return f"{kind}-{sha256_json(facts)[:32]}"

        def entry(sample: Sample) -> Entry:
            pixels = [VERSION, sample.file_hash, *framing.shape(sample)[1:], vae, *_treatment(sample)]
            # The image encoder sees the first frame alone, but the VAE also encodes it as the start of a clip of this length.
            start = (clip, sample.frames[0], len(sample.frames))
            image = name("image", *pixels, *start) if encodes_image else None
            text, video = name("text", *text_seed, sample.caption), name("video", *pixels, sample.frames)
            return Entry(sample.id, sample.split, sample.caption, text, video, image)

        named = {role: name("text", *text_seed, prompt) for role, prompt in texts.items()}
        return Index(tuple(map(entry, manifest.samples)), named)

    def encode(
        self, read: Read, manifest: Manifest, index: Index, texts: dict[str, str], rank: int = 0, world_size: int = 1
    ) -> list[Skipped]:
        """Encode what is missing of this rank's share; returns the samples whose pixels could not be read.

        ``read`` gives a sample's pixels, uint8 (T, H, W, 3) at its size, as a numpy array or a tensor, or
        raises ``FootageError``. The share is cut from all samples, not from the missing ones, which change
        while other ranks write.
        """
        tag_cache(self.root.parent)
        for folder in self.root.glob("*"):
            sweep_temporaries(folder)
        # Many samples share a caption: texts are encoded by name, each once. Every rank takes each world_size-th text and
        # sample, counted over all of them. Were it counted over the missing ones, two ranks that look at different moments
        # would count differently, and a sample could be encoded twice or by nobody.
        prompts = {entry.text: entry.caption for entry in index.entries}
        prompts |= {index.texts[role]: prompt for role, prompt in texts.items()}
        self._encode_texts(self._missing(list(prompts)[rank::world_size]), prompts, rank == 0)
        pairs = list(zip(manifest.samples, index.entries, strict=True))[rank::world_size]
        todo = [pair for pair in pairs if self._missing(name for name in (pair[1].video, pair[1].image) if name)]
        return self._encode_samples(read, todo, rank == 0)

    def complete(self, index: Index, skipped: list[Skipped]) -> Index:
        """``index`` without the entries that could not be encoded. Raises ``FootageError`` where none is left."""
        kept = tuple(e for e in index.entries if not self._missing(n for n in (e.text, e.video, e.image) if n))
        if not kept:
            reason = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
            raise FootageError(f"none of the {len(index.entries)} samples could be encoded{reason}")
        return replace(index, entries=kept)

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in dict.fromkeys(names) if not self.path(name).exists()]

    def _encode_texts(self, names: list[str], prompts: dict[str, str], show: bool) -> None:
        if not names:
            return
        size = TEXTS_AT_ONCE if self.bundle.device.type == "cuda" else 1
        with self.bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER), _bar(names, "captions", show) as bar:
            for first in range(0, len(names), size):
                batch = names[first : first + size]
                for name, text in zip(batch, self.bundle.encode_text([prompts[n] for n in batch]), strict=True):
                    self._save(name, {"text": text})
                bar.update(len(batch))

    def _encode_samples(self, read: Read, todo: Todo, show: bool) -> list[Skipped]:
        if not todo:
            return []
        skipped: list[Skipped] = []
        parts = self.bundle.image_parts if self.framing.image_condition else (Part.VAE,)
        with self.bundle.loaded(*parts), _bar(todo, "samples", show) as bar:
            for batch in self._batches(read, todo, skipped):
                self._encode_batch(batch)
                bar.update(len(batch))
        return skipped

    def _batches(self, read: Read, todo: Todo, skipped: list[Skipped]) -> Iterator[Batch]:
        """Entries with their pixels (1, 3, T, H, W) in [-1, 1], as many of one shape at a time as fit."""
        from cinelora.nn.pixels import pixels_to_range

        device = self.bundle.device
        # A batch must be of one shape, so samples are sorted by shape first. The sort is stable: within a shape they stay
        # clip after clip, and the reader has the next sample's file open already.
        todo = sorted(todo, key=lambda pair: self.framing.shape(pair[0]))
        # Worker processes decode the next samples while this one encodes. They are spawned, not forked: a reader may use
        # the GPU, which does not survive a fork.
        context, pixels = "spawn" if self.workers else None, _Readings(read, todo)
        readings = DataLoader(pixels, batch_size=None, num_workers=self.workers, multiprocessing_context=context)
        read_ones = zip(todo, readings, strict=True)
        for shape, of_one_shape in groupby(read_ones, key=lambda one: self.framing.shape(one[0][0])):
            size = max(1, PIXELS_AT_ONCE // math.prod(shape)) if device.type == "cuda" else 1
            batch: Batch = []
            for (sample, entry), reading in of_one_shape:
                if isinstance(reading, str):
                    skipped.append(Skipped(sample.path, reading))
                else:
                    batch.append((entry, pixels_to_range(reading, device)))
                if len(batch) >= size:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _encode_batch(self, batch: Batch) -> None:
        # An I2V sample has two files, of which a killed run may have left one: only what is missing is encoded.
        videos = [(entry, video) for entry, video in batch if self._missing([entry.video])]
        if videos:
            latents = self.bundle.encode_video(torch.cat([video for _, video in videos]))
            for (entry, _), encoded in zip(videos, latents, strict=True):
                self._save(entry.video, {"latents": encoded})
        images = [(entry.image, video) for entry, video in batch if entry.image and self._missing([entry.image])]
        if images:
            first_frames = torch.cat([video[:, :, 0] for _, video in images])
            condition = self.bundle.encode_images(first_frames, images[0][1].shape[2])
            encoded = {"image_latents": condition.latents}
            encoded |= {} if condition.tokens is None else {"image_tokens": condition.tokens}
            for number, (name, _) in enumerate(images):
                self._save(name, {part: tensors[number] for part, tensors in encoded.items()})

    def _save(self, name: str, tensors: dict[str, Tensor]) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise TrainingError(
                f"the encoder gave values that are not finite for {name}; check model.dtype and the weights"
            )
        kept = {key: tensor.cpu() for key, tensor in tensors.items()}
        save_tensors(path, kept, {"version": str(VERSION)}, seals=True)


def _treatment(sample: Sample) -> list[dict[str, Any]]:
    """What is done to a sample's pixels beyond what was always done, which names nothing."""
    named = {"box": sample.box, "weights": sample.weights, "colours": sample.colours, "fields": sample.fields}
    done = {name: value for name, value in named.items() if value}
    return [done] if done else []


def encoding_path(root: Path, name: str) -> Path:
    """Where the encoding ``name`` lies below ``root``: spread over folders by the first digits of its hash.

    Raises ``FileError`` for what no encoding is called: names are read from files, and lead nowhere else.
    """
    if not NAME.fullmatch(name):
        raise FileError(f"{quoted(name)} cannot be the name of an encoding: dataset.json is damaged")
    return root / name.split("-")[1][:2] / f"{name}.safetensors"


class _Readings(TorchDataset["Tensor | str"]):
    """The pixels of samples, or in words why there are none; a whole sample comes in one piece from another process."""

    def __init__(self, read: Read, todo: Todo) -> None:
        self.read, self.samples = read, [sample for sample, _ in todo]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Tensor | str:
        # An error raised in a worker process would end the whole build. So it is handed over as text, and the sample is left
        # out with that reason.
        try:
            pixels = self.read(self.samples[position])
        except FootageError as error:
            return str(error)
        tensor = pixels if isinstance(pixels, torch.Tensor) else torch.from_numpy(pixels.copy())
        return tensor.cpu() if get_worker_info() else tensor


def _bar(items: Sized, unit: str, show: bool) -> LiveBar:
    return LiveBar(total=len(items), desc=f"encoding {unit}", unit=unit[:-1], disable=not show)
