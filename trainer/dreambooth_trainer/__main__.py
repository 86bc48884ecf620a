"""`torchrun -m dreambooth_trainer --config FILE`: one rank of one attempt.

Exit codes: 0 done; 143 asked to stop, state saved; 64 bad job; 65 bad images or captions; 66 no such model;
67 storage refuses; 68 the loss is not finite; 69 a newer attempt owns the output; 1 anything else, worth a retry.
The last line says what went wrong and what to do; it goes to the termination log too.
"""

import argparse
import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from dreambooth_trainer.config import Topology, load_job
from dreambooth_trainer.errors import BadData, BadModel, Denied, TrainerError
from dreambooth_trainer.stop import Stopped, StopSignal


def main() -> int:
    """Run this rank; return its exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer", description="Train a DreamBoothJob.")
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    arguments = parser.parse_args()
    # Said at every import, of image processors that are not even used.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    stop = StopSignal()
    stop.install()
    topology = Topology.from_environment()
    logging.basicConfig(
        level=logging.INFO if topology.rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {topology.rank} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("httpx", "botocore", "boto3", "s3transfer", "urllib3", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    code, last_words = _run(arguments.config, topology, stop)
    print(last_words, file=sys.stderr, flush=True)
    _write_termination_log(code, last_words)
    return code


def _run(config: Path, topology: Topology, stop: StopSignal) -> tuple[int, str]:
    """The exit code, and the sentence that explains it."""
    from dreambooth_trainer.storage import StorageError

    try:
        job = load_job(config)
        # Imported late: a bad job file is refused at once, and SIGTERM is heard during the slow imports.
        from dreambooth_trainer.train import train

        train(job, topology, stop)
    except Stopped as ended:
        return ended.exit_code, f"stopped: {ended}"
    except TrainerError as error:
        return error.exit_code, f"{type(error).__name__}: {error}"
    except StorageError as error:
        return exit_code_of(error), f"{type(error).__name__}: {error}"
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return 1, f"{type(error).__name__}: {reason}; the job is retried from its last checkpoint"
    return 0, "done"


def exit_code_of(error: Exception) -> int:
    """The exit code of a storage error: what cannot get better by itself is not retried."""
    from dreambooth_trainer import storage

    if isinstance(error, (storage.AccessDenied, storage.NoSuchBucket, storage.WrongEndpoint)):
        return Denied.exit_code
    if isinstance(error, (storage.NotFound, storage.EmptyPrefix)):
        return BadModel.exit_code if "spec.model" in str(error) else BadData.exit_code
    return TrainerError.exit_code


def _write_termination_log(code: int, last_words: str) -> None:
    """Kubernetes shows this as the container's termination message. Later failures never hide the first."""
    path = Path(os.environ.get("DREAMBOOTH_TERMINATION_LOG", "/dev/termination-log"))
    if code == 0 or not path.parent.is_dir():
        return
    with suppress(OSError):
        if not path.exists() or not path.read_text().strip():
            path.write_text(last_words[:4000])


if __name__ == "__main__":
    sys.exit(main())
