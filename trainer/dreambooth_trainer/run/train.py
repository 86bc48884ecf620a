"""One attempt of one job, from beginning to end.

Start with `train`, which calls every stage. All ranks run all of it, so that collectives match;
only rank 0 writes shared files.
"""

import logging

import torch

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.captioning.stage import write_captions
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.dataset import (
    Dataset,
    held_out_groups,
    load_subjects,
    prompts_of,
    subject_groups,
)
from dreambooth_trainer.data.latents import LatentStore
from dreambooth_trainer.data.prior.class_groups import class_groups
from dreambooth_trainer.data.prior.own_class_images import load_own_class_images
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.export.hub import find_token_problem
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.start import ADAPTER_FIELD, load_adapter
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.published import find_license
from dreambooth_trainer.models.tokens.learn import add_words
from dreambooth_trainer.models.tokens.names import learned_words
from dreambooth_trainer.preflight.check import check_job
from dreambooth_trainer.process.batch_split import BatchSplit, split_batch
from dreambooth_trainer.process.distributed import join_ranks
from dreambooth_trainer.process.errors import RefusedJobError, TrainerError
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.fingerprint import fingerprint
from dreambooth_trainer.resume.restore import Restored, restore, resume_history
from dreambooth_trainer.resume.run_record import public_config, read_global_batch, write_run_record
from dreambooth_trainer.run.baseline import needs_baseline, record_baseline
from dreambooth_trainer.run.finish import finish
from dreambooth_trainer.run.fit import fit
from dreambooth_trainer.run.report import recording_failure, write_report
from dreambooth_trainer.run.result import exports_adapters
from dreambooth_trainer.run.scoring import load_scoring, load_selector
from dreambooth_trainer.telemetry.telemetry import Telemetry
from dreambooth_trainer.telemetry.trackers import open_trackers
from dreambooth_trainer.telemetry.transfers import TransferTelemetry
from dreambooth_trainer.training.module import DreamBooth, ResumeState

log = logging.getLogger(__name__)


def train(job: DreamBoothJob, topology: Topology, stop: StopSignal, telemetry: Telemetry) -> None:
    """Train the job, or resume it from its newest checkpoint.

    Raises:
        TrainerError: The job cannot be trained.
        StorageError: Storage fails or refuses.
        StoppedError: The ranks were asked to stop.
    """
    split_batch(job, topology.world_size)  # raises for a bad one before ranks wait for each other
    storage = open_storage(job, telemetry)
    failures = recording_failure(job, topology, storage)
    # A pod is ready when it answers /healthz, which must not be before all ranks have joined.
    with join_ranks(topology, stop) as ranks, telemetry.serving(), failures:
        device = choose_device(job, topology)
        telemetry.enter_stage("Preparing")
        resolved = ranks.run_on_first(lambda: _preflight(job, storage, telemetry))
        attempt = Attempt(resolved, ranks, storage, telemetry, stop, device)
        attempt.check_stop()
        store = _checkpoints(attempt)
        attempt, loaded = write_captions(attempt, load_subjects(attempt), store.check_owner)
        resolved = attempt.job  # with the prompts that were written
        store.fingerprint = fingerprint(resolved)
        held_out = held_out_groups(attempt, loaded)
        own = ranks.run_on_first(lambda: load_own_class_images(storage, resolved))
        with explain_out_of_memory("loading the model", job):
            family = load_family(
                job.spec.model,
                attempt.storage,
                ranks,
                attempt.device,
                resolved.spec.training,
                sharded=attempt.sharded,
                offload=job.spec.runtime.offload,
            )
            if words := learned_words(resolved.spec.subjects):
                add_words(family, words)
            if (given := job.spec.model.adapter) is not None:
                family.start = load_adapter(given, storage, ranks, family, ADAPTER_FIELD)
        subjects = subject_groups(attempt.job, loaded, family.resolution_step)
        restored = restore(attempt, store)
        if restored:
            telemetry.resume(restored.state.step)
        batch = _split_batch(attempt, restored)

        if not resolved.spec.trains_text:
            with explain_out_of_memory("encoding text", job):
                prompts = prompts_of(attempt.job, [*subjects, *held_out], own.captions)
                _encode_text(attempt, family, prompts)

        attempt.enter_stage("GeneratingPrior")
        with explain_out_of_memory("generating class images", job):
            classes = class_groups(attempt, family, subjects, own)
            dataset = Dataset(attempt.job, subjects, classes)
        _record(attempt, store, family, dataset, restored, batch)

        writer = SampleWriter(ImageGenerator(attempt, family), attempt, store.check_owner)
        scoring = load_scoring(attempt, family, writer, held_out, store.check_owner)
        selector = load_selector(attempt, scoring, store)
        if needs_baseline(attempt):
            scoring.record_baseline()
            record_baseline(attempt)

        attempt.enter_stage("Training")
        module = _module(attempt, family, dataset, restored.state if restored else None)
        with explain_out_of_memory("a training step", job):
            fit(attempt, module, dataset, store, writer, batch, selector)

        # Saved states have both sets of weights; only the averages are scored and exported.
        with explain_out_of_memory("sampling", job), module.averaged_weights():
            finish(attempt, store, family, module, writer, selector)
        store.check_owner()
        # All ranks wait for it, and so for rank 0's upload: no pod succeeds before it is complete.
        ranks.run_on_first(lambda: write_report(attempt))
        # A rank that leaves a gather first closes its connections while others still wait in it.
        ranks.barrier()


