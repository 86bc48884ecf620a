"""The optimizer Muon, with AdamW for what it is not for."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

EMBEDDINGS = ("embedding.weight", "shared.weight")
"""Ends of the names of matrices whose rows are looked up: not what Muon is for."""


class MuonWithAdamW(Optimizer):
    """Muon for matrices (Jordan 2024; Liu et al. 2025, section 2.2), AdamW for all else.

    Both keep the groups and the state of this optimizer, so that schedules and checkpoints see one.

    Args:
        groups: With named parameters. Each becomes one or two: its matrices, and the rest.
        lr: AdamW's: updates of matrices have the same size.
        betas: Decay of the first moment, which is Muon's momentum too, and of the second.
        eps: Of AdamW.
        weight_decay: Decoupled.
        fused: See `AdamW`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        fused: bool,
    ) -> None:
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in groups:
            chosen = [is_matrix(name, parameter) for name, parameter in group["params"]]
            for wanted, found in ((True, matrices), (False, others)):
                named = zip(group["params"], chosen, strict=True)
                if params := [pair for pair, is_wanted in named if is_wanted is wanted]:
                    found.append({**group, "params": params})
        self._optimizers: list[Optimizer] = []
        if matrices:
            self._optimizers.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    momentum=betas[0],
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._optimizers.append(
                AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
            )
        super().__init__(
            [group for each in self._optimizers for group in each.param_groups], {"fused": fused}
        )
        for optimizer in self._optimizers:
            optimizer.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; returns the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates a parameter."""
    return parameter.dim() == 2 and not name.endswith(EMBEDDINGS)
