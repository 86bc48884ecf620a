"""Which checkpoints stay, and what of the rest may be deleted. Pure."""

import re
from collections.abc import Sequence

from dreambooth_trainer.checkpoint.manifest import CheckpointRef

_FILE = re.compile(r"(step-([0-9]{8})-claim-([0-9]{4,8}))/.+")


def kept(good: Sequence[CheckpointRef], keep: int) -> set[str]:
    """Folders of the newest `keep` of complete checkpoints, newest first, and of the best one.

    The best is the one with the lowest loss over the steps that led to it: samples are scored
    before and after training only. Of equal ones, it is the newest.
    """
    known = [(ref.manifest.loss, ref) for ref in good if ref.manifest.loss is not None]
    best = [min(known, key=lambda each: each[0])[1]] if known else []
    return {ref.uri.rsplit("/", 1)[-1] for ref in [*good[:keep], *best]}


def is_doomed(relative: str, kept: set[str], newest: int, claim: int) -> bool:
    """Is this file of a checkpoint that is not kept, and that nobody can be writing now?

    `newest` is the newest complete step, `claim` the number of the claim of whoever asks: what
    later claims write is not theirs to judge.
    """
    match = _FILE.fullmatch(relative)
    if match is None or match[1] in kept:
        return False
    step, writer = int(match[2]), int(match[3])
    return writer < claim or (writer == claim and step <= newest)
