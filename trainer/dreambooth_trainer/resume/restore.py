"""The state that an attempt goes on from: its own run's, or that of `spec.resumeFrom`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_storage import ObjectNotFoundError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resume.own_run import check_config, check_contents
from dreambooth_trainer.resume.source import (
    FIELD,
    Source,
    config_differences,
    content_differences,
    find_source,
)
from dreambooth_trainer.training.module import ResumeState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """The state that an attempt goes on from, and the run that saved it."""

    state: ResumeState
    layout: OutputLayout
    """Paths of the run that saved it."""
    source: Source | None = None
    """That run, if it is another one (spec.resumeFrom)."""
    differences: tuple[str, ...] = ()
    """What differs between this job and that of the other run, one line each."""

    def source_record(self) -> dict[str, JsonValue] | None:
        """The other run's checkpoint and what differs, for run.json; None: it is its own."""
        if self.source is None:
            return None
        return {"checkpoint": self.source.checkpoint.uri, "differences": list(self.differences)}

    def check_contents(self, attempt: Attempt, hashes: Mapping[str, str]) -> "Restored":
        """Check model and images against those of the run; returns it with what differs.

        Collective.

        Args:
            attempt: The current one.
            hashes: sha256 by name, as run.json holds them.

        Raises:
            BadConfigError: The model has changed; within one run, the subject's images, too.
        """
        if self.source is None:
            check_contents(attempt, self.state.step, hashes)
            return self
        changed = content_differences(self.source, hashes)
        if changed:
            log.warning("%s: other files than those of the run: %s", FIELD, "; ".join(changed))
        return replace(self, differences=(*self.differences, *changed))


def restore(attempt: Attempt, store: CheckpointStore) -> Restored | None:
    """The newest state of the attempt's own run, else of the run that the job names. Collective.

    Args:
        attempt: The current one.
        store: The checkpoints of its own run, which it has claimed.

    Returns:
        The state; None: training begins with the base model.

    Raises:
        BadConfigError: The state belongs to another job, or the run that is named has none.
        StorageError: Storage fails or refuses.
    """
    restored = store.restore()
    store.check_owner()  # an attempt that lost its claim may have read a newer one's checkpoint
    if restored is not None:
        tensors, checkpoint = restored
        check_config(attempt, checkpoint.manifest)
        return Restored(ResumeState(checkpoint.step, tensors), attempt.layout)
    return _restore_from_source(attempt)


def _restore_from_source(attempt: Attempt) -> Restored | None:
    """The state of the run that the job names, which may still be training. Collective."""
    tried: Source | None = None
    while source := attempt.ranks.run_on_first(lambda: find_source(attempt.job, attempt.storage)):
        # Also for a run that the preflight has checked: it may have saved since.
        differences = config_differences(attempt.job, source)
        if tried and tried.checkpoint.uri == source.checkpoint.uri:
            raise BadConfigError(
                f"{FIELD}: {source.checkpoint.uri} is damaged; name another run, or remove {FIELD}"
            )
        # Only read: the other run is never claimed.
        store = CheckpointStore(attempt.storage, source.layout.checkpoints, attempt.ranks)
        # No newer one than was checked.
        restored = store.restore(source.checkpoint.folder, only=source.is_named)
        if restored is not None:
            tensors, checkpoint = restored
            log.info("going on from step %d of %s", checkpoint.step, source.layout.root)
            source = replace(source, checkpoint=checkpoint)
            state = ResumeState(checkpoint.step, tensors)
            return Restored(state, source.layout, source, tuple(differences))
        # A run that trains may have replaced it by a newer one while it was loaded.
        tried = source
    return None


def resume_history(attempt: Attempt, restored: Restored) -> None:
    """Continue the history of the run that is resumed. Rank 0 alone."""
    try:
        text = attempt.storage.read(restored.layout.history).decode()
    except ObjectNotFoundError:
        return
    attempt.telemetry.history.resume(text, restored.state.step)
