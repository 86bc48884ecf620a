"""What families that were trained as denoising diffusion models share (Ho et al. 2020)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.family import Family

SAMPLERS: Mapping[Sampler, tuple[Any, dict[str, Any]]] = {
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    # Latents are not bounded to -1..1, so nothing may be clipped.
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
}


class DDPMFamily(Family):
    """A UNet that predicts noise or v at discrete timesteps."""

    objective_kind = "ddpm"
    denoiser_part: ClassVar[str] = "unet"
    pipeline_multiple: ClassVar[int] = 8

    def __init__(self, pipeline: Any, model_hash: str) -> None:
        super().__init__(pipeline, model_hash)
        # Samplers have schedules of their own; training uses that of the base model's training.
        self._schedule = DDPMScheduler.from_config(pipeline.scheduler.config)

    @property
    def prediction_type(self) -> str:
        """`epsilon`, or `v_prediction`, as of Stable Diffusion 2 at 768 x 768 pixels."""
        return str(self._schedule.config.prediction_type)

    @property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative signal of the training timesteps, [1000] (Ho et al. 2020, section 2)."""
        alphas: Tensor = self._schedule.alphas_cumprod
        return alphas

    @property
    def resolution_step(self) -> int:
        """A cell of the UNet's coarsest level, in pixels: 64 in Stable Diffusion 1 and 2."""
        config = self._pipeline.unet.config
        return self.vae_factor * int(2 ** (len(config.block_out_channels) - 1))

    @property
    def native_resolution(self) -> int:
        """Of the latents that the UNet was configured for."""
        return int(self._pipeline.unet.config.sample_size) * self.vae_factor

    @property
    def has_signal_at_end(self) -> bool:
        """Whether the last timestep is not noise alone (unlike in Lin et al. 2023, section 3.1)."""
        return not self._schedule.config.rescale_betas_zero_snr

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All with the model's noise schedule: PNDM has none that ends in noise alone."""
        return tuple(each for each in SAMPLERS if each != "pndm" or self.has_signal_at_end)

    def sampling_scheduler(self, sampler: Sampler) -> Any:
        """The sampler's scheduler, on the noise schedule of the base model."""
        scheduler_class, settings = SAMPLERS[sampler]
        return scheduler_class.from_config(self._pipeline.scheduler.config, **settings)
