"""A transformer that draws: what it leaves behind when it is let go."""

from pathlib import Path

from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.families.wan.bundle import WanBundle
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.planning.estimate import Drawing
from cinelora.sampling.sampler import Sampling, adapted_transformer


def test_weights_are_let_go_whoever_still_holds_the_transformer(small_model: ModelConfig, tmp_path: Path):
    t2v = WanBundle.from_config(small_model, "t2v", tmp_path)
    sampling = Sampling(small_model, SamplerConfig(), Partition(1, 1, 1), rank_info())
    with adapted_transformer(t2v, {}, sampling, Drawing(), num_frames=5) as transformer:
        assert not any(parameter.is_meta for parameter in transformer.parameters())
    assert all(parameter.is_meta for parameter in transformer.parameters())
