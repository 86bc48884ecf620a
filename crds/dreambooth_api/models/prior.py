"""Class-prior preservation (paper, section 3.3)."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.models.base import ApiModel, GuidanceScale, Prompt, Seed, StorageUri
from dreambooth_api.models.subject import CLASS_PROMPT

Sampler = Literal["dpm-solver++", "ddim", "euler", "pndm"]
"""Models that are trained by flow matching take `euler` alone."""
SamplingSteps = Annotated[int, Field(ge=1, le=1000)]


class Prior(ApiModel):
    """Class images that keep the model's idea of the class while it learns the subject.

    The prior-preservation loss of the paper, section 3.3.
    """

    enabled: bool = True
    """Train on class images beside the subject's."""

    weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of the prior loss (lambda in the paper, equation 2)."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 200
    """How many class images to use per subject. Missing ones are generated before training."""

    images: StorageUri | None = None
    """Folder of your own class images, for subjects of one class. They are used first, in the
    order of their names; what is missing up to `count` is generated."""

    cache: StorageUri | None = None
    """Folder shared by jobs: class images made once are reused by every job of the same model and
    class. Default: `<output>/prior-cache`."""

    prompt: Prompt = CLASS_PROMPT
    """Prompt of the class images. `{class}` is replaced by the subject's class noun."""

    sampler: Sampler | None = None
    """Sampler that makes the class images. Default: the model's own."""

    steps: SamplingSteps | None = None
    """Sampling steps per class image. Default: the model's own."""

    guidance_scale: GuidanceScale | None = None
    """Guidance scale of the class images. Default: the model's own."""

    seed: Seed = 0
    """Image i is made from seed + i, so the set does not depend on the number of ranks."""
