"""Prodigy is that of its authors, without their waits for the device."""

from typing import Any

import prodigyopt
import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from dreambooth_trainer.training.prodigy import Prodigy


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def train(make: type[Optimizer], beta1: float, rates: list[float]) -> tuple[list[Any], int]:
    """Weights and state after a step at each rate, and how often the last one reads a number."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.zeros(4))]
    settings: Any = {
        "betas": (beta1, 0.99), "weight_decay": 0.01, "use_bias_correction": True,
        "safeguard_warmup": True,
    }  # fmt: skip
    groups: Any = [{"params": weights[:1]}, {"params": weights[1:]}]
    optimizer = make(groups, lr=1.0, **settings)
    reads = Reads()
    for rate in rates:
        optimizer.zero_grad()
        loss = (weights[0] - 3).square().sum() + (weights[1] + 1).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = rate
        with (reads := Reads()):
            optimizer.step()
    found = [each for w in weights for each in (w.detach(), *optimizer.state[w].values())]
    names = ("d", "d_max", "d_numerator", "k")
    return [*found, *(torch.tensor(optimizer.param_groups[1][n]) for n in names)], reads.count


@pytest.mark.parametrize("beta1", [0.9, 0.0])
@pytest.mark.parametrize("rates", [[1.0] * 40, [0.0, 1.0, 0.5, 0.5, 0.0, 1.0]])
def test_it_updates_as_its_authors_do_without_waiting_for_each_parameter(
    beta1: float, rates: list[float]
) -> None:
    expected, waits = train(prodigyopt.Prodigy, beta1, rates)
    found, none = train(Prodigy, beta1, rates)
    assert (waits, none) == (4, 0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
