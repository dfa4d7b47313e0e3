"""Pieces of frozen weights: together they are the weights, and each rank reads and keeps its own alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.checkpoint_layouts import locate
from cinelora.families.wan.load_weights import Destination, load_part, random_part
from cinelora.memory.block_swap import large_frozen, views
from cinelora.memory.weight_sharding import Shares

CPU = torch.device("cpu")


def assert_together_whole(pieces: list[Shares], parts: list[nn.Module], whole: nn.Module) -> None:
    """What ``fill`` would bring from all ranks, as each rank sees it, is the block that was loaded whole."""
    for number, block in enumerate(whole.blocks):
        brought = torch.cat([shares.shards[number].piece for shares in pieces])
        wanted = large_frozen(block)
        for shares, part in zip(pieces, parts, strict=True):
            shard = shares.shards[number]
            assert len(brought) == shard.size
            assert [weight.data_ptr() for weight in shard.weights] == [
                w.data_ptr() for w in large_frozen(part.blocks[number])
            ]
            for view, weight in zip(views(brought, shard.weights), wanted, strict=True):
                assert torch.equal(view.view(torch.uint8), weight.data.view(torch.uint8))
                assert view.dtype == weight.dtype


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_pieces_of_all_ranks_are_the_weights(dtype: str, ranks: int, cache: Path):
    bundle = WanBundle("embedded:tiny-t2v", dtype=dtype, cache=cache, device=CPU)
    pieces = [Shares(rank, ranks) for rank in range(ranks)]
    parts = [bundle.load_transformer(shares=shares) for shares in pieces]
    whole = bundle.load_transformer()
    assert_together_whole(pieces, parts, whole)
    names = {name for name, p in whole.named_parameters()} - set(pieces[0].spans)
    for part in parts:
        assert all(torch.equal(part.get_parameter(name), whole.get_parameter(name)) for name in names)


def test_random_values_are_shared_too():
    settings = {"num_attention_heads": 4, "attention_head_dim": 16, "ffn_dim": 96, "num_layers": 2, "text_dim": 32}
    pieces = [Shares(rank, 2) for rank in range(2)]
    parts = [
        random_part(Part.TRANSFORMER, settings, Destination(CPU, torch.bfloat16, shares=shares)) for shares in pieces
    ]
    assert_together_whole(pieces, parts, random_part(Part.TRANSFORMER, settings, Destination(CPU, torch.bfloat16)))


def test_a_rank_keeps_and_reads_its_part_alone(t2v: WanBundle):
    found = locate(Part.TRANSFORMER, t2v.directory(Part.TRANSFORMER))
    shares = Shares(1, 4)
    part = load_part(found, Destination(CPU, torch.float32, shares=shares))
    kept = sum(len(shard.piece) for shard in shares.shards)
    matrices = sum(weight.nbytes for block in part.blocks for weight in large_frozen(block))
    assert matrices / 4 <= kept < matrices / 4 * 1.01
    read = [span.size for name, span in shares.spans.items() if shares.has_part_of(name)]
    assert sum(read) < matrices / 2
    assert all(weight.untyped_storage().nbytes() <= 4 for block in part.blocks for weight in large_frozen(block))
