"""Builds the report of a run."""

from dataclasses import dataclass, replace

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_report import pictures
from dreambooth_report.page import render, requests_of
from dreambooth_report.read import read_run
from dreambooth_report.sources import ONLY_OWN, confined, is_below, picture_folders
from dreambooth_storage import Storage


@dataclass(frozen=True)
class Report:
    """The page of a run."""

    name: str
    """Name of the job."""
    html: str


def build_report(storage: Storage, root: str, job: DreamBoothJob | None = None) -> Report:
    """The page that shows the run in a folder, as far as it has got.

    Args:
        storage: Reads the run's folder, and the photos and class images.
        root: URI of the run's folder (`OutputLayout.root`).
        job: The run's job, where it is known from elsewhere than that folder: photos and class
            images are then shown too.

    Raises:
        UnreadableRunError: The folder holds no run.
        StorageError: The folder cannot be read.
    """
    facts = read_run(storage, root)
    folders, wanted = picture_folders(facts.root, job), requests_of(facts)
    if job is None and not all(is_below(uri, facts.root) for uri, _ in wanted):
        facts = replace(facts, left_out=[*facts.left_out, ONLY_OWN])
    found = pictures.load(wanted, confined(storage.read_start, folders))
    html = render(facts, found)
    return Report(facts.job.metadata.name, html)
