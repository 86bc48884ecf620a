"""The optimizer, and the schedule of its learning rate."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.models.base import ApiModel
from dreambooth_api.models.rules import rule

LearningRate = Annotated[float, Field(gt=0, le=1)]
OptimizerName = Literal["adamw", "adafactor", "lion", "prodigy"]
OPTIMIZER_DEFAULTS: Mapping[OptimizerName, Mapping[str, float]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "adafactor": {},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "prodigy": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}
"""What each optimizer takes beside a weight decay, and its value where a job leaves it open."""


class Optimizer(ApiModel):
    """The optimizer and its settings."""

    name: OptimizerName = "adamw"
    """`adamw`: 8 bytes of state per trained weight (Loshchilov & Hutter 2019), fused where the
    device can. `adafactor`: less than 1 byte, but for small parameters and convolutions (Shazeer &
    Stern 2018). `lion`: 4 bytes (Chen et al. 2023); it takes a third to a tenth of AdamW's learning
    rate. `prodigy`: 16 bytes, and it finds the learning rate itself (Mishchenko & Defazio 2023);
    set `learningRate` to 1."""

    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the first moment. Default: 0.9. Not for `adafactor`."""

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

    name: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    """Shape after the warm-up."""

    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps of linear warm-up; the first has 1 / warmupSteps of the rate."""
