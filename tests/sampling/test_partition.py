"""Split over real ranks, a clip comes out as on one."""

from pathlib import Path

import peft
import pytest
import torch
from diffusers import WanTransformer3DModel
from rank_pool import on_ranks
from rounding import LAYERS, units

from cinelora.families.wan.conditions import Condition, FirstFrameCondition, ImageCondition
from cinelora.parallel.launch import process_group, rank_info
from cinelora.parallel.partition import Partition, group_of, partition
from cinelora.sampling.denoise import Guided, GuidedAcrossRanks

SMALL = {"num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
SMALL |= {"num_layers": 2}
IMAGE = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 128}
KINDS = {"t2v": {}, "i2v": IMAGE, "an expert of i2v": {"in_channels": 36}, "TI2V-5B": {}}
"""What each is made with: an expert is shown its first frame in latents alone, TI2V-5B by a time for each token."""


def transformer(kind: str) -> WanTransformer3DModel:
    """A small Wan with a LoRA adapter that does something."""
    torch.manual_seed(3)
    model = WanTransformer3DModel(**SMALL, **KINDS[kind]).eval()
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=r".*attn2\.(to_q|to_k|to_v|to_out\.0)"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor, Condition, Condition]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    images = {
        "i2v": lambda: ImageCondition(draw(1, 16, 3, 8, 12), draw(1, 257, 32)),
        "an expert of i2v": lambda: ImageCondition(draw(1, 16, 3, 8, 12)),
        "TI2V-5B": lambda: ImageCondition(draw(1, 16, 1, 8, 12)),
    }
    image, family = images[kind]() if kind in images else None, FirstFrameCondition if kind == "TI2V-5B" else Condition
    latents, texts = draw(1, 16, 3, 8, 12), [draw(1, 512, 32) for _ in range(2)]
    return latents, torch.tensor([700.0]), family(texts[0], image), family(texts[1], image)


def velocities(plan: Partition) -> dict[str, float]:
    """On each rank: how far the split transformers' outputs are from the whole ones' that this rank also computes."""
    rank, differences = rank_info(), {}
    with process_group(rank), torch.inference_mode():
        for kind in KINDS:
            latents, timestep, positive, negative = inputs(kind)
            whole, split = transformer(kind), transformer(kind)
            partition(split, plan)
            expected = Guided(whole, positive, negative, 4.0)(latents, timestep)
            found = GuidedAcrossRanks(split, positive, negative, 4.0, plan, rank)(latents, timestep)
            differences[kind] = units(found, expected)
    return differences


@pytest.mark.parametrize("plan", [Partition(2, 1, 1), Partition(2, 1, 2), Partition(2, 2, 1)], ids=str)
def test_the_halves_of_guidance_together_equal_those_of_one_rank(plan: Partition, tmp_path: Path):
    differences = on_ranks(velocities, plan, ranks=plan.ranks, log_dir=tmp_path)
    # on one rank both halves are one batch, whose kernels round differently
    assert max(differences.values()) <= LAYERS, differences
    assert (tmp_path / "rank-0.log").read_text().splitlines()[1:] == [], "a split is no reason to warn"


def test_ranks_know_their_half_of_guidance():
    assert [group_of(Partition(2, 1, 2), rank) for rank in range(4)] == [0, 0, 1, 1]
    assert [group_of(Partition(2, 2, 1), rank) for rank in range(4)] == [0, 0, 1, 1]
    assert [group_of(Partition(1, 1, 4), rank) for rank in range(4)] == [0, 0, 0, 0]
