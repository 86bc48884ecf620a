"""`torchrun -m dreambooth_trainer --config FILE`: one rank of one attempt.

With `--protocol`, it scores the job's result instead of training; with `--generate`, it generates
images of it.

Exit codes are those of `dreambooth_api.contract.exit_codes`. The last line of the log describes the
failure and its correction; the termination message is the same, with the newest checkpoint.
"""

import argparse
import logging
import sys
import traceback
from pathlib import Path
from typing import get_args

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.layout import EvaluationProtocol
from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.garbage import kept_objects
from dreambooth_trainer.process.library_logs import quiet_libraries
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.termination_message import write_termination
from dreambooth_trainer.process.topology import Topology, load_job
from dreambooth_trainer.telemetry.progress import ProgressState


def main() -> int:
    """Run this rank; return its exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer", description="Train a job.")
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    parser.add_argument(
        "--protocol",
        choices=get_args(EvaluationProtocol),
        help="score the job's result by this protocol instead",
    )
    parser.add_argument(
        "--generate", type=Path, help="generate the images of this file (Generation, JSON) instead"
    )
    arguments = parser.parse_args()
    quiet_libraries()
    # First of all: SIGTERM may arrive while the imports, which take seconds, are running.
    stop = StopSignal()
    stop.install()
    heartbeat.start()
    topology = Topology.from_environment()
    _configure_logging(topology.rank)
    return _run(arguments, topology, stop)


def _configure_logging(rank: int) -> None:
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank} %(levelname)s %(message)s",
        stream=sys.stderr,
    )


def _run(arguments: argparse.Namespace, topology: Topology, stop: StopSignal) -> int:
    # Imported here, as SIGTERM is handled by now.
    from dreambooth_trainer.process.exit_status import describe, exit_code_of, is_own

    progress: ProgressState | None = None
    try:
        has_begun = bool(arguments.protocol or arguments.generate or topology.attempt)
        job = load_job(arguments.config, check_rules=not has_begun)
        # Imported later still, as torch takes seconds: an invalid job file is refused without it.
        with kept_objects():
            from dreambooth_trainer.run.train import train
            from dreambooth_trainer.telemetry.telemetry import Telemetry

        telemetry = Telemetry(job, topology)
        progress = telemetry.progress
        if arguments.protocol:
            from dreambooth_trainer.run.evaluate import evaluate

            evaluate(job, topology, stop, telemetry, arguments.protocol)
        elif arguments.generate:
            from dreambooth_trainer.run.generate import generate

            generate(job, topology, stop, telemetry, arguments.generate)
        else:
            train(job, topology, stop, telemetry)
        code, message = int(ExitCode.DONE), "done"
    except StoppedError as stopped:
        code, message = int(stopped.exit_code), str(stopped)
    except Exception as error:
        if not is_own(error):
            traceback.print_exc()
        code, message = exit_code_of(error), describe(error)
    sys.stderr.write(f"rank {topology.rank}: {message}\n")
    # Of ranks that succeeded, rank 0 alone writes one: the operator reads the last checkpoint from
    # it, which may be newer than the progress that it last polled.
    if code or topology.rank == 0:
        known = progress.snapshot() if progress else None
        write_termination(
            Termination(
                rank=topology.rank,
                message=message,
                checkpoint=known.last_checkpoint if known else None,
                best=known.best if known else None,
                stopped_early=known.stopped_early if known else None,
                push=known.push if known else None,
            )
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
