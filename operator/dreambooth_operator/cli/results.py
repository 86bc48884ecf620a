"""The results of a run that people look at: sample grids, scores and the exported model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.scores import Scores
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_operator.errors import UserError
from dreambooth_storage import EmptyPrefixError, Storage


@dataclass(frozen=True)
class LocalResults:
    """Results that were fetched to this machine."""

    folder: Path
    """As `OutputLayout.root`: the files have the same relative paths below it."""
    files: Sequence[Path]

    @property
    def before_after(self) -> Path | None:
        """Image of samples before and after training, side by side; None if it was not fetched."""
        return self._file(OutputLayout.BEFORE_AFTER)

    def grid(self, step: int | None) -> Path | None:
        """The sample grid of a step, or of the highest one if it has none; None without any."""
        wanted = None if step is None else Path(OutputLayout(str(self.folder)).grid(step))
        if wanted in self.files:
            return wanted
        # Paths of samples sort by step: see `OutputLayout.samples`.
        return max((path for path in self.files if path.name == OutputLayout.GRID), default=None)

    @property
    def report(self) -> Path | None:
        """The page that shows the run; None if it was not fetched."""
        return self._file(OutputLayout.REPORT)

    @property
    def export(self) -> Path | None:
        """Folder of the exported model; None if it was not fetched."""
        folder = self.folder / OutputLayout.EXPORT
        return folder if folder.is_dir() else None

    @property
    def scores(self) -> Scores | None:
        """The scores of the exported model; None when the job has no evaluation.

        Raises:
            UnreadableScoresError: The file holds no scores that this version reads.
        """
        path = self._file(OutputLayout.SCORES)
        return Scores.decode(path.read_bytes()) if path else None

    def _file(self, relative: str) -> Path | None:
        path = self.folder / relative
        return path if path in self.files else None


def is_grid(relative: str) -> bool:
    """Whether a path below the run's folder is a sample grid, or compares before and after."""
    return relative == OutputLayout.BEFORE_AFTER or relative.endswith(f"/{OutputLayout.GRID}")


def is_summary(relative: str) -> bool:
    """Whether a path is one of the small files that are fetched from any storage."""
    return is_grid(relative) or relative in (OutputLayout.SCORES, OutputLayout.REPORT)


def is_result(relative: str) -> bool:
    """Whether a path is anything but a checkpoint."""
    return not relative.startswith(f"{OutputLayout.CHECKPOINTS}/")


def newest_run_uid(
    storage: Storage, job: DreamBoothJob, select: Callable[[str], bool] = lambda _: True
) -> str:
    """The uid of the job's newest run: the one with the newest object in storage.

    A run with an object whose path below its folder is selected comes before all others.

    Raises:
        UserError: Storage holds no run of the job.
        StorageError: The storage cannot be read.
    """
    parent = output_layout(job).root.rpartition("/")[0]
    stored = [item for item in storage.list(parent) if "/" in item.relative]
    if not stored:
        raise UserError(f"{parent}: no run of {job.metadata.name} there; check spec.output")
    selected = [item for item in stored if select(item.relative.partition("/")[2])]
    return max(selected or stored, key=lambda item: item.modified).relative.partition("/")[0]


def fetch(
    storage: Storage, layout: OutputLayout, folder: Path, select: Callable[[str], bool]
) -> LocalResults:
    """Download the objects of a run whose relative paths are selected; there may be none.

    Raises:
        StorageError: The storage cannot be read.
    """
    try:
        return LocalResults(folder, storage.download_tree(layout.root, folder, select=select))
    except EmptyPrefixError:
        return LocalResults(folder, [])
