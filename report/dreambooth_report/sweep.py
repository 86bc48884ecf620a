"""The page of a sweep: its jobs in one table, and their samples below each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_report import pictures
from dreambooth_report.document import render_document

SAMPLE_SIDE = 1024
"""Longest side in pixels of the samples of one job."""


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    name: str
    title: str
    """The values that it sets, on one line."""
    cells: Sequence[str]
    """Text of each column."""
    phase: str
    reason: str
    """Why it failed; empty when it did not."""
    output: str
    """URI of the run's folder; empty for a job that has not run."""
    samples: str | None
    """URI of the sample grid of its model, or of the newest one; None without one."""


def render(
    name: str, columns: Sequence[str], jobs: Sequence[SweepJob], read: pictures.ReadStart
) -> str:
    """The page of a sweep, as one HTML document that loads nothing.

    Args:
        name: Name of the sweep.
        columns: Headings of the table.
        jobs: Rows of the table, the best first.
        read: Reads `samples`.
    """
    wanted = {(job.samples, SAMPLE_SIDE) for job in jobs if job.samples}
    found = pictures.load(wanted, read)
    return render_document(
        "sweep.html.j2",
        {
            "name": name,
            "columns": columns,
            "jobs": jobs,
            "pictures": {uri: picture for (uri, _), picture in found.items()},
            "done": sum(job.phase == "Succeeded" for job in jobs),
        },
    )
