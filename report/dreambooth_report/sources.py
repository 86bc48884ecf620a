"""Where the pictures of a page may come from.

Whoever can write to a run's folder decides what its run.json names. Without bounds, the page would
hold any picture that its reader may open, and be passed on with it.
"""

from collections.abc import Sequence

from dreambooth_api.models.job import DreamBoothJob, prior_cache
from dreambooth_report.pictures import ReadStart
from dreambooth_storage import ObjectNotFoundError

ONLY_OWN = (
    "Photos and class images outside of the run's folder are not shown, as the folder alone names"
    " them: make this page from the job's file to see them."
)
"""Why pictures are missing where the job is not known."""


def picture_folders(root: str, job: DreamBoothJob | None) -> list[str]:
    """The folders of a run's pictures: its own, its subjects', and those of its class images.

    Args:
        root: URI of the run's folder.
        job: The run's job, not from that folder; without it, there is no other folder.
    """
    if job is None:
        return [root]
    folders = [root, *(subject.images for subject in job.spec.subjects), prior_cache(job)]
    return [*folders, job.spec.prior.images] if job.spec.prior.images else folders


def is_below(uri: str, folder: str) -> bool:
    """Whether a URI names something in a folder."""
    prefix = f"{folder.rstrip('/')}/"
    return uri.startswith(prefix) and ".." not in uri.removeprefix(prefix).split("/")


def confined(read: ReadStart, folders: Sequence[str]) -> ReadStart:
    """`read`, for which nothing outside the folders exists."""

    def read_below(uri: str, count: int) -> bytes:
        if not any(is_below(uri, folder) for folder in folders):
            raise ObjectNotFoundError(uri, "is in no folder of the run", "correct run.json")
        return read(uri, count)

    return read_below
