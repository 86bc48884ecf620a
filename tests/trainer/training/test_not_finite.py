"""A loss or weights that are not finite end the job, and nothing of it becomes durable."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointStore
from tests.trainer.checkpoint_saves import load
from tests.trainer.ranks import Ended, run_folder, run_ranks

Job = Callable[..., dict[str, Any]]
SPOILT = "02.png"
"""An image that the VAE makes nonsense of, as half-precision VAEs do of some."""
SPOILT_CLASS = "00002.png"


def spoil_images() -> None:
    """Make the latents of two images NaN, one of the subject and one of the class."""
    from dreambooth_trainer.data import cache

    load = cache.load_latents

    def spoiling(family: Any, groups: Any, *arguments: Any) -> torch.Tensor:
        moments = load(family, groups, *arguments)
        names = [i.name for group in groups for i in group.images for _ in group.variants]
        spoilt = [row for row, name in enumerate(names) if name in (SPOILT, SPOILT_CLASS)]
        moments[spoilt] = torch.nan
        return moments

    cache.load_latents = spoiling


def spoil_third_gradient() -> None:
    """Make a gradient NaN at step 3, whose loss is a number."""
    from dreambooth_trainer.training.module import DreamBooth

    train = DreamBooth.training_step

    def spoiling(self: DreamBooth, *arguments: Any) -> torch.Tensor:
        loss = train(self, *arguments)
        if self.steps_done == 2:
            loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    DreamBooth.training_step = spoiling  # type: ignore[method-assign]


def small(job: Job, batch: int, **sections: Any) -> dict[str, Any]:
    """A job that is saved at every step. With its seed, the spoilt images do not come first."""
    training = {"method": "lora", "globalBatch": batch, "lora": {"rank": 2}, "seed": 3}
    return job("run", training=training, checkpoints={"every": 1}, **sections)


def step_of(ended: Ended) -> int:
    found = re.search(r" step (\d+);", ended.termination.message)
    assert found, ended.termination.message
    return int(found[1])


def states(run: dict[str, Any]) -> dict[int, dict[str, torch.Tensor]]:
    """All states that are durable, by their steps."""
    uri = f"file://{run_folder(run)}/checkpoints"
    store = CheckpointStore(Storage(StorageSettings(None, None, "auto")), uri)
    return {reference.step: load(store, reference) for reference in store.checkpoints()}


def are_good(states: dict[int, dict[str, torch.Tensor]]) -> bool:
    return all(tensor.isfinite().all() for state in states.values() for tensor in state.values())


def folder_of_images(folder: Path, count: int) -> list[dict[str, str]]:
    """`spec.subjects` with so many images."""
    folder.mkdir()
    for number in range(count):
        colour = (20 * number, 200, 90)
        Image.new("RGB", (64, 64), colour).save(folder / f"{number:02d}.png")
    return [{"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}"}]


def test_an_image_that_spoils_the_subject_loss_is_named(job: Job, tmp_path: Path) -> None:
    subjects = folder_of_images(tmp_path / "subject", 12)
    run = small(job, 2, subjects=subjects, prior={"enabled": False})
    stopped = run_ranks(run, tmp_path / "run", nodes=2, prepare=spoil_images, stop_at_step=1)
    assert stopped.codes == [143, 143], "\n".join(stopped.logs)
    ended = run_ranks(run, tmp_path / "run", nodes=2, prepare=spoil_images, attempt=1)
    assert ended.codes == [68, 68], "\n".join(ended.logs)
    assert re.match(r"the subject loss is nan at step \d;", ended.termination.message)
    # One image a rank: the one that did it is named alone, whichever rank had it.
    named = f"file://{tmp_path}/subject/{SPOILT}"
    assert re.findall(r"^  rank [01]: (\S+)$", ended.termination.message, re.MULTILINE) == [named]
    assert all(named in log for log in ended.logs)
    kept = states(run)
    assert 1 <= max(kept) < step_of(ended)
    assert are_good(kept)


def test_an_image_that_spoils_the_prior_loss_is_named(job: Job, tmp_path: Path) -> None:
    subject = folder_of_images(tmp_path / "subject", 1)
    run = small(job, 1, subjects=subject)
    ended = run_ranks(run, tmp_path / "run", prepare=spoil_images)
    assert ended.codes == [68], "\n".join(ended.logs)
    assert ended.termination.message.startswith("the prior loss is nan at step ")
    named = re.findall(r"^  rank 0: \S+/(\S+)$", ended.termination.message, re.MULTILINE)
    assert named == ["00.png", SPOILT_CLASS]
    assert ended.termination.message.count("prior-cache") == 1
    assert are_good(states(run))


def test_what_a_gradient_has_spoilt_is_not_saved(job: Job, tmp_path: Path) -> None:
    run = small(job, 1, prior={"enabled": False})
    ended = run_ranks(run, tmp_path / "run", prepare=spoil_third_gradient)
    assert ended.codes == [68], "\n".join(ended.logs)
    assert "the gradient is not finite at step 3;" in ended.termination.message
    assert re.search(r"^  rank 0: file://\S+/\d.png$", ended.termination.message, re.MULTILINE)
    kept = states(run)
    assert max(kept, default=0) < 3
    assert are_good(kept)
