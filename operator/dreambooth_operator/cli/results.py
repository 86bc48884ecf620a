"""What a finished run is looked at by: its sample grids and its scores."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_api.models.job import DreamBoothJob, output_prefix
from dreambooth_operator.errors import UserError
from dreambooth_storage import EmptyPrefixError, Storage

BEFORE_AFTER = "samples/before-after.png"
SCORES = "scores.json"


@dataclass(frozen=True)
class Results:
    """Results on this machine."""

    folder: Path
    files: Sequence[Path]

    @property
    def before_after(self) -> Path | None:
        """Samples before and after training, side by side."""
        return self._file(BEFORE_AFTER)

    @property
    def newest_grid(self) -> Path | None:
        """The sample grid of the highest step."""
        grids = [path for path in self.files if path.name == "grid.png"]
        return max(grids, default=None)

    @property
    def export(self) -> Path | None:
        """Folder of the exported model."""
        folder = self.folder / "export"
        return folder if folder.is_dir() else None

    @property
    def scores(self) -> list[dict[str, Any]]:
        """One entry per subject of scores.json; empty when the job has no evaluation."""
        path = self._file(SCORES)
        entries: list[dict[str, Any]] = json.loads(path.read_text())["subjects"] if path else []
        return entries

    def _file(self, relative: str) -> Path | None:
        path = self.folder / relative
        return path if path in self.files else None


def is_grid(relative: str) -> bool:
    """A sample grid, or the one that compares before and after."""
    return relative == BEFORE_AFTER or relative.endswith("/grid.png")


def is_small(relative: str) -> bool:
    """Worth fetching from anywhere."""
    return is_grid(relative) or relative == SCORES


def is_result(relative: str) -> bool:
    """Everything but the states to resume from."""
    return not relative.startswith("checkpoints/")


def newest_run(storage: Storage, job: DreamBoothJob) -> str:
    """The uid of the job's newest run, by what is in storage; raises `UserError` without one."""
    prefix = output_prefix(job).rpartition("/")[0]
    found = [item for item in storage.list(prefix) if "/" in item.relative]
    if not found:
        raise UserError(f"{prefix}: no run of {job.metadata.name} is there; check spec.output")
    return max(found, key=lambda item: item.modified).relative.partition("/")[0]


def fetch(storage: Storage, output: str, folder: Path, wanted: Callable[[str], bool]) -> Results:
    """Fetch what is wanted of a run's output folder. Raises StorageError."""
    try:
        return Results(folder, storage.download_tree(output, folder, select=wanted))
    except EmptyPrefixError:
        return Results(folder, [])
