"""`torchrun -m dreambooth_trainer --config FILE`: one rank of one attempt.

Exit codes: 0 done; 143 asked to stop, state saved; 64 bad job; 65 bad images or captions; 66 no
such model; 67 storage refuses; 68 the loss is not finite; 69 a newer attempt owns the output; 1
anything else, worth a retry. The last line says what went wrong and what to do; it goes to the
termination log too.
"""

import argparse
import logging
import os
import sys
import traceback
from pathlib import Path

from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.topology import Topology, load_job


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
    _log_as(topology.rank)
    return _run(arguments.config, topology, stop)


def _log_as(rank: int) -> None:
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("httpx", "botocore", "boto3", "s3transfer", "urllib3", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _run(config: Path, topology: Topology, stop: StopSignal) -> int:
    # Imported late: SIGTERM is heard during the slow imports.
    from dreambooth_storage import StorageError
    from dreambooth_trainer.process.exit_status import exit_code_of, say_last_words, sentence

    try:
        job = load_job(config)
        # And later still: a bad job file is refused at once.
        from dreambooth_trainer.run.train import train

        code, words = 0, train(job, topology, stop)
    except StoppedError as ended:
        code, words = ended.exit_code, f"stopped: {ended}"
    except Exception as error:
        if not isinstance(error, (TrainerError, StorageError)):
            traceback.print_exc()
        code, words = exit_code_of(error), sentence(error)
    say_last_words(code, topology.rank, words)
    return code


if __name__ == "__main__":
    sys.exit(main())
