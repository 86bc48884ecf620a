"""The state of the optimizer and of fp16's gradient scaler as named tensors, for checkpoints."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer

from dreambooth_api.models.optimizer import OptimizerName
from dreambooth_trainer.models.adapters.trainable import TrainableParameters
from dreambooth_trainer.process.divided_tensors import divided_as
from dreambooth_trainer.training.muon import MuonWithAdamW, is_matrix

COUNT = "optimizer/step"
"""Name of the number of updates: fewer than steps if fp16 has skipped some."""
GROUP_STATE = ("d", "d_max", "d_numerator", "k", "weight_sum", "lr_max")
"""What is kept of each group: Prodigy's estimate, and the weights of a schedule-free average."""
SCALER = ("scale", "_growth_tracker")
"""The part of a gradient scaler's state that changes."""
NAMES: Mapping[str, OptimizerName] = {
    "AdamW": "adamw",
    "AdamW8bit": "adamw-8bit",
    "PagedAdamW8bit": "paged-adamw-8bit",
    "Adafactor": "adafactor",
    "Lion": "lion",
    "Prodigy": "prodigy",
    "AdamWScheduleFree": "schedule-free-adamw",
    "MuonWithAdamW": "muon",
}
"""The optimizer of each class, as in a job."""
MIN_8BIT_SIZE, BLOCK_SIZE = 4096, 256
"""Of bitsandbytes: smaller parameters have a state in fp32; blocks of the others have a scale."""
MIN_PAGED_SIZE = 100_000
"""Of bitsandbytes: the state of smaller parameters is not paged."""


def empty_state(
    optimizer: OptimizerName, name: str, parameter: Tensor, beta1: float | None
) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter, as before the first update, by its own names.

    The number of updates comes beside it.

    Args:
        optimizer: As in the job.
        name: Of the parameter.
        parameter: Of any device, meta too; the result is on the same.
        beta1: Decay of the mean gradient, None for the default; at 0, Prodigy keeps no mean.
    """
    zeros = torch.zeros_like(parameter, requires_grad=False)
    match optimizer:
        case "adafactor" if parameter.dim() < 2:
            return {"exp_avg_sq": zeros}
        case "adafactor":
            row, column = zeros[..., 0].clone(), zeros[..., 0, :].clone()
            return {"exp_avg_sq_row": row, "exp_avg_sq_col": column}
        case "lion":
            return {"exp_avg": zeros}
        case "adamw-8bit" | "paged-adamw-8bit" if parameter.numel() < MIN_8BIT_SIZE:
            return {"state1": zeros, "state2": zeros.clone()}
        case "adamw-8bit" | "paged-adamw-8bit":
            moment = torch.zeros_like(zeros, dtype=torch.uint8)
            scales = zeros.new_zeros(math.ceil(zeros.numel() / BLOCK_SIZE))
            moments = {"state1": moment, "state2": moment.clone()}
            return {**moments, "absmax1": scales, "absmax2": scales.clone()}
        case "schedule-free-adamw":
            return {"z": parameter.detach().clone(), "exp_avg_sq": zeros}
        case "muon" if is_matrix(name, parameter):
            return {"momentum_buffer": zeros}
        case "prodigy":
            start = parameter.detach().flatten().clone()
            # One number for a parameter that begins at 0, which one on the meta device cannot show.
            first = start if parameter.is_meta or start.any() else start.new_zeros(())
            mean = {} if beta1 == 0 else {"exp_avg": zeros.clone()}
            return {"s": torch.zeros_like(start), "p0": first, **mean, "exp_avg_sq": zeros}
    return {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}


def device_bytes(
    optimizer: OptimizerName, name: str, parameter: Tensor, beta1: float | None
) -> int:
    """Bytes of the state of a parameter that stay on the GPU: see `empty_state`."""
    if optimizer == "paged-adamw-8bit" and parameter.numel() >= MIN_PAGED_SIZE:
        return 0
    return sum(each.nbytes for each in empty_state(optimizer, name, parameter, beta1).values())


def optimizer_tensors(optimizer: Optimizer, trained: TrainableParameters) -> dict[str, Tensor]:
    """The optimizer's state by name: `exp_avg/<name of a parameter>` and so on, and `COUNT`.

    It has the same tensors before the first update, which fp16 may have skipped, as later: those of
    an attempt's first save are the ones that are saved.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained.all.items():
        if not optimizer.state.get(parameter):
            state = _empty_state(optimizer, name, parameter)
            _set_state(optimizer, parameter, state, torch.zeros(()))
        tensors |= {
            f"{key}/{name}": optimizer.state[parameter][key]
            for key in _kept(optimizer, name, parameter)
        }
    # All parameters have the same count, so that one stands for all. Some optimizers have none.
    count = next((each["step"] for each in optimizer.state.values() if "step" in each), 0)
    tensors[COUNT] = count.detach() if isinstance(count, Tensor) else torch.tensor(float(count))
    # Doubles, as Python's own numbers; one for each group.
    return tensors | {
        f"optimizer/{key}": torch.tensor(
            [float(group[key]) for group in optimizer.param_groups], dtype=torch.float64
        )
        for key in GROUP_STATE
        if key in optimizer.param_groups[0]
    }


