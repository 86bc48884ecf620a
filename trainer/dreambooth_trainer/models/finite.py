"""Refuses values that are NaN or infinite, which would make every loss NaN."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dreambooth_trainer.process.errors import BadConfigError, BadModelError, TrainerError

FP16_MAX = 65_504
PRECISION = "spec.training.precision"


def check_finite(parts: dict[str, nn.Module], field: str, source: str) -> None:
    """Check every weight of a model's parts.

    Raises:
        BadModelError: A weight is NaN or infinite; the message names it.
        BadConfigError: It is infinite in fp16, which may not hold what the file does.
    """
    for part, module in parts.items():
        for name, weight in module.state_dict().items():
            if not isinstance(weight, Tensor) or _is_finite(weight):
                continue
            if weight.dtype == torch.float16 and not bool(weight.isnan().any()):
                raise BadConfigError(
                    f"{PRECISION}: the weight {name} of the {part} of {source} exceeds {FP16_MAX},"
                    " the largest number of fp16; use bf16, or fp32 on GPUs without bf16"
                )
            raise BadModelError(
                f"{field}: {source} is damaged: the weight {name} of its {part} holds values"
                " that are NaN or infinite"
            )


def check_conditioning(
    conditioning: Mapping[str, Tensor], prompt: str, precisions: Collection[torch.dtype]
) -> None:
    """Check the conditioning of a prompt.

    Args:
        conditioning: Of the prompt.
        prompt: For the message.
        precisions: Of the text encoders' weights.

    Raises:
        BadConfigError: It is not finite, and a text encoder computes in fp16.
        BadModelError: It is not finite in another precision.
    """
    if all(_is_finite(part) for part in conditioning.values()):
        return
    reason = f"the text encoders make NaN or infinite values of the prompt {prompt!r}"
    error: TrainerError = BadModelError(
        f"spec.model.source: {reason}; copy the model again, or use another one"
    )
    if torch.float16 in precisions:
        error = BadConfigError(
            f"{PRECISION}: in fp16, {reason}; use bf16, or fp32 on GPUs without bf16"
        )
    raise error


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point() or not values.numel():
        return True
    # `isfinite` of the values themselves would take more memory than they do.
    return bool(torch.stack(values.aminmax()).isfinite().all())
