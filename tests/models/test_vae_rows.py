"""Encoded and decoded by rows on real ranks, a clip comes out as on one."""

from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from rank_pool import on_ranks
from rounding import LAYERS, units
from torch import Tensor
from wan_layouts import residual_vae

from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.nn.vae_parallel import by_rows, on_first, own_rows, shares
from cinelora.nn.vae_unchunked import decode, encode, whole_clips
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


def coded(vae: AutoencoderKLWan, video: Tensor, whole: bool, rows: list[int] | None = None) -> list[Tensor | None]:
    """Latents of a clip, and pixels of these again, alone or by ``rows`` of latents of 16 pixels each."""
    in_pixels = [16 * count for count in rows or ()]
    with whole_clips(vae) if whole else nullcontext(), by_rows(vae, rows) if rows else nullcontext():
        own = own_rows(video, in_pixels, rank_info().global_rank) if rows else video
        mean = (encode(vae, own) if whole else vae.encode(own).latent_dist).mode()
        pixels = decode(vae, mean).clamp(-1, 1) if whole else vae.decode(mean, return_dict=False)[0]
    return [on_first(mean, rows), on_first(pixels, in_pixels)] if rows else [mean, pixels]


def furthest_of_wan22s(height: int) -> dict[str, float]:
    """``furthest`` of Wan2.2's VAE, whose shortcuts pass by the convolutions, and which folds pixels into channels."""
    vae, found = residual_vae(), {}
    with process_group(rank_info()), torch.no_grad():
        for frames, whole in product((1, 5, 9, 13), (True, False)):
            video = torch.rand(1, 3, frames, 16 * height, 48, generator=torch.Generator().manual_seed(frames)) * 2 - 1
            together = coded(vae, video, whole, shares(height, rank_info().world_size))
            for ours, theirs in zip(together, coded(vae, video, whole), strict=True):
                assert (ours is None) == (rank_info().global_rank > 0)
                if ours is not None:
                    assert theirs.std() > 0.05
                    found[f"{frames} frames, {'whole' if whole else 'chunks'}, {tuple(ours.shape)}"] = units(
                        ours, theirs
                    )
    return found


@pytest.mark.parametrize(("ranks", "height"), [(2, 4), (3, 4)])
def test_wan22s_vae_by_rows_gives_what_one_rank_gives(ranks: int, height: int, tmp_path: Path):
    found = on_ranks(furthest_of_wan22s, height, ranks=ranks, log_dir=tmp_path)
    assert len(found) == 16
    assert max(found.values()) <= LAYERS, found


def test_rows_are_shared_out_once_each():
    assert (shares(90, 8), shares(90, 4), shares(3, 4)) == ([12, 12] + [11] * 6, [23, 23, 22, 22], [1, 1, 1, 0])
    image = torch.arange(90.0).view(1, 1, 90, 1)
    assert torch.equal(torch.cat([own_rows(image, shares(90, 8), rank) for rank in range(8)], dim=-2), image)
