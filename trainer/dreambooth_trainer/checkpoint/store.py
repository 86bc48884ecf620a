"""Checkpoints of one run in object storage.

    <prefix>/step-00000500-claim-0003/shard-00000-of-00002.safetensors   each rank writes its part
                                      manifest.json    sizes and sha256 of the shards
    <prefix>/log/00000007.json        the commit, written last (see `fence`)

A checkpoint exists when its commit does. Folders belong to one claim, so no attempt ever
overwrites what another wrote. All ranks hold the same state (DDP). What is collective says so,
and raises the same error on every rank.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from pydantic import JsonValue
from torch import Tensor

from dreambooth_api.contract.times import now, rfc3339
from dreambooth_storage import (
    ChecksumMismatchError,
    ObjectNotFoundError,
    Storage,
    StorageError,
    StoredObject,
    join,
)
from dreambooth_trainer.checkpoint import split
from dreambooth_trainer.checkpoint.agreement import Agreement, Gather
from dreambooth_trainer.checkpoint.fence import Fence
from dreambooth_trainer.checkpoint.layout import Layout, lay_out
from dreambooth_trainer.checkpoint.manifest import (
    CheckpointRef,
    DamagedCheckpointError,
    Draft,
    Entry,
    Manifest,
    Shard,
    read_manifest,
)
from dreambooth_trainer.checkpoint.retention import is_doomed, kept
from dreambooth_trainer.checkpoint.shards import read_state, write_shard

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MAX_SHARD = 512 * 2**20
"""Bytes. Shards are held in memory, so this bounds what saving and loading need beside the state
itself.
"""


class CheckpointStore:
    """Saves, finds, loads and removes the checkpoints below `prefix_uri`.

    `gather(obj)` returns every rank's object in rank order, on every rank. `fingerprint`
    identifies the config that the states belong to; it is kept in the manifests.
    """

    def __init__(
        self,
        storage: Storage,
        prefix_uri: str,
        *,
        attempt: int = 0,
        rank: int = 0,
        world_size: int = 1,
        gather: Gather = lambda value: [value],
        fingerprint: str = "",
        max_shard: int = MAX_SHARD,
    ) -> None:
        self._storage = storage
        self._prefix = prefix_uri
        self._attempt = attempt
        self.rank = rank
        self.world_size = world_size
        self.agreement = Agreement(rank, gather)
        self._fingerprint = fingerprint
        self._max_shard = max_shard
        self._fence = Fence(storage, prefix_uri, attempt)
        self._claim: int | None = None
        self._saved: CheckpointRef | None = None
        self._damaged: set[int] = set()

    def claim(self) -> None:
        """Own the prefix from now on. Collective; comes before `restore` and `save`.

        Raises FencedError when a higher attempt has claimed it.
        """
        self._claim = self.agreement.on_first(self._fence.claim)

    @property
    def _own_claim(self) -> int:
        if self._claim is None:
            raise RuntimeError("claim() comes before save(), retain() and check_owner()")
        return self._claim

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        info: Mapping[str, JsonValue],
        *,
        loss: float | None = None,
    ) -> CheckpointRef:
        """Write the state after `step` optimizer steps, make it count, and wait. Collective.

        `tensors` must be the same on every rank; each rank writes an even part of the bytes.
        `info` is what else is needed to go on. Saving a step again is free. Raises FencedError when a
        newer attempt owns the prefix. `Saves` does the same while training goes on.
        """
        if self._saved is not None and self._saved.step == step:
            return self._saved
        draft = self.draft(step, tensors, info, loss)
        written = self.agreement.together(
            lambda: [
                write_shard(self._storage, self.uri_of(step, layout), layout, tensors)
                for layout in self.layouts(tensors)
            ]
        )
        shards = [shard for part in written for shard in part]
        self._saved = self.agreement.on_first(lambda: self.commit(draft, shards))
        return self._saved

    def draft(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        info: Mapping[str, JsonValue],
        loss: float | None,
    ) -> Draft:
        """What the manifest will say of `tensors`."""
        finite = loss if loss is not None and math.isfinite(loss) else None
        return Draft(step, len(tensors), split.payload(tensors.values()), info, finite)

    def layouts(self, tensors: Mapping[str, Tensor]) -> list[Layout]:
        """This rank's shards: an even part of the bytes of all ranks' state."""
        total = split.payload(tensors.values())
        per_rank = max(math.ceil(total / self.world_size / self._max_shard), 1)
        count = per_rank * self.world_size
        plan = split.split(tensors, count)
        mine = range(self.rank * per_rank, (self.rank + 1) * per_rank)
        return [
            lay_out(f"shard-{i:05d}-of-{count:05d}.safetensors", tensors, plan[i]) for i in mine
        ]

    def uri_of(self, step: int, layout: Layout) -> str:
        """Where a shard of `step` belongs."""
        return join(self._prefix, self._folder(step), layout.name)

    def _folder(self, step: int) -> str:
        return f"step-{step:08d}-claim-{self._own_claim:04d}"

    def commit(self, draft: Draft, shards: Sequence[Shard]) -> CheckpointRef:
        """Make the checkpoint count whose shards are stored, all ranks' in order. Rank 0 alone."""
        manifest = Manifest(
            step=draft.step,
            attempt=self._attempt,
            claim=self._own_claim,
            world_size=self.world_size,
            time=rfc3339(now()),
            fingerprint=self._fingerprint,
            loss=draft.loss,
            tensors=draft.tensors,
            payload_bytes=draft.payload_bytes,
            total_bytes=sum(shard.size for shard in shards),
            shards=list(shards),
            info=dict(draft.info),
        )
        data, folder = manifest.encode(), self._folder(draft.step)
        self._storage.write(join(self._prefix, folder, MANIFEST), data)
        number = self._fence.commit(draft.step, folder, hashlib.sha256(data).hexdigest())
        return CheckpointRef(draft.step, join(self._prefix, folder), number, manifest)

    def checkpoints(self) -> list[CheckpointRef]:
        """Committed checkpoints whose manifest verifies and whose shards have their sizes, newest
        first.
        """
        listing = self._list()
        return self._complete(listing, self._fence.entries(listing))

    def _list(self) -> list[StoredObject]:
        return self._storage.list(self._prefix, field="spec.output")

    def latest(self) -> CheckpointRef | None:
        """The newest of `checkpoints()`. What the shards hold is verified by `load`."""
        return next(iter(self.checkpoints()), None)

    def _complete(
        self, listing: Iterable[StoredObject], entries: Mapping[int, Entry]
    ) -> list[CheckpointRef]:
        sizes = {o.relative: o.size for o in listing}
        found = []
        for number, entry in entries.items():
            if entry.kind == "commit":
                try:
                    found.append(self._ref(number, entry, sizes))
                except (
                    DamagedCheckpointError,
                    ObjectNotFoundError,
                    ChecksumMismatchError,
                ) as error:
                    log.warning("%s; this checkpoint is passed over", error)
        return sorted(found, key=lambda ref: (ref.step, ref.number), reverse=True)

    def _ref(self, number: int, entry: Entry, sizes: Mapping[str, int]) -> CheckpointRef:
        if entry.folder is None or f"{entry.folder}/{MANIFEST}" not in sizes:
            raise DamagedCheckpointError(
                f"{self._fence.uri(number)}: the manifest of its checkpoint is missing"
            )
        where = join(self._prefix, entry.folder, MANIFEST)
        data = self._storage.read(where, field="spec.output")
        if hashlib.sha256(data).hexdigest() != entry.manifest_sha256:
            raise DamagedCheckpointError(f"{where} is not the manifest that was committed")
        manifest = read_manifest(data, where)
        for shard in manifest.shards:
            found = sizes.get(f"{entry.folder}/{shard.name}")
            if found != shard.size:
                state = "missing" if found is None else f"{found} bytes long"
                raise DamagedCheckpointError(
                    f"{join(self._prefix, entry.folder, shard.name)} is {state}, not {shard.size}"
                )
        return CheckpointRef(manifest.step, join(self._prefix, entry.folder), number, manifest)

    def load(self, ref: CheckpointRef) -> dict[str, Tensor]:
        """The whole state, on the CPU. Raises Damaged when a shard is not what was written."""
        return read_state(self._storage, ref.uri, ref.manifest)

    def restore(self) -> tuple[dict[str, Tensor], Manifest] | None:
        """The newest state that verifies on every rank, None when there is none. Collective."""
        for ref in self.agreement.on_first(self.checkpoints):
            tensors, problem = self._together_or_damaged(ref)
            if tensors is not None:
                return tensors, ref.manifest
            self._damaged.add(ref.number)
            log.warning("cannot resume from step %d, trying the one before: %s", ref.step, problem)
        return None

    def _together_or_damaged(
        self, ref: CheckpointRef
    ) -> tuple[dict[str, Tensor] | None, str | None]:
        """Load on every rank, or on none: then the first rank's problem."""
        tensors: dict[str, Tensor] | None = None

        def attempt() -> str | None:
            nonlocal tensors
            try:
                tensors = self.load(ref)
            except DamagedCheckpointError as error:
                return str(error)
            return None

        problem = next((p for p in self.agreement.together(attempt) if p is not None), None)
        return (tensors if problem is None else None), problem

    def check_owner(self) -> None:
        """Raise FencedError when a newer attempt has claimed the prefix. Collective.

        For results that are not commits, such as an export: it is a look, not a lock.
        """
        self.agreement.on_first(lambda: self._fence.check(self._fence.entries(self._list())))

    def retain(self, keep: int) -> None:
        """Keep the newest `keep` complete checkpoints and the best one (see `retention`); delete
        the others, and what dead attempts left. Collective.

        Only what this attempt or earlier ones wrote is touched, so a process that was claimed over
        cannot delete a newer attempt's work. Raises FencedError when it finds that it was. Storage that
        refuses to delete costs space, not the training: that is a warning.
        """
        self.agreement.on_first(lambda: self.sweep(keep))

    def sweep(self, keep: int) -> None:
        """`retain`, on rank 0 alone."""
        try:
            listing = self._list()
            entries = self._fence.entries(listing)
            self._fence.check(entries)
            good = [r for r in self._complete(listing, entries) if r.number not in self._damaged]
            stay, newest = kept(good, keep), max((ref.step for ref in good), default=0)
            doomed = partial(is_doomed, kept=stay, newest=newest, claim=self._own_claim)
            # The commit goes first: a deletion cut short leaves debris, not a broken checkpoint.
            self._storage.delete(self._commits_but(stay, entries))
            self._storage.delete([o.uri for o in listing if doomed(o.relative)])
        except StorageError as error:
            log.warning("older checkpoints could not be deleted: %s", error)
        else:
            self._abandon(doomed)

    def _abandon(self, doomed: Callable[[str], bool]) -> None:
        """Not every server lists unfinished uploads, nor does every key allow it."""
        try:
            self._storage.abort_unfinished(self._prefix, doomed)
        except StorageError as error:
            log.debug("unfinished uploads of dead attempts could not be freed: %s", error)

    def _commits_but(self, stay: set[str], entries: Mapping[int, Entry]) -> list[str]:
        """URIs of this attempt's and earlier ones' commits of other folders than `stay`."""
        return [
            self._fence.uri(number)
            for number, entry in entries.items()
            if entry.kind == "commit"
            and entry.claim <= self._own_claim
            and entry.folder not in stay
        ]
