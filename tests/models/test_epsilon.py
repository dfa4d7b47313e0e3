"""The noise law of betas, against closed forms and diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from rounding import LAYERS, units
from torch import Tensor

from cinelora.config.schema import FlowConfig, SamplerConfig
from cinelora.families.noise_law import NoiseLaw
from cinelora.nn.epsilon import Epsilon, alpha_bars
from cinelora.nn.flow_matching import FlowMatching, keyed_generator
from cinelora.sampling.denoise import Course, sample

SCHEDULES = ("linear", "scaled_linear")
FADING = Epsilon("scaled_linear", fading=0.7)
"""VideoCrafter2's, but for where its sampler ends."""
LAWS: tuple[NoiseLaw, ...] = (FlowMatching, *map(Epsilon, SCHEDULES), FADING)
SPREAD = 0.5
"""Standard deviation of normally distributed latents, for which the best prediction has a closed form."""


def normals(count: int) -> Tensor:
    return torch.randn(count, generator=keyed_generator("normals"))


def best_prediction(schedule: str, latents: Tensor, timestep: Tensor, kept: float = 1.0) -> Tensor:
    """The noise that is expected in latents of normally distributed clean ones: ``sqrt(1 - a) x / (a k^2 s^2 + 1 - a)``."""
    left = alpha_bars(schedule)[timestep.long()].view(-1, *[1] * (latents.ndim - 1))
    return (1 - left).sqrt() * latents / (left * (kept * SPREAD) ** 2 + 1 - left)


def kept_at(timestep: int) -> float:
    """What VideoCrafter2 leaves of clean latents, as its paper's code tabulates it: 400 even steps from 1 to 0.7."""
    table = torch.cat([torch.linspace(1.0, 0.7, 400, dtype=torch.float64), torch.full((600,), 0.7)])
    return float(table[timestep])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_left_of_the_latents_is_what_diffusers_leaves(schedule: str):
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, schedule)
    # diffusers multiplies a thousand factors in float32
    assert units(alpha_bars(schedule), scheduler.alphas_cumprod) < 1000
    middle, last = {"linear": (0.161, 1.6e-3), "scaled_linear": (0.276, 4.7e-3)}[schedule]
    assert alpha_bars(schedule)[[500, 999]].tolist() == pytest.approx([middle, last], rel=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_is_added_at_the_timestep_the_network_is_told(schedule: str):
    law, level = Epsilon(schedule), torch.tensor([0.0, 0.3, 0.7, 0.9, 0.9999, 1.0])
    clean, noise = torch.randn(6, 4, 3, 2, 2), torch.randn(6, 4, 3, 2, 2)
    timestep = law.timestep(level)
    assert timestep.tolist() == [0, 300, 700, 900, 999, 999]
    theirs = DDPMScheduler(1000, 0.00085, 0.012, schedule).add_noise(clean, noise, timestep)
    assert units(law.add_noise(clean, noise, level), theirs) < LAYERS


def test_every_timestep_is_drawn_as_often_as_any_other():
    timesteps = Epsilon.timestep(Epsilon.sigmas(normals(200_000)))
    counts = torch.bincount(timesteps // 50, minlength=20).float()
    assert (counts / 10_000 - 1).abs().max() < 0.04
    assert timesteps.aminmax() == (0, 999)


def test_a_range_of_levels_has_one_draw_a_sample_in_the_order_of_the_draws():
    draws = normals(10_000)
    levels = Epsilon.sigmas(draws, (0.7, 0.9))
    assert (levels[draws.argsort()].diff() >= 0).all()
    assert Epsilon.timestep(levels).aminmax() == (700, 899)
    far = Epsilon.timestep(Epsilon.sigmas(torch.tensor([-40.0, 40.0]), (0.7, 0.9)))
    assert far.tolist() == [700, 899]


def test_neither_settings_nor_the_size_of_pictures_move_the_levels():
    law = Epsilon("linear")
    draws = normals(10)
    moved = law.from_config(FlowConfig(sigma_mean=2.0, shift=9.0), 1024, 1024).sigmas(draws)
    assert torch.equal(moved, law.sigmas(draws))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_loss_of_the_best_prediction_is_its_closed_form(schedule: str, level: float):
    """Of normally distributed latents ``a s^2 / (a s^2 + 1 - a)`` of the noise's variance cannot be predicted."""
    law, size = Epsilon(schedule), (8, 4, 8, 32, 32)
    clean, noise = (torch.randn(size, generator=keyed_generator(name)) for name in ("clean", "noise"))
    levels = torch.full((8,), level)
    noisy = law.add_noise(clean * SPREAD, noise, levels)
    loss = law.loss(best_prediction(schedule, noisy, law.timestep(levels)), law.target(clean, noise)).mean()
    left = float(alpha_bars(schedule)[int(1000 * level)]) * SPREAD**2
    assert float(loss) == pytest.approx(left / (left + 1 - left / SPREAD**2), rel=0.01)


@pytest.mark.parametrize("name", ["unipc", "euler"])
@pytest.mark.parametrize("law", LAWS)
def test_the_true_prediction_leads_back_to_the_clean_latents(law: NoiseLaw, name: str):
    clean, noise = (torch.randn(1, 4, 2, 3, 3, generator=keyed_generator(key)) for key in ("clean", "noise"))
    solver = law.solver(SamplerConfig(name=name, steps=10), 1.0)
    noisy = law.add_noise(clean, noise, solver.timesteps[:1].float() / 1000)
    back = sample(lambda latents, timestep: law.target(clean, noise), noisy, solver)
    # flow's UniPC rounds its times to whole numbers, a thousandth of the noise each
    assert (back - clean).abs().max() < 2e-3 * (noise - clean).abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "steps", "off"), [("euler", 250, 0.02), ("unipc", 100, 0.025)])
