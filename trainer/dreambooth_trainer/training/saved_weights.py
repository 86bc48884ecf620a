"""The trained weights of a saved state, into a model."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dreambooth_api.models.training import Training
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.exported import START
from dreambooth_trainer.process.divided_tensors import divided_as


def exported_group(training: Training) -> str:
    """The group of a state that is sampled, scored and exported: `average` or `weight`."""
    is_schedule_free = training.optimizer.name == "schedule-free-adamw"
    return "average" if training.ema.enabled or is_schedule_free else "weight"


def copy_weights(
    parameters: Iterable[tuple[str, nn.Parameter]], tensors: Mapping[str, Tensor], group: str
) -> None:
    """Give parameters the values that a state (`DreamBooth.state`) has for their names.

    Raises:
        KeyError: One is missing.
    """
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(divided_as(tensors[f"{group}/{name}"], parameter))


def starts(family: Family) -> Iterator[tuple[str, nn.Parameter]]:
    """What PiSSA started with, by names as of `TrainableParameters`: see `models.inject`.

    Libraries do not decompose a matrix the same to the last bit in every process.
    """
    parts = {"denoiser": family.denoiser, **family.text_encoders}
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if f".{START}." in name:
                yield f"{part}.{name}", parameter
