"""Where the pictures of a page may come from.

Whoever can write to a run's folder decides what its run.json names. Without bounds, the page would
hold any picture that its reader may open, and be passed on with it.
"""

from collections.abc import Sequence

from dreambooth_api.models.job import DreamBoothJob, prior_cache
from dreambooth_report.pictures import ReadStart
from dreambooth_storage import ObjectNotFoundError

LOCAL = "file://"


def picture_folders(root: str, job: DreamBoothJob, *, is_trusted: bool) -> list[str]:
    """The folders of a run's pictures: its own, its subjects', and those of its class images.

    Args:
        root: URI of the run's folder.
        job: The run's job.
        is_trusted: Whether the job does not come from that folder. If it does, and the folder is
            not on this machine, then no files of this machine are shown.
    """
    folders = [*(subject.images for subject in job.spec.subjects), prior_cache(job)]
    if job.spec.prior.images:
        folders.append(job.spec.prior.images)
    if not is_trusted and not root.startswith(LOCAL):
        folders = [folder for folder in folders if not folder.startswith(LOCAL)]
    return [root, *folders]


def confined(read: ReadStart, folders: Sequence[str]) -> ReadStart:
    """`read`, for which nothing outside the folders exists."""

    def read_below(uri: str, count: int) -> bytes:
        if not any(_is_below(uri, folder) for folder in folders):
            raise ObjectNotFoundError(uri, "is in no folder of the run", "correct run.json")
        return read(uri, count)

    return read_below


def _is_below(uri: str, folder: str) -> bool:
    prefix = f"{folder.rstrip('/')}/"
    return uri.startswith(prefix) and ".." not in uri.removeprefix(prefix).split("/")
