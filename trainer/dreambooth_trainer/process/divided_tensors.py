"""Tensors that the ranks have divided among them (FSDP2), as wholes and as parts."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that parts are of; any other one as it is. Collective for parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part, which shares its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a tensor that is whole on every rank, divided as `like` is, and on its device."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device, copy=True)
    # Without a source rank, each takes its part of its own tensor.
    parts = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return parts.to(like.device, copy=True)
