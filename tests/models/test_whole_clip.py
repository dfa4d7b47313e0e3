"""Whole clips against diffusers' chunks with caches."""

import pytest
import torch
from rounding import LAYERS, units

from cinelora.nn.vae_unchunked import decode, encode, whole_clips
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


def test_every_weight_learns():
    vae = new_encoders(0).vae
    with whole_clips(vae):
        decode(vae, encode(vae, torch.rand(1, 3, 9, 16, 16)).mode()).square().mean().backward()
    silent = {name for name, parameter in vae.named_parameters() if parameter.grad is None}
    assert not silent
