"""The state of the optimizer and of fp16's gradient scaler as named tensors, for checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer

from dreambooth_trainer.models.adapters.trainable import TrainableParameters

COUNT = "optimizer/step"
"""Name of the number of updates: fewer than steps if fp16 has skipped some."""
ESTIMATE = ("d", "d_max", "d_numerator", "k")
"""What Prodigy keeps of all parameters together: its estimate of the learning rate."""
SCALER = ("scale", "_growth_tracker")
"""The part of a gradient scaler's state that changes."""


def empty_state(name: str, parameter: Tensor, beta1: float | None) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter, as before the first update, by its own names.

    The number of updates comes beside it.

    Args:
        name: The optimizer, as in the job.
        parameter: Of any device, meta too; the result is on the same.
        beta1: Decay of the mean gradient, None for the default; at 0, Prodigy keeps no mean.
    """
    zeros = torch.zeros_like(parameter, requires_grad=False)
    match name:
        case "adamw":
            return {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        case "adafactor" if parameter.dim() < 2:
            return {"exp_avg_sq": zeros}
        case "adafactor":
            row, column = zeros[..., 0].clone(), zeros[..., 0, :].clone()
            return {"exp_avg_sq_row": row, "exp_avg_sq_col": column}
        case "lion":
            return {"exp_avg": zeros}
    start = parameter.detach().flatten().clone()
    # One number for a parameter that begins at 0, which one on the meta device cannot show.
    first = start if parameter.is_meta or start.any() else start.new_zeros(())
    mean = {} if beta1 == 0 else {"exp_avg": zeros.clone()}
    return {"s": torch.zeros_like(start), "p0": first, **mean, "exp_avg_sq": zeros}


def optimizer_tensors(optimizer: Optimizer, trained: TrainableParameters) -> dict[str, Tensor]:
    """The optimizer's state by name: `exp_avg/<name of a parameter>` and so on, and `COUNT`.

    It has the same tensors before the first update, which fp16 may have skipped, as later: those of
    an attempt's first save are the ones that are saved.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained.all.items():
        if parameter not in optimizer.state:
            _set_state(optimizer, parameter, _empty_state(optimizer, parameter), torch.zeros(()))
        tensors |= {
            f"{key}/{name}": optimizer.state[parameter][key] for key in _kept(optimizer, parameter)
        }
    # All parameters have the same count, so that one stands for all. Lion has none.
    count = next(iter(optimizer.state.values())).get("step", 0)
    tensors[COUNT] = count.detach() if isinstance(count, Tensor) else torch.tensor(float(count))
    group = optimizer.param_groups[0]
    # Doubles, as Python's own numbers.
    return tensors | {
        f"optimizer/{key}": torch.tensor(float(group[key]), dtype=torch.float64)
        for key in ESTIMATE
        if key in group
    }


def restore_optimizer(
    optimizer: Optimizer, trained: TrainableParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Load the result of `optimizer_tensors`; raises `KeyError` when a tensor is missing."""
    for name, parameter in trained.all.items():
        # Always copied: on the CPU, a file that the state is mapped from would stay in use.
        state = {
            key: tensors[f"{key}/{name}"].to(parameter.device, copy=True)
            for key in _kept(optimizer, parameter)
        }
        _set_state(optimizer, parameter, state, tensors[COUNT])
    for group in optimizer.param_groups:
        for key in ESTIMATE:
            if key in group:
                group[key] = type(group[key])(tensors[f"optimizer/{key}"].item())


def _empty_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    beta1, _ = optimizer.defaults.get("betas", (None, None))
    return empty_state(type(optimizer).__name__.lower(), parameter, beta1)


def _kept(optimizer: Optimizer, parameter: Tensor) -> list[str]:
    """The names of what is kept of a parameter."""
    return [*_empty_state(optimizer, torch.empty_like(parameter, device="meta"))]


def _set_state(
    optimizer: Optimizer, parameter: Tensor, state: dict[str, Tensor], count: Tensor
) -> None:
    """Set what is kept of a parameter, and the number of updates as the optimizer keeps it."""
    step: object = int(count)
    if isinstance(optimizer, AdamW):
        # Fused AdamW keeps it on the parameter's device, the other one on the host.
        fused = optimizer.defaults["fused"]
        step = count.to(parameter.device if fused else "cpu", copy=True)
    optimizer.state[parameter] = {"step": step, **state}


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
