"""Checks whether the job can write its results, and whether conditional writes protect them."""

import uuid

from dreambooth_api.models.job import DreamBoothJob, output_layout, prior_cache
from dreambooth_storage import AlreadyExistsError, Storage, join
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import StorageDeniedError


def check_writing(job: DreamBoothJob, storage: Storage, report: PreflightReport) -> None:
    """Write, write again conditionally, and delete a probe wherever the job will write.

    Errors are collected in the report: any `StorageError`, and a `StorageDeniedError` for a server
    without conditional writes.
    """
    folders = {"spec.output": output_layout(job).root}
    prior = job.spec.prior
    if prior.enabled and prior.count and prior.cache:
        folders["spec.prior.cache"] = prior_cache(job)
    for field, folder in folders.items():
        with report.collecting():
            _check_folder(storage, folder, field)


def _check_folder(storage: Storage, folder: str, field: str) -> None:
    probe = join(folder, f".preflight-{uuid.uuid4().hex}")
    storage.write(probe, b"preflight", only_if_absent=True, field=field)
    try:
        # Checkpoint commits are fenced by conditional writes: this one has to fail.
        storage.write(probe, b"replaced", only_if_absent=True, field=field)
        replaced = True
    except AlreadyExistsError:
        replaced = False
    storage.delete([probe], field=field)
    if replaced:
        raise StorageDeniedError(
            f"{field}: the server replaced {probe} in spite of If-None-Match, so a lost pod could"
            " overwrite the checkpoints of the attempt after it; use a server with conditional"
            " writes"
        )
