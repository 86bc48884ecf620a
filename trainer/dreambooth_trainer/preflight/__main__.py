"""`python -m dreambooth_trainer.preflight --config FILE`: checks a job before it trains.

Prints the report. Exit codes are the trainer's: 0 when the job can be trained, else that of the
first error.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

from dreambooth_api.contract.termination import Termination
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.contract_version import check_contract_version
from dreambooth_trainer.process.exit_status import describe, exit_code_of
from dreambooth_trainer.process.garbage import kept_objects
from dreambooth_trainer.process.termination_message import write_termination
from dreambooth_trainer.process.topology import Topology, load_job


def main() -> int:
    """Check the job file of the command line, print the report, return the exit code.

    The report becomes the termination message, also that of a job that can be trained.
    """
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.preflight", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    try:
        report = _check_file(parser.parse_args().config)
    except Exception as error:  # a failure of the check itself, which a retry may get past
        traceback.print_exc()
        write_termination(Termination(message=describe(error)))
        return exit_code_of(error)
    print(report)  # noqa: T201
    write_termination(Termination(message=report.message()))
    return report.exit_code


def _check_file(path: Path) -> PreflightReport:
    report = PreflightReport()
    with report.collecting():
        check_contract_version(os.environ)
        job = load_job(path, check_rules=not Topology.from_environment().attempt)
        # Imported here, as torch takes seconds: an invalid job file is refused without it.
        with kept_objects():
            from dreambooth_trainer.preflight.check import check_job

        settings = StorageSettings.of(job.spec.storage)
        with Storage(settings) as storage:
            report = check_job(job, storage)
    return report


if __name__ == "__main__":
    sys.exit(main())
