"""Why a job ends early: one exception per exit code.

Codes 64 to 69 are not retryable: the operator fails the job at once. Any other non-zero code is
retried.
"""

NOT_RETRYABLE = range(64, 70)


class TrainerError(Exception):
    """An end that the user can do something about. The message names the field and says what to
    do.
    """

    exit_code = 1


class BadConfigError(TrainerError):
    """The job asks for something that cannot be trained."""

    exit_code = 64


class BadDataError(TrainerError):
    """The images or captions cannot be trained on."""

    exit_code = 65


class BadModelError(TrainerError):
    """There is no such base model, or it cannot be loaded."""

    exit_code = 66


class StorageDeniedError(TrainerError):
    """Storage refuses: credentials, bucket or endpoint are wrong."""

    exit_code = 67


class NotFiniteError(TrainerError):
    """The loss is NaN or infinite."""

    exit_code = 68


class FencedError(TrainerError):
    """A newer attempt owns the output."""

    exit_code = 69


class RefusedJobError(TrainerError):
    """The job as it stands cannot be trained; the message lists every reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


STOPPED_EXIT_CODE = 143
"""Asked to stop by SIGTERM (128 + 15), state saved."""

STALLED_EXIT_CODE = 70
"""No rank of the pod made progress for `spec.runtime.stallTimeoutSeconds`."""
