"""How a network's latents become noise and back, as training and sampling see it: one law, whatever the family.

The laws themselves are ``nn/flow_matching`` and ``nn/epsilon``; which one a network has, its facts say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from cinelora.config.schema import FlowConfig, SamplerConfig
    from cinelora.families.family import Network


class DrawnLevels(Protocol):
    """The noise levels that are trained on."""

    def sigmas(self, normal_B: Tensor, levels: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """Levels inside a range, one of each draw from the normal distribution."""
        ...


class NoiseLaw(Protocol):
    """How noise is added, which levels are drawn, what time a network is given, what it predicts, what leads back."""

    def from_config(self, config: FlowConfig, height: int, width: int) -> DrawnLevels:
        """The levels that frames of ``height x width`` pixels are trained at."""
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, sigma_B: Tensor, /) -> Tensor:
        """Latents at a noise level, 0 (clean) to 1 (noise)."""
        ...

    def timestep(self, sigma_B: Tensor, /) -> Tensor:
        """What the network is given as time, (B,)."""
        ...

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What the network predicts."""
        ...

    def loss(self, predicted: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        """How far a prediction is off, for each sample, (B,), of what ``counts`` or all."""
        ...

    def solver(self, sampler: SamplerConfig, shift: float) -> Any:
        """A scheduler with its timesteps set, for one clip."""
        ...


def law_of(network: Network) -> NoiseLaw:
    """The law by which a network was taught: two of one model may have different ones."""
    from cinelora.nn.epsilon import Epsilon
    from cinelora.nn.flow_matching import FlowMatching

    if network.betas is None:
        return FlowMatching
    return Epsilon(network.betas, network.noise.fading, network.noise.ends_clean)