def open_storage(job: DreamBoothJob, telemetry: Telemetry) -> Storage:
    """The storage of `spec.storage`, observed by telemetry."""
    settings = StorageSettings.of(job.spec.storage)
    return Storage(settings, TransferTelemetry(telemetry.metrics))


def choose_device(job: DreamBoothJob, topology: Topology) -> torch.device:
    """The device of this rank; raises `TrainerError` when the node lacks GPUs."""
    gpus = job.spec.runtime.gpus_per_node
    if gpus == 0:
        return torch.device("cpu")
    if torch.cuda.device_count() < topology.ranks_per_node:
        # A plain TrainerError is retryable: another node may have them.
        raise TrainerError(
            f"spec.runtime.gpusPerNode: {gpus} asked for, but {torch.cuda.device_count()} GPUs are"
            " visible here; check the node's driver, or set it to 0 to train on the CPU"
        )
    # NCCL and allocations without a device use the current one: by default GPU 0, in every rank.
    torch.cuda.set_device(topology.local_rank)
    return torch.device("cuda", topology.local_rank)


def _preflight(job: DreamBoothJob, storage: Storage, telemetry: Telemetry) -> ResolvedJob:
    """The job with its model's defaults, once all checks have passed. Rank 0 alone.

    Raises:
        RefusedJobError: It cannot be trained; the message has every reason.
    """
    report = check_job(job, storage)
    push = job.spec.export.push_to_hub if job.spec.export else None
    if push is not None and (problem := find_token_problem(push)):
        report.warnings.append(problem)
    for note in report.notes:
        log.info(note)
    for warning in report.warnings:
        log.warning(warning)
    telemetry.record_checks(report.warnings, report.notes)
    if report.errors or report.job is None:
        raise RefusedJobError(report.message(), report.exit_code)
    return report.job


def _checkpoints(attempt: Attempt) -> CheckpointStore:
    store = CheckpointStore(attempt.storage, attempt.layout.checkpoints, attempt.ranks)
    store.claim()
    return store


def _split_batch(attempt: Attempt, restored: Restored | None) -> BatchSplit:
    """The batch of the job, or that with which its own run began. Collective."""
    begun_with = None
    if restored and restored.source is None:
        begun_with = attempt.ranks.run_on_first(
            lambda: read_global_batch(attempt.storage, attempt.layout)
        )
    return split_batch(attempt.job, attempt.topology.world_size, begun_with)


def _record(
    attempt: Attempt,
    store: CheckpointStore,
    family: Family,
    dataset: Dataset,
    restored: Restored | None,
    batch: BatchSplit,
) -> None:
    """Write run.json, and open the trackers under the run's name."""
    job, topology = attempt.job, attempt.topology
    hashes = {"model": family.model_hash, **dataset.hashes()}
    if family.start is not None:
        hashes["adapter"] = family.start.sha256
    if restored:
        restored = restored.check_contents(attempt, hashes)
    store.check_owner()  # an attempt that lost its claim must not overwrite a newer one's record
    if topology.rank == 0:
        write_run_record(
            attempt.storage,
            attempt.layout,
            job,
            attempt=topology.attempt,
            world_size=topology.world_size,
            global_batch=batch.total,
            hashes=hashes,
            images=dataset.uris_by_name(),
            captions=dataset.captions_by_name(),
            warnings=attempt.telemetry.warnings,
            notes=attempt.telemetry.notes,
            model_license=find_license(family.published, job.spec.model.source),
            seeds={
                "training": job.spec.training.seed,
                "prior": job.spec.prior.seed,
                "samples": job.spec.samples.seed,
            },
            resumed_from=restored.state.step if restored else None,
            source=restored.source_record() if restored else None,
        )
    attempt.telemetry.trackers = open_trackers(
        job.spec.tracking,
        attempt.storage,
        attempt.layout,
        rank=topology.rank,
        attempt=topology.attempt,
        run_id=(job.metadata.uid or job.metadata.name).replace("-", ""),
        name=job.metadata.name,
        config=public_config(job),
    )
    if restored and topology.rank == 0:
        resume_history(attempt, restored)


def _encode_text(attempt: Attempt, family: Family, prompts: list[str]) -> None:
    """Encode the job's prompts, and move the text encoders off the device."""
    # Rank 0 writes the export, to which the text encoders belong unless it holds adapters alone.
    exported = attempt.topology.rank == 0 and not exports_adapters(attempt.job)
    negative = {"", attempt.job.spec.samples.negative_prompt}
    device = torch.device("cpu" if exported else "meta")
    family.retire_text_encoders(prompts, negative, device, attempt.check_stop)


def _module(
    attempt: Attempt, family: Family, dataset: Dataset, resume: ResumeState | None
) -> DreamBooth:
    job = attempt.job
    prior = job.spec.prior if dataset.has_prior else None
    keeps_base = prior is not None and (prior.target == "prediction" or job.spec.learns_tokens)
    with explain_out_of_memory("encoding latents", job):
        cache = build_cache(
            family,
            dataset.groups,
            job.spec.training.resolution,
            text_is_trained=job.spec.trains_text,
            keeps_base=keeps_base,
            has_empty_prompt=prior is not None and prior.empty_prompt_fraction > 0,
            store=LatentStore(attempt.storage, attempt.layout.latents),
            ranks=attempt.ranks,
            device=attempt.device,
        )
    with explain_out_of_memory("a training step", job):
        trained = make_trainable(family, job.spec.training)
        return DreamBooth(family, trained, job.spec.training, cache, prior, resume)
