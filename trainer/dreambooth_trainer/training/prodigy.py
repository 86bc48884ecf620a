"""The optimizer Prodigy without its waits for the device."""

import math
from collections.abc import Callable
from typing import Any

import prodigyopt
import torch
from torch import Tensor

from dreambooth_trainer.training.optimizer_state import empty_state


class Prodigy(prodigyopt.Prodigy):  # type: ignore[misc]
    """Prodigy (Mishchenko and Defazio 2024, algorithm 4) with decoupled weight decay.

    Its state and its updates are prodigyopt's, which reads two numbers of each parameter from the
    device, one after the other; here, all are read at once. All groups have the same settings.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        settings = self.param_groups[0]
        found = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not found or settings["lr"] == 0:
            return loss
        (beta1, beta2), rate = settings["betas"], _rate(settings)
        beta3, d = math.sqrt(beta2), settings["d"]
        gradients = [p.grad for p in found]
        states = [self._state_of(p, beta1) for p in found]
        changes = [
            torch.dot(gradient.flatten(), state["p0"] - p.flatten())
            for p, gradient, state in zip(found, gradients, states, strict=True)
        ]
        sums, squares = [s["s"] for s in states], [s["exp_avg_sq"] for s in states]
        means = [s["exp_avg"] for s in states] if beta1 > 0 else gradients
        if beta1 > 0:
            torch._foreach_mul_(means, beta1)
            torch._foreach_add_(means, gradients, alpha=d * (1 - beta1))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=d * d * (1 - beta2))
        torch._foreach_mul_(sums, beta3)
        flat = [gradient.flatten() for gradient in gradients]
        torch._foreach_add_(sums, flat, alpha=d / settings["d0"] * d)
        # The only wait for the device.
        numbers = torch.stack([*changes, *(each.abs().sum() for each in sums)]).tolist()
        products, norms = numbers[: len(found)], numbers[len(found) :]
        if not any(norms):
            return loss
        scale = d / settings["d0"] * rate
        numerator = beta3 * settings["d_numerator"] + math.fsum(scale * each for each in products)
        self._raise_estimate(numerator, math.fsum(norms))
        if settings["weight_decay"]:
            torch._foreach_add_(found, found, alpha=-settings["weight_decay"] * rate)
        step = -rate if beta1 > 0 else -rate * settings["d"]
        for p, mean, square in zip(found, means, squares, strict=True):
            # One after the other: the roots of all would take as much memory as the weights.
            p.addcdiv_(mean, square.sqrt().add_(settings["d"] * settings["eps"]), value=step)
        for state in states:
            state["step"] += 1
        return loss

    def _state_of(self, parameter: Tensor, beta1: float) -> dict[str, Any]:
        if parameter not in self.state:
            self.state[parameter] = {"step": 0, **empty_state("prodigy", "", parameter, beta1)}
        state: dict[str, Any] = self.state[parameter]
        return state

    def _raise_estimate(self, numerator: float, norm: float) -> None:
        """Set the estimate of the distance to the solution, the rate's unit, for all groups."""
        settings = self.param_groups[0]
        found = settings["d_coef"] * numerator / norm
        highest, updates = max(settings["d_max"], found), settings["k"] + 1
        for group in self.param_groups:
            group.update(d_numerator=numerator, d_max=highest, d=highest, k=updates)


def _rate(settings: dict[str, Any]) -> float:
    """The rate of this step, as long as the estimate stays what it is."""
    beta1, beta2 = settings["betas"]
    updates = settings["k"] + 1
    correction = math.sqrt(1 - beta2**updates) / (1 - beta1**updates)
    return float(settings["d"] * settings["lr"] * correction)
