"""The results below a folder, by the names that requests use."""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, accepted
from dreambooth_storage import Storage, StoredObject
from dreambooth_trainer.resume.run_record import read_run_record

RECORD = re.compile(rf"((?P<folder>.+)/)?{re.escape(OutputLayout.RUN_RECORD)}")
EXPORTED = re.compile(
    rf"((?P<folder>.+?)/)?(?P<export>{OutputLayout.EXPORT}|{OutputLayout.EXPORT_LAST})/[^/]+"
)
LAST = "@last"
"""Behind the name of a run: its model of the last step, where another one is the best."""
SHORT_UID = 8


@dataclass(frozen=True)
class Result:
    """A model that a run has exported."""

    id: str
    """The name of the model in requests."""
    layout: OutputLayout
    export: str
    """URI of its folder."""
    created: datetime
    """When its export was written."""
    version: str
    """Changes when the export does."""


def find_results(root: str, listing: Iterable[StoredObject]) -> list[Result]:
    """The results among the objects below a folder, the newest first. Pure.

    The newest run of a job has the job's name; its earlier ones have the start of their uid behind
    it: `my-mug@0f3a9c21`. Where two namespaces have a job of a name, theirs come first. A run whose
    best model is not that of its last step has both: `my-mug` and `my-mug@last`.
    """
    records: set[str] = set()
    exports: dict[str, dict[str, list[StoredObject]]] = defaultdict(lambda: defaultdict(list))
    for item in listing:
        if match := RECORD.fullmatch(item.relative):
            records.add(match["folder"] or "")
        elif match := EXPORTED.fullmatch(item.relative):
            exports[match["folder"] or ""][match["export"]].append(item)
    best = {
        folder: _written(files[OutputLayout.EXPORT])
        for folder, files in exports.items()
        if folder in records and OutputLayout.EXPORT in files
    }
    folders = sorted(best, key=lambda folder: best[folder], reverse=True)
    return [
        Result(
            id=name if export == OutputLayout.EXPORT else f"{name}{LAST}",
            layout=(layout := OutputLayout(f"{root}/{folder}" if folder else root)),
            export=layout.path(export),
            created=_written(items),
            version=" ".join(sorted(f"{item.relative} {item.version}" for item in items)),
        )
        for name, folder in zip(_names(root, folders), folders, strict=True)
        for export, items in sorted(exports[folder].items())
    ]


def _written(items: Iterable[StoredObject]) -> datetime:
    return max(item.modified for item in items)


def _names(root: str, folders: list[str]) -> list[str]:
    """A name for each run's folder, `<namespace>/<name>/<uid>`, in the order of their age."""
    paths = [f"{root}/{folder}".rstrip("/").split("/")[-3:] for folder in folders]
    namespaces = defaultdict(set)
    for namespace, name, _ in paths:
        namespaces[name].add(namespace)
    used: set[str] = set()
    names = []
    for namespace, name, uid in paths:
        plain = name if len(namespaces[name]) == 1 else f"{namespace}/{name}"
        chosen = plain if plain not in used else f"{plain}@{uid[:SHORT_UID]}"
        names.append(chosen if chosen not in used else f"{plain}@{uid}")
        used.add(names[-1])
    return names


def _key(result: Result) -> tuple[str, str]:
    return result.layout.root, result.version


class Catalog:
    """The results of a folder in storage, listed again when they may have changed. Thread-safe.

    Args:
        storage: Of the results.
        root: Folder of a run, or of several, without a slash at its end.
        max_age: Seconds after which it is listed again.
    """

    def __init__(self, storage: Storage, root: str, max_age: float) -> None:
        self._storage = storage
        self._root = root
        self._max_age = max_age
        self._lock = threading.Lock()
        self._listed: float | None = None
        self._results: dict[str, Result] = {}
        self._jobs: dict[tuple[str, str], DreamBoothJob | None] = {}

    def results(self) -> list[Result]:
        """All results, the newest first; raises `StorageError`."""
        with self._lock:
            if self._listed is None or time.monotonic() - self._listed > self._max_age:
                found = find_results(self._root, self._storage.list(self._root))
                self._results = {each.id: each for each in found if self._job(each) is not None}
                kept = {_key(each) for each in found}
                self._jobs = {key: job for key, job in self._jobs.items() if key in kept}
                self._listed = time.monotonic()
            return list(self._results.values())

    def find(self, name: str) -> Result | None:
        """The result of a name; None: there is none. Raises `StorageError`."""
        return next((each for each in self.results() if each.id == name), None)

    def job(self, result: Result) -> DreamBoothJob:
        """The job of a result; raises `StorageError`."""
        job = self._job(result)
        assert job is not None, "results without a job are left out"
        return job.model_copy(deep=True)

    def _job(self, result: Result) -> DreamBoothJob | None:
        key, jobs = _key(result), self._jobs  # which another thread may replace
        if key not in jobs:
            record = read_run_record(self._storage, result.layout)
            jobs[key] = accepted(record["job"]) if record else None
        return jobs[key]
