"""The data set over the cache, and the order in which its samples are trained on.

Enters: an index and a batch size. Leaves: batches of tensors, in an order that is a function of (seed, step) alone: any
number of ranks, and a run resumed at any step, sees the same samples. It does not know what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, lru_cache
from itertools import count, groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cinelora.errors import EncodingLost, FileError, FootageError
from cinelora.io.tensor_files import load_tensors, read_header
from cinelora.latents.cache import Entry, Index, encoding_path
from cinelora.nn.flow_matching import keyed_generator
from cinelora.nn.text_padding import pad_text

MEMORY_BYTES = 512 * 2**20
"""Encodings a data set keeps in memory. Of the 14B model a caption takes 4 MiB, a 720p still 1, a 480p window of 33 frames 8."""


class LatentDataset(Dataset[dict[str, Tensor]]):
    """The encodings of one split.

    Captions are filled up to ``text_tokens``, which the family's facts say.
    An item holds ``latents`` (16, T, h, w) float32, ``text`` (512, D), ``index`` (its position, int64), and where the
    index has image encodings ``image_latents`` (16, T, h, w) and ``image_tokens`` (257, D). What is read first stays in
    memory, up to ``MEMORY_BYTES``: every sample is as likely to come next as any other, so there is nothing to evict.
    """

    def __init__(self, cache: Path, index: Index, split: str, text_tokens: int = 512) -> None:
        self.root, self.text_tokens = cache / "latents", text_tokens
        self.entries: list[Entry] = index.split(split)
        self.texts = index.texts
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._room = MEMORY_BYTES

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        entry = self.entries[position]
        item = {"index": torch.tensor(position), "text": self.text(entry.text), **self._read(entry.video)}
        return item if entry.image is None else {**item, **self._read(entry.image)}

    def shape(self, position: int) -> tuple[int, ...]:
        """Shape of a sample's latents, read from the file's header."""
        name = self.entries[position].video
        with self._removed_if_damaged(name):
            return tuple(read_header(self._file(name))["latents"]["shape"])

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all samples' latents."""
        return [self.shape(position) for position in range(len(self))]

    def text(self, name: str) -> Tensor:
        """A caption's embedding, filled up to (text_tokens, D)."""
        return self._read(name)["text"]

    def _read(self, name: str) -> dict[str, Tensor]:
        if name in self._memory:
            return self._memory[name]
        tensors = self._whole(name)
        if "text" in tensors:
            tensors["text"] = pad_text([tensors["text"]], self.text_tokens)[0]
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size <= self._room:
            self._memory[name] = tensors
            self._room -= size
        return tensors

    def _whole(self, name: str) -> dict[str, Tensor]:
        """The tensors of an encoding, which are what was written: a flipped bit would train another adapter without a word."""
        with self._removed_if_damaged(name):
            return load_tensors(self._file(name))[0]

    def _file(self, name: str) -> Path:
        path = encoding_path(self.root, name)
        if not path.exists():
            raise EncodingLost(f"{path} is gone from the cache: start again, and it is encoded again")
        return path

    @contextmanager
    def _removed_if_damaged(self, name: str) -> Iterator[None]:
        """A damaged file is removed from the cache: what is missing there is encoded again."""
        try:
            yield
        except FileError as error:
            encoding_path(self.root, name).unlink(missing_ok=True)
            raise EncodingLost(f"{error}: it was removed; start again, and it is encoded again") from error


@lru_cache(64)
def shuffled(length: int, *key: int | str) -> list[int]:
    """0 to ``length`` - 1 in an order that depends on ``key`` alone."""
    order: list[int] = torch.randperm(length, generator=keyed_generator(*key)).tolist()
    return order


@dataclass(eq=False, repr=False)
class BucketSampler(Sampler[list[int]]):
    """Endless batches of positions, one bucket (shape) per optimizer step, the same for any number of ranks.

    A step takes a group of ``batch_size x world_size x accumulation`` samples of one bucket. An epoch shuffles each
    bucket and cuts it into groups, the last filled up from the bucket's own start, then shuffles the groups. So the group
    of a step follows from (seed, step) in constant time, and nothing has to be stored to resume.
    """

    shapes: list[tuple[int, ...]]
    _: KW_ONLY
    batch_size: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    first_step: int = 0

    def __post_init__(self) -> None:
        if not self.shapes:
            raise FootageError(
                "there is no sample to train on: every clip went to the held-out split; lower data.holdout"
            )
        in_order = sorted(range(len(self.shapes)), key=self.shapes.__getitem__)
        self.buckets = [list(bucket) for _, bucket in groupby(in_order, key=self.shapes.__getitem__)]
        self.group_size = self.batch_size * self.accumulation * self.world_size
        self.groups_per_bucket = [-(-len(bucket) // self.group_size) for bucket in self.buckets]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every sample is seen at least once."""
        return sum(self.groups_per_bucket)

    def group(self, step: int) -> list[int]:
        """The positions of all samples of optimizer step ``step``, over all ranks and micro-batches."""
        # Resuming at step 7,000 must not mean drawing 7,000 batches to throw them away, and no generator's state is stored.
        # So nothing here depends on the step before. Say an epoch has 5 groups: 3 of bucket A (numbers 0 to 2), 2 of B (3, 4).
        #   step 7     -> epoch 1, place 2
        #   the shuffle of epoch 1's groups, keyed by (seed, epoch), has some number at place 2: say 4
        #   number 4   -> past A's 3 groups: group 1 of bucket B
        #   the shuffle of bucket B, keyed by (seed, bucket, epoch)  -> the samples of that group
        epoch, place = divmod(step, self.steps_per_epoch)
        group = shuffled(self.steps_per_epoch, self.seed, "groups", epoch)[place]
        for number, (bucket, groups) in enumerate(zip(self.buckets, self.groups_per_bucket, strict=True)):
            if group < groups:
                return self._slice(bucket, number, epoch, group)
            group -= groups
        raise AssertionError("a group lies in one of the buckets")

    def _slice(self, bucket: list[int], number: int, epoch: int, group: int) -> list[int]:
        # The last group is filled up from the bucket's own start, hence the remainder: every group is full, so that every
        # rank has as many samples in every step.
        order = shuffled(len(bucket), self.seed, "bucket", number, epoch)
        first = group * self.group_size
        return [bucket[order[i % len(bucket)]] for i in range(first, first + self.group_size)]

    def __iter__(self) -> Iterator[list[int]]:
        # A group lies in rows: micro-batch 0 of all ranks, then micro-batch 1 of all ranks. So with half the ranks and twice
        # the accumulation a step sums over the same samples.
        for step in count(self.first_step):
            group = self.group(step)
            for micro in range(self.accumulation):
                first = (micro * self.world_size + self.rank) * self.batch_size
                yield group[first : first + self.batch_size]
