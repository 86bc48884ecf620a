"""The loss on held-out images of a flow-matching model, on points of a plane as latents."""

from typing import Any

import pytest
import torch

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.evaluation.validation_loss import ValidationLoss
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.resolved import resolve
from tests.trainer.thread_ranks import on_ranks
from tests.trainer.training.test_flow_training import POINTS, PointFamily, Run


def held_out() -> TrainingCache:
    """The three points themselves, which the training draws its samples around."""
    rows = POINTS.view(3, 2, 1, 1)
    moments = torch.cat([rows, torch.zeros_like(rows)], dim=1)
    return TrainingCache(moments, torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), [""], {}, {})


def validation(network: torch.nn.Module, ranks: Ranks | None = None) -> ValidationLoss:
    job = resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "points"},
            "spec": {
                "model": {"source": "/model"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
                "output": "file:///out",
                "training": {"timestepSampling": {"density": "uniform"}, "precision": "fp32"},
            },
        }
    )
    ranks = ranks or Ranks(Topology())
    attempt = Attempt(
        job,
        ranks,
        Storage(StorageSettings()),
        Telemetry(job, ranks.topology),
        StopSignal(),
        torch.device("cpu"),
    )
    family: Any = PointFamily()
    family.denoiser = network
    return ValidationLoss(attempt, family, held_out())


def test_it_falls_while_a_flow_model_learns_and_has_no_noise() -> None:
    run = Run(60)
    before = validation(run.network).measure()
    run.train(0, 60)
    after = validation(run.network).measure()
    assert after < 0.8 * before
    assert validation(run.network).measure() == after


def test_it_is_the_error_of_the_velocity_at_evenly_spread_sigmas() -> None:
    class Still(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, _sigma: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(noisy)

    # The velocity is noise - point: its mean square is 1 + that of the points.
    expected = 1 + float(POINTS.square().mean())
    assert validation(Still()).measure() == pytest.approx(expected, rel=0.25)


def test_it_does_not_depend_on_the_number_of_ranks() -> None:
    network = PointFamily().denoiser
    together = on_ranks(3, lambda ranks: validation(network, ranks).measure())
    assert together == [validation(network).measure()] * 3
