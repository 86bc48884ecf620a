"""What a GPU need not hold where the ranks divide the denoiser: arithmetic on its weights. Pure."""

from torch import nn

from dreambooth_trainer.models.adapters.trainable import PRECISIONS, TrainableParameters
from dreambooth_trainer.models.sharding import blocks
from dreambooth_trainer.resolved_job import ResolvedPrior, ResolvedTraining
from dreambooth_trainer.training.optimizer_state import device_bytes
from dreambooth_trainer.training.saved_weights import exported_group

GRADIENT, AVERAGE = 4, 4
"""Bytes for each trained weight."""


def weights_of_others(denoiser: nn.Module, ranks: int) -> int:
    """Bytes of a denoiser, which is whole here, that only the other ranks hold."""
    counted: set[nn.Parameter] = set()
    sizes: list[int] = []
    for block in [*blocks(denoiser), denoiser]:  # innermost first: each weight counts once
        own = set(block.parameters()) - counted
        sizes.append(sum(parameter.nbytes for parameter in own))
        counted |= own
    # The block that is computed, and the one that is put together meanwhile.
    return max(_share(sum(sizes), ranks) - 2 * max(sizes), 0)


def state_of_others(
    trained: TrainableParameters,
    training: ResolvedTraining,
    prior: ResolvedPrior | None,
    ranks: int,
) -> int:
    """Bytes beside the weights that only the other ranks hold while the denoiser trains.

    Adapters are not divided.
    """
    if training.method != "full":
        return 0
    optimizer = training.optimizer
    count = sum(parameter.numel() for parameter in trained.denoiser.values())
    divided = count * GRADIENT + sum(
        device_bytes(optimizer.name, name, parameter, optimizer.beta1)
        for name, parameter in trained.denoiser.items()
    )
    if exported_group(training) == "average":
        divided += count * AVERAGE
    half = PRECISIONS[training.precision].itemsize
    if prior is not None and prior.target == "prediction":
        divided += count * half  # the base model's weights
    # What autocast makes of a whole denoiser, it makes of a block.
    rounded = count * half if training.precision != "fp32" else 0
    return _share(divided, ranks) + rounded


def _share(size: int, ranks: int) -> int:
    return size * (ranks - 1) // ranks
