"""What families that were trained by flow matching share (Lipman et al. 2023)."""

import math
from typing import Any, ClassVar

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.family import Family


class FlowFamily(Family):
    """A transformer that predicts noise - latents at sigma in 0..1."""

    objective_kind = "flow"
    latent_patch: ClassVar[int] = 2
    """Cells of the latent that make one token, along one side."""

    @property
    def resolution_step(self) -> int:
        """A token of the transformer, in pixels along one side."""
        return self.vae_factor * self.latent_patch

    @property
    def side_multiple(self) -> int:
        """There are no parts of tokens."""
        return math.lcm(self.pipeline_multiple, self.resolution_step)

    @property
    def native_resolution(self) -> int:
        """1024, which all families were trained at last."""
        return 1024

    def count_image_tokens(self, resolution: int) -> int:
        """Number of the transformer's tokens for an image of R x R pixels."""
        return (resolution // self.resolution_step) ** 2

    def flow_shift(self, resolution: int) -> float:
        """That of the base model's scheduler, constant or by the number of image tokens."""
        scheduler = self._pipeline.scheduler.config
        if not scheduler.get("use_dynamic_shifting"):
            # Samplers of other kinds, as Sana's, name it otherwise.
            return float(scheduler.get("flow_shift", scheduler.get("shift", 1.0)))
        mu = self.shift_exponent(resolution)
        return mu if scheduler.time_shift_type == "linear" else math.exp(mu)

    def shift_exponent(self, resolution: int) -> float:
        """Mu of schedulers whose shift depends on the resolution: linear in image tokens."""
        scheduler = self._pipeline.scheduler.config
        tokens = (scheduler.base_image_seq_len, scheduler.max_image_seq_len)
        slope = (scheduler.max_shift - scheduler.base_shift) / (tokens[1] - tokens[0])
        image_tokens = self.count_image_tokens(resolution)
        return float(scheduler.base_shift + slope * (image_tokens - tokens[0]))

    def sampling_scheduler(self, sampler: Sampler) -> Any:
        """The base model's own scheduler, as at its first step."""
        scheduler = self._pipeline.scheduler
        return type(scheduler).from_config(scheduler.config)
