"""Saves by the path that training takes, one at a time, and states read back."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from dreambooth_storage import Storage, Written
from dreambooth_trainer.checkpoint import BackgroundSaver, CheckpointRef, CheckpointStore
from dreambooth_trainer.checkpoint.shards import read_state
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology


class RecordingListener:
    """A `SaveListener` that keeps what it is called with."""

    def __init__(self) -> None:
        self.commits = 0
        self.steps: list[int] = []
        self.seconds: list[float] = []
        self.errors: list[Exception] = []
        self.waits: list[float] = []

    def checkpoint_committed(self) -> None:
        self.commits += 1

    def checkpoint_saved(self, reference: CheckpointRef, seconds: float) -> None:
        self.steps.append(reference.step)
        self.seconds.append(seconds)

    def save_failed(self, error: Exception) -> None:
        self.errors.append(error)

    def training_waited(self, seconds: float) -> None:
        self.waits.append(seconds)


class InlineUploads:
    """Uploads in this process, so that a test can say how storage behaves."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def set_descriptors(self, descriptors: Sequence[int]) -> None:
        pass

    def start(self) -> None:
        pass

    def upload(
        self, files: Sequence[tuple[int, str]], on_progress: Callable[[], None]
    ) -> list[Written]:
        on_progress()
        return [self._storage.stream(f"/proc/self/fd/{number}", uri) for number, uri in files]

    def close(self) -> None:
        pass


def rank_of(attempt: int) -> Ranks:
    """A single rank of an attempt."""
    return Ranks(Topology(attempt=attempt))


def save(
    storage: Storage,
    store: CheckpointStore,
    step: int,
    tensors: Mapping[str, Tensor],
    *,
    loss: float | None = None,
    keep: int = 99,
) -> CheckpointRef:
    """Save a state as the last one of an attempt is: wait until it is durable. Collective."""
    uploads, listener = InlineUploads(storage), RecordingListener()
    with BackgroundSaver(store, uploads, keep=keep, listener=listener) as saver:
        return saver.finish(step, tensors, loss=loss)


def load(store: CheckpointStore, ref: CheckpointRef) -> dict[str, Tensor]:
    """The state of a checkpoint; raises `DamagedCheckpointError`."""
    return read_state(store._storage, ref)
