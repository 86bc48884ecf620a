"""The training loop that all the models share."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SNAPSHOT_EVERY = 1000
FAST_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Other processors emulate it, several times slower than float32."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; ``average`` is the decay of the averaged weights, or 0."""

    steps: int
    batch: int
    learning_rate: float
    warm_up: int = 100
    decay_from: float = 0.3
    average: float = 0.0


@dataclass(frozen=True)
class Team:
    """Processes that train one model on one machine: their gradients meet in shared memory.

    ``shared`` has shape (processes, number of parameters); ``barrier`` is one for all of them.
    """

    rank: int
    shared: Tensor
    barrier: Barrier

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replaces the gradients by their mean over the team."""
        torch.cat([gradient.flatten() for gradient in gradients], out=self.shared[self.rank])
        self.barrier.wait()
        sizes = [gradient.numel() for gradient in gradients]
        parts = torch.split(self.shared.mean(dim=0), sizes)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        self.barrier.wait()


def fit(
    name: str,
    modules: Sequence[nn.Module],
    loss_of: Callable[[], Tensor],
    recipe: Recipe,
    snapshot: Callable[[], None] | None = None,
    team: Team | None = None,
    matrices: Sequence[Tensor] = (),
) -> None:
    """Minimises ``loss_of()``, which draws its own batch, with AdamW, in the faster precision.

    Parameters among ``matrices`` are trained with Muon instead (Jordan et al. 2024), at the same
    learning rate.

    Warm-up, then constant, then (from ``decay_from`` of the steps on) cosine down to a hundredth.
    The modules end with their averaged weights where the recipe asks for an average; every
    ``SNAPSHOT_EVERY`` steps they hold them for the length of a call of ``snapshot``. Processes of
    a team average their gradients at every step, and the first of them prints and saves.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizers = _optimizers(parameters, matrices, recipe.learning_rate)
    leads = team is None or team.rank == 0
    average = [p.detach().clone() for p in parameters]
    start, smooth = time.perf_counter(), 0.0
    for step in range(recipe.steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * _schedule(step, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16):
            loss = loss_of()
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        if team is not None:
            team.average([p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(recipe.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if leads and (step % 100 == 99 or step == recipe.steps - 1):
            seconds = time.perf_counter() - start
            print(
                f"{name}: step {step + 1}/{recipe.steps} loss {smooth:.4f} {seconds:.0f} s",
                flush=True,
            )
        if leads and snapshot is not None and step % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1:
            trained = _replace(parameters, average)
            snapshot()
            _replace(parameters, trained)
    _replace(parameters, average)


def _optimizers(
    parameters: Sequence[Tensor], matrices: Sequence[Tensor], learning_rate: float
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices, whose updates are as long as AdamW's."""
    chosen = {id(matrix) for matrix in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, learning_rate, (0.9, 0.99), weight_decay=0.01)
    ]
    if matrices:
        found.append(
            torch.optim.Muon(
                matrices, learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )
        )
    return found


@torch.no_grad()
def _replace(parameters: Sequence[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Writes ``values`` into the parameters and returns what they held."""
    held = [p.detach().clone() for p in parameters]
    torch._foreach_copy_(list(parameters), values)
    return held


def _schedule(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warm_up)
    decay_steps = recipe.steps * (1 - recipe.decay_from)
    done = max(0.0, (step - recipe.steps * recipe.decay_from) / decay_steps)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pictures (n, h, w, 3) uint8 as the models take them: (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pixels(images: Tensor) -> NDArray[np.uint8]:
    """The way back: (n, 3, h, w) in [-1, 1] as (n, h, w, 3) uint8."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255)
    return np.asarray(scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def turn_colours(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Gives every picture (n, 3, h, w) another palette; greys stay grey.

    Each new channel is a random mixture of the old ones after they changed places, so that
    colours come up that the drawings' own palette does not hold.
    """
    count = len(images)
    permuted = np.eye(3)[rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)]
    blend = rng.uniform(0, 0.6, (count, 1, 1))
    mixture = (1 - blend) * permuted + blend * rng.dirichlet((0.5, 0.5, 0.5), (count, 3))
    weights = torch.from_numpy(mixture).float()[..., None, None]
    return (weights * images[:, None]).sum(dim=2)
