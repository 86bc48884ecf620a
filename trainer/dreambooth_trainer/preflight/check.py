"""All checks of a job that need no GPU, in one report."""

from dataclasses import replace

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.training import MIN_RESOLUTION
from dreambooth_api.parsing.warnings.advice import warnings as advice
from dreambooth_storage import Storage
from dreambooth_trainer.captioning.models.own import with_own_model
from dreambooth_trainer.data.captions.tags import vary_tags
from dreambooth_trainer.evaluation.encoder_config import encoder_sources, read_encoder
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS, StableDiffusion
from dreambooth_trainer.models.model_config import ModelConfig, read_model_config
from dreambooth_trainer.preflight.captioning import check_captioning
from dreambooth_trainer.preflight.images import (
    check_class_images,
    check_evaluation_images,
    check_subjects,
)
from dreambooth_trainer.preflight.model import check_model
from dreambooth_trainer.preflight.objective import check_objective
from dreambooth_trainer.preflight.prompts import check_lengths, sample_and_class_prompts
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.preflight.resources import (
    STRATEGY,
    check_grace_period,
    check_host_memory,
    check_memory,
    choose_strategy,
)
from dreambooth_trainer.preflight.resume import check_source
from dreambooth_trainer.preflight.start_adapters import check_start_adapters
from dreambooth_trainer.preflight.tokens import check_tokens
from dreambooth_trainer.preflight.writing import check_writing
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.former_defaults import KEPT, keep_former_defaults
from dreambooth_trainer.training.optimizer import check_optimizer


def check_job(job: DreamBoothJob, storage: Storage) -> PreflightReport:
    """Check everything that the job refers to. Writes and deletes small probes.

    Of weights, only headers and sizes are checked. Errors are collected in the report:
    `TrainerError` and `StorageError` are not raised.
    """
    report = PreflightReport()
    check_writing(job, storage, report)
    # Every further check would wait for all retries, one after the other.
    if report.unreachable:
        report.warnings.append("images and model were not checked, as storage does not answer")
        return report
    if not report.errors:  # else the output cannot be read either, and an error says so
        with report.collecting():
            kept = keep_former_defaults(job, storage)
            if kept.spec.prior.target != job.spec.prior.target:
                report.warnings.append(KEPT)
            job = kept
    report.warnings += advice(job)
    config = None
    with report.collecting():
        config = read_model_config(job.spec.model, storage)
        report.job = _resolve(job, config, storage)
        # A .ckpt file is of Stable Diffusion, or is refused when it is loaded.
        family = config.family if config else StableDiffusion
        problems = check_objective(job.spec.training, family.objective_kind, family.name)
        report.errors += map(BadConfigError, problems)
    report.errors += map(BadConfigError, check_optimizer(job.spec.training))
    if report.job:
        check_source(report.job, storage, report)
    # Images are checked all the same; without the model's resolution, none is too small.
    resolved = report.job or fill_defaults(job, replace(DEFAULTS, resolution=MIN_RESOLUTION))
    step = config.skeleton.resolution_step if config else None
    captions = check_subjects(resolved, storage, report, step)
    captions += check_class_images(resolved, storage, report)
    check_evaluation_images(resolved, storage, report)
    captioning = check_captioning(resolved, storage, report)
    encoders = []
    for source in encoder_sources(job.spec.evaluation) if job.spec.evaluation else ():
        with report.collecting():
            encoders.append(read_encoder(source, storage))
    if config is not None and report.job:
        prompts = captions + sample_and_class_prompts(job)
        known = len(report.errors)
        config = check_tokens(report.job, config, prompts, report)
        report.warnings += check_lengths(config, prompts)
        config = check_start_adapters(report.job, config, storage, report)
        check_model(report.job, config, report)
        if len(report.errors) > known:
            return report  # what cannot be trained has no size
        report.warnings += check_grace_period(report.job, config)
        with report.collecting():
            texts = {"", job.spec.samples.negative_prompt, *(text for _, text in prompts)}
            training = report.job.spec.training
            if training.varies_tags:
                orders = (
                    vary_tags(text, "", 0, i, training) for i, (_, text) in enumerate(captions)
                )
                texts.update(text for each in orders for text in each)
            chosen = choose_strategy(report.job, config, encoders, texts)
            if chosen is not report.job:
                report.notes.append(f"{STRATEGY}: fsdp, as the job does not fit with ddp")
                report.job = chosen
            report.warnings += check_host_memory(report.job, config)
            report.warnings += check_memory(report.job, config, encoders, texts, captioning)
    return report


def _resolve(job: DreamBoothJob, config: ModelConfig | None, storage: Storage) -> ResolvedJob:
    """The job with its model's defaults."""
    if config is None:
        return fill_defaults(job, DEFAULTS)
    filled = fill_defaults(job, config.defaults, config.skeleton.flow_shift)
    return with_own_model(filled, config.family, storage)
