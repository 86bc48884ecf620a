"""A rank's copies of the state in host memory: one is uploaded while the other is filled."""

from collections.abc import Callable, Mapping
from concurrent.futures import wait

from torch import Tensor

from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint.manifest import Shard
from dreambooth_trainer.checkpoint.shards import shard_entry
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.checkpoint.store import CheckpointStore
from dreambooth_trainer.checkpoint.task import BackgroundTask


class StagingBuffers:
    """Two buffers for a state whose tensors keep their names, shapes and dtypes.

    Args:
        store: Says where shards are stored.
        uploads: The upload process; it is closed with the buffers.
    """

    def __init__(self, store: CheckpointStore, uploads: UploadProcess) -> None:
        self._store = store
        self._uploads = uploads
        self._buffers: list[Staging] = []
        self._preparation = BackgroundTask(lambda: None)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate memory for such a state and start the upload process, in the background.

        Raises:
            OSError: Anonymous files for the state cannot be created.
        """
        self._buffers = [Staging(self._store.layouts(tensors)) for _ in range(2)]
        self._uploads.set_descriptors([s.descriptor for b in self._buffers for s in b.shards])
        self._preparation = BackgroundTask(self._allocate)

    def _allocate(self) -> None:
        self._buffers[0].allocate()  # the second is allocated when it is first filled
        self._uploads.start()

    def fill(self, tensors: Mapping[str, Tensor], *, used: Staging | None) -> Staging:
        """Copy this rank's part of the state to the buffer that is not `used`.

        Raises:
            OSError: There is not enough memory.
        """
        if not self._buffers:
            self.prepare(tensors)
        self._preparation.future.result()
        free = next(buffer for buffer in self._buffers if buffer is not used)
        free.fill(tensors)
        return free

    def upload(self, staging: Staging, step: int, record_answer: Callable[[], None]) -> list[Shard]:
        """Store the shards of a filled buffer; `record_answer` is called when storage answers.

        Raises:
            StorageError: Storage fails.
        """
        staging.wait()  # here, in the background: copies from the GPU were only queued
        files = [(s.descriptor, self._store.shard_uri(step, s.layout)) for s in staging.shards]
        written = self._uploads.upload(files, record_answer)
        return [shard_entry(s.layout, w) for s, w in zip(staging.shards, written, strict=True)]

    def close(self) -> None:
        """End the upload process, and free the memory."""
        # The preparation allocates what is freed below, and may still be starting the process.
        wait([self._preparation.future])
        self._uploads.close()
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []
