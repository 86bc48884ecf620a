"""Rows on the state of training: what saves cost, memory against its estimate, exact resume."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dreambooth_storage import StorageSettings
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint import BackgroundSaver
from dreambooth_trainer.checkpoint.shards import read_state
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.preflight.memory.stages import measure_stages
from dreambooth_trainer.process.chunks import images_per_pass
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from dreambooth_trainer.training.optimizer import make_optimizer
from dreambooth_trainer.training.optimizer_state import optimizer_tensors
from tests.bench.checkpoint.training import in_the_background, in_the_foreground
from tests.bench.gpu.figures import Figure
from tests.bench.gpu.run import SUBJECT, TrainerRun
from tests.trainer.checkpoint_saves import RecordingListener

SAVED_STEP, LAST_STEP = 3, 6
"""Of the run that is resumed."""


def saves(folder: Path, tiny: bool) -> Iterator[Figure]:
    """A save of the whole state of SD 1.5 (10.3 GB), to files of this machine."""
    run = TrainerRun("sd15", folder, tiny=tiny, resolution=512, method="full", globalBatch=1)
    run.encode()
    loop, listener = _Loop(run), RecordingListener()
    loop.step()
    uploads = UploadProcess(StorageSettings(None, None, "auto"))
    with BackgroundSaver(run.store, uploads, keep=1, listener=listener) as saver:
        saver.prepare(loop.state())
        in_the_background(loop, saver, listener.seconds)  # allocates its buffers
        background = in_the_background(loop, saver, listener.seconds)
        foreground = in_the_foreground(loop, saver)
    yield Figure("loop blocked, in the foreground", foreground.blocked, "s")
    yield Figure(
        "loop blocked, background / foreground",
        background.blocked / foreground.blocked,
        at_most=0.05,
    )


class _Loop:
    """The steps between saves, see `tests.bench.checkpoint.training`."""

    def __init__(self, run: TrainerRun) -> None:
        self._run = run
        self._module = run.module()
        self._batch = run.batch(self._module)
        self._optimizer = make_optimizer(self._module.trained, run.job.spec.training)
        self.steps = 0

    def step(self) -> float:
        """One step; returns its seconds."""
        return self._run.device.seconds(self._step)

    def _step(self) -> None:
        with self._run.autocast():
            loss = self._module.training_step(self._batch, 0)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        trained = self._module.trained
        weights = {f"weight/{name}": each.detach() for name, each in trained.all.items()}
        return weights | optimizer_tensors(self._optimizer, trained)


def memory(folder: Path, tiny: bool) -> Iterator[Figure]:
    """The estimate of preflight against the peak of tensors, by stage: SD 1.5, LoRA, batch 4."""
    run = TrainerRun("sd15", folder, tiny=tiny, resolution=512, method="lora", globalBatch=4)
    peaks = {"loading the model": run.device.peak_bytes()}
    run.device.reset_peak()
    with run.autocast():
        _generate(run, images_per_pass(run.job.spec.training.resolution))
    peaks["generating class images"] = run.device.peak_bytes()
    run.device.reset_peak()
    run.encode()
    peaks["encoding latents"] = run.device.peak_bytes()
    run.device.reset_peak()
    module = run.module()
    run.fit(module, 4)
    peaks["a training step"] = run.device.peak_bytes()
    estimates = measure_stages(run.job, run.config, local_batch=4, ranks=1)
    for stage, peak in peaks.items():
        ratio = next(size for name, size in estimates.items() if name == stage) / peak
        yield Figure(f"estimate / peak, {stage}", ratio, at_least=0.85, at_most=1.15)


def _generate(run: TrainerRun, count: int) -> None:
    generate_images(
        run.family,
        [ImageRequest(SUBJECT, seed) for seed in range(count)],
        sampler="dpm-solver++",
        steps=2,
        guidance_scale=7.5,
        size=run.job.spec.training.resolution,
    )


def fp16_resume(folder: Path, tiny: bool) -> Iterator[Figure]:
    """SD 1.5 with LoRA in fp16: a run that is resumed against one that is not, bit for bit.

    With torch's deterministic kernels: others add in an order that differs between runs.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    whole = _train(folder / "whole", tiny, LAST_STEP)
    part = _train(folder / "part", tiny, SAVED_STEP)
    resumed = _train(folder / "resumed", tiny, LAST_STEP, ResumeState(SAVED_STEP, part))
    differ = sum(not torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    yield Figure("tensors", len(whole))
    yield Figure("tensors that differ after resuming", differ, at_most=0)


def _train(
    folder: Path, tiny: bool, steps: int, resume: ResumeState | None = None
) -> dict[str, Tensor]:
    """The last checkpoint's state. The schedule is constant, so fewer steps are a part of more."""
    folder.mkdir()
    run = TrainerRun(
        "sd15", folder, tiny=tiny, resolution=512, prior=True, method="lora", globalBatch=1,
        precision="bf16" if tiny else "fp16", steps=steps, schedule={"name": "constant"},
    )  # fmt: skip
    run.encode()
    module: DreamBooth = run.module(resume=resume)
    run.fit(module)
    newest = run.store.checkpoints()[-1]
    state = read_state(run.storage, newest)
    del run, module
    gc.collect()
    return state
