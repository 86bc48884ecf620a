"""Exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
        weights = [p.detach() for p in self._parameters.values()]
        # One kernel for many tensors: a loop would launch hundreds per step.
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Continue from saved averages by name; raises `KeyError` when one is missing."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the parameters have their averages' values; their own are restored afterwards."""
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
