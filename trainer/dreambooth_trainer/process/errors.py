"""Why a job ends early: one exception per exit code (see `dreambooth_api.contract.exit_codes`)."""

from dreambooth_api.contract.exit_codes import ExitCode


class TrainerError(Exception):
    """A failure that the user can correct.

    The message is a sentence that names the field of the job and the correction. `exit_code` is a
    `dreambooth_api.contract.exit_codes.ExitCode`.
    """

    exit_code: int = ExitCode.ERROR


class BadConfigError(TrainerError):
    """The job's settings cannot be trained, or contradict each other or an earlier attempt."""

    exit_code = ExitCode.BAD_CONFIG


class BadDataError(TrainerError):
    """The images or captions cannot be trained on."""

    exit_code = ExitCode.BAD_DATA


class BadModelError(TrainerError):
    """The base model does not exist, or cannot be loaded."""

    exit_code = ExitCode.BAD_MODEL


class StorageDeniedError(TrainerError):
    """Storage refuses: credentials, bucket, endpoint or conditional writes are missing or wrong."""

    exit_code = ExitCode.STORAGE_DENIED


class NotFiniteError(TrainerError):
    """The loss is NaN or infinite."""

    exit_code = ExitCode.NOT_FINITE


class GpuMemoryError(TrainerError):
    """A GPU has too little memory for a stage of the job."""

    exit_code = ExitCode.OUT_OF_MEMORY


class FencedError(TrainerError):
    """A newer attempt owns the output."""

    exit_code = ExitCode.FENCED


class RefusedJobError(TrainerError):
    """The preflight checks failed; the message lists every reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type["RefusedJobError"], tuple[str, int]]:
        # It is pickled for the other ranks; BaseException.__reduce__ would leave the exit code out.
        return type(self), (str(self), self.exit_code)
