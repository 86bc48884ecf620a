"""Checkpoints of one run in object storage.

    <prefix>/step-00000500-claim-0003/shard-00000-of-00002.safetensors   written by its rank
                                      manifest.json    sizes and sha256 of the shards
    <prefix>/log/00000007.json        the commit, written last (see `fence`)

A checkpoint exists once its commit does. Each folder belongs to one claim, so no attempt overwrites
the files of another. All ranks hold the same state (DDP). Methods that are collective are marked as
such, and raise the same error on every rank.
"""

import hashlib
import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

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
from dreambooth_trainer.checkpoint.fence import Fence
from dreambooth_trainer.checkpoint.layout import Layout, plan_layout
from dreambooth_trainer.checkpoint.load import load_on_all
from dreambooth_trainer.checkpoint.manifest import (
    CheckpointRef,
    DamagedCheckpointError,
    Entry,
    Manifest,
    PendingManifest,
    Shard,
    read_manifest,
)
from dreambooth_trainer.checkpoint.retention import (
    ChooseStep,
    choose_none,
    is_deletable,
    kept_folders,
)
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MAX_SHARD_BYTES = 512 * 2**20
"""A shard is read as a whole, so this bounds the memory that loading needs on top of the state."""


class CheckpointStore:
    """Commits, finds, loads and deletes the checkpoints below `prefix`.

    Args:
        storage: Storage of the checkpoints.
        prefix: URI of their folder.
        ranks: All ranks of the attempt. By default, a single rank of attempt 0, for reading.
        fingerprint: Identifies the config that the states belong to; it is part of the manifests.
            It may be set later, before the first commit.
        max_shard: Bytes of the largest shard.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        ranks: Ranks | None = None,
        *,
        fingerprint: str = "",
        max_shard: int = MAX_SHARD_BYTES,
    ) -> None:
        self.ranks = ranks or Ranks(Topology())
        self._storage = storage
        self._prefix = prefix
        self.fingerprint = fingerprint
        self._max_shard = max_shard
        self._fence = Fence(storage, prefix, self.ranks.topology.attempt)
        # The fence knows the claim on rank 0 alone; every rank needs it for its shards' URIs.
        self._claim: int | None = None
        self._damaged: set[int] = set()

    def claim(self) -> None:
        """Own the prefix from now on. Collective; comes before `restore` and every save.

        Raises:
            FencedError: A higher attempt has claimed it.
        """
        self._claim = self.ranks.run_on_first(self._fence.claim)

    @property
    def _own_claim(self) -> int:
        if self._claim is None:
            raise RuntimeError("claim() comes before saves and check_owner()")
        return self._claim

    def layouts(self, tensors: Mapping[str, Tensor]) -> list[Layout]:
        """This rank's shards: an even part of the bytes of the state that all ranks hold."""
        topology, total = self.ranks.topology, split.payload(tensors.values())
        per_rank = max(math.ceil(total / topology.world_size / self._max_shard), 1)
        count = per_rank * topology.world_size
        plan = split.split(tensors, count)
        own = range(topology.rank * per_rank, (topology.rank + 1) * per_rank)
        return [
            plan_layout(f"shard-{i:05d}-of-{count:05d}.safetensors", tensors, plan[i]) for i in own
        ]

    def shard_uri(self, step: int, layout: Layout) -> str:
        """URI of a shard of the checkpoint of `step`; raises `RuntimeError` before `claim`."""
        return join(self._prefix, self._folder(step), layout.name)

    def _folder(self, step: int) -> str:
        return f"step-{step:08d}-claim-{self._own_claim:04d}"

    def commit(self, pending: PendingManifest, shards: Sequence[Shard]) -> CheckpointRef:
        """Write the manifest and the commit of a checkpoint. Rank 0 alone.

        Args:
            pending: The manifest without its shards.
            shards: Those of all ranks in order; all are stored.

        Raises:
            FencedError: A newer attempt owns the prefix.
        """
        topology = self.ranks.topology
        manifest = Manifest(
            step=pending.step,
            attempt=topology.attempt,
            claim=self._own_claim,
            world_size=topology.world_size,
            time=rfc3339(now()),
            fingerprint=self.fingerprint,
            loss=pending.loss,
            tensors=pending.tensors,
            payload_bytes=pending.payload_bytes,
            total_bytes=sum(shard.size for shard in shards),
            shards=list(shards),
        )
        # The log's entry holds the manifest's digest, which covers the shards' digests: a manifest
        # that is overwritten later does not match its commit.
        data, folder = manifest.encode(), self._folder(pending.step)
        self._storage.write(join(self._prefix, folder, MANIFEST), data)
        number = self._fence.commit(pending.step, folder, hashlib.sha256(data).hexdigest())
        return CheckpointRef(pending.step, join(self._prefix, folder), number, manifest)

    def checkpoints(self) -> list[CheckpointRef]:
        """The complete checkpoints, newest first.

        They are committed, their manifest is intact, and their shards have the right sizes in
        bytes; `restore` verifies the shards' content.
        """
        listing = self._list()
        return self._complete(listing, self._fence.entries(listing))

    def _list(self) -> list[StoredObject]:
        return self._storage.list(self._prefix, field="spec.output")

    def _complete(
        self, listing: Iterable[StoredObject], entries: Mapping[int, Entry]
    ) -> list[CheckpointRef]:
        sizes = {o.relative: o.size for o in listing}
        complete = []
        for number, entry in entries.items():
            if entry.kind == "commit":
                try:
                    complete.append(self._ref(number, entry, sizes))
                except (
                    DamagedCheckpointError,
                    ObjectNotFoundError,
                    ChecksumMismatchError,
                ) as error:
                    log.warning("%s; this checkpoint is skipped", error)
        return sorted(complete, key=lambda ref: (ref.step, ref.number), reverse=True)

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
            size = sizes.get(f"{entry.folder}/{shard.name}")
            if size != shard.size:
                state = "missing" if size is None else f"{size} bytes long"
                raise DamagedCheckpointError(
                    f"{join(self._prefix, entry.folder, shard.name)} is {state}, not {shard.size}"
                )
        return CheckpointRef(manifest.step, join(self._prefix, entry.folder), number, manifest)

    def restore(
        self, newest: str | None = None, *, only: bool = False
    ) -> tuple[dict[str, Tensor], CheckpointRef] | None:
        """The newest state that verifies on every rank; None: there is none. Collective.

        Args:
            newest: Name of a checkpoint's folder, such as `step-00000500-claim-0003`: newer ones,
                which another process may have saved since, are passed over.
            only: No older one than `newest` will do.

        Raises:
            StorageError: Storage fails, which does not mean that a checkpoint is damaged.
            UnknownFormatError: A checkpoint is of another format version.
        """
        refs = self.ranks.run_on_first(self.checkpoints)
        if newest is not None:
            refs = list(itertools.dropwhile(lambda ref: ref.folder != newest, refs))
        for ref in refs[:1] if only else refs:
            tensors, problem = load_on_all(self._storage, ref, self.ranks)
            if tensors is not None:
                return tensors, ref
            self._damaged.add(ref.number)
            log.warning("cannot resume from step %d, trying the one before: %s", ref.step, problem)
        return None

    def load_best(self, choose: ChooseStep, group: str) -> tuple[dict[str, Tensor], int] | None:
        """What the state with the best scores has of a group, and its step. Collective.

        Args:
            choose: Chooses a step; a state that does not verify on every rank is passed over.
            group: Of the tensors that are needed, see `DreamBooth.state`; a state is thrice as
                large with those of the optimizer.

        Returns:
            None: `choose` has chosen none.

        Raises:
            StorageError: Storage fails, which does not mean that a checkpoint is damaged.
        """
        refs = self.ranks.run_on_first(self.checkpoints)
        while (best := choose({ref.step for ref in refs})) is not None:
            for ref in (each for each in refs if each.step == best):
                tensors, problem = load_on_all(self._storage, ref, self.ranks, group)
                if tensors is not None:
                    return tensors, best
                log.warning("the best checkpoint, of step %d, cannot be used: %s", best, problem)
            refs = [ref for ref in refs if ref.step != best]
        return None

    def check_owner(self) -> None:
        """Check that no newer attempt owns the prefix. Collective.

        For results that are not commits, such as an export. It is no lock: an attempt may claim the
        prefix immediately afterwards.

        Raises:
            FencedError: A newer attempt owns it.
        """
        self.ranks.run_on_first(lambda: self._fence.check(self._fence.entries(self._list())))

    def prune(self, keep: int, choose: ChooseStep = choose_none) -> None:
        """Delete old checkpoints, and what killed attempts left behind. Rank 0 alone.

        The newest `keep` complete checkpoints stay, and the best ones (see `retention`). Nothing of
        a later claim is touched, so a superseded process cannot delete a newer attempt's work. When
        storage refuses to delete, a warning is logged and training goes on.

        Raises:
            FencedError: A newer attempt owns the prefix.
        """
        try:
            listing = self._list()
            entries = self._fence.entries(listing)
            self._fence.check(entries)
            # A checkpoint that was found damaged must not count as one of the `keep` newest.
            intact = [r for r in self._complete(listing, entries) if r.number not in self._damaged]
            kept = kept_folders(intact, keep, choose)
            newest = max((ref.step for ref in intact), default=0)
            deletable = partial(is_deletable, kept=kept, newest_step=newest, claim=self._own_claim)
            # Commits go first: an interrupted deletion leaves files without a commit, which the
            # next one removes, and not a damaged checkpoint.
            self._storage.delete(self._old_commits(entries, kept))
            self._storage.delete([o.uri for o in listing if deletable(o.relative)], folders=True)
        except StorageError as error:
            log.warning("older checkpoints could not be deleted: %s", error)
            return
        try:
            self._storage.abort_unfinished(self._prefix, deletable)
        except (
            StorageError
        ) as error:  # not every server lists unfinished uploads, or lets every key
            log.debug("unfinished uploads of dead attempts could not be aborted: %s", error)

    def _old_commits(self, entries: Mapping[int, Entry], kept: set[str]) -> list[str]:
        """URIs of the commits, of this claim and earlier ones, of folders that are not kept."""
        return [
            self._fence.uri(number)
            for number, entry in entries.items()
            if entry.kind == "commit"
            and entry.claim <= self._own_claim
            and entry.folder not in kept
        ]
