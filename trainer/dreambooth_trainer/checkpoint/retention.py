"""Which checkpoints stay, and which files of the others may be deleted. Pure."""

import re
from collections.abc import Callable, Collection, Sequence

from dreambooth_trainer.checkpoint.manifest import CheckpointRef

_FILE = re.compile(r"(step-([0-9]{8})-claim-([0-9]{4,8}))/.+")


ChooseStep = Callable[[Collection[int]], int | None]
"""The step of the best of some checkpoints, given by their steps; None: unknown."""


def choose_none(_steps: Collection[int]) -> None:
    """Without scores, no checkpoint has the best."""


def kept_folders(
    complete: Sequence[CheckpointRef], keep: int, choose: ChooseStep = choose_none
) -> set[str]:
    """Names of the folders of the newest `keep` checkpoints, and of the best ones.

    One has the lowest mean loss over the steps that led to it; of equal ones, the newest.

    Args:
        complete: All complete checkpoints, the newest first.
        keep: At least 1.
        choose: Which of them has the best scores.
    """
    known = [(ref.manifest.loss, ref) for ref in complete if ref.manifest.loss is not None]
    best = [min(known, key=lambda each: each[0])[1]] if known else []
    scored = choose({ref.step for ref in complete})
    best += [ref for ref in complete if ref.step == scored]
    return {ref.uri.rsplit("/", 1)[-1] for ref in [*complete[:keep], *best]}


def is_deletable(path: str, kept: set[str], newest_step: int, claim: int) -> bool:
    """Whether a file belongs to a checkpoint that is neither kept nor being written.

    Args:
        path: Relative to the folder of all checkpoints.
        kept: The names of the folders that stay.
        newest_step: Step of the newest complete checkpoint.
        claim: The number of this attempt's claim (see `fence`). Files of later claims belong to a
            newer attempt, and are never deletable.
    """
    match = _FILE.fullmatch(path)
    if match is None or match[1] in kept:
        return False
    step, writer = int(match[2]), int(match[3])
    # Earlier claims write nothing any more. In this claim, a newer step may be uploading just now.
    return writer < claim or (writer == claim and step <= newest_step)
