"""Divides the denoiser's weights among the ranks (FSDP2), and makes whole tensors of the parts.

Each rank keeps its part of each weight. A block's weights are whole from just before its forward or
backward pass to just after it, so that every rank has to make the same passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from dreambooth_trainer.process.divided_tensors import whole


def shard(denoiser: nn.Module, device: torch.device, precision: torch.dtype) -> None:
    """Divide a model of diffusers, which is whole on every rank, and move it to the device.

    Block by block: no more than one is whole on the device. Collective.

    Args:
        denoiser: In host memory.
        device: This rank's.
        precision: Of forward passes. Weights are kept in their own.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Weights are whole in the precision of the pass: what autocast makes of fp32 weights would stay
    # whole until the backward pass. Inputs are left to autocast, as without sharding.
    policy = MixedPrecisionPolicy(
        param_dtype=None if precision is torch.float32 else precision,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for module in [*blocks(denoiser), denoiser]:
        # Also the outermost, which FSDP leaves whole by default: what is whole is not read again
        # from parts that have changed, as averaged weights do.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)


def blocks(denoiser: nn.Module) -> list[nn.Module]:
    """The modules that diffusers keeps on one device, innermost first."""
    names = set(denoiser._no_split_modules or ())  # type: ignore[arg-type]
    found = [each for each in denoiser.modules() if type(each).__name__ in names]
    return [each for each in reversed(found) if any(True for _ in each.parameters())]


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has divided it."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of what every rank has as a whole over the ranks. Collective.

    FSDP averages those of parts; DDP, which averages the rest, is not there.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their common norm is at most `limit`; returns the norm before.

    Collective for parts.
    """
    groups = [
        [each for each in parameters if isinstance(each, DTensor) is divided]
        for divided in (True, False)
    ]
    # torch does not take both kinds at once.
    norms = [
        whole(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        for group in groups
        if group
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, limit, norm)
    return norm


def whole_on_first(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a divided module by name, in host memory of rank 0. Collective.

    One after the other is whole on the device. Other ranks get none.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor)
        if dist.get_rank() == 0:
            weights[name] = full.cpu()
    return weights


def undivided(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A model of diffusers like a divided one, with these weights."""
    # FSDP makes a class of its own of the model's.
    kind: Any = next(each for each in type(module).__mro__ if not issubclass(each, FSDPModule))
    with torch.device("meta"):
        made: nn.Module = kind.from_config(module.config)
    made.load_state_dict(weights, assign=True)
    return made
