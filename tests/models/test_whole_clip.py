"""Whole clips against diffusers' chunks with caches."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from rounding import LAYERS, units
from torch import Tensor
from wan_layouts import residual_vae

from cinelora.nn.vae_unchunked import decode, encode, whole_clips, widest_bytes
from tools.scale_model.build_pair import new_encoders


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_a_whole_clip_gives_what_chunks_give(frames: int):
    vae = new_encoders(0).vae.eval()
    video = torch.rand(2, 3, frames, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        rebuilt = vae.decode(latents, return_dict=False)[0]
        with whole_clips(vae):
            assert units(encode(vae, video).mode(), latents) <= LAYERS
            assert units(decode(vae, latents).clamp(-1, 1), rebuilt) <= LAYERS
        assert torch.equal(vae.encode(video).latent_dist.mode(), latents)  # its own layers are back
    assert rebuilt.std() > 0.1


def in_chunks_and_whole(vae: AutoencoderKLWan, video: Tensor, latents: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Latents of ``video`` and pixels of ``latents``, each by diffusers' chunks and as a whole."""
    with torch.no_grad():
        encoded, decoded = vae.encode(video).latent_dist.mode(), vae.decode(latents, return_dict=False)[0]
        with whole_clips(vae):
            whole = encode(vae, video).mode(), decode(vae, latents).clamp(-1, 1)
    return {"encoded": (encoded, whole[0]), "decoded": (decoded, whole[1])}


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
def test_wan22s_vae_gives_what_chunks_give(frames: int):
    """Shortcuts that average and repeat, and squares of pixels. In bf16 a whole clip is as far from float32 as chunks are."""
    vae = residual_vae()
    video = torch.rand(1, 3, frames, 32, 64, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    latents = vae.encode(video).latent_dist.mode()
    exact = in_chunks_and_whole(vae, video, latents)
    assert latents.shape == (1, 48, (frames - 1) // 4 + 1, 2, 4)
    assert exact["decoded"][0].shape == video.shape
    rounded = in_chunks_and_whole(vae.to(torch.bfloat16), video.bfloat16(), latents.bfloat16())
    for way, (chunks, whole) in exact.items():
        assert chunks.std() > 0.05
        assert units(whole, chunks) <= LAYERS, way
        theirs, ours = (float((result.float() - chunks).square().mean()) ** 0.5 for result in rounded[way])
        assert 0 < ours <= 1.25 * theirs, way


@pytest.mark.parametrize("vae", [residual_vae(), AutoencoderKLWan(base_dim=8)], ids=["wan22", "wan21"])
def test_the_widest_tensor_is_that_of_some_block(vae: AutoencoderKLWan):
    """Blocks alone: within one, channels are doubled for a moment, or the frames that a kernel sees stacked."""
    seen = []
    blocks = [*vae.encoder.down_blocks, *vae.decoder.up_blocks, *(up.resnets[-1] for up in vae.decoder.up_blocks)]
    for block in blocks:
        block.register_forward_hook(lambda block, given, made: seen.extend(4 * t.numel() for t in (given[0], made)))
    with torch.no_grad(), whole_clips(vae):
        decode(vae, encode(vae, torch.zeros(1, 3, 5, 32, 64)).mode())
    assert max(seen) == widest_bytes(vae, 5, 32, 64)


@pytest.mark.parametrize("new", [lambda: new_encoders(0).vae, residual_vae], ids=["embedded", "wan22"])
def test_every_weight_learns(new):
    vae = new().requires_grad_(True)
    with whole_clips(vae):
        decode(vae, encode(vae, torch.rand(1, 3, 9, 16, 16)).mode()).square().mean().backward()
    silent = {name for name, parameter in vae.named_parameters() if parameter.grad is None}
    assert not silent
