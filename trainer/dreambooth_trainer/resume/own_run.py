"""Checks that an attempt may resume from a checkpoint of its own run.

It must be one that the job would have reached. run.json records what a state depends on: the
resolved job, and the hashes of model, images and captions. When the current job differs, resuming
would give a result that no job file describes. That is refused, with a list of the differences.
"""

import logging
from collections.abc import Mapping, Sequence

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import Manifest
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resume.fingerprint import (
    CLASS_IMAGES,
    changed_files,
    changes_since,
    fingerprint,
)
from dreambooth_trainer.resume.run_record import read_run_record

log = logging.getLogger(__name__)


def check_config(attempt: Attempt, manifest: Manifest) -> None:
    """Check that a checkpoint belongs to the current job. Collective.

    Raises:
        BadConfigError: It belongs to another one; the message lists every field that differs.
    """
    steps = attempt.job.spec.training.steps
    if manifest.step > steps:
        raise BadConfigError(
            f"spec.training.steps: {steps}, but the newest checkpoint is of step {manifest.step};"
            f" use at least {manifest.step}, or give the job another name"
        )
    # All ranks compare the same manifest and job, so all or none enter the collective. A different
    # fingerprint is no proof: a new version of the trainer may have added a field.
    if manifest.fingerprint != fingerprint(attempt.job):
        attempt.ranks.run_on_first(lambda: _refuse_other_config(attempt, manifest.step))


def _refuse_other_config(attempt: Attempt, step: int) -> None:
    earlier = read_run_record(attempt.storage, attempt.layout)
    if earlier is None:
        raise _refusal(step, ["spec: unknown, as run.json is missing"])
    # Parsed by this version's models: a field that is new has its default.
    if changed := changes_since(earlier["job"], attempt.job):
        raise _refusal(step, changed)


def check_contents(attempt: Attempt, step: int, hashes: Mapping[str, str]) -> None:
    """Check that model and images are those of the earlier attempts. Collective.

    Class images that were generated again are only a warning.

    Args:
        attempt: The current one.
        step: Of the checkpoint that it resumes from.
        hashes: sha256 by name, as run.json holds them.

    Raises:
        BadConfigError: The model or the subject's images have changed.
    """
    attempt.ranks.run_on_first(lambda: _refuse_other_contents(attempt, step, hashes))


def _refuse_other_contents(attempt: Attempt, step: int, hashes: Mapping[str, str]) -> None:
    earlier = read_run_record(attempt.storage, attempt.layout)
    if earlier is None:
        return
    changed = changed_files(earlier["hashes"], hashes)
    classes = [line for line in changed if line.startswith(CLASS_IMAGES)]
    if classes:
        log.warning("not all class images are those of step %d: %s", step, "; ".join(classes))
    if others := [line for line in changed if line not in classes]:
        raise _refusal(step, others)


def _refusal(step: int, lines: Sequence[str]) -> BadConfigError:
    return BadConfigError(
        f"the checkpoint of step {step} was made from other settings or images; undo the"
        " changes, or give the job another name:\n" + "\n".join(f"  {line}" for line in lines)
    )
