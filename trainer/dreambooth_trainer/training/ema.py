"""Exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from dreambooth_trainer.process.divided_tensors import divided_as, local


class ExponentialMovingAverage:
    """An fp32 average of named parameters (Polyak & Juditsky 1992)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.averages = {
            name: p.detach().clone(memory_format=torch.preserve_format).float()
            for name, p in self._parameters.items()
        }

    def update(self, step: int) -> None:
        """Move the averages towards the weights after optimizer step `step` (from 1).

        averages = decay * averages + (1 - decay) * weights, where the decay is at most
        (1 + step) / (10 + step).
        """
        # The warm-up keeps the initial weights from dominating the average of a short run.
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [local(p.detach()) for p in self._parameters.values()]
        averages = [local(average) for average in self.averages.values()]
        # One kernel for many tensors: a loop would launch hundreds per step.
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Continue from saved averages by name; raises `KeyError` when one is missing."""
        for name, average in self.averages.items():
            average.copy_(divided_as(averages[name], average))

    def applied(self) -> AbstractContextManager[None]:
        """Within, the parameters have their averages' values."""
        return applied(self._parameters, self.averages)


@contextmanager
def applied(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, the parameters have other values; their own are restored afterwards, to the bit."""
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    assign(parameters, values)
    try:
        yield
    finally:
        assign(parameters, saved)


def assign(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters, by name; raises `KeyError` when one is missing."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
