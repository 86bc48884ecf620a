"""Rows on training steps: throughput, what a step waits for, and figures of single choices."""

import gc
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.flop_counter import FlopCounterMode

from dreambooth_api.models.model import Quantization, WeightFormat
from dreambooth_api.models.pods.runtime import Offload
from dreambooth_trainer.data.batches import Batch
from dreambooth_trainer.telemetry.history import StepReport
from dreambooth_trainer.training.module import DreamBooth
from tests.bench.gpu.device import Device
from tests.bench.gpu.figures import Figure
from tests.bench.gpu.run import TrainerRun

MLPERF_IMAGES = 129
"""Images a second and H200 of MLPerf Training's Stable Diffusion 2 at batch 64."""
WARM_UP = 6


def throughput(folder: Path, tiny: bool) -> Iterator[Figure]:
    """SD 1.5, all of the UNet, bf16, 512 px, batch 64, without class images, as in MLPerf."""
    batch = 2 if tiny else 64
    run = TrainerRun("sd15", folder, tiny=tiny, resolution=512, method="full", globalBatch=batch)
    run.encode()
    module = run.module()
    with _counted_waits() as waits:
        reports = measured(run, module, 4 if tiny else 30)
    seconds = step_seconds(reports)
    yield Figure("images/s", batch / seconds, at_least=0.85 * MLPERF_IMAGES)
    waited = sum(report.data_wait_seconds for report in reports)
    yield Figure(
        "data wait / step", waited / sum(report.seconds for report in reports), at_most=0.01
    )
    yield Figure("waits of the host per step", len(waits) / (len(reports) + WARM_UP), at_most=0)
    yield from mfu(run, module, seconds)


def one_forward(folder: Path, tiny: bool) -> Iterator[Figure]:
    """Subject and class in one forward and backward pass, against one after the other."""
    run = TrainerRun(
        "sd15", folder, tiny=tiny, resolution=512, prior=True, method="full", globalBatch=1
    )
    run.encode()
    together, times = run.module(), 2 if tiny else 15
    batch = run.batch(together)
    apart = run.module(prior=False)
    halves = [{name: part[i : i + 1] for name, part in batch.items()} for i in range(2)]
    one = run.device.seconds(run.forward_backward(together, batch), times=times, warm_up=3)
    two = sum(
        run.device.seconds(run.forward_backward(apart, half), times=times, warm_up=3)
        for half in halves
    )
    yield Figure("two forward passes / one", two / one, at_least=1.25)


def lora(model: str, resolution: int, folder: Path, tiny: bool) -> Iterator[Figure]:
    """LoRA of rank 16 at batch 1, without class images."""
    run = TrainerRun(
        model, folder, tiny=tiny, resolution=resolution, method="lora", globalBatch=1,
        lora={"rank": 16},
    )  # fmt: skip
    run.encode()
    module = run.module()
    seconds = step_seconds(measured(run, module, 4 if tiny else 15))
    yield Figure("step", seconds, "s")
    yield Figure("peak, whole run", run.device.peak_bytes() / 1024**3, "GiB")
    yield from mfu(run, module, seconds)


def qlora(model: str, resolution: int, folder: Path, tiny: bool) -> Iterator[Figure]:
    """The same with frozen weights in few bits, and gradient checkpointing.

    NF4 only where bitsandbytes is installed.
    """
    formats: list[WeightFormat] = ["int8"]
    if importlib.util.find_spec("bitsandbytes"):
        formats.append("nf4")
    for format in formats:
        home = folder / format
        home.mkdir()
        run = TrainerRun(
            model, home, tiny=tiny, resolution=resolution, method="lora", globalBatch=1,
            lora={"rank": 16}, gradientCheckpointing=True,
            quantization=Quantization(denoiser=format, text_encoders=format),
        )  # fmt: skip
        run.encode()
        module = run.module()
        seconds = step_seconds(measured(run, module, 4 if tiny else 10))
        yield Figure(f"step, {format}", seconds, "s")
        yield Figure(f"peak, whole run, {format}", run.device.peak_bytes() / 1024**3, "GiB")
        del run, module
        gc.collect()


