"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, on rank 0.

A tracker's failure never ends the training.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.results.tracking import Tracking, Wandb
from dreambooth_storage import Storage
from dreambooth_trainer.telemetry.mlflow import MLflow

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Records scalars and images of a run. Methods may raise anything: see `Trackers`."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of `step`, by name."""

    def images(self, step: int, grid: Image.Image) -> None:
        """A grid of samples of the model after `step` steps."""

    def sync(self) -> None:
        """Make everything logged so far durable. Called at checkpoints, from another thread."""

    def close(self, *, succeeded: bool) -> None:
        """End the run; nothing is logged after it."""


class TensorBoard:
    """Event files, uploaded to `uri`; methods raise `StorageError` when they cannot be."""

    def __init__(self, storage: Storage, uri: str, attempt: int) -> None:
        # Imported here: it takes a second, and most jobs have no tracker.
        from torch.utils.tensorboard import SummaryWriter

        self._storage, self._uri = storage, uri
        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # A file per attempt: TensorBoard reads all files of a folder as one run.
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".attempt-{attempt}")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars to the event file."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, grid: Image.Image) -> None:
        """Add the grid to the event file, under the tag `samples`."""
        pixels = np.asarray(grid.convert("RGB"))
        self._writer.add_image("samples", pixels, step, dataformats="HWC")

    def sync(self) -> None:
        """Upload the event files."""
        # Whole files each time, as objects cannot be appended to; they are small.
        self._writer.flush()
        self._storage.upload_tree(Path(self._folder.name), self._uri)

    def close(self, *, succeeded: bool) -> None:  # noqa: ARG002
        """Upload the event files, and delete their folder."""
        with self._folder:
            self._writer.close()
            self._storage.upload_tree(Path(self._folder.name), self._uri)


class WeightsAndBiases:
    """A W&B run; offline, its files are uploaded to `uri` for a later `wandb sync`.

    Raises:
        ValueError: The run is online, and WANDB_API_KEY is not set.
    """

    def __init__(
        self,
        settings: Wandb,
        storage: Storage,
        uri: str,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        # wandb itself would prompt for a key.
        if settings.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise ValueError(
                "WANDB_API_KEY is not set; name a Secret with it in spec.tracking.wandb.secretRef"
                " or use spec.tracking.wandb.mode: offline"
            )
        import wandb

        self._wandb, self._storage, self._uri = wandb, storage, uri
        self._offline = settings.mode == "offline"
        self._folder = tempfile.TemporaryDirectory(prefix="wandb-")
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            # A later attempt continues the run. Offline, wandb ignores `resume` with a warning.
            id=run_id,
            resume="allow" if settings.mode == "online" else None,
            name=name,
            config=dict(config),
            dir=self._folder.name,
            # Only what is logged here: no console output, code, git state or system metrics.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars; W&B sends them by itself."""
        self._run.log(dict(scalars), step=step)

    def images(self, step: int, grid: Image.Image) -> None:
        """Log the grid under the key `samples`; one of an earlier step, under `samples/step-N`."""
        # W&B drops what is logged at a step before its newest one, and keeps one value of a key
        # per step. The best checkpoint is sampled after the last.
        newest = max(step, self._run.step)
        key = "samples" if step == newest else f"samples/step-{step}"
        self._run.log({key: self._wandb.Image(grid)}, step=newest)

    def sync(self) -> None:
        """Do nothing: W&B sends in the background, and offline files are complete at the end."""

    def close(self, *, succeeded: bool) -> None:
        """End the run; upload the files of an offline one."""
        with self._folder:
            self._run.finish(exit_code=0 if succeeded else 1)
            if self._offline:
                self._storage.upload_tree(Path(self._folder.name) / "wandb", self._uri)


class Trackers:
    """All trackers of a job. One that raises is dropped, with a single warning."""

    def __init__(self) -> None:
        self._open: dict[str, Tracker] = {}

    def add(self, name: str, start: Callable[[], Tracker]) -> None:
        """Start one tracker; one that cannot be started is left out, with a warning."""
        try:
            self._open[name] = start()
        except Exception as error:
            log.warning("%s could not be started, the training goes on without it: %s", name, error)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of `step`, by name."""
        self._each(lambda tracker: tracker.log(step, scalars))

    def images(self, step: int, grid: Image.Image) -> None:
        """A grid of samples of the model after `step` steps."""
        self._each(lambda tracker: tracker.images(step, grid))

    def sync(self) -> None:
        """Make everything logged so far durable."""
        self._each(lambda tracker: tracker.sync())

    def close(self, *, succeeded: bool = True) -> None:
        """End all runs, as finished or as failed."""
        self._each(lambda tracker: tracker.close(succeeded=succeeded))
        self._open.clear()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                action(tracker)
            except Exception as error:
                self._open.pop(name, None)  # a checkpoint's thread may have done so
                log.warning("%s failed, the training goes on without it: %s", name, error)


def open_trackers(
    tracking: Tracking,
    storage: Storage,
    layout: OutputLayout,
    *,
    rank: int,
    attempt: int,
    run_id: str,
    name: str,
    config: Mapping[str, Any],
) -> Trackers:
    """Open the trackers of the job; none on ranks other than 0.

    Args:
        tracking: `spec.tracking`.
        storage: Stores the trackers' files.
        layout: The paths of the run.
        rank: This rank.
        attempt: Number of the attempt; each has an event file of its own.
        run_id: The same over all attempts, so that they continue one run.
        name: Of the job, for people.
        config: The resolved job, without secrets.
    """
    trackers = Trackers()
    if rank != 0:
        return trackers
    if tracking.tensorboard:
        trackers.add("TensorBoard", lambda: TensorBoard(storage, layout.tensorboard, attempt))
    if (wandb := tracking.wandb) is not None:
        trackers.add(
            "Weights & Biases",
            lambda: WeightsAndBiases(wandb, storage, layout.wandb, run_id, name, config),
        )
    if (mlflow := tracking.mlflow) is not None:
        trackers.add("MLflow", lambda: MLflow(mlflow, run_id, name, config))
    return trackers
