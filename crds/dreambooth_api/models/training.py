"""How to train."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.models.lora import Lora
from dreambooth_api.models.optimizer import (
    LearningRate,
    Optimizer,
    Schedule,
    ScheduleName,
    default_schedule,
)
from dreambooth_api.schema.base import ApiModel, Seed, Steps
from dreambooth_api.schema.rules import rule

LossWeighting = Literal["none", "sigma-sqrt", "cosmap"]
MIN_RESOLUTION = 64
Shift = Annotated[float, Field(gt=0, le=100)]
OTHER_OBJECTIVE = (
    "no model takes it together with timestepSampling or lossWeighting, which are for models of"
    " flow matching; remove it, or remove them"
)
Resolution = Annotated[int, Field(ge=MIN_RESOLUTION, le=2048, multiple_of=8)]


class TextEncoder(ApiModel):
    """Training of the text encoder."""

    method: Literal["frozen", "lora", "full"] = "frozen"
    """`frozen`: not trained, its embeddings are computed once. (`off` would be a boolean in
    YAML.)"""

    learning_rate: LearningRate | None = None
    """Learning rate of the text encoder. Default: `training.learningRate`."""

    stop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the steps after which the text encoder is frozen."""

    @rule(
        "learningRate",
        "!has(self.learningRate) || self.method != 'frozen'",
        "has no effect when the text encoder is frozen; set method to lora or full, or remove it",
    )
    def _frozen_has_no_learning_rate(self) -> bool:
        return self.learning_rate is None or self.method != "frozen"


class Ema(ApiModel):
    """Exponential moving average of the trained weights.

    When it is enabled, the average is sampled and exported.
    """

    enabled: bool = False
    """Keep an average."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    """Decay per optimizer step, warmed up as (1 + step) / (10 + step)."""


class TimestepSampling(ApiModel):
    """How often each noise level sigma is trained, from 0 (an image) to 1 (noise alone).

    For models of flow matching (Esser et al. 2024, section 3.1).
    """

    density: Literal["uniform", "logit-normal", "mode"] = "logit-normal"
    """Distribution of sigma before the shift. `logit-normal`: mostly middle levels. `mode`: these
    more often, and the ends too."""

    mean: Annotated[float, Field(ge=-10, le=10)] | None = None
    """Mean of log(sigma / (1 - sigma)) of `logit-normal`; above 0 for more noise. Default: 0."""

    std: Annotated[float, Field(gt=0, le=10)] | None = None
    """Standard deviation of log(sigma / (1 - sigma)) of `logit-normal`. Default: 1."""

    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] | None = None
    """Scale of `mode`; below 0 for the ends, above 0 for the middle. Default: 1.29."""

    shift: Shift | None = None
    """Factor on the odds of noise, sigma / (1 - sigma); above 1 for more noise. Default: the
    model's, which may depend on `training.resolution`."""

    @rule(
        "mean",
        "!has(self.mean) || self.density == 'logit-normal'",
        "has no effect with this density; set density to logit-normal, or remove it",
    )
    def _only_logit_normal_has_a_mean(self) -> bool:
        return self.mean is None or self.density == "logit-normal"

    @rule(
        "std",
        "!has(self.std) || self.density == 'logit-normal'",
        "has no effect with this density; set density to logit-normal, or remove it",
    )
    def _only_logit_normal_has_a_deviation(self) -> bool:
        return self.std is None or self.density == "logit-normal"

    @rule(
        "modeScale",
        "!has(self.modeScale) || self.density == 'mode'",
        "has no effect with this density; set density to mode, or remove it",
    )
    def _only_mode_has_a_scale(self) -> bool:
        return self.mode_scale is None or self.density == "mode"


