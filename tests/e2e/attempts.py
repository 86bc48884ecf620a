"""What can be seen of a job's attempts: their Jobs and pods, and what the trainer wrote of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.cluster.client import Object
from tests.e2e.cluster import JOB_LABEL, Cluster

ATTEMPT_LABEL = "dreambooth.dev/attempt"
JOB_CHANGES = (
    r"--output=jsonpath={.type} {.object.metadata.name}"
    r'{range .object.status.conditions[?(@.status=="True")]} {.type}{end}{"\n"}'
)
"""One line for each change of a Job: the change, its name, and the conditions that hold."""


def attempt_jobs(cluster: Cluster, name: str) -> list[Object]:
    """The batch/v1 Jobs of a job's attempts, without the preflight's."""
    return cluster.kubectl.objects("job", _chosen(name))


def training_pods(cluster: Cluster, name: str) -> dict[str, str]:
    """The pods of a job's attempts, without the preflight's: uid by name."""
    pods = cluster.kubectl.objects("pod", _chosen(name))
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def starts(cluster: Cluster, name: str) -> list[tuple[int, int | None]]:
    """Each start of the trainer, as recorded in run.json: (ranks, step it resumed from)."""
    record = cluster.storage.document(cluster.run(name), "run.json")
    return [(start["worldSize"], start["resumedFromStep"]) for start in record["attempts"]]


@contextmanager
def never_two_attempts(cluster: Cluster, name: str) -> Iterator[None]:
    """Fails at the end when two attempts of a job were live at a time."""
    changes = ("job", f"--selector={_chosen(name)}", "--output-watch-events", JOB_CHANGES)
    with cluster.kubectl.watching(*changes) as lines:
        yield
    together = [live for live in _live(lines) if len(live) > 1]
    assert not together, f"attempts that were live at the same time: {together}"
    assert lines, "the watch has shown nothing"


def _live(lines: Iterable[str]) -> Iterator[set[str]]:
    """The Jobs that were live after each change: their pods had not all ended."""
    live: set[str] = set()
    for change, name, *conditions in map(str.split, lines):
        over = change == "DELETED" or {"Complete", "Failed"} & {*conditions}
        live = live - {name} if over else live | {name}
        yield live


def _chosen(name: str) -> str:
    return f"{JOB_LABEL}={name},{ATTEMPT_LABEL}"
