"""A small network that is really trained by flow matching, on points of a plane as latents."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from dreambooth_trainer.data.batches import BatchPlan, BatchStream
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.models.adapters.trainable import TrainableParameters
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from tests.trainer.resolved import resolve_training

POINTS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
SHARES = torch.tensor([0.5, 0.25, 0.25])
SPREAD = 0.15
ROWS = 16


class Network(nn.Module):
    """Points [N, 2, 1, 1] and sigma [N] -> velocity [N, 2, 1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([noisy.flatten(1), sigma[:, None]], dim=1))
        return found.view_as(noisy)


class PointFamily:
    """A flow-matching `Family` over points; its conditioning is not used."""

    objective_kind = "flow"
    text_encoders: dict[str, nn.Module] = {}

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.denoiser = Network()

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        mean, deviation = moments.chunk(2, dim=1)
        return mean + deviation * noise

    def latent_shape(self, *_size: int) -> tuple[int, int, int]:
        return 2, 1, 1

    def predict(
        self, noisy: Tensor, timesteps: Tensor, _conditioning: dict[str, Tensor], _crops: Tensor
    ) -> Tensor:
        found: Tensor = self.denoiser(noisy, timesteps)
        return found


def cache() -> TrainingCache:
    """As many rows of each point as its share."""
    rows = POINTS.repeat_interleave((SHARES * ROWS).long(), dim=0).view(ROWS, 2, 1, 1)
    moments = torch.cat([rows, torch.full_like(rows, SPREAD)], dim=1)
    captions = torch.zeros(ROWS, dtype=torch.long)
    return TrainingCache(moments, torch.zeros(ROWS, 4), captions, [""], {}, {})


class Run:
    """Trains with the trainer's own module and batches."""

    def __init__(self, steps: int, resume: ResumeState | None = None, **training: object) -> None:
        spec: dict[str, Any] = {"method": "full", "learningRate": 1e-2, "precision": "fp32"}
        self.training = resolve_training({**spec, "steps": steps, **training}, lambda _: 1.5)
        family: Any = PointFamily()
        self.network = family.denoiser
        trained = TrainableParameters(dict(family.denoiser.named_parameters()), {})
        self.module = DreamBooth(family, trained, self.training, cache(), None, resume)
        trainer: Any = SimpleNamespace(precision_plugin=None, global_step=0)
        self.module.trainer = trainer
        configured = self.module.configure_optimizers()
        self.module.on_fit_start()
        self._optimizer = configured["optimizer"]
        self._schedule = configured["lr_scheduler"]["scheduler"]

    def train(self, start: int, stop: int, *, ranks: int = 1, batch: int = 48) -> list[float]:
        """The loss of every step; the ranks' shares are gone through one after the other."""
        sampler = TrainingSampler(
            seed=4, subjects=[ImagePool(0, ROWS)], priors=[], weights=[1.0],
            objective=self.module.objective, latent_shape=self.module.latent_shape(1, 1),
            global_batch=batch,
        )  # fmt: skip
        plans = [BatchPlan(start, stop, 1, batch // ranks, rank, ranks) for rank in range(ranks)]
        losses = []
        for shares in zip(*(BatchStream(sampler, plan) for plan in plans), strict=True):
            self._optimizer.zero_grad()
            loss = torch.stack([self.module.training_step(share, 0) for share in shares]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._schedule.step()
            losses.append(float(loss.detach()))
        return losses

    @torch.no_grad()
    def generate(self, count: int) -> Tensor:
        """Points [count, 2], by diffusers' Euler sampler."""
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(60)
        sample = torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(9))
        for timestep in scheduler.timesteps:
            velocity = self.network(sample, (timestep / 1000).expand(count))
            sample = scheduler.step(velocity, timestep, sample).prev_sample
        return sample.flatten(1)


@pytest.mark.parametrize(
    "training",
    [
        {},
        pytest.param(
            {"timestepSampling": {"density": "mode", "shift": 1}, "lossWeighting": "cosmap"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["logit-normal", "mode"],
)
def test_samples_of_a_trained_network_are_distributed_as_the_data(
    training: dict[str, object],
) -> None:
    steps = 1200
    run = Run(steps, schedule={"name": "cosine"}, **training)
    run.train(0, steps)
    found = run.generate(2000)
    distances, nearest = torch.cdist(found, POINTS).min(dim=1)
    assert (distances < 3 * SPREAD).float().mean() > 0.9
    shares = nearest.bincount(minlength=3) / len(found)
    torch.testing.assert_close(shares, SHARES, atol=0.06, rtol=0)
    torch.testing.assert_close(found.mean(dim=0), SHARES @ POINTS, atol=0.12, rtol=0)


def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one() -> None:
    sampling = {"timestepSampling": {"density": "mode"}, "lossWeighting": "sigma-sqrt"}
    steady = Run(8, **sampling)
    losses = steady.train(0, 8)

    stopped = Run(8, **sampling)
    assert stopped.train(0, 5) == losses[:5]
    state = {name: tensor.clone() for name, tensor in stopped.module.state().items()}
    resumed = Run(8, ResumeState(5, state), **sampling)
    assert resumed.train(5, 8) == losses[5:]
    expected = steady.module.state()
    assert all(torch.equal(expected[name], t) for name, t in resumed.module.state().items())


def test_any_number_of_ranks_has_the_same_losses() -> None:
    alone = Run(6).train(0, 6)
    assert len(set(alone)) == 6
    assert Run(6).train(0, 6, ranks=4) == pytest.approx(alone, rel=1e-4)


def test_the_loss_is_the_weighted_error_of_the_velocity() -> None:
    training = {"timestepSampling": {"density": "uniform"}, "lossWeighting": "cosmap"}
    run = Run(1, **training)
    network = copy.deepcopy(run.network)
    sampler = TrainingSampler(
        seed=4, subjects=[ImagePool(0, ROWS)], priors=[], weights=[1.0],
        objective=run.module.objective, latent_shape=(2, 1, 1), global_batch=5,
    )  # fmt: skip
    expected = []
    for position in range(5):
        draw, _ = sampler.draw(0, position)
        mean, deviation = cache().moments[draw.row].flatten().chunk(2)
        point = mean + deviation * torch.from_numpy(draw.latent_noise).flatten()
        noise, sigma = torch.from_numpy(draw.noise).flatten(), torch.tensor(draw.timestep)
        noisy = ((1 - sigma) * point + sigma * noise).view(1, 2, 1, 1)
        error = network(noisy, sigma[None]).detach().flatten() - (noise - point)
        weight = 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
        expected.append(float(weight * error.square().mean()))
    assert run.train(0, 1, batch=5) == pytest.approx([sum(expected) / 5], rel=1e-5)