def restore_optimizer(
    optimizer: Optimizer, trained: TrainableParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Load the result of `optimizer_tensors`; raises `KeyError` when a tensor is missing."""
    for name, parameter in trained.all.items():
        # Always copied: on the CPU, a file that the state is mapped from would stay in use.
        state = {
            key: divided_as(tensors[f"{key}/{name}"], parameter)
            for key in _kept(optimizer, name, parameter)
        }
        _set_state(optimizer, parameter, state, tensors[COUNT])
    for key in GROUP_STATE:
        if key in optimizer.param_groups[0]:
            values = tensors[f"optimizer/{key}"].expand(len(optimizer.param_groups)).tolist()
            for group, value in zip(optimizer.param_groups, values, strict=True):
                group[key] = type(group[key])(value)


def _empty_state(optimizer: Optimizer, name: str, parameter: Tensor) -> dict[str, Tensor]:
    beta1, _ = optimizer.defaults.get("betas", (None, None))
    return empty_state(NAMES[type(optimizer).__name__], name, parameter, beta1)


def _kept(optimizer: Optimizer, name: str, parameter: Tensor) -> list[str]:
    """The names of what is kept of a parameter."""
    meta = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    return [*_empty_state(optimizer, name, meta)]


def _set_state(
    optimizer: Optimizer, parameter: Tensor, state: dict[str, Tensor], count: Tensor
) -> None:
    """Set what is kept of a parameter, and the number of updates as the optimizer keeps it."""
    if "state1" in state:
        _set_bitsandbytes(optimizer, parameter, state, count)
    elif "momentum_buffer" in state:
        optimizer.state[parameter] = {**state}  # Muon counts nothing
    else:
        step: object = int(count)
        if isinstance(optimizer, (AdamW, MuonWithAdamW)):
            # Fused AdamW keeps it on the parameter's device, the other one on the host.
            fused = optimizer.defaults["fused"]
            step = count.to(parameter.device if fused else "cpu", copy=True)
        optimizer.state[parameter] = {"step": step, **state}


def _set_bitsandbytes(
    optimizer: Any, parameter: Tensor, state: dict[str, Tensor], count: Tensor
) -> None:
    """Fill the state that bitsandbytes allocates, which is where it can be paged."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, each in enumerate(group["params"]):
            if each is parameter:
                optimizer.init_state(group, parameter, group_index, index)
    for key, tensor in state.items():
        optimizer.state[parameter][key].copy_(tensor)
    optimizer.state[parameter]["step"] = int(count)


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
