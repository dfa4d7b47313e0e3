"""A transformer that draws: what it leaves behind when it is let go."""

from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.launch import rank_info
from cinelora.models.footprint import Drawing
from cinelora.models.wan import WanBundle
from cinelora.sampling.generate import Sampling, adapted_transformer
from cinelora.sampling.partition import Partition


def test_weights_are_let_go_whoever_still_holds_the_transformer(t2v: WanBundle, small_model: ModelConfig):
    sampling = Sampling(small_model, SamplerConfig(), Partition(1, 1, 1), rank_info())
    with adapted_transformer(t2v, {}, sampling, Drawing(), num_frames=5) as transformer:
        assert not any(parameter.is_meta for parameter in transformer.parameters())
    assert all(parameter.is_meta for parameter in transformer.parameters())
