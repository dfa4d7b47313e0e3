"""What a motion step on the UNet of clips holds at full size: bytes of living tensors, counted on torch's meta device.

    python benchmarks/recomputed_unet3d.py

16 frames of 320x512 in bfloat16, LoRA of rank 32 on all attention over time. Three ways: everything kept, whole blocks computed
again in the backward pass, and each of their layers, which is what ``arrange_unet`` does. Attention is counted as on a GPU,
by its flash kernel: the meta device would choose the one that writes all weights down. Weights of the network are not counted;
nothing is computed, and no GPU is needed. ``benchmarks/results/recomputed_unet3d.json`` has the counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from common import report
from diffusers import UNet3DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from vae_bytes import Living

from cinelora.adapters.lora_layers import add_adapter
from cinelora.config.schema import LoraSpec
from cinelora.families.animatediff.unet_blocks import arrange_unet
from cinelora.families.unet3d.clip_bundle import ClipBundle
from cinelora.families.unet3d.clip_condition import ClipCondition
from cinelora.planning.estimate import Policy

FRAMES, HEIGHT, WIDTH, TOKENS = 16, 320, 512, 77


def flash(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """Attention by the kernel that a GPU has for it."""
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return found


def by_blocks(unet: UNet3DConditionModel) -> None:
    """Compute whole blocks again."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


WAYS: dict[str, Callable[[UNet3DConditionModel], object]] = {
    "kept": lambda unet: None,
    "blocks": by_blocks,
    "layers": lambda unet: arrange_unet(unet, Policy(recompute=1)),
}


def counted(way: str) -> dict[str, float]:
    """GiB that live when the loss is there, and the most of the step."""
    with torch.device("meta"):
        unet = UNet3DConditionModel().to(torch.bfloat16).train().requires_grad_(False)
        latents = torch.empty(1, 4, FRAMES, HEIGHT // 8, WIDTH // 8)
        text, time = torch.empty(1, TOKENS, 1024), torch.empty(1, dtype=torch.int64)
    for layer in unet.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    add_adapter(unet, "motion", LoraSpec(rank=32, targets="attention"), 0, ClipBundle.taught_by("motion", "t2v"))
    WAYS[way](unet)
    with patch("torch.nn.functional.scaled_dot_product_attention", flash), Living(unet.parameters()) as living:
        loss = ClipCondition(text).predict(unet, latents, time).square().mean()
        kept = living.now
        loss.backward()
    return {"after the forward pass": kept / 2**30, "most": living.most / 2**30}


def main() -> None:
    """Count all ways."""
    found = {way: counted(way) for way in WAYS}
    for way, row in found.items():
        print(f"{way:8} " + ", ".join(f"{name} {gib:.2f} GiB" for name, gib in row.items()))
    report("recomputed_unet3d", found)


if __name__ == "__main__":
    main()
