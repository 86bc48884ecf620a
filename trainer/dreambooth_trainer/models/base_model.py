"""The denoiser as it was before training, for targets of the base model's own."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from dreambooth_trainer.models.adapters.trainable import PRECISIONS
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.prompts import Conditioning
from dreambooth_trainer.models.sharding import is_sharded
from dreambooth_trainer.process.divided_tensors import local
from dreambooth_trainer.resolved_job import ResolvedTraining


class BaseModel:
    """Predicts as the base model did.

    With LoRA it is the trained denoiser without its adapters, which takes no memory. With `full` it
    is a frozen copy, in the precision of the forward pass: as frozen weights are kept with LoRA. Of
    a divided denoiser, each rank copies its part, and the copy takes the weights' place.

    Args:
        family: The model, with adapters or unfrozen weights that are still those of the base.
        training: `spec.training`.
    """

    def __init__(self, family: Family, training: ResolvedTraining) -> None:
        self._family = family
        self._adapters: list[BaseTunerLayer] = []
        self._copy: nn.Module | None = None
        self._parts: list[Tensor] = []
        precision = PRECISIONS[training.precision]
        if training.method != "full":
            self._adapters = [m for m in family.denoiser.modules() if isinstance(m, BaseTunerLayer)]
        elif is_sharded(family.denoiser):
            self._parts = [p.to(precision, copy=True) for p in self._own_parts()]
        else:
            self._copy = copy.deepcopy(family.denoiser).requires_grad_(False).eval()
            self._copy.to(precision)

    @torch.no_grad()
    def predict(
        self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor
    ) -> Tensor:
        """The base model's prediction [N, C, h, w], see `Family.predict`; without gradients."""
        with self._in_place():
            return self._family.predict(noisy, timesteps, conditioning, crops)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Within, the family's denoiser is that of the base model."""
        trained = self._family.denoiser
        if self._copy is not None:
            self._family.denoiser = self._copy
        self._disable_adapters(True)
        kept = [part.clone() for part in self._own_parts()] if self._parts else []
        self._set_parts(self._parts)
        try:
            yield
        finally:
            self._set_parts(kept)
            self._disable_adapters(False)
            self._family.denoiser = trained

    def _own_parts(self) -> list[Tensor]:
        """This rank's part of each of the denoiser's weights."""
        return [local(parameter.detach()) for parameter in self._family.denoiser.parameters()]

    def _set_parts(self, values: Sequence[Tensor]) -> None:
        for part, value in zip(self._own_parts(), values, strict=False):
            part.copy_(value)

    def _disable_adapters(self, disabled: bool) -> None:
        # peft's own method also freezes the adapters, and unfreezes those that are not trained.
        for layer in self._adapters:
            layer._disable_adapters = disabled
