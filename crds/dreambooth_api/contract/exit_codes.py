"""Exit codes of the trainer's container, and what the operator does about them.

64 to 78 are the codes of BSD's sysexits.h: no shell, kernel or runtime uses them for its own.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the trainer's container ended (core/v1 ContainerStateTerminated, exitCode).

    A container that signal n killed has the code 128 + n.
    """

    # Values are the contract with the podFailurePolicy of running Jobs: never change or reuse one.
    DONE = 0
    """Trained and exported."""
    ERROR = 1
    """An error that may pass: the next attempt resumes from the last checkpoint."""
    BAD_CONFIG = 64
    """The job asks for something that cannot be trained."""
    BAD_DATA = 65
    """The images or captions cannot be trained on."""
    BAD_MODEL = 66
    """The base model does not exist, or cannot be loaded."""
    STORAGE_DENIED = 67
    """Storage refuses: credentials, bucket or endpoint are wrong."""
    NOT_FINITE = 68
    """The loss is NaN or infinite."""
    FENCED = 69
    """A newer attempt owns the output."""
    STALLED = 70
    """No rank of the pod made progress for `spec.runtime.stallTimeoutSeconds`."""
    OUT_OF_MEMORY = 71
    """The GPU's memory is too small for the job."""
    STOPPED = 143
    """Stopped by SIGTERM (128 + 15), with the state saved."""


# STALLED is left out: a hung rank is often the fault of one node, and the next attempt may get
# another.
NOT_RETRYABLE = (
    ExitCode.BAD_CONFIG,
    ExitCode.BAD_DATA,
    ExitCode.BAD_MODEL,
    ExitCode.STORAGE_DENIED,
    ExitCode.NOT_FINITE,
    ExitCode.FENCED,
    ExitCode.OUT_OF_MEMORY,
)
"""Codes that end the attempt for all pods. Before the first checkpoint they fail the job, too."""

# A job with a checkpoint has shown that it can be trained. Settings are fixed, so that something
# else has changed: storage shows other files for a while, a Secret is wrong, an image is too old.
EXTERNAL = (
    ExitCode.BAD_CONFIG,
    ExitCode.BAD_DATA,
    ExitCode.BAD_MODEL,
    ExitCode.STORAGE_DENIED,
)
"""Codes that, once the job has a checkpoint, are due to what lies outside of the job."""

# OUT_OF_MEMORY is left out: the GPU of another node may be larger, or shared with nobody.
HOPELESS = (ExitCode.NOT_FINITE,)
"""Codes that would follow from the same checkpoint again."""


def is_retryable(code: int, *, has_checkpoint: bool = False) -> bool:
    """Whether a new attempt may succeed after a container ended with this code (not 0).

    With a checkpoint, only `HOPELESS` codes are not: the steps after it are the same again.
    """
    return code not in (HOPELESS if has_checkpoint else NOT_RETRYABLE)
