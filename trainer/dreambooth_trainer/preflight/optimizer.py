"""Checks whether the installed libraries have the job's optimizer."""

from collections.abc import Iterator

import torch

from dreambooth_api.models.training import Training


def check_optimizer(training: Training) -> Iterator[str]:
    """A message where PyTorch is older than the optimizer."""
    if training.optimizer.name == "muon" and not hasattr(torch.optim, "Muon"):
        yield (
            "spec.training.optimizer.name: muon needs PyTorch 2.9 or newer, and this is"
            f" {torch.__version__}; choose another optimizer, or an image with a newer PyTorch"
        )
