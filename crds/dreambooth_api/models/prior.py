"""Class-prior preservation (paper, section 3.3)."""

import re
from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.models.subject import CLASS_PROMPT
from dreambooth_api.schema.base import ApiModel, GuidanceScale, Prompt, Seed, StorageUri
from dreambooth_api.schema.rules import rule
from dreambooth_api.schema.shared_rules import MAX_PROMPTS, prompts_are_bounded

Sampler = Literal["dpm-solver++", "ddim", "euler", "pndm"]
"""Models that are trained by flow matching take that of their scheduler alone: `euler`, and most of
Sana `dpm-solver++`."""
# With as many steps as the model has timesteps, diffusers' DDIM fails, and DPM-Solver++ gives NaN.
SamplingSteps = Annotated[int, Field(ge=1, le=500)]
EmptyPromptFraction = Annotated[float, Field(ge=0, le=1)]
AutoPrompts = Annotated[int, Field(ge=1, le=MAX_PROMPTS)]
PriorWeight = Annotated[float, Field(ge=0, le=100)]
PLACEHOLDER = "[{][^{}]*[}]"
"""What looks like a placeholder, as a regular expression."""
OTHER_PLACEHOLDER = (
    "only {class} is replaced; write {class} in place of what else stands in braces, or the words"
    " themselves"
)


class Prior(ApiModel):
    """What keeps the model's idea of the class while it learns the subject.

    The prior-preservation loss of the paper, section 3.3, with targets of the model's own.
    """

    enabled: bool = True
    """Train on class images beside the subject's."""

    weight: PriorWeight | None = None
    """Weight of the prior loss (lambda in the paper, equation 2). Default: 4 with target
    `prediction`, and 1 with `noise`, as in the paper."""

    target: Literal["prediction", "noise"] = "prediction"
    """What the class samples are trained towards. `prediction`: what the base model itself predicts
    for them, so that it stays as it was; takes one more forward pass, and with method `full` a
    frozen copy of the denoiser. `noise`: the noise that was added to them, as in the paper."""

    empty_prompt_fraction: EmptyPromptFraction | None = None
    """Fraction of the class samples with the empty prompt in place of the class's. Guidance
    subtracts the model's prediction for the empty prompt, which changes too if nothing keeps it.
    With models that guidance was distilled into: the class's prompt, at the guidance of samples.
    Default: 0.5 with target `prediction`, and 0 with `noise`, as in the paper."""

    count: Annotated[int, Field(ge=0, le=10_000)] = 200
    """How many class images to use per class. Missing ones are generated before training. 0: none;
    the subject's images take their place, with the class's prompt and target `prediction`."""

    images: StorageUri | None = None
    """Folder of your own class images, for subjects of one class. They are used first, in the
    order of their names; what is missing up to `count` is generated."""

    cache: StorageUri | None = None
    """Folder shared by jobs: class images made once are reused by every job of the same model and
    class. Default: `<output>/prior-cache`."""

    prompt: Prompt = CLASS_PROMPT
    """Prompt of the class images: they are made from it, and trained on with it. Your own have it
    where no caption (`<image name>.txt`) is beside them. `{class}` is replaced by the subject's
    class noun."""

    prompts: Annotated[list[Prompt], Field(max_length=MAX_PROMPTS)] = []
    """Several prompts in place of `prompt`, for class images of more variety: image i is made from
    prompt i modulo their number, and trained on with it."""

    auto_prompts: AutoPrompts | None = None
    """How many prompts the model of `spec.captioning` writes, beside `prompts` and in place of
    `prompt`."""

    sampler: Sampler | None = None
    """Sampler that makes the class images. Default: the model's own."""

    steps: SamplingSteps | None = None
    """Sampling steps per class image. Default: the model's own."""

    guidance_scale: GuidanceScale | None = None
    """Guidance scale of the class images. Default: the model's own. Guidance makes images alike and
    their colours strong, and target `noise` teaches the model that. Without guidance (1, or 0 with
    Z-Image and Krea 2) they have the base model's own variety, and its mistakes."""

    seed: Seed = 0
    """Image i is made from seed + i, so the set does not depend on the number of ranks."""

    @rule(
        "count",
        "!self.enabled || self.count > 0 || self.target == 'prediction'",
        "must be at least 1 with target noise, which would teach the class to look like the"
        " subject; raise it, or set target to prediction",
    )
    def _noise_needs_class_images(self) -> bool:
        return not self.enabled or self.count > 0 or self.target == "prediction"

    @rule(
        "images",
        "!has(self.images) || self.count > 0",
        "has no effect with count 0; raise count, or remove it",
    )
    def _count_includes_own_images(self) -> bool:
        return self.images is None or self.count > 0

    @rule(
        "prompts",
        "size(self.prompts) == 0 || self.count > 0",
        "have no effect with count 0; raise count, or remove them",
    )
    def _count_includes_prompts(self) -> bool:
        return not self.prompts or self.count > 0

    @rule(
        "autoPrompts",
        "!has(self.autoPrompts) || (self.enabled && self.count > 0)",
        "has no effect without class images; set enabled to true and raise count, or remove it",
    )
    def _auto_prompts_have_class_images(self) -> bool:
        return self.auto_prompts is None or (self.enabled and self.count > 0)

    @rule(
        "prompt",
        f"!self.prompt.replace('{{class}}', '').matches('{PLACEHOLDER}')",
        OTHER_PLACEHOLDER,
    )
    def _prompt_has_the_placeholder(self) -> bool:
        return not _has_other_placeholder(self.prompt)

    @rule(
        "prompts",
        f"!self.prompts.exists(p, p.replace('{{class}}', '').matches('{PLACEHOLDER}'))",
        OTHER_PLACEHOLDER,
    )
    def _prompts_have_the_placeholder(self) -> bool:
        return not any(_has_other_placeholder(each) for each in self.prompts)

    _prompts_are_bounded = prompts_are_bounded

    def generation_prompts(self, class_noun: str) -> list[str]:
        """The prompts of a class that its images are made from, in turn: at least one."""
        return [_of_class(each, class_noun) for each in self.prompts or [self.prompt]]

    def class_prompt(self, class_noun: str) -> str:
        """The prompt of a class's images that were not made from one."""
        return _of_class(self.prompt, class_noun)


def _has_other_placeholder(prompt: str) -> bool:
    return re.search(PLACEHOLDER, _of_class(prompt, "")) is not None


def _of_class(prompt: str, class_noun: str) -> str:
    return prompt.replace("{class}", class_noun)
