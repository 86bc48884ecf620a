"""The page of a sweep: its jobs in one table, and their samples below each other."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dreambooth_report import pictures

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
    """URI of the newest sample grid; None without one."""


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
    folder = resources.files("dreambooth_report") / "template"
    style = (folder / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("dreambooth_report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("sweep.html.j2").render(
        name=name,
        columns=columns,
        jobs=jobs,
        pictures={uri: picture for (uri, _), picture in found.items()},
        done=sum(job.phase == "Succeeded" for job in jobs),
        style=Markup(style),
        policy=_policy(style),
    )


def _policy(style: str) -> str:
    """The Content-Security-Policy: only this style and embedded pictures, and no script."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
