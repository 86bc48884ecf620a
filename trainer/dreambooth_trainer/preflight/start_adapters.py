"""Checks the adapters that training starts with: `spec.model.adapter` and `mergedAdapters`."""

from collections import Counter
from dataclasses import replace

from dreambooth_api.models.lora import Lora
from dreambooth_storage import Storage
from dreambooth_trainer.models.adapters.exported import LoadedAdapter
from dreambooth_trainer.models.adapters.start import (
    ADAPTER_FIELD,
    MERGED_FIELD,
    merged_field,
    read_adapter,
)
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob

RANK = "spec.training.lora.rank"
TEXT = "spec.training.textEncoder.method"


def check_start_adapters(
    job: ResolvedJob, config: ModelConfig, storage: Storage, report: PreflightReport
) -> ModelConfig:
    """Check the adapters' headers; the job in the report gets the rank of the one to train.

    Returns:
        The model with the adapter to train, if there is one.
    """
    model = job.spec.model
    for index, each in enumerate(model.merged_adapters):
        with report.collecting():
            read_adapter(each, storage, config.skeleton, merged_field(index))
    if model.merged_adapters and job.spec.training.method == "lora":
        report.notes.append(
            f"{MERGED_FIELD}: the LoRA that is trained needs them too, at their scales; its README"
            " shows how to load them together"
        )
    if model.adapter is None:
        return config
    with report.collecting():
        start = read_adapter(model.adapter, storage, config.skeleton, ADAPTER_FIELD)
        if start.lycoris:
            raise BadConfigError(
                f"{ADAPTER_FIELD}: {model.adapter.source} is a LoHa or LoKr, and only a LoRA can be"
                f" trained further; merge it with {MERGED_FIELD}"
            )
        rank = _rank_of(start, job.spec.training.lora)
        _check_text(start, config, job)
        lora = job.spec.training.lora.model_copy(update={"rank": rank})
        training = job.spec.training.model_copy(update={"lora": lora})
        report.job = job.model_copy(
            update={"spec": job.spec.model_copy(update={"training": training})}
        )
        return replace(config, start=start)
    return config


def _rank_of(start: LoadedAdapter, lora: Lora) -> int:
    """The rank of most of the adapter's layers."""
    [(rank, _)] = Counter(each.rank for each in start.layers).most_common(1)
    if lora.rank not in (rank, Lora().rank):  # the API server writes the default into each job
        raise BadConfigError(
            f"{RANK}: {lora.rank}, but {ADAPTER_FIELD} has the rank {rank}, which it keeps; remove"
            " rank"
        )
    return rank


def _check_text(start: LoadedAdapter, config: ModelConfig, job: ResolvedJob) -> None:
    method = job.spec.training.text_encoder.method
    parts = {each.part for each in start.layers}
    if config.family.denoiser_part not in parts:
        raise BadConfigError(
            f"{ADAPTER_FIELD}: it has no layers of the {config.family.denoiser_part}; merge it with"
            f" {MERGED_FIELD}"
        )
    if len(parts) > 1 and not config.family.trains_text:
        raise BadConfigError(
            f"{ADAPTER_FIELD}: it has layers of a text encoder, and those of {config.family.name}"
            f" cannot be trained; merge it with {MERGED_FIELD}"
        )
    if method != "lora" and len(parts) > 1:
        raise BadConfigError(
            f"{TEXT}: {method}, but {ADAPTER_FIELD} has layers of the text encoder; set it to lora"
            " to train them further"
        )
    if method == "lora" and (missing := set(config.skeleton.text_encoders) - parts):
        raise BadConfigError(
            f"{TEXT}: lora, but {ADAPTER_FIELD} has no layers of {' or '.join(sorted(missing))};"
            " set it to frozen"
        )
