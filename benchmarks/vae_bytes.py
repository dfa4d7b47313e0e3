"""What the VAEs of Wan2.1 and of Wan2.2's TI2V-5B take, counted on torch's meta device: bytes of living tensors, and operations.

    python benchmarks/vae_bytes.py

No GPU and no memory are needed, and nothing is computed; it takes three minutes. For Wan2.1 the same was measured on an H200:
what lies between counted and measured (workspace, gaps between tensors, the rate) is taken to be alike for the other VAE, which
was not measured. ``cinelora/families/vae_facts.py`` has the figures, ``benchmarks/results/vae_bytes.json`` the counts.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from common import report
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from cinelora.families.vae_facts import WAN21_VAE
from cinelora.families.wan.checkpoint_layouts import NAMES

HEIGHT, WIDTH = 704, 1280
VAES = {"wan21": ({}, 81), "wan22": (NAMES["full_shapes"]["residual_vae"], 121)}
"""Settings, and the frames of the longest clip that its models make."""


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and not yet gone, and keeps the most.

    Views of ``weights`` are made inside, too, and are not counted.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.most = 0
        self._sizes: dict[int, int] = {weight.untyped_storage()._cdata: 0 for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._sizes.pop, storage._cdata, None)
        self.most = max(self.most, self.now)
        return made

    @property
    def now(self) -> int:
        """Bytes that live."""
        return sum(self._sizes.values())


@torch.no_grad()
def counted(settings: dict[str, Any], frames: int, tiled: bool, encodes: bool = False) -> tuple[float, float]:
    """Bytes a pixel of one frame, and operations."""
    with torch.device("meta"):
        vae = AutoencoderKLWan(**settings).eval()
        latents = torch.empty(1, vae.config.z_dim, (frames - 1) // 4 + 1, *sides(vae.config.scale_factor_spatial))
        video = torch.empty(1, 3, frames, HEIGHT, WIDTH)
    vae.enable_tiling() if tiled else vae.disable_tiling()
    with FlopCounterMode(display=False) as operations, Living() as living:
        vae.encode(video) if encodes else vae.decode(latents)
    return living.most / (HEIGHT * WIDTH), float(operations.get_total_flops())


def sides(spatial: int) -> tuple[int, int]:
    """Height and width of the latents."""
    return HEIGHT // spatial, WIDTH // spatial


def main() -> None:
    """Count both, and print what the other one's facts are if it is to its count as Wan2.1's facts are to its own."""
    rows: dict[str, dict[str, float]] = {}
    for name, (settings, longest) in VAES.items():
        (clip, decoding), (still, _), (tiled, _), (_, encoding) = (
            counted(settings, 81, tiled=False),
            counted(settings, 1, tiled=False),
            counted(settings, longest, tiled=True),
            counted(settings, 81, tiled=True, encodes=True),
        )
        clip = max(clip, counted(settings, longest, tiled=False)[0])
        rows[name] = {"clip_bytes": clip, "still_bytes": still, "tiled_bytes": tiled}
        rows[name] |= {"decode_s": decoding, "encode_s": encoding}
        print(name, {key: f"{value:.4g}" for key, value in rows[name].items()})
    scaled = {key: getattr(WAN21_VAE, key) * rows["wan22"][key] / counted for key, counted in rows["wan21"].items()}
    print("wan22, scaled:", {key: f"{value:.4g}" for key, value in scaled.items()})
    report("vae_bytes", {"size": [HEIGHT, WIDTH], "counted": rows, "wan22_scaled": scaled})


if __name__ == "__main__":
    main()
