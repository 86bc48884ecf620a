"""The end of a run: samples, scores and exports of the trained model."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from dreambooth_api.contract.scores import Scores
from dreambooth_api.models.results.export import PushToHub
from dreambooth_storage import StorageError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.export.hub import push_to_hub
from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import weight_dtypes
from dreambooth_trainer.models.load import reload_denoiser
from dreambooth_trainer.models.published import find_license
from dreambooth_trainer.models.sharding import is_sharded, undivided, whole_on_first
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.result import exports_adapters
from dreambooth_trainer.run.scoring import load_best, read_scores, write_result
from dreambooth_trainer.selection.selector import CheckpointSelector
from dreambooth_trainer.training.module import DreamBooth

log = logging.getLogger(__name__)


def finish(
    attempt: Attempt,
    store: CheckpointStore,
    family: Family,
    module: DreamBooth,
    writer: SampleWriter,
    selector: CheckpointSelector | None,
) -> None:
    """Sample, score and export the trained model: the best checkpoint, and the last. Collective."""
    last = selector.last_step if selector else attempt.job.spec.training.steps
    attempt.enter_stage("Evaluating")
    writer.write(last)
    if selector is not None:
        selector.evaluate(last)
    attempt.enter_stage("Exporting")
    best = last
    if selector is not None and selector.chooses and not selector.is_best(last):
        _export(attempt, store, family, last, last, attempt.layout.export_last)
        best = load_best(module, selector, store, last)
        writer.write(best)
    else:
        _delete_export_last(attempt, store)
    writer.compare(0, best)
    if selector is not None:
        selector.record_exported(best)
        write_result(attempt, selector, store, exported=best)
    _export(attempt, store, family, best, last, attempt.layout.export)
    attempt.telemetry.progress.record_export(attempt.layout.export)


def _export(
    attempt: Attempt, store: CheckpointStore, family: Family, step: int, last: int, target: str
) -> None:
    """Export the model of a step: only its adapters, where nothing else was trained. Collective.

    Args:
        attempt: The current one.
        store: Knows whether the attempt owns the output.
        family: The model, in the state of the step.
        step: Optimizer steps of the model.
        last: The step at which training has ended.
        target: URI of the folder.
    """
    job = attempt.job
    whole = nullcontext() if exports_adapters(job) else _whole_denoiser(family)
    with tempfile.TemporaryDirectory(prefix="export-") as folder, whole:
        if attempt.topology.rank == 0:
            scores = read_scores(attempt, step, last) if job.spec.evaluation else None
            arguments = family, Path(folder), _provenance(job, family, step, scores)
            with explain_out_of_memory("exporting", job):
                if exports_adapters(job):
                    export_lora(*arguments)
                else:
                    export_pipeline(*arguments, base=_unrounded_denoiser(attempt, family))
        # An attempt that lost its claim must not overwrite a newer one's result.
        store.check_owner()
        if attempt.topology.rank == 0:
            attempt.storage.upload_tree(Path(folder), target)
        if target == attempt.layout.export and (exports := job.spec.export):
            folder_path = Path(folder)
            attempt.ranks.run_on_first(
                lambda: _push(attempt, exports.push_to_hub, folder_path, step)
            )


def _delete_export_last(attempt: Attempt, store: CheckpointStore) -> None:
    """Delete the last model of an earlier end, after which the job went on. Collective."""
    store.check_owner()
    if attempt.topology.rank == 0:
        try:
            stale = attempt.storage.list(attempt.layout.export_last)
            attempt.storage.delete([each.uri for each in stale], folders=True)
        except StorageError as error:
            log.warning("the last model of an earlier end could not be deleted: %s", error)


def _push(attempt: Attempt, given: PushToHub | None, folder: Path, step: int) -> None:
    """Push the export, where the job asks for it; raises `StoppedError` when asked to stop."""
    if given is not None:
        message = f"Step {step} of {attempt.job.metadata.name}"
        push = push_to_hub(folder, given, attempt.layout.export, message, attempt.stop)
        attempt.telemetry.progress.record_push(push)


@contextmanager
def _whole_denoiser(family: Family) -> Iterator[None]:
    """Within, rank 0 has a denoiser that the ranks have divided as a whole. Collective."""
    divided = family.denoiser
    weights = whole_on_first(divided) if is_sharded(divided) else {}
    if not weights:
        yield
        return
    whole = undivided(divided, weights)
    family.denoiser = whole
    setattr(family.pipeline(), family.denoiser_part, whole)
    try:
        yield
    finally:
        family.denoiser = divided
        setattr(family.pipeline(), family.denoiser_part, divided)


def _unrounded_denoiser(attempt: Attempt, family: Family) -> nn.Module | None:
    """The denoiser of the model's files, where training has kept it in a lower precision."""
    spec = attempt.job.spec
    dtype = weight_dtypes(type(family), spec.training)[family.denoiser_part]
    if dtype is torch.float32 and spec.model.quantization is None:
        return None
    return reload_denoiser(spec.model, attempt.storage, family.model_hash)


def _provenance(job: ResolvedJob, family: Family, step: int, scores: Scores | None) -> Provenance:
    return Provenance(
        base_model=job.spec.model.source,
        base_model_sha256=family.model_hash,
        identifiers=tuple(s.identifier for s in job.spec.subjects),
        class_nouns=tuple(s.class_noun for s in job.spec.subjects),
        prompt=job.spec.subjects[0].prompt,
        step=step,
        resolution=job.spec.training.resolution,
        sample_steps=job.spec.samples.steps,
        guidance_scale=job.spec.samples.guidance_scale,
        license=find_license(family.published, job.spec.model.source),
        scores=scores,
        clip_skip=job.spec.model.clip_skip,
        merged=tuple((each.source, each.strength) for each in job.spec.model.merged_adapters),
    )
