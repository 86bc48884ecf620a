"""The last save of a training: no gradient takes memory beside the copy of the state."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth_trainer.training.callbacks import SaveCheckpoints
from dreambooth_trainer.training.reporter import MeanLoss


class Module(nn.Linear):
    """A module after its last step."""

    trainer = SimpleNamespace(should_stop=False)

    def state(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class Saver:
    """Looks at the gradients when the last state is saved."""

    finished_phases = 0
    gradients: list[Tensor | None]

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        self.gradients = [tensor.grad for tensor in tensors.values()]

    def advance(self, **_: Any) -> None:
        assert all(gradient is not None for gradient in self.gradients)

    def finish(self, step: int, tensors: dict[str, Tensor], loss: float | None) -> None:
        self.gradients = [tensor.grad for tensor in tensors.values()]


def test_gradients_are_freed_before_the_last_state_is_copied() -> None:
    module, saver = Module(3, 2), Saver()
    module(torch.ones(1, 3)).sum().backward()
    reporter = SimpleNamespace(stop_agreed=False, finished_phases=0, step=0, flush=lambda: None)
    save: Any = SaveCheckpoints
    save(saver, reporter, MeanLoss(), every=5, total_steps=1).after_step(module, 1)
    assert saver.gradients == [None, None]
    assert module.trainer.should_stop
