"""Exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """An fp32 average of named parameters (Polyak averaging)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.averages = {
            name: p.detach().clone(memory_format=torch.preserve_format).float()
            for name, p in self._parameters.items()
        }

    def update(self, step: int) -> None:
        """Move the averages towards the weights after optimizer step `step` (from 1).

        The decay is warmed up as (1 + step) / (10 + step), so that the average of a short run is
        not dominated by the initial weights.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the parameters hold their averages; their values return afterwards."""
        saved = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(saved)

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(values[name])
