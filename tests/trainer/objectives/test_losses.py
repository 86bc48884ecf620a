"""The loss against an independent reference, written out by hand."""

import numpy as np
import pytest
import torch

from dreambooth_trainer.objectives.ddpm import min_snr_weights, signal_to_noise
from dreambooth_trainer.objectives.loss import dreambooth_loss


def reference(prediction, target, weights, prior_weight):
    """Two separate means over two separate halves, in numpy."""
    prediction, target = prediction.numpy().astype(np.float64), target.numpy().astype(np.float64)
    half = len(prediction) // 2
    parts = []
    for samples in (range(half), range(half, 2 * half)):
        each = [np.mean((prediction[i] - target[i]) ** 2) * weights[i] for i in samples]
        parts.append(sum(each) / len(each))
    return parts[0] + prior_weight * parts[1], parts[0], parts[1]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8)


def test_loss_equals_the_reference(batch):
    losses = dreambooth_loss(*batch, weights=None, prior_weight=0.7)
    expected = reference(*batch, np.ones(6), 0.7)
    assert [float(x) for x in vars(losses).values()] == pytest.approx(expected, rel=1e-6)


def test_each_sample_is_weighted_by_its_own_timestep(batch):
    weights = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    losses = dreambooth_loss(*batch, weights=weights, prior_weight=1.0)
    expected = reference(*batch, weights.numpy(), 1.0)
    assert [float(x) for x in vars(losses).values()] == pytest.approx(expected, rel=1e-6)


def test_without_prior_the_whole_batch_is_the_subject(batch):
    losses = dreambooth_loss(*batch, weights=None, prior_weight=None)
    assert float(losses.total) == pytest.approx(float((batch[0] - batch[1]).square().mean()))
    assert float(losses.prior) == 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_trains_a_timestep_without_signal(prediction):
    snr = signal_to_noise(torch.tensor([1.0, 0.5, 0.0]))  # infinite, 1 and 0
    weights = min_snr_weights(snr, 5, prediction)
    assert weights.isfinite().all()
    assert weights[2] == 1


def test_min_snr_of_epsilon_and_v_follow_the_paper():
    alphas = torch.tensor([0.99, 0.5, 0.01])
    snr = signal_to_noise(alphas)
    assert snr.tolist() == pytest.approx([99, 1, 0.01 / 0.99], rel=1e-4)
    assert min_snr_weights(snr, 5, "epsilon").tolist() == pytest.approx([5 / 99, 1, 1], rel=1e-4)
    low = 0.01 / 0.99
    assert min_snr_weights(snr, 5, "v_prediction").tolist() == pytest.approx(
        [5 / 100, 1 / 2, low / (low + 1)], rel=1e-4
    )
