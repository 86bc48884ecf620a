"""Images of a run's result, as `dreambooth generate` asks the trainer for them."""

from typing import Annotated

from pydantic import Field, StringConstraints

from dreambooth_api.contract.message import Step, Uri
from dreambooth_api.models.prior import Sampler, SamplingSteps
from dreambooth_api.schema.base import ApiModel, GuidanceScale, Prompt, Seed

MAX_IMAGES = 10_000
Side = Annotated[int, Field(ge=64, le=8192)]
AdapterWeight = Annotated[float, Field(ge=-10, le=10)]


class ImageSettings(ApiModel):
    """How images are made; what is unset is as in the job's `samples`."""

    sampler: Sampler | None = None
    """Sampler."""

    steps: SamplingSteps | None = None
    """Sampling steps."""

    guidance_scale: GuidanceScale | None = None
    """Guidance scale."""

    negative_prompt: Annotated[str, StringConstraints(max_length=512)] | None = None
    """What guidance steers away from, with models that have classifier-free guidance."""

    width: Side | None = None
    """Pixels. Default: the resolution of the training."""

    height: Side | None = None
    """Pixels. Default: the resolution of the training."""

    adapter_weight: AdapterWeight = 1.0
    """Multiplies what the adapters change: 0 is the base model."""


class Generation(ImageSettings):
    """Images of a result, and where they go."""

    root: Uri
    """Folder of the run."""

    step: Step | None = None
    """Optimizer steps of the checkpoint to use. Default: the exported model, and without one the
    best checkpoint, or the newest."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_IMAGES)]
    """What the images show."""

    count: Annotated[int, Field(ge=1, le=MAX_IMAGES)]
    """Images of each prompt."""

    seed: Seed
    """Of the first image of each prompt. The next one has the next seed."""

    folder: str
    """Folder on the machine of the trainer."""
