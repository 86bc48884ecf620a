"""Checks whether prompts and captions fit into the text encoder."""

from collections.abc import Iterator

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.model_config import ModelConfig

Prompts = list[tuple[str, str]]
"""Texts for the text encoder, each with the field of the job that it comes from."""


def sample_and_class_prompts(job: DreamBoothJob) -> Prompts:
    """The job's sample prompts, and the prompts of each class."""
    prior, samples = job.spec.prior, job.spec.samples
    found = [(f"spec.samples.prompts[{i}]", text) for i, text in enumerate(samples.prompts)]
    for noun in sorted({subject.class_noun for subject in job.spec.subjects}):
        found.append(("spec.prior.prompt", prior.class_prompt(noun)))
        if prior.prompts:
            texts = enumerate(prior.generation_prompts(noun))
            found += [(f"spec.prior.prompts[{i}]", text) for i, text in texts]
    return found


def check_lengths(config: ModelConfig, prompts: Prompts) -> Iterator[str]:
    """Warn of texts with more tokens than the text encoder reads: the rest is cut off.

    Returns:
        A warning for each of them.
    """
    limit = config.skeleton.max_tokens
    for field, text in prompts:
        if (count := config.skeleton.count_tokens(text)) > limit:
            start = text if len(text) <= 40 else f"{text[:40]}..."
            yield f"{field}: {start!r} has {count} tokens; the model reads {limit}, so shorten it"
