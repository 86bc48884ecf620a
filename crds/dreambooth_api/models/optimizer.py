"""The optimizer, and the schedule of its learning rate."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel
from dreambooth_api.schema.rules import rule

LearningRate = Annotated[float, Field(gt=0, le=1)]
OptimizerName = Literal[
    "adamw",
    "adamw-8bit",
    "paged-adamw-8bit",
    "adafactor",
    "lion",
    "prodigy",
    "schedule-free-adamw",
    "muon",
]
_ADAM: Mapping[str, float] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
OPTIMIZER_DEFAULTS: Mapping[OptimizerName, Mapping[str, float]] = {
    "adamw": _ADAM,
    "adamw-8bit": _ADAM,
    "paged-adamw-8bit": _ADAM,
    "adafactor": {},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "prodigy": _ADAM,
    "schedule-free-adamw": _ADAM,
    "muon": {**_ADAM, "beta1": 0.95},
}
"""What each optimizer takes beside a weight decay, and its value where a job leaves it open."""

SCHEDULE_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "cosine-with-restarts": {"cycles": 2},
    "warmup-stable-decay": {"decayFraction": 0.2},
}
"""What a schedule takes beside a warm-up, and its value where a job leaves it open."""

ScheduleName = Literal[
    "constant",
    "linear",
    "cosine",
    "polynomial",
    "cosine-with-restarts",
    "warmup-stable-decay",
]


def default_schedule(optimizer: OptimizerName) -> ScheduleName:
    """The schedule of a job that names none: what was measured best (docs/quality.md)."""
    return "constant" if optimizer == "schedule-free-adamw" else "warmup-stable-decay"


class Optimizer(ApiModel):
    """The optimizer and its settings."""

    name: OptimizerName = "adamw"
    """`adamw`: 8 bytes of state per trained weight (Loshchilov & Hutter 2019), fused where the
    device can. `adamw-8bit`: 2 bytes (Dettmers et al. 2022). `paged-adamw-8bit`: these 2 in memory
    that moves to the host when the GPU's is short (Dettmers et al. 2023). `adafactor`: less than 1
    byte, but for small parameters and convolutions (Shazeer & Stern 2018). `lion`: 4 bytes (Chen et
    al. 2023); it takes a third to a tenth of AdamW's learning rate. `prodigy`: 16 bytes, and it
    finds the learning rate itself (Mishchenko & Defazio 2023); set `learningRate` to 1.
    `schedule-free-adamw`: 8 bytes; it averages the weights in place of a schedule, and the average
    is sampled and exported (Defazio et al. 2024). `muon`: 4 bytes for matrices, whose updates it
    makes orthogonal at AdamW's learning rates (Liu et al. 2025); embeddings, convolutions and
    vectors are left to AdamW."""

    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the first moment, with `schedule-free-adamw` the share of the average in the weights
    that are trained. Default: 0.9; with `muon` 0.95. Not for `adafactor`."""

    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the second moment, for `lion` of the only one. Default: 0.999; with `lion` 0.99. Not
    for `adafactor`."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled weight decay."""

    epsilon: Annotated[float, Field(gt=0, le=1)] | None = None
    """Added to the denominator. Default: 1e-8. Not for `adafactor` and `lion`."""

    @rule(
        "beta1",
        "!has(self.beta1) || self.name != 'adafactor'",
        "has no effect with adafactor; choose another optimizer, or remove it",
    )
    def _adafactor_keeps_no_first_moment(self) -> bool:
        return self.beta1 is None or self.name != "adafactor"

    @rule(
        "beta1",
        "!has(self.beta1) || self.name != 'schedule-free-adamw' || self.beta1 > 0.0",
        "must be greater than 0 with schedule-free-adamw, whose average it weighs; remove it",
    )
    def _schedule_free_averages(self) -> bool:
        return self.beta1 is None or self.name != "schedule-free-adamw" or self.beta1 > 0

    @rule(
        "beta2",
        "!has(self.beta2) || self.name != 'adafactor'",
        "has no effect with adafactor; choose another optimizer, or remove it",
    )
    def _adafactor_decays_on_its_own(self) -> bool:
        return self.beta2 is None or self.name != "adafactor"

    @rule(
        "epsilon",
        "!has(self.epsilon) || !(self.name in ['adafactor', 'lion'])",
        "has no effect with this optimizer; choose another one, or remove it",
    )
    def _has_a_denominator(self) -> bool:
        return self.epsilon is None or self.name not in ("adafactor", "lion")


class Schedule(ApiModel):
    """The learning rate's schedule, counted in optimizer steps whatever the number of ranks."""

    name: ScheduleName | None = None
    """Shape after the warm-up: from `learningRate` towards 0 at the last step, or `constant`.
    `cosine-with-restarts`: several times (Loshchilov & Hutter 2017). `warmup-stable-decay`:
    constant until the last part of the steps, then linearly (Hu et al. 2024). Default:
    `warmup-stable-decay`; `constant` with the optimizer `schedule-free-adamw`."""

    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps of linear warm-up; the first has 1 / warmupSteps of the rate."""

    cycles: Annotated[int, Field(ge=1, le=100)] | None = None
    """How often `cosine-with-restarts` falls to 0. Default: 2."""

    decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Last part of the steps, in which `warmup-stable-decay` falls to 0. Default: 0.2."""

    @rule(
        "cycles",
        "!has(self.cycles) || (has(self.name) && self.name == 'cosine-with-restarts')",
        "has no effect with this schedule; set name to cosine-with-restarts, or remove it",
    )
    def _only_restarts_have_cycles(self) -> bool:
        return self.cycles is None or self.name == "cosine-with-restarts"

    @rule(
        "decayFraction",
        "!has(self.decayFraction) || !has(self.name) || self.name == 'warmup-stable-decay'",
        "has no effect with this schedule; set name to warmup-stable-decay, or remove it",
    )
    def _only_one_schedule_decays_at_the_end(self) -> bool:
        return self.decay_fraction is None or self.name in (None, "warmup-stable-decay")