def test_a_solver_comes_to_the_clean_latents_of_the_closed_form(schedule: str, name: str, steps: int, off: float):
    """Along the exact flow normally distributed latents keep their place among all: they shrink as the spread does."""
    noise = torch.randn(1, 4, 2, 8, 8, generator=keyed_generator("noise"))
    solver = Epsilon(schedule).solver(SamplerConfig(name=name, steps=steps), 1.0)
    left = float(alpha_bars(schedule)[int(solver.timesteps[0])])
    expected = noise * SPREAD / (left * SPREAD**2 + 1 - left) ** 0.5
    drawn = sample(lambda latents, timestep: best_prediction(schedule, latents, timestep), noise, solver)
    assert (drawn - expected).abs().max() < off * expected.abs().max()


def test_ddim_is_eulers_step():
    """diffusers' Euler in its own latents, which are larger by the root of 1 + sigma^2."""
    noise = torch.randn(1, 4, 2, 4, 4, generator=keyed_generator("noise"))
    ours = sample(
        lambda latents, timestep: best_prediction("linear", latents, timestep),
        noise,
        Epsilon("linear").solver(SamplerConfig(name="euler", steps=12), 1.0),
    )
    solver = EulerDiscreteScheduler(1000, 0.00085, 0.012, "linear", timestep_spacing="leading", steps_offset=1)
    solver.set_timesteps(12)
    latents = noise * solver.init_noise_sigma
    for timestep in solver.timesteps:
        predicted = best_prediction("linear", solver.scale_model_input(latents, timestep), timestep.expand(1))
        latents = solver.step(predicted, timestep, latents).prev_sample
    assert units(ours, latents) < 1000


def test_ranges_of_levels_are_those_of_the_solvers_steps():
    """A course that asks for the steps inside a range of levels gets those whose timesteps lie there."""
    course = Course(torch.zeros(1), Epsilon("linear").solver(SamplerConfig(name="euler", steps=20), 1.0))
    assert [course.ahead(), course.ahead((0.875, 1.0))] == [20, int((course.solver.timesteps >= 875).sum())] == [20, 2]


# -- clean latents that fade -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [0, 1, 200, 398, 399, 400, 999])
def test_clean_latents_fade_and_noise_does_not(timestep: int):
    clean, noise, left = torch.randn(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3), alpha_bars("scaled_linear")[timestep]
    expected = kept_at(timestep) * left.sqrt() * clean + (1 - left).sqrt() * noise
    assert units(FADING.add_noise(clean, noise, torch.tensor([(timestep + 0.5) / 1000])), expected) < LAYERS


@pytest.mark.parametrize("ends_clean", [True, False])
def test_ddim_of_faded_latents_divides_by_what_is_kept_of_them(ends_clean: bool):
    """Step for step: clean latents from the prediction, then both at the next timestep's amplitudes."""
    solver = Epsilon("scaled_linear", 0.7, ends_clean).solver(SamplerConfig(name="euler", steps=5), 1.0)
    assert solver.timesteps.tolist() == [801, 601, 401, 201, 1]
    latents, bars = torch.randn(1, 4, 2, 3, 3), alpha_bars("scaled_linear").double()
    course = Course(latents, solver)
    for now, after in zip((801, 601, 401, 201, 1), (601, 401, 201, 1, 0), strict=True):
        predicted = torch.randn(1, 4, 2, 3, 3, generator=keyed_generator("prediction", now))
        clean = (latents - (1 - bars[now]).sqrt() * predicted) / (kept_at(now) * bars[now].sqrt())
        left = torch.ones(()) if ends_clean and after == 0 else bars[after]
        latents = kept_at(after) * left.sqrt() * clean + (1 - left).sqrt() * predicted
        course.go(lambda _, __, predicted=predicted: predicted, 1)
        assert units(course.latents_BCTHW, latents.float()) < LAYERS


@pytest.mark.parametrize(("name", "steps", "off"), [("euler", 250, 0.02), ("unipc", 100, 0.025)])
def test_a_solver_comes_to_the_clean_latents_where_they_fade(name: str, steps: int, off: float):
    noise = torch.randn(1, 4, 2, 8, 8, generator=keyed_generator("noise"))
    solver = FADING.solver(SamplerConfig(name=name, steps=steps), 1.0)
    left = float(alpha_bars("scaled_linear")[int(solver.timesteps[0])])
    expected = noise * SPREAD / (left * (0.7 * SPREAD) ** 2 + 1 - left) ** 0.5
    drawn = sample(
        lambda latents, time: best_prediction("scaled_linear", latents, time, kept_at(int(time))), noise, solver
    )
    assert (drawn - expected).abs().max() < off * expected.abs().max()


@pytest.mark.parametrize("name", ["unipc", "euler"])
@pytest.mark.parametrize("fading", [1.0, 0.7])
def test_latent_diffusions_sampler_ends_at_the_first_timestep(name: str, fading: float):
    """Where the prediction is the true noise, what comes out is the clean latents with the noise of timestep 0."""
    clean, noise = (torch.randn(1, 4, 2, 3, 3, generator=keyed_generator(key)) for key in ("clean", "noise"))
    law = Epsilon("scaled_linear", fading, ends_clean=False)
    solver = law.solver(SamplerConfig(name=name, steps=10), 1.0)
    noisy = law.add_noise(clean, noise, solver.timesteps[:1].float() / 1000)
    back = sample(lambda latents, timestep: noise, noisy, solver)
    assert units(back, law.add_noise(clean, noise, torch.zeros(1))) < LAYERS
