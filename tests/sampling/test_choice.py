"""How ranks are told to share a clip: the fastest foretold, as asked for, or refused with what works."""

from dataclasses import replace

import pytest

from cinelora.config.schema import SamplerConfig
from cinelora.errors import ConfigError
from cinelora.families.wan21 import WAN21
from cinelora.parallel.partition import Partition
from cinelora.planning.estimate import Shape
from cinelora.planning.parallel_layout import choose_partition
from cinelora.planning.step_time import ClipShape

I2V_14B = ClipShape(Shape(40, 5120, 13824, 4096, 1280, "i2v", WAN21), 40, 81, 720, 1280, guided=True)
T2V_1_3B = ClipShape(Shape(30, 1536, 8960, 4096, None, "t2v", WAN21), 12, 81, 480, 832, guided=True)
TINY = replace(T2V_1_3B, num_frames=1, height=32, width=48)
UNGUIDED = SamplerConfig(guidance=1.0)


def chosen(clip: ClipShape, gpus: int, nodes: int = 1, **settings: object) -> Partition:
    sampler = replace(SamplerConfig(), **settings)
    return choose_partition(replace(clip, guided=sampler.guidance != 1), sampler, gpus, nodes)[0]


def test_halves_of_guidance_come_first_then_heads_then_a_ring():
    assert chosen(I2V_14B, 1) == Partition(1, 1, 1)
    assert chosen(I2V_14B, 2) == Partition(2, 1, 1)
    assert chosen(I2V_14B, 8) == Partition(2, 1, 4)
    assert chosen(I2V_14B, 8, guidance=1.0) == Partition(1, 1, 8)
    assert chosen(T2V_1_3B, 8, guidance=1.0) == Partition(1, 2, 4), "12 heads cannot be split 8 ways"
    assert chosen(I2V_14B, 7) == Partition(1, 7, 1), "nor 40 heads 7 ways, nor 7 ranks in two"


def test_between_nodes_goes_the_ring_which_sends_to_one_neighbour_alone():
    assert chosen(I2V_14B, 8, 2) == Partition(2, 1, 8), "a half of guidance on each node"
    assert chosen(I2V_14B, 8, 4) == Partition(2, 2, 8)
    assert chosen(I2V_14B, 8, 4, guidance=1.0) == Partition(1, 4, 8)
    assert chosen(I2V_14B, 40, guidance=1.0) == Partition(1, 1, 40), "within one node heads would do"


def test_what_is_asked_for_is_taken():
    assert chosen(I2V_14B, 8, guidance_mode="batch") == Partition(1, 1, 8)
    assert chosen(I2V_14B, 8, ring=2) == Partition(2, 2, 2)
    assert chosen(I2V_14B, 8, ulysses=2) == Partition(2, 2, 2)
    assert chosen(I2V_14B, 8, ulysses=2, guidance_mode="batch") == Partition(1, 4, 2)
    assert chosen(I2V_14B, 8, ring=8) == Partition(1, 8, 1)


def test_the_line_says_why():
    line = choose_partition(I2V_14B, SamplerConfig(), 8)[1]
    assert line.startswith(
        "8 ranks: 2 halves of guidance x ulysses 4 (10 of 40 heads each): estimated to be fastest, sends 23.3 GB"
    )
    assert "ulysses 8 (5 of 40 heads each) sends 27.1 GB and takes " in line
    assert choose_partition(I2V_14B, replace(SamplerConfig(), ring=8), 8)[1] == "8 ranks: ring 8: as asked for"


@pytest.mark.parametrize(
    ("gpus", "settings", "sentence"),
    [
        (8, {"ulysses": 8}, "sampler.ulysses=8 cannot split 12 heads; use one of 1, 2, 3, 4, 6, 12"),
        (
            8,
            {"ulysses": 3},
            "sampler.ulysses=3 cannot be with 8 ranks; leave it away, or use one of ulysses=1 ring=8, ",
        ),
        (6, {"ulysses": 6, "ring": 2}, "sampler.ulysses=6 and sampler.ring=2 cannot be with 6 ranks"),
        (3, {"guidance_mode": "split"}, "needs an even number of ranks, not 3"),
        (2, {"guidance_mode": "split", "guidance": 1.0}, "there is no pair to split"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(gpus: int, settings: dict[str, object], sentence: str):
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        chosen(T2V_1_3B, gpus, **settings)


def test_more_ranks_than_tokens_are_refused():
    with pytest.raises(ConfigError, match="gpus=16 are more than the 6 tokens of a clip: use gpus=6 or fewer"):
        chosen(TINY, 16)
    assert chosen(TINY, 12).ranks == 12, "6 tokens in each half"


def test_in_float32_a_ring_is_the_last_resort():
    exact = replace(T2V_1_3B, dtype="fp32", guided=False)
    assert choose_partition(exact, UNGUIDED, 6)[0] == Partition(1, 1, 6)
    assert choose_partition(exact, UNGUIDED, 8)[0].ring == 2
