"""Speed of reading the cache against the speed of training: floor 10x, so that reading is never the bottleneck.

Every sample is read from its file: what a data set keeps in memory after its first epoch is left out.

python benchmarks/cache_reads.py [rounds] [cache]
"""

import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from common import report, spread, train
from torch.utils.data import DataLoader

from cinelora.latents.cache import Index
from cinelora.latents.dataset import BucketSampler, LatentDataset

PASSES = 5


def reads_per_s(run: Path, cache: Path, batch_size: int) -> float:
    """Samples per second through the loader as training builds it, without a worker, over a few first epochs."""
    seconds, samples = 0.0, 0
    for number in range(PASSES + 1):
        data = LatentDataset(cache, Index.load(run / "dataset.json"), "train")
        sampler = BucketSampler([data.shape(i) for i in range(len(data))], batch_size=batch_size, seed=number)
        started = time.perf_counter()
        for _ in islice(DataLoader(data, batch_sampler=sampler), len(data) // batch_size):
            pass
        if number:  # the first pass warms the disk's cache up
            seconds += time.perf_counter() - started
            samples += len(data) // batch_size * batch_size
    return samples / seconds


def main(rounds: int, kept: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, results = Path(scratch), {}
        cache = Path(kept) if kept else folder / "cache"
        for stage, batch_size in (("style", 4), ("motion", 1)):
            settings = [f"stage={stage}", "data=noir", f"cache={cache}", "stage.steps=60"]
            trained, read = [], []
            for number in range(rounds):
                out = folder / f"{stage}-{number}"
                trained.append(train(out, *settings)["samples_per_s"])
                read.append(reads_per_s(out, cache, batch_size))
            ratios = [a / b for a, b in zip(read, trained, strict=True)]
            results[stage] = {"reads_per_s": read, "trained_per_s": trained, "ratio": ratios}
            print(f"{stage}: reads {spread(read)}, trains {spread(trained)} samples/s, ratio {spread(ratios)}")
        report("cache_reads", results)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2] if len(sys.argv) > 2 else None)
