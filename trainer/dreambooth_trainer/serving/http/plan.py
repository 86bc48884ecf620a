"""From a request to what the engine makes. Pure."""

import re
from dataclasses import dataclass

from dreambooth_api.images.generation import ImageSettings
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.generate import (
    made_with,
    png_text,
    unread_prompts,
    unusual_size,
    with_settings,
)
from dreambooth_trainer.serving.catalog import Result
from dreambooth_trainer.serving.engine.mixing import shared_base
from dreambooth_trainer.serving.engine.queue import BatchKey, ModelUse
from dreambooth_trainer.serving.http.errors import FieldError
from dreambooth_trainer.serving.http.requests import ImagesRequest


@dataclass(frozen=True)
class Plan:
    """The images of a request."""

    key: BatchKey
    use: ModelUse
    seeds: range
    job: ResolvedJob
    warnings: list[str]
    """Of the request, a sentence each."""

    @property
    def size(self) -> str:
        """Of the images, in pixels."""
        return f"{self.key.width}x{self.key.height}"


def make_plan(
    result: Result, job: ResolvedJob, config: ModelConfig, wanted: ImagesRequest, seed: int
) -> Plan:
    """What a request asks for, with the settings of the result's samples for the rest.

    Raises:
        FieldError: The model does not take it; the message lists every problem.
    """
    if wanted.adapter_weight != 1 and not has_adapters(job):
        raise FieldError(
            "adapter_weight",
            "adapter_weight: the result is a whole model without adapters, or a token; leave it"
            " out",
        )
    resolution = job.spec.training.resolution
    width, height = wanted.sides or (resolution, resolution)
    given = wanted.model_dump(
        include={"sampler", "steps", "guidance_scale", "negative_prompt", "adapter_weight"}
    )
    settings = ImageSettings(width=width, height=height, **given)
    family = config.skeleton
    try:
        samples = with_settings(job, settings, family).spec.samples
    except BadConfigError as error:
        message = as_field(str(error))
        raise FieldError(message.partition(":")[0], message) from error
    key = BatchKey(
        base=shared_base(job) or f"{result.export} {result.version}",
        sampler=samples.sampler,
        steps=samples.steps,
        guidance_scale=samples.guidance_scale,
        negative_prompt=samples.negative_prompt,
        width=width,
        height=height,
    )
    warnings = [
        *wanted.misspelt(),
        *(f"prompt: {each}" for each in unread_prompts([wanted.prompt], family)),
        *(f"size: {each}" for each in unusual_size((width, height), resolution, family)),
    ]
    use = ModelUse(result, wanted.adapter_weight)
    return Plan(key, use, range(seed, seed + wanted.n), job, warnings)


def has_adapters(job: DreamBoothJob | ResolvedJob) -> bool:
    """Whether a result has adapters, which can be weighed or left out. Pure."""
    training = job.spec.training
    return training.method == "lora" and training.text_encoder.method != "full"


def as_field(problems: str) -> str:
    """Problems of a job's samples and of sides, with the names of a request's fields. Pure."""
    named = re.sub(
        r"^spec\.samples\.(\w+)",
        lambda match: re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", match[1]),
        problems,
        flags=re.MULTILINE,
    )
    return re.sub(r"^(width|height) ", r"size: \1 ", named, flags=re.MULTILINE)


def made_by(plan: Plan, wanted: ImagesRequest, seed: int) -> dict[str, str]:
    """The texts of an image's PNG file: what made it."""
    key = plan.key
    return png_text(
        ImageRequest(wanted.prompt, seed),
        {
            "negativePrompt": key.negative_prompt,
            "sampler": key.sampler,
            "steps": key.steps,
            "guidanceScale": key.guidance_scale,
            "width": key.width,
            "height": key.height,
            "adapterWeight": plan.use.weight,
            "result": plan.use.result.id,
            **made_with(plan.job),
        },
    )
