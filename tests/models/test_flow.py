import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from rounding import SUMS, units

from cinelora.config.schema import FlowConfig
from cinelora.nn.flow_matching import FlowMatching, keyed_generator, resolution_shift, shift_sigma


def share_above(flow: FlowMatching, threshold: float, draws: int = 20_000) -> float:
    normals = torch.randn(draws, generator=keyed_generator("shares"))
    return float((flow.sigmas(normals) > threshold).float().mean())


def test_one_euler_step_along_the_true_velocity_leads_from_noise_to_the_clean_latents():
    clean, noise = torch.randn(2, 4, 1, 3, 3), torch.randn(2, 4, 1, 3, 3)
    sigma = torch.tensor([0.7, 0.2])
    noisy = FlowMatching.add_noise(clean, noise, sigma)
    back = noisy - sigma.view(-1, 1, 1, 1, 1) * FlowMatching.target(clean, noise)
    assert units(back, clean) <= SUMS


def test_noise_is_added_as_diffusers_adds_it():
    scheduler = FlowMatchEulerDiscreteScheduler()
    clean, noise = torch.randn(3, 4, 1, 3, 3), torch.randn(3, 4, 1, 3, 3)
    timesteps = scheduler.timesteps[[10, 500, 900]]
    ours = FlowMatching.add_noise(clean, noise, timesteps / 1000)
    assert units(ours, scheduler.scale_noise(clean, timesteps, noise)) <= SUMS


def test_shares_of_high_sigmas_are_those_of_the_authors_advice():
    assert abs(share_above(FlowMatching(shift=1.0), 0.9) - 0.014) < 0.004
    assert abs(share_above(FlowMatching(shift=2.0), 0.9) - 0.066) < 0.007
    assert abs(share_above(FlowMatching(shift=3.0), 0.9) - 0.136) < 0.010


def test_shift_follows_the_resolution_unless_it_is_given():
    assert resolution_shift(480, 832) == 2.0
    assert 3.0 < resolution_shift(720, 1280) < 3.1
    assert resolution_shift(112, 192) == 1.0
    assert FlowMatching.from_config(FlowConfig(shift=7.0), 480, 832).shift == 7.0


def test_shift_keeps_the_ends():
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(shift_sigma(ends, 5.0), ends)


def test_a_stream_depends_on_its_key_alone():
    first = torch.randn(4, generator=keyed_generator(1, "a.mp4", 3))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(4, generator=keyed_generator(1, "a.mp4", 3)))
    assert not torch.equal(first, torch.randn(4, generator=keyed_generator(1, "a.mp4", 4)))


def test_loss_is_taken_per_sample_in_float32():
    predicted, target = torch.zeros(2, 4, 1, 2, 2, dtype=torch.bfloat16), torch.ones(2, 4, 1, 2, 2)
    target[1] = 3
    loss = FlowMatching.loss(predicted, target)
    assert loss.dtype == torch.float32
    assert loss.tolist() == [1.0, 9.0]
