"""The full Wan2.1 VAE decodes 81 frames of 720p: whole on one GPU, in tiles on one, and by rows on all; run it on two GPUs.

    python benchmarks/decode.py [ranks=2] [rounds=3] [small=true]

Random weights, which take the time and memory of real ones. Seconds are of a decode from latents to pixels on rank 0, the
fastest of so many rounds after one that is not counted; peaks are each rank's own. ``difference`` is the largest of any pixel
value in [0, 1] to the whole one's. ``small=true``: 9 frames of 96x160 by a narrow VAE, for CPU ranks.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import report
from torch import Tensor

from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan21 import WAN21
from cinelora.io.hardware import forget_peak_memory, peak_memory_mib
from cinelora.parallel.launch import barrier, launch, process_group, rank_info
from cinelora.parallel.sequence_parallel import SENT

FULL, SMALL = (81, 720, 1280), (9, 96, 160)
WAYS = ("whole", "tiled", "rows")


def bundle_of(small: bool, folder: Path) -> WanBundle:
    """Of one VAE: Wan2.1's shape, or a sixth of its width."""
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKLWan(**({"base_dim": 16} if small else {})).save_pretrained(folder / "vae")
    return WanBundle(str(folder), cache=folder)


def on_rank(small: bool, rounds: int) -> list[dict[str, Any]]:
    """Each way's seconds, peak and distance on this rank, told by rank 0 of all of them."""
    rank, size = rank_info(), SMALL if small else FULL
    with tempfile.TemporaryDirectory() as folder, process_group(rank):
        bundle = bundle_of(small, Path(folder))
        latents = torch.randn(
            (1, *WAN21.geometry.latent_size(*size)),
            generator=torch.Generator().manual_seed(0),
        ).to(bundle.device)
        with bundle.loaded(Part.VAE):
            found, reference = [], None
            for way in WAYS:
                bundle.tile = way == "tiled"
                alone = way != "rows"
                decode: Callable[[Tensor], Tensor | None] = bundle.decode if alone else bundle.decode_together
                row, pixels = timed(decode, latents, rounds, idle=alone and rank.global_rank > 0)
                if pixels is not None:
                    reference = pixels if reference is None else reference
                    row["difference"] = float((pixels - reference).abs().max())
                found.append({"way": way, "ranks": 1 if alone else rank.world_size, **together(row)})
                if rank.global_rank == 0:
                    print(found[-1], flush=True)
    return found


def timed(
    decode: Callable[[Tensor], Tensor | None], latents: Tensor, rounds: int, idle: bool
) -> tuple[dict[str, Any], Tensor | None]:
    """Best seconds, peak and bytes sent by this rank, and what it decoded; an ``idle`` rank only waits."""
    row: dict[str, Any] = {"seconds": float("inf")}
    pixels: Tensor | None = None
    for turn in range(rounds + 1):
        pixels = None
        forget_peak_memory()
        sent = SENT.total()
        barrier(rank_info())
        begun = time.perf_counter()
        if not idle:
            pixels = decode(latents)
            if latents.is_cuda:
                torch.cuda.synchronize()
        if turn:
            row["seconds"] = min(row["seconds"], time.perf_counter() - begun)
        peak = peak_memory_mib()
        row |= {"peak_mib": peak.get("gpu", peak["host"]), "sent_mb": round((SENT.total() - sent) / 1e6, 3)}
    return row, pixels


def together(row: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's seconds and distance, and every rank's peak and bytes."""
    import torch.distributed as dist

    rows: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(rows, row)
    shared = {name: [other[name] for other in rows] for name in ("peak_mib", "sent_mb")}
    return {**rows[0], **shared}


def main(words: list[str]) -> None:
    """Measure and keep."""
    from decode import on_rank  # ranks import it by name, which here is __main__

    options = dict(word.split("=") for word in words)
    small, ranks = options.get("small") == "true", int(options.get("ranks", 2))
    with tempfile.TemporaryDirectory() as logs:
        found = launch(on_rank, small, int(options.get("rounds", 3)), ranks=ranks, log_dir=Path(logs))
    report("decode_small" if small else "decode", {"frames_height_width": SMALL if small else FULL, "rows": found})


if __name__ == "__main__":
    main(sys.argv[1:])
