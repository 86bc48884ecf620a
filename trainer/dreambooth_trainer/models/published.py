"""Published base models: their licenses, and what the documentation says of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from dreambooth_api.models.prior import Sampler

NO_COMMERCIAL_USE = "no commercial use"


@dataclass(frozen=True)
class License:
    """The license of a model's weights.

    Args:
        name: As model hubs name it.
        link: Where its text is; None: beside the weights.
        remark: What it forbids, if that concerns most users.
        is_listed: Whether model hubs list it, so that a card need not say `other`.
    """

    name: str
    link: str | None = None
    remark: str = ""
    is_listed: bool = False


INHERITED = License("same-as-base-model")
"""Of a base model that is not known."""
APACHE = License("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", is_listed=True)
BLACK_FOREST_LABS_TERMS = "https://bfl.ai/legal/non-commercial-license-terms"
FLUX_1_DEV = License(
    "flux-1-dev-non-commercial-license",
    BLACK_FOREST_LABS_TERMS,
    NO_COMMERCIAL_USE,
)
OPENRAIL_M = License(
    "creativeml-openrail-m",
    "https://github.com/CompVis/stable-diffusion/blob/main/LICENSE",
    is_listed=True,
)
STABILITY_COMMUNITY = License(
    "stabilityai-ai-community",
    "https://stability.ai/community-license-agreement",
    "commercial use up to a revenue of $1,000,000 a year",
)


@dataclass(frozen=True)
class GpuMemory:
    """Memory that a job needs on one GPU, in GiB, as preflight estimates it.

    For one image and one class image per step in bf16 at the model's own resolution, all else as it
    is by default.
    """

    lora: float
    full: float
    lora_checkpointed: float
    """With `gradientCheckpointing`."""
    full_checkpointed: float
    qlora: float | None = None
    """As `lora`, with `quantization: {denoiser: nf4, textEncoders: int8}`; None: not measured."""
    qlora_checkpointed: float | None = None
    # As `lora_checkpointed`. None: not measured, or a better recipe fits the smallest GPU.
    lora_int8: float | None = None
    """With the denoiser in int8."""
    lora_nf4: float | None = None
    lora_nf4_text: float | None = None
    """The text encoders in nf4 too."""
    lora_nf4_small: float | None = None
    """And at 768 pixels."""
    lora_nf4_offload: float | None = None
    """As `lora_nf4_text`, with `runtime.offload` of all blocks; None: not measured."""
    full_sharded: float | None = None
    """As `full_checkpointed`, with `runtime.strategy: fsdp` on 8 GPUs: of each."""


@dataclass(frozen=True)
class PublishedModel:
    """A base model that people know by name.

    Args:
        source: `hf://owner/name`.
        license: Of its weights.
        parameters: Of the denoiser, in billions.
        resolution: Side in pixels of the images that it makes by default.
        steps: Sampling steps by default.
        guidance_scale: By default.
        sampler: By default.
        is_gated: Whether the hub gives its files only to users who accepted the license.
        note: What to know before training it, such as what becomes of its distillation.
        memory: None where it was not measured.
    """

    source: str
    license: License
    parameters: float
    resolution: int
    steps: int
    guidance_scale: float
    sampler: Sampler = "euler"
    is_gated: bool = False
    note: str = ""
    memory: GpuMemory | None = None


def find_license(models: Iterable[PublishedModel], source: str) -> License:
    """The license of the published model that `spec.model.source` names, as a whole or by a file.

    `INHERITED` for any other model, and for copies: they may be changed.
    """
    for model in models:
        if source == model.source or source.startswith(f"{model.source}/"):
            return model.license
    return INHERITED