class Training(ApiModel):
    """How to train."""

    method: Literal["lora", "full", "textual-inversion"] = "lora"
    """`lora`: small adapters, little memory. `full`: every weight of the UNet.
    `textual-inversion`: the embeddings of the subjects' tokens alone, a file of kilobytes."""

    lora: Lora = Field(default_factory=Lora)
    """Settings of the adapters, for the UNet and for a text encoder trained by `lora`."""

    text_encoder: TextEncoder = Field(default_factory=TextEncoder)
    """Training of the text encoder."""

    steps: Steps = 800
    """Optimizer steps."""

    global_batch: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Subject images per optimizer step over all ranks; as many prior images come with them.
    The number of ranks times `accumulation` must divide it."""

    per_device_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Subject images per rank and forward pass, instead of `globalBatch`. Default: 1."""

    accumulation: Annotated[int, Field(ge=1, le=1024)] = 1
    """Forward passes per optimizer step."""

    resolution: Resolution | None = None
    """Side of the training images in pixels; of images that are not cropped, the side of a square
    of their area. Images are never squashed. Default: the resolution that the model was trained at,
    for example 512 for Stable Diffusion 1.5."""

    lower_resolutions: Annotated[list[Resolution], Field(min_length=1, max_length=4)] | None = None
    """Other sides, below `resolution`, at which every image is trained on as often as at
    `resolution`. All images of an optimizer step have one of them. Class images are made at
    `resolution` and reduced."""

    crop: Literal["center", "random", "none"] = "center"
    """How an image that is not square is trained on. `center` and `random`: as a square from its
    centre, or from one of 8 places. `none`: in its own proportions (aspect-ratio buckets), with
    sides that are multiples of what the model takes and the area of the square or a little less.
    All images of an optimizer step then have one shape, and class images are made in the same
    shapes."""

    flip: bool = True
    """Mirror half of the images. Turn it off for subjects with writing or a left and a right."""

    learning_rate: LearningRate = 1e-4
    """Peak learning rate. 1e-4 suits LoRA; for `full` use 1e-6 to 5e-6 with Stable Diffusion. With
    the optimizer `prodigy`, a factor on the rate that it finds."""

    token_learning_rate: LearningRate | None = None
    """Peak learning rate of the subjects' tokens, which are rows of numbers of about 0.01. With
    method `textual-inversion` it is the only rate. Default: 1e-3; with `prodigy`, that of
    `learningRate`."""

    optimizer: Optimizer = Field(default_factory=Optimizer)
    """The optimizer's settings."""

    schedule: Schedule = Field(default_factory=Schedule)
    """The learning rate's schedule."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Arithmetic of the forward pass; trained weights stay in fp32."""

    min_snr_gamma: Annotated[float, Field(gt=0, le=100)] | None = None
    """Min-SNR loss weights (Hang et al. 2023); 5 is usual. Unset: plain MSE. Not for models of flow
    matching."""

    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Per-channel offset added to the noise, for very dark or bright images. Not for models of flow
    matching."""

    timestep_sampling: TimestepSampling | None = None
    """How often each noise level is trained, for models of flow matching. Default: `logit-normal`,
    with the model's shift."""

    loss_weighting: LossWeighting = "none"
    """Loss weight of each noise level sigma, for models of flow matching. `sigma-sqrt`:
    1 / sigma^2, at most 400. `cosmap`: more for the middle (Esser et al. 2024). Both are usual with
    density `uniform`."""

    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of captions replaced by the empty one."""

    shuffle_tags: bool = False
    """Train on each caption with its tags, the parts between commas, in 8 orders. A tag with the
    identifier keeps its place."""

    tag_dropout: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of tags that are left out of captions, so that none is needed. They are drawn in 8
    variants of each caption. A tag with the identifier stays. Default: none."""

    ema: Ema = Field(default_factory=Ema)
    """Average of the weights."""

    gradient_checkpointing: bool = False
    """Trade a third more time for less memory."""

    max_grad_norm: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Clip the gradient to this norm; 0 turns it off."""

    seed: Seed = 0
    """Fixes which image, crop, flip, timestep and noise each step uses, whatever the number of
    ranks."""

    @property
    def varies_tags(self) -> bool:
        """Whether captions have variants of their tags."""
        return self.shuffle_tags or self.tag_dropout is not None

    @rule(
        "globalBatch",
        "!has(self.globalBatch) || !has(self.perDeviceBatch)",
        "set globalBatch or perDeviceBatch, not both; remove one of them",
    )
    def _one_batch_size(self) -> bool:
        return self.global_batch is None or self.per_device_batch is None

    @rule(
        "lowerResolutions",
        "!has(self.lowerResolutions) || !has(self.resolution)"
        " || self.lowerResolutions.all(side, side < self.resolution)",
        "must be below training.resolution; remove the larger ones, or raise resolution",
    )
    def _lower_resolutions_are_lower(self) -> bool:
        lower, resolution = self.lower_resolutions, self.resolution
        return lower is None or resolution is None or max(lower) < resolution

    @rule(
        "learningRate",
        "self.optimizer.name != 'prodigy' || self.learningRate >= 0.1",
        "is a factor on the rate that prodigy finds, at least 0.1; set it to 1",
    )
    def _prodigy_finds_the_rate(self) -> bool:
        return self.optimizer.name != "prodigy" or self.learning_rate >= 0.1

    @rule(
        "textEncoder.learningRate",
        "self.optimizer.name != 'prodigy' || !has(self.textEncoder.learningRate)",
        "has no effect with prodigy, which finds one rate for all; remove it",
    )
    def _prodigy_has_one_rate(self) -> bool:
        return self.optimizer.name != "prodigy" or self.text_encoder.learning_rate is None

    @rule(
        "tokenLearningRate",
        "self.optimizer.name != 'prodigy' || !has(self.tokenLearningRate)",
        "has no effect with prodigy, which finds one rate for all; remove it",
    )
    def _prodigy_finds_the_rate_of_tokens(self) -> bool:
        return self.optimizer.name != "prodigy" or self.token_learning_rate is None

    @rule(
        "schedule.name",
        "self.optimizer.name != 'schedule-free-adamw' || !has(self.schedule.name)"
        " || self.schedule.name == 'constant'",
        "schedule-free-adamw averages the weights in place of a schedule; set name to constant",
    )
    def _schedule_free_has_no_schedule(self) -> bool:
        return self.optimizer.name != "schedule-free-adamw" or self._schedule_name == "constant"

    @rule(
        "schedule.decayFraction",
        "self.optimizer.name != 'schedule-free-adamw' || !has(self.schedule.decayFraction)",
        "has no effect with schedule-free-adamw, which averages the weights in place of a schedule;"
        " remove it",
    )
    def _schedule_free_does_not_decay(self) -> bool:
        decays = self.schedule.decay_fraction is not None
        return self.optimizer.name != "schedule-free-adamw" or not decays

    @rule(
        "ema.enabled",
        "self.optimizer.name != 'schedule-free-adamw' || !self.ema.enabled",
        "schedule-free-adamw averages the weights itself; set enabled to false",
    )
    def _one_average(self) -> bool:
        return self.optimizer.name != "schedule-free-adamw" or not self.ema.enabled

    @rule(
        "minSnrGamma",
        "!has(self.minSnrGamma) || (!has(self.timestepSampling) && self.lossWeighting == 'none')",
        OTHER_OBJECTIVE,
    )
    def _one_objective(self) -> bool:
        return self.min_snr_gamma is None or not self._is_of_flow_matching

    @rule(
        "noiseOffset",
        "self.noiseOffset == 0.0 || (!has(self.timestepSampling) && self.lossWeighting == 'none')",
        OTHER_OBJECTIVE,
    )
    def _one_objective_of_noise(self) -> bool:
        return self.noise_offset == 0 or not self._is_of_flow_matching

    @rule(
        "schedule.warmupSteps",
        "self.schedule.warmupSteps < self.steps",
        "must be less than training.steps; warm up for fewer steps, or train for more",
    )
    def _warmup_ends(self) -> bool:
        return self.schedule.warmup_steps < self.steps

    @rule(
        "schedule.warmupSteps",
        "(has(self.schedule.name) ? self.schedule.name != 'warmup-stable-decay'"
        " : self.optimizer.name == 'schedule-free-adamw')"
        " || double(self.schedule.warmupSteps) <= double(self.steps) * (1.0 -"
        " (has(self.schedule.decayFraction) ? self.schedule.decayFraction : 0.2))",
        "must end before the decay of warmup-stable-decay; lower it or decayFraction, or set name"
        " to constant",
    )
    def _warmup_ends_before_the_decay(self) -> bool:
        schedule = self.schedule
        fraction = 0.2 if schedule.decay_fraction is None else schedule.decay_fraction
        until = float(self.steps) * (1 - fraction)
        return self._schedule_name != "warmup-stable-decay" or schedule.warmup_steps <= until

    # No bound, which would refuse the records of runs that began before it.
    @rule("captionDropout", "self.captionDropout < 1.0", "must leave some captions; lower it")
    def _some_captions_are_left(self) -> bool:
        return self.caption_dropout < 1

    @property
    def _is_of_flow_matching(self) -> bool:
        return self.timestep_sampling is not None or self.loss_weighting != "none"

    @property
    def _schedule_name(self) -> ScheduleName:
        return self.schedule.name or default_schedule(self.optimizer.name)
