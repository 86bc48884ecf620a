"""From a request to what the engine makes. Pure."""

from dataclasses import dataclass

from dreambooth_api.images.generation import ImageSettings
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.generate import png_text, with_settings
from dreambooth_trainer.serving.requests import ImagesRequest
from dreambooth_trainer.serving.work import BatchKey


@dataclass(frozen=True)
class Plan:
    """The images of a request."""

    key: BatchKey
    seeds: range
    job: ResolvedJob

    @property
    def size(self) -> str:
        """Of the images, in pixels."""
        return f"{self.key.width}x{self.key.height}"


def make_plan(
    model: str, job: ResolvedJob, config: ModelConfig, wanted: ImagesRequest, seed: int
) -> Plan:
    """What a request asks for, with the settings of the result's samples for the rest.

    Raises:
        BadConfigError: The model does not take it; the message lists every problem.
    """
    resolution = job.spec.training.resolution
    width, height = wanted.sides or (resolution, resolution)
    given = wanted.model_dump(
        include={"sampler", "steps", "guidance_scale", "negative_prompt", "adapter_weight"}
    )
    settings = ImageSettings(width=width, height=height, **given)
    samples = with_settings(job, settings, config.skeleton).spec.samples
    key = BatchKey(
        model=model,
        sampler=samples.sampler,
        steps=samples.steps,
        guidance_scale=samples.guidance_scale,
        negative_prompt=samples.negative_prompt,
        width=width,
        height=height,
        adapter_weight=wanted.adapter_weight,
    )
    return Plan(key, range(seed, seed + wanted.n), job)


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
            "adapterWeight": key.adapter_weight,
            "baseModel": plan.job.spec.model.source,
            "result": key.model,
        },
    )
