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
        A warning for each field that has any. Captions share one, and often their beginning.
    """
    limit = config.skeleton.max_tokens
    found: dict[str, list[tuple[int, str]]] = {}
    for field, text in prompts:
        if (count := config.skeleton.count_tokens(text)) > limit:
            found.setdefault(field, []).append((count, text))
    for field, texts in found.items():
        count, text = max(texts, key=lambda each: each[0])
        start = text if len(text) <= 40 else f"{text[:40]}..."
        others, them = "", "it"
        if len(texts) > 1:
            others, them = f", and {len(texts) - 1} other(s) too many", "them"
        reads = f"the model reads {limit}, so shorten {them}"
        yield f"{field}: {start!r} has {count} tokens{others}; {reads}"
