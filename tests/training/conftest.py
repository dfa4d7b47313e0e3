"""Settings that tests of whole runs share."""

from dataclasses import replace

import pytest

from cinelora.config.schema import DataConfig, OptimizerConfig, TrainConfig


@pytest.fixture
def pretrain_config(style_config: TrainConfig) -> TrainConfig:
    """Windows of 9 rendered frames, of which half the steps see the first alone."""
    stage = replace(style_config.stage, name="pretrain", num_frames=9, stills=0.5, steps=6)
    data = DataConfig(name="rendered", look="daylight", clips=4, heldout_clips=2)
    return replace(style_config, stage=stage, data=data, ema_decay=0.9)


@pytest.fixture
def smooth() -> OptimizerConfig:
    """AdamW as it steps by the gradient: by its sign, it makes a whole step of the last digits of one near zero."""
    return OptimizerConfig(eps=1e-3)
