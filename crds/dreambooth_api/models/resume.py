"""The run that a job goes on from."""

from dreambooth_api.models.base import ApiModel, JobName, StorageUri
from dreambooth_api.models.rules import rule


class ResumeFrom(ApiModel):
    """The run that the job goes on from, until it has a checkpoint of its own.

    That run's files are only read. What differs between the two jobs is listed by the preflight.
    """

    job: JobName | None = None
    """Name of a job of this namespace with the same `output`, which may be deleted: of its runs,
    the one whose checkpoint is newest. With the job's own name, its run before it was deleted."""

    uri: StorageUri | None = None
    """The run's folder (`status.artifacts.output`), or that of one of its checkpoints."""

    @rule(
        "uri",
        "has(self.job) != has(self.uri)",
        "name the run by its job or by its uri; set one of the two",
    )
    def _run_is_named_once(self) -> bool:
        return (self.job is None) != (self.uri is None)
