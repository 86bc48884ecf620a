"""Writing safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors, from any device and of any memory layout, with their metadata.

    Raises:
        OSError: The file cannot be written.
    """
    # safetensors refuses tensors that are not contiguous, such as weights in channels-last order.
    contiguous = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, path, metadata=dict(metadata))
