"""Refuses a model with weights that are NaN or infinite, which would make every loss NaN."""

import torch
from torch import Tensor, nn

from dreambooth_trainer.process.errors import BadModelError


def check_finite(parts: dict[str, nn.Module], field: str, source: str) -> None:
    """Check every weight of a model's parts.

    Raises:
        BadModelError: A weight is NaN or infinite; the message names it.
    """
    for part, module in parts.items():
        for name, weight in module.state_dict().items():
            if not isinstance(weight, Tensor) or not weight.is_floating_point():
                continue
            # `isfinite` of the weight itself would take more memory than the weight does.
            if weight.numel() and not bool(torch.stack(weight.aminmax()).isfinite().all()):
                raise BadModelError(
                    f"{field}: {source} is damaged: the weight {name} of its {part} holds values"
                    " that are NaN or infinite"
                )
