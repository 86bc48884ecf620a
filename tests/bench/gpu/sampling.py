"""The row on class images."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.process.chunks import images_per_pass
from tests.bench.gpu.figures import Figure
from tests.bench.gpu.run import CLASS, TrainerRun


def class_images(folder: Path, tiny: bool) -> Iterator[Figure]:
    """SD 1.5, 512 px: the trainer's sampler, steps and batch against DDIM-50 one by one."""
    run = TrainerRun("sd15", folder, tiny=tiny, resolution=512, prior=True, method="full")
    prior = run.job.spec.prior
    count = images_per_pass(run.job.spec.training.resolution)
    ours = run.device.seconds(
        partial(_generate, run, count, prior.sampler, prior.steps), warm_up=0 if tiny else 1
    )
    rate = count / ours
    one = run.device.seconds(partial(_generate, run, 1, "ddim", 4 if tiny else 50), times=2)
    yield Figure("images/s", rate, at_least=6)
    yield Figure("our rate / DDIM-50 at batch 1", rate * one, at_least=3)


def _generate(run: TrainerRun, count: int, sampler: Sampler, steps: int) -> None:
    with run.autocast():
        generate_images(
            run.family,
            [ImageRequest(CLASS, seed) for seed in range(count)],
            sampler=sampler,
            steps=steps,
            guidance_scale=run.job.spec.prior.guidance_scale,
            size=run.job.spec.training.resolution,
        )
