"""What an attempt leaves for people: how it ended, and the page that shows the run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.termination import AttemptEnd
from dreambooth_api.contract.times import now
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_report.build import build_report
from dreambooth_storage import Storage, StorageError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.process.errors import FencedError
from dreambooth_trainer.process.exit_status import describe, exit_code_of
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.process.topology import Topology

log = logging.getLogger(__name__)


@contextmanager
def recording_failure(job: DreamBoothJob, topology: Topology, storage: Storage) -> Iterator[None]:
    """Record in the run's folder why the attempt ends, if it fails or is stopped.

    The first rank to fail knows the reason; what the others report follows from it.
    """
    try:
        yield
    # Storage would refuse this file too, after all retries; and an attempt that was overtaken must
    # not write to the folder of a newer one.
    except (StorageError, FencedError):
        raise
    except Exception as error:
        stopped = isinstance(error, StoppedError)
        code = error.exit_code if isinstance(error, StoppedError) else exit_code_of(error)
        _write_end(job, topology, storage, code, str(error) if stopped else describe(error))
        raise


def write_report(attempt: Attempt) -> None:
    """Record that the attempt, which owns the output, is done, and write `report.html`.

    Rank 0 alone.
    """
    _write_end(attempt.job, attempt.topology, attempt.storage, ExitCode.DONE, "done")
    layout = attempt.layout
    try:
        page = build_report(attempt.storage, layout.root, attempt.job)
        attempt.storage.write(layout.report, page.html.encode())
    # The model is stored: a page about it must not fail the job.
    except Exception as error:
        log.warning("%s could not be written: %s", layout.report, describe(error))
    else:
        log.info("report: %s", layout.report)


def _write_end(
    job: DreamBoothJob, topology: Topology, storage: Storage, code: int, message: str
) -> None:
    end = AttemptEnd(exit_code=code, rank=topology.rank, message=message, ended_at=now())
    data = end.model_dump_json(indent=2).encode()
    with suppress(StorageError):
        storage.write(output_layout(job).attempt_end(topology.attempt), data, only_if_absent=True)
