"""Settings that tests of whole runs share."""

import pytest

from cinelora.config.schema import OptimizerConfig


@pytest.fixture
def smooth() -> OptimizerConfig:
    """AdamW as it steps by the gradient: by its sign, it makes a whole step of the last digits of one near zero."""
    return OptimizerConfig(eps=1e-3)
