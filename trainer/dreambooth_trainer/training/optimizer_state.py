"""The state of the optimizer and of fp16's gradient scaler as named tensors, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer

from dreambooth_trainer.models.adapters import TrainableParameters

COUNT = "optimizer/step"
"""Name of the number of updates: fewer than steps if fp16 has skipped some."""
STATES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "AdamW": (("exp_avg", "exp_avg_sq"),),
    "Adafactor": (
        ("exp_avg_sq_row", "exp_avg_sq_col"),  # of matrices
        ("exp_avg_sq",),
    ),
    "Lion": (("exp_avg",),),
    "Prodigy": (
        ("exp_avg", "exp_avg_sq", "s", "p0"),
        ("exp_avg_sq", "s", "p0"),  # with a beta1 of 0
    ),
}
"""What an optimizer of each class keeps of a parameter, beside the number of updates."""
ESTIMATE = ("d", "d_max", "d_numerator", "k")
"""What Prodigy keeps of all parameters together: its estimate of the learning rate."""
SCALER = ("scale", "_growth_tracker")
"""The part of a gradient scaler's state that changes."""


def optimizer_tensors(optimizer: Optimizer, trained: TrainableParameters) -> dict[str, Tensor]:
    """The optimizer's state by name: `exp_avg/<name of a parameter>` and so on, and `COUNT`.

    It has the same tensors before the first update, which fp16 may have skipped, as later: those of
    an attempt's first save are the ones that are saved.
    """
    states = optimizer.state
    for parameter in trained.all.values():
        if parameter not in states:
            states[parameter] = _before_updates(optimizer, parameter)
    tensors = {
        f"{key}/{name}": states[parameter][key]
        for name, parameter in trained.all.items()
        for key in _kept(optimizer, states[parameter])
    }
    # All parameters have the same count, so that one stands for all. Lion has none.
    count = next(iter(states.values())).get("step", 0)
    tensors[COUNT] = count.detach() if isinstance(count, Tensor) else torch.tensor(float(count))
    group = optimizer.param_groups[0]
    # Doubles, as Python's own numbers.
    return tensors | {
        f"optimizer/{key}": torch.tensor(float(group[key]), dtype=torch.float64)
        for key in ESTIMATE
        if key in group
    }


def _before_updates(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """What the optimizer itself creates for a parameter at its first update."""
    zeros = torch.zeros_like(parameter)
    match type(optimizer).__name__:
        case "AdamW":
            device = parameter.device if optimizer.defaults["fused"] else "cpu"
            step = torch.zeros((), device=device)
            return {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        case "Adafactor" if parameter.dim() < 2:
            return {"step": 0, "exp_avg_sq": zeros}
        case "Adafactor":
            row, column = zeros[..., 0].clone(), zeros[..., 0, :].clone()
            return {"step": 0, "exp_avg_sq_row": row, "exp_avg_sq_col": column}
        case "Lion":
            return {"exp_avg": zeros}
    start = parameter.detach().flatten().clone()
    first = {"exp_avg": zeros.clone()} if optimizer.defaults["betas"][0] > 0 else {}
    return {
        "step": 0,
        "s": torch.zeros_like(start),
        "p0": start if start.any() else start.new_zeros(()),
        **first,
        "exp_avg_sq": zeros,
    }


def _kept(optimizer: Optimizer, names: Mapping[str, object]) -> tuple[str, ...]:
    """The names of what is kept of a parameter, out of those that there are."""
    alternatives = STATES[type(optimizer).__name__]
    return next((each for each in alternatives if set(each) <= set(names)), ())


def restore_optimizer(
    optimizer: Optimizer, trained: TrainableParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Load the result of `optimizer_tensors`; raises `KeyError` when a tensor is missing."""
    count = tensors[COUNT]
    for name, parameter in trained.all.items():
        device = parameter.device
        here = {
            key: tensors[f"{key}/{name}"]
            for alternative in STATES[type(optimizer).__name__]
            for key in alternative
            if f"{key}/{name}" in tensors
        }
        kept = _kept(optimizer, here)
        if not kept:
            raise KeyError(f"no state of {name} for {type(optimizer).__name__}")
        # Always copied: on the CPU, a file that the state is mapped from would stay in use.
        state = {key: here[key].to(device, copy=True) for key in kept}
        if isinstance(optimizer, AdamW):
            # Fused AdamW keeps its step on the parameter's device, the others on the host.
            on_host = not optimizer.defaults["fused"]
            step: object = count.to("cpu" if on_host else device, copy=True)
        else:
            step = int(count)
        optimizer.state[parameter] = {"step": step, **state}
    for group in optimizer.param_groups:
        for key in ESTIMATE:
            if key in group:
                group[key] = type(group[key])(tensors[f"optimizer/{key}"].item())


def scaler_tensors(scaler: GradScaler | None) -> dict[str, Tensor]:
    """The state of fp16's gradient scaler, `scaler/<name>`; empty where there is none."""
    if scaler is None:
        return {}
    state = scaler.state_dict()
    # Tensors, as a state holds nothing else; float32 is exact for powers of 2 and small counts.
    return {f"scaler/{name}": torch.tensor(float(state[name])) for name in SCALER}


def restore_scaler(scaler: GradScaler | None, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `scaler_tensors`, if there is a scaler.

    A state of another precision (spec.resumeFrom) has none: the scaler then begins anew.
    """
    if scaler is None or f"scaler/{SCALER[0]}" not in tensors:
        return
    scale, tracker = (float(tensors[f"scaler/{name}"]) for name in SCALER)
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": int(tracker)})
