"""The run that a job goes on from (spec.resumeFrom), and how its job differs.

Whoever names a run wants to go on from it in spite of what has changed: a lower learning rate,
more images, more steps. The differences are listed. Refused is only what the state cannot hold:
other trained weights, another base model, fewer steps than were done.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_storage import Storage, join
from dreambooth_trainer.checkpoint import CheckpointRef, CheckpointStore
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.fingerprint import SHAPES, WORDS, changed_files, changes_since
from dreambooth_trainer.resume.run_record import read_run_record

FIELD = "spec.resumeFrom"
CHECKPOINT = re.compile(r"(?P<root>.+)/checkpoints(/(?P<folder>step-[0-9]{8}-claim-[0-9]{4,8}))?")
"""The folder of a run's checkpoints, or of one of them (see `CheckpointStore`)."""


@dataclass(frozen=True)
class Source:
    """The run that a job goes on from."""

    layout: OutputLayout
    checkpoint: CheckpointRef
    """Its newest complete checkpoint, the one that the job names, or the one that was loaded."""
    is_named: bool
    """Whether the job names the checkpoint: no other one will do."""
    record: dict[str, Any] | None
    """Its run.json; None: it is missing."""


def find_source(job: DreamBoothJob, storage: Storage) -> Source | None:
    """The run that a job names in `spec.resumeFrom`; None when it names none.

    Raises:
        BadConfigError: There is no such run, or it has no such checkpoint.
        StorageError: Storage fails or refuses.
    """
    given = job.spec.resume_from
    if given is None:
        return None
    folder: str | None = None
    if given.uri:
        root = given.uri.rstrip("/")
        if match := CHECKPOINT.fullmatch(root):
            root, folder = match["root"], match["folder"]
        layouts, where = [OutputLayout(root)], f"{FIELD}.uri: {given.uri}"
    else:
        layouts = list(_runs(job, given.job or "", storage))
        parent = join(job.spec.output, job.metadata.namespace, given.job or "")
        where = f"{FIELD}.job: {given.job}: {parent}/"
    newest = _newest(layouts, storage, folder)
    if newest is None:
        raise BadConfigError(
            f"{where} holds no complete checkpoint of another run; correct it, or remove"
            f" {FIELD} to train from the base model"
        )
    layout, checkpoint = newest
    record = read_run_record(storage, layout)
    return Source(layout, checkpoint, folder is not None, record)


def _runs(job: DreamBoothJob, name: str, storage: Storage) -> Iterator[OutputLayout]:
    """The runs of a job of that name, below the output of this job; its own run is left out."""
    output, namespace = job.spec.output, job.metadata.namespace
    parent = join(output, namespace, name)
    log = f"/{OutputLayout.CHECKPOINTS}/"
    listing = storage.list(parent, field=f"{FIELD}.job")
    for uid in sorted({o.relative.partition("/")[0] for o in listing if log in o.relative}):
        layout = OutputLayout.of(output, namespace, name, uid)
        if layout != output_layout(job):
            yield layout


def _newest(
    layouts: list[OutputLayout], storage: Storage, folder: str | None
) -> tuple[OutputLayout, CheckpointRef] | None:
    """The run whose newest checkpoint was committed last, and that checkpoint."""
    found = []
    for layout in layouts:
        refs = CheckpointStore(storage, layout.checkpoints).checkpoints()
        refs = [ref for ref in refs if folder in (None, ref.folder)]
        if refs:
            found.append((layout, refs[0]))
    # RFC 3339 in UTC to the second: times compare as texts.
    return max(found, key=lambda each: each[1].manifest.time, default=None)


def config_differences(job: ResolvedJob, source: Source) -> list[str]:
    """One line for each setting that differs between a job and that of its source.

    Raises:
        BadConfigError: The job cannot go on from this state, whatever is wanted.
    """
    step, steps = source.checkpoint.step, job.spec.training.steps
    if step > steps:
        raise BadConfigError(
            f"spec.training.steps: {steps}, but {FIELD} goes on from step {step}; use more than"
            f" {step}"
        )
    if source.record is None:
        return ["spec: unknown, as run.json is missing"]
    changed = changes_since(source.record["job"], job)
    # A line names a field, or an entry of one that is a map.
    shapes = tuple(f"{name}{end}" for name in SHAPES for end in ":.")
    if refused := [each for each in changed if each.startswith(shapes) or WORDS.match(each)]:
        raise BadConfigError(
            f"{FIELD}: {source.checkpoint.uri} holds other trained weights; set these fields as"
            f" they were, or remove {FIELD}:\n" + "\n".join(f"  {line}" for line in refused)
        )
    return changed


def content_differences(source: Source, hashes: Mapping[str, str]) -> list[str]:
    """One line for each image or caption file that differs from those of the source.

    Args:
        source: The run that the job goes on from.
        hashes: sha256 by name, as run.json holds them.

    Raises:
        BadConfigError: The base model is another one.
    """
    then = source.record["hashes"] if source.record else {}
    if then and then.get("model") != hashes["model"]:
        raise BadConfigError(
            f"spec.model: the base model has other weights than that of {source.layout.root};"
            f" name the same model, or remove {FIELD}"
        )
    return changed_files(then, hashes) if then else []
