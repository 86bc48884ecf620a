"""Builds the report of a run."""

from dreambooth_report import pictures
from dreambooth_report.page import render, requests_of
from dreambooth_report.read import read_run
from dreambooth_storage import Storage


def build_report(storage: Storage, root: str) -> str:
    """The page that shows the run in a folder, as far as it has got; UTF-8 text in HTML.

    Args:
        storage: Reads the run's folder, and the photos and class images that it names.
        root: URI of the run's folder (`OutputLayout.root`).

    Raises:
        UnreadableRunError: The folder holds no run.
        StorageError: The folder cannot be read.
    """
    facts = read_run(storage, root)
    return render(facts, pictures.load(requests_of(facts), storage.read_start))
