"""Storage that is retried as often as ever, with shorter waits in between.

python -m tests.trainer.hasty_storage ... is a rank of the trainer with such storage.
"""

import runpy
from functools import partial

from dreambooth_storage import TransferPolicy, storage
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint import phases
from dreambooth_trainer.run import fit


def hasten() -> None:
    """Shorten the waits of this process and of those that upload for it."""
    policy = partial(TransferPolicy, base_delay=0.01)
    storage.TransferPolicy = policy  # type: ignore[misc, assignment]
    fit.UploadProcess = partial(UploadProcess, policy=policy())  # type: ignore[misc, assignment]
    phases.MAX_RETRY_SECONDS = 0.1


if __name__ == "__main__":
    hasten()
    runpy.run_module("dreambooth_trainer", run_name="__main__")
