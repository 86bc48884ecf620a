"""Which attempt may write: a log of claims and commits, each entry a conditional put.

    checkpoints/log/00000000.json   claim   attempt 0
    checkpoints/log/00000001.json   commit  attempt 0, step 500
    checkpoints/log/00000002.json   claim   attempt 1    <- attempt 0 never gets past this

A writer knows the number of the last entry that it has seen, and writes its next entry at the next
number, on the condition that nothing exists there. A superseded attempt therefore collides with the
newer claim, however long it paused between reading and writing: there is no window between a check
and a write. Claims are never deleted, so their numbers stay taken. Commits are deleted with their
checkpoints. At worst, a put that was sent before the claim arrives late and fills the gap of a
deleted commit; it then names shards that no longer exist, and readers skip it.
"""

import logging
import re
import secrets
from collections.abc import Sequence

from dreambooth_api.contract.times import now, rfc3339
from dreambooth_storage import (
    AlreadyExistsError,
    ChecksumMismatchError,
    ObjectNotFoundError,
    Storage,
    StoredObject,
    join,
)
from dreambooth_trainer.checkpoint.manifest import DamagedCheckpointError, Entry, read_entry
from dreambooth_trainer.process.errors import FencedError

log = logging.getLogger(__name__)

LOG = "log"
_NAME = re.compile(rf"{LOG}/([0-9]{{8}})\.json")


class Fence:
    """One attempt's right to commit below `prefix`, a URI. Used by rank 0 alone.

    Methods that access storage raise `StorageError`.
    """

    def __init__(self, storage: Storage, prefix: str, attempt: int) -> None:
        self._storage = storage
        self._prefix = prefix
        self._attempt = attempt
        # Distinguishes processes of one attempt: a pod may be replaced within its attempt.
        self._token = secrets.token_hex(8)
        self._last = -1
        self.claimed: int | None = None

    def claim(self) -> int:
        """Take over from every attempt before this one; returns the number of the claim.

        Raises:
            FencedError: A higher attempt has claimed the prefix already.
        """
        while True:
            entries = self.entries(self._storage.list(self._prefix, field="spec.output"))
            self._refuse_newer(entries)
            self._last = max(entries, default=-1)
            try:
                self.claimed = self._append("claim", claim=self._last + 1)
            except AlreadyExistsError:
                continue  # another attempt was faster: look again
            return self.claimed

    def commit(self, step: int, folder: str, manifest_sha256: str) -> int:
        """Commit the checkpoint in `folder`; returns the number of the entry.

        Raises:
            FencedError: A newer attempt has claimed the prefix.
        """
        if self.claimed is None:
            raise RuntimeError("claim() comes before commit()")
        details = {"step": step, "folder": folder, "manifest_sha256": manifest_sha256}
        try:
            return self._append("commit", claim=self.claimed, **details)
        except AlreadyExistsError as error:
            raise FencedError(self._overtaken()) from error

    def check(self, entries: dict[int, Entry]) -> None:
        """Raise `FencedError` when `entries` hold a claim newer than this attempt's."""
        if self.claimed is None:
            raise RuntimeError("claim() comes before check()")
        if any(e.kind == "claim" and n > self.claimed for n, e in entries.items()):
            raise FencedError(self._overtaken())

    def entries(self, listing: Sequence[StoredObject]) -> dict[int, Entry]:
        """The log's readable entries by number, from a listing of the prefix.

        Raises:
            UnknownFormatError: An entry is of another format version.
        """
        uris = {int(m[1]): o.uri for o in listing if (m := _NAME.fullmatch(o.relative))}
        entries = {}
        for number, uri in sorted(uris.items()):
            try:
                # One may be deleted since the listing: another attempt prunes.
                entries[number] = read_entry(self._storage.read(uri, field="spec.output"), uri)
            except (DamagedCheckpointError, ObjectNotFoundError, ChecksumMismatchError) as error:
                log.warning("%s; it is skipped", error)
        return entries

    def uri(self, number: int) -> str:
        """URI of entry `number`."""
        return join(self._prefix, LOG, f"{number:08d}.json")

    def _append(self, kind: str, **details: object) -> int:
        """Write the next entry; returns its number.

        Raises:
            AlreadyExistsError: Another writer has taken the number.
        """
        fields = {
            "kind": kind,
            "attempt": self._attempt,
            "token": self._token,
            "time": rfc3339(now()),
        }
        entry = Entry.model_validate({**fields, **details})
        while True:
            number = self._last + 1
            try:
                self._storage.write(self.uri(number), entry.encode(), only_if_absent=True)
            except AlreadyExistsError:
                # This writer itself may have taken it, with a put whose response was lost.
                present = read_entry(self._storage.read(self.uri(number)), self.uri(number))
                if present.token != self._token:
                    raise
                self._last = number
                if present != entry:  # an earlier entry of this writer: go on to the next number
                    continue
            self._last = number
            return number

    def _refuse_newer(self, entries: dict[int, Entry]) -> None:
        newest = max((e.attempt for e in entries.values() if e.kind == "claim"), default=-1)
        if newest > self._attempt:
            raise FencedError(
                f"attempt {self._attempt} comes too late: attempt {newest} already owns"
                f" {self._prefix}; this process writes nothing and stops"
            )

    def _overtaken(self) -> str:
        return (
            f"a newer claim has taken {self._prefix} over from attempt {self._attempt};"
            " this process writes nothing more and stops. What it had committed stays valid"
        )
