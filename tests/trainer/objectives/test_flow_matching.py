"""Flow matching against the papers' formulas, and against diffusers' own."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from numpy.typing import NDArray

from dreambooth_trainer.objectives.flow_matching import (
    FlowMatchingObjective,
    logit_normal,
    make_density,
    mode,
    shift_sigma,
)
from tests.trainer.resolved import resolve_training

DRAWS = 20_000
# Kolmogorov-Smirnov: a right density exceeds it once in a thousand seeds.
BOUND = 1.95 / math.sqrt(DRAWS)

Distribution = Callable[[NDArray[np.float64]], NDArray[np.float64]]

SAMPLINGS = {
    "uniform": {"density": "uniform"},
    "logit-normal": {},
    "more noise": {"density": "logit-normal", "mean": 0.5, "std": 0.6},
    "mode": {"density": "mode"},
    "ends": {"density": "mode", "modeScale": -0.7},
    "widest mode": {"density": "mode", "modeScale": 1.75},
}


def objective(shift: float = 1.0, **sampling: object) -> FlowMatchingObjective:
    training = resolve_training({"timestepSampling": {**sampling, "shift": shift}}, lambda _: 9.0)
    assert training.timestep_sampling is not None
    return FlowMatchingObjective(make_density(training.timestep_sampling), shift=shift)


def draw(objective: FlowMatchingObjective) -> NDArray[np.float64]:
    stream = np.random.default_rng(5)
    return np.sort([objective.draw_timestep(stream) for _ in range(DRAWS)])


def cumulative(
    density: str = "logit-normal",
    mean: float = 0,
    std: float = 1,
    modeScale: float = 1.29,  # noqa: N803
) -> Distribution:
    """The distribution functions of Esser et al. 2024, section 3.1."""
    if density == "uniform":
        return lambda sigma: sigma
    if density == "logit-normal":
        return np.vectorize(lambda s: NormalDist(mean, std).cdf(math.log(s / (1 - s))))
    # Equation 20 as it is printed decreases from 1 to 0: P(f(u) <= sigma) = 1 - f^-1(sigma).
    grid = np.linspace(0, 1, 200_001)
    values = 1 - grid - modeScale * (np.cos(np.pi / 2 * grid) ** 2 - 1 + grid)
    return lambda sigma: np.interp(sigma, values[::-1], 1 - grid[::-1])


def distance(draws: NDArray[np.float64], distribution: Distribution) -> float:
    """The Kolmogorov-Smirnov distance of sorted draws."""
    expected = distribution(draws)
    ranks = np.arange(len(draws) + 1) / len(draws)
    return float(max((ranks[1:] - expected).max(), (expected - ranks[:-1]).max()))


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_sigma_is_drawn_from_the_shifted_density(name: str, shift: float) -> None:
    distribution = cumulative(**SAMPLINGS[name])  # type: ignore[arg-type]
    draws = draw(objective(shift, **SAMPLINGS[name]))
    # The shift undone: the odds of noise divided by it.
    assert distance(draws / (shift - (shift - 1) * draws), distribution) < BOUND
    assert (draws > 0).all()
    assert (draws <= 1).all()


@pytest.mark.parametrize(("name", "other"), [("mode", "uniform"), ("more noise", "logit-normal")])
def test_the_bound_tells_densities_apart(name: str, other: str) -> None:
    distribution = cumulative(**SAMPLINGS[other])  # type: ignore[arg-type]
    assert distance(draw(objective(**SAMPLINGS[name])), distribution) > 3 * BOUND


@pytest.mark.parametrize(
    ("scheme", "sampling"),
    [
        ("none", {"density": "uniform"}),
        ("logit_normal", {"mean": 0.4, "std": 1.3}),
        ("mode", {"density": "mode", "modeScale": 0.8}),
    ],
)
def test_densities_are_those_of_diffusers(scheme: str, sampling: dict[str, object]) -> None:
    theirs = compute_density_for_timestep_sampling(
        scheme, DRAWS, logit_mean=0.4, logit_std=1.3, mode_scale=0.8,
        generator=torch.Generator().manual_seed(1),
    ).sort().values.numpy()  # fmt: skip
    ours = draw(objective(**sampling))
    assert np.abs(np.searchsorted(theirs, ours) / DRAWS - np.arange(DRAWS) / DRAWS).max() < (
        BOUND * math.sqrt(2)
    )


class Extreme:
    """A stream whose numbers are one end of [0, 1)."""

    def __init__(self, uniform: float) -> None:
        self._uniform = uniform

    def random(self) -> float:
        return self._uniform


@pytest.mark.parametrize("density", [lambda u: u, logit_normal(-10, 10), mode(-1), mode(1.75)])
@pytest.mark.parametrize("shift", [0.01, 1, 100])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_sigma_stays_above_0_and_up_to_1(
    density: Callable[[float], float], shift: float, uniform: float
) -> None:
    stream: object = Extreme(uniform)
    sigma = FlowMatchingObjective(density, shift).draw_timestep(stream)  # type: ignore[arg-type]
    assert 0 < float(np.float32(sigma)) <= 1


def test_a_static_shift_is_that_of_diffusers_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    sigmas = [shift_sigma(i / 1000, 3.0) for i in range(1000, 0, -1)]
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, rel=1e-5)


def test_a_shift_by_resolution_is_exp_mu() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = torch.linspace(0.01, 1, 100)
    theirs = scheduler.time_shift(1.15, 1.0, sigmas)
    ours = [shift_sigma(float(sigma), math.exp(1.15)) for sigma in sigmas]
    assert theirs.tolist() == pytest.approx(ours, rel=1e-5)


def test_the_exact_velocity_leads_from_noise_to_the_data() -> None:
    """Of a distribution of two points, whose velocity has a closed form.

    The velocity of the flow is the mean of the target over the points that may lie behind the noisy
    latents; diffusers' Euler sampler follows it.
    """
    flow = objective(density="uniform")
    points, shares = torch.tensor([-1.0, 2.0]), torch.tensor([0.25, 0.75])

    def velocity(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        terms, likelihoods = [], []
        for point, share in zip(points, shares, strict=True):
            latents = torch.full_like(noisy, float(point))
            noise = (noisy - (1 - sigma) * latents) / sigma
            sigmas = sigma.expand(len(noisy))
            torch.testing.assert_close(flow.add_noise(latents, noise, sigmas), noisy)
            terms.append(flow.target(latents, noise, sigmas))
            likelihoods.append(share.log() - noise.square() / 2)
        posterior = torch.stack(likelihoods).softmax(dim=0)
        return (posterior * torch.stack(terms)).sum(dim=0)

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(200)
    quantiles = torch.tensor([NormalDist().inv_cdf((i + 0.5) / 400) for i in range(400)])
    sample = quantiles.view(-1, 1, 1, 1)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(velocity(sample, timestep / 1000), timestep, sample).prev_sample
    # A flow on a line keeps the order: the lowest quarter of the noise becomes the lower point.
    expected = torch.where(torch.arange(400) < 100, points[0], points[1])
    close = (sample.flatten() - expected).abs() < 0.05
    assert close.float().mean() > 0.98


def test_cosmap_weights_are_the_papers() -> None:
    weights = FlowMatchingObjective(mode(0), weighting="cosmap").weights
    at = weights(torch.tensor([0.0, 0.5, 1.0]))
    assert at is not None
    assert at.tolist() == pytest.approx([2 / math.pi, 4 / math.pi, 2 / math.pi])
    uniform = weights((torch.arange(1000) + 0.5) / 1000)
    assert uniform is not None
    assert float(uniform.mean()) == pytest.approx(1, abs=1e-5)  # equation 21 is a density


@pytest.mark.parametrize(
    ("weighting", "scheme"), [("sigma-sqrt", "sigma_sqrt"), ("cosmap", "cosmap")]
)
def test_weights_are_those_of_diffusers(weighting: str, scheme: str) -> None:
    sigmas = torch.linspace(0.05, 1, 96)
    found = FlowMatchingObjective(mode(0), weighting=weighting).weights(sigmas)  # type: ignore[arg-type]
    torch.testing.assert_close(found, compute_loss_weighting_for_sd3(scheme, sigmas))


def test_weights_are_bounded_near_the_image() -> None:
    weights = FlowMatchingObjective(mode(0), weighting="sigma-sqrt").weights(
        torch.tensor([1e-6, 0.049, 0.05])
    )
    assert weights is not None
    assert weights.tolist() == pytest.approx([400, 400, 400])


def test_without_weighting_there_are_no_weights() -> None:
    assert FlowMatchingObjective(mode(0)).weights(torch.tensor([0.5])) is None


def test_noise_and_target_hold_for_any_channels_and_each_samples_own_sigma() -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 3, 16, 4, 6)
    sigmas = torch.tensor([1.0, 0.25, 1e-6])
    flow = objective()
    noisy, target = flow.add_noise(latents, noise, sigmas), flow.target(latents, noise, sigmas)
    torch.testing.assert_close(noisy[0], noise[0])
    torch.testing.assert_close(noisy[1], 0.75 * latents[1] + 0.25 * noise[1])
    # From any point, the rest of the way along the target ends at the image.
    torch.testing.assert_close(noisy - sigmas.view(-1, 1, 1, 1) * target, latents)
