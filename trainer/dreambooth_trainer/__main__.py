"""`torchrun -m dreambooth_trainer --config FILE`: one rank of one attempt.

Exit codes are those of `dreambooth_api.contract.exit_codes`. The last line of the log says what
went wrong and what to do; the termination message says the same, with the newest checkpoint.
"""

import argparse
import logging
import os
import sys
import traceback
from pathlib import Path

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.termination_message import write_termination
from dreambooth_trainer.process.topology import Topology, load_job
from dreambooth_trainer.telemetry.progress import ProgressState


def main() -> int:
    """Run this rank; return its exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer", description="Train a job.")
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    arguments = parser.parse_args()
    # Libraries warn of image processors and safety checkers that are not even used.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    stop = StopSignal()
    stop.install()
    heartbeat.start()
    topology = Topology.from_environment()
    _configure_logging(topology.rank)
    return _run(arguments.config, topology, stop)


def _configure_logging(rank: int) -> None:
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for verbose in ("httpx", "botocore", "boto3", "s3transfer", "urllib3", "PIL"):
        logging.getLogger(verbose).setLevel(logging.WARNING)


def _run(config: Path, topology: Topology, stop: StopSignal) -> int:
    # Imported late: by now, SIGTERM is handled.
    from dreambooth_trainer.process.exit_status import describe, exit_code_of, is_own

    progress: ProgressState | None = None
    try:
        job = load_job(config)
        # Imported later still, as it takes seconds: a bad job file is refused without it.
        from dreambooth_trainer.run.train import train
        from dreambooth_trainer.telemetry.telemetry import Telemetry

        telemetry = Telemetry(job, topology)
        progress = telemetry.progress
        train(job, topology, stop, telemetry)
        code, message = int(ExitCode.DONE), "done"
    except StoppedError as stopped:
        code, message = int(stopped.exit_code), str(stopped)
    except Exception as error:
        if not is_own(error):
            traceback.print_exc()
        code, message = exit_code_of(error), describe(error)
    sys.stderr.write(f"rank {topology.rank}: {message}\n")
    # Of ranks that are done, one message is enough: the operator reads the checkpoint there, as it
    # may not have asked for the progress since that was saved.
    if code or topology.rank == 0:
        checkpoint = progress.last_checkpoint if progress else None
        write_termination(Termination(rank=topology.rank, message=message, checkpoint=checkpoint))
    return code


if __name__ == "__main__":
    sys.exit(main())