def offloaded(folder: Path, tiny: bool) -> Iterator[Figure]:
    """FLUX.2 klein's step with frozen weights on the host, against the same without."""
    steps: list[float] = []
    for fraction in (None, 0.5, 1.0):
        home = folder / str(fraction)
        home.mkdir()
        run = TrainerRun(
            "flux2_klein", home, tiny=tiny, resolution=1024, method="lora", globalBatch=1,
            lora={"rank": 16}, gradientCheckpointing=True,
            offload=Offload(fraction=fraction) if fraction else None,
        )  # fmt: skip
        run.encode()
        module = run.module()
        run.device.reset_peak()  # text encoders have left the device
        steps.append(step_seconds(measured(run, module, 4 if tiny else 8)))
        name = f"offload {fraction}" if fraction else "no offload"
        yield Figure(f"step, {name}", steps[-1], "s")
        yield Figure(f"peak of steps, {name}", run.device.peak_bytes() / 1024**3, "GiB")
        del run, module
        gc.collect()
    yield Figure("step with all blocks on the host / without", steps[-1] / steps[0])


sdxl_lora = partial(lora, "sdxl", 1024)
flux2_klein_lora = partial(lora, "flux2_klein", 1024)
sdxl_qlora = partial(qlora, "sdxl", 1024)
flux2_klein_qlora = partial(qlora, "flux2_klein", 1024)


def regional_compile(folder: Path, tiny: bool) -> Iterator[Figure]:
    """The denoiser's repeated blocks compiled, on SDXL with LoRA: what it gains and costs."""
    run = TrainerRun("sdxl", folder, tiny=tiny, resolution=1024, method="lora", globalBatch=1)
    run.encode()
    module = run.module()
    step, times = run.forward_backward(module, run.batch(module)), 2 if tiny else 10
    eager = run.device.seconds(step, times=times, warm_up=3)
    denoiser: Any = run.family.denoiser
    denoiser.compile_repeated_blocks(backend="inductor" if run.device.is_gpu else "eager")
    first = run.device.seconds(step)
    compiled = run.device.seconds(step, times=times, warm_up=2)
    yield Figure("compiled step / eager", compiled / eager)
    yield Figure("first step", first, "s")
    saved = eager - compiled
    yield Figure("steps to pay back", (first - eager) / saved if saved > 0 else float("inf"))


def measured(run: TrainerRun, module: DreamBooth, count: int) -> Sequence[StepReport]:
    """The reports of `count` steps after the warm-up."""
    return run.fit(module, count + WARM_UP)[WARM_UP:]


def step_seconds(reports: Sequence[StepReport]) -> float:
    """Mean seconds of a step: the loop runs ahead of the device, so single steps differ."""
    return sum(report.seconds for report in reports) / len(reports)


def mfu(run: TrainerRun, module: DreamBooth, seconds: float) -> Iterator[Figure]:
    """Model FLOPs utilization; TFLOP of a step where the device's peak is not known."""
    flops = count_flops(run, module, run.batch(module))
    if peak := run.device.peak_flops:
        yield Figure("MFU", flops / seconds / peak)
    else:
        yield Figure("arithmetic of a step", flops / 1e12, "TFLOP")


def count_flops(run: TrainerRun, module: DreamBooth, batch: Batch) -> int:
    """Floating-point operations of a forward and backward pass (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        run.forward_backward(module, batch)()
    return int(counter.get_total_flops())


@contextmanager
def _counted_waits() -> Iterator[list[str]]:
    """Grows by what the host waited for in training steps, as CUDA's own debug mode reports it."""
    found: list[str] = []
    advance = _TrainingEpochLoop.advance

    def step(*arguments: Any, **options: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                advance(*arguments, **options)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found.extend(str(each.message) for each in caught if "synchroniz" in str(each.message))

    watched = Device.find().is_gpu
    with mock.patch.object(_TrainingEpochLoop, "advance", step if watched else advance):
        yield found
