"""Encoded and decoded by rows on real ranks, a clip comes out as on one."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from rank_pool import on_ranks
from rounding import LAYERS, units

from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.nn.vae_parallel import own_rows, shares
from cinelora.parallel.launch import process_group, rank_info

WAN = {"base_dim": 8, "num_res_blocks": 2}
"""Wan's own layout with a twelfth of its width, values at random."""


def latents(frames: int, height: int) -> torch.Tensor:
    return torch.randn(1, 16, frames, height, 5, generator=torch.Generator().manual_seed(frames))


def wan_shaped(folder: Path) -> Path:
    torch.manual_seed(0)
    AutoencoderKLWan(**WAN).save_pretrained(folder / "vae")
    return folder


def furthest(source: str, cache: Path, heights: list[int]) -> dict[str, float]:
    """How far what is decoded and encoded together is from what rank 0 does alone, as whole clips and in chunks."""
    bundle, found = WanBundle(source, dtype="fp32", cache=cache), {}
    with process_group(rank_info()), bundle.loaded(Part.VAE):
        for height in heights:
            found |= differences(bundle, height, f"{height} rows, whole")
        bundle.AT_ONCE_BYTES = 0
        return found | differences(bundle, heights[0], "chunks")


def differences(bundle: WanBundle, height: int, how: str) -> dict[str, float]:
    """Those of pixels and of latents in rounding units, by latent frames."""
    found = {}
    for frames in (1, 2, 4):
        together = bundle.decode_together(latents(frames, height))
        alone = bundle.decode(latents(frames, height))
        assert (together is None) == (rank_info().global_rank > 0)
        if together is not None:
            assert together.shape == alone.shape
            assert alone.std() > 0.01
            found[f"{how}, {frames} decoded"] = units(together, alone)
        video = 2 * alone - 1
        encoded = bundle.encode_video(video)
        assert encoded.std() > 0.01
        found[f"{how}, {frames} encoded"] = units(bundle.encode_video(video, together=True), encoded)
    return found


@pytest.mark.parametrize(("ranks", "height"), [(2, 6), (3, 7), (4, 6)])
def test_pixels_and_latents_equal_those_of_one_rank(ranks: int, height: int, tmp_path: Path):
    found = on_ranks(furthest, str(wan_shaped(tmp_path)), tmp_path, [height], ranks=ranks, log_dir=tmp_path / "logs")
    assert len(found) == 12
    assert max(found.values()) <= LAYERS, found


def test_the_embedded_vae_and_a_picture_of_fewer_rows_than_ranks(cache: Path, tmp_path: Path):
    found = on_ranks(furthest, "embedded:tiny-t2v", cache, [5, 1], ranks=2, log_dir=tmp_path)
    assert max(found.values()) <= LAYERS, found


def test_rows_are_shared_out_once_each():
    assert (shares(90, 8), shares(90, 4), shares(3, 4)) == ([12, 12] + [11] * 6, [23, 23, 22, 22], [1, 1, 1, 0])
    image = torch.arange(90.0).view(1, 1, 90, 1)
    assert torch.equal(torch.cat([own_rows(image, shares(90, 8), rank) for rank in range(8)], dim=-2), image)
