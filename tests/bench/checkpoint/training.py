"""A training loop on a UNet of some 20 million parameters, and what its saves cost it."""

import time
from dataclasses import dataclass, field
from statistics import median

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.optim import AdamW

from dreambooth_trainer.checkpoint import BackgroundSaver
from dreambooth_trainer.training.ema import ExponentialMovingAverage

WIDTHS = (96, 192)
SHORT_WIDTHS = (32, 32)
STEPS_BETWEEN = 6
LONGEST_STEPS = 2000
"""Steps that a save may take at most."""


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Training:
    """tiny-sd's architecture, wider, with AdamW and an average of the weights; made-up images."""

    def __init__(self, device: torch.device, short: bool) -> None:
        torch.manual_seed(0)
        self._device = device
        widths = SHORT_WIDTHS if short else WIDTHS
        self._unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=widths, layers_per_block=2, norm_num_groups=32,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=256, attention_head_dim=8,
        ).to(device)  # fmt: skip
        self._parameters = dict(self._unet.named_parameters())
        self._optimizer = AdamW(self._unet.parameters(), lr=1e-6, fused=True)
        self._average = ExponentialMovingAverage(self._parameters, 0.999)
        self.steps = 0

    def step(self) -> float:
        """One step; returns its seconds."""
        began = time.perf_counter()
        draw = {"device": self._device}
        images, texts = torch.randn(1, 4, 8, 8, **draw), torch.randn(1, 16, 256, **draw)
        self._unet(images, torch.tensor([500], **draw), texts).sample.square().mean().backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps += 1
        self._average.update(self.steps)
        return time.perf_counter() - began

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: 16 bytes for each parameter."""
        tensors = {f"weight/{name}": p.detach() for name, p in self._parameters.items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors |= {
                f"{moment}/{name}": self._optimizer.state[p][moment]
                for name, p in self._parameters.items()
            }
        return tensors | {f"average/{name}": t for name, t in self._average.averages.items()}


@dataclass
class Cost:
    """Seconds of one save: in which the loop stood still, until it was durable, and per step."""

    blocked: float = 0.0
    durable: float = 0.0
    steps: list[float] = field(default_factory=list)


def quiet_step(training: Training) -> float:
    """Seconds of a step while nothing is saved."""
    return median(training.step() for _ in range(STEPS_BETWEEN))


def in_the_foreground(training: Training, saver: BackgroundSaver) -> Cost:
    """A save that the loop waits for."""
    began = time.perf_counter()
    saver.finish(training.steps, training.state())
    _synchronize()
    seconds = time.perf_counter() - began
    return Cost(seconds, seconds)


def in_the_background(training: Training, saver: BackgroundSaver, durable: list[float]) -> Cost:
    """A save while the loop goes on; `durable` grows by its seconds once it is."""
    cost, before = Cost(), len(durable)
    began = time.perf_counter()
    saver.begin(training.steps, training.state())
    cost.blocked = time.perf_counter() - began
    while len(durable) == before:
        assert len(cost.steps) < LONGEST_STEPS, "the save never ended"
        cost.steps.append(training.step())
        began = time.perf_counter()
        saver.advance(finished=saver.finished_phases, step=training.steps)
        cost.blocked += time.perf_counter() - began
    cost.durable = durable[-1]
    return cost


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
