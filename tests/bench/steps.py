"""Single-process steps on tiny-sd: the trainer's against the same arithmetic in a bare loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import AdamW

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import parse
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.crops import variants
from dreambooth_trainer.data.dataset import Dataset
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.data.latents import ImageGroup, LatentStore
from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.models import load_family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.process.batch_split import split_batch
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.fit import fit
from dreambooth_trainer.telemetry.history import StepReport
from dreambooth_trainer.telemetry.telemetry import Telemetry
from dreambooth_trainer.training.module import DreamBooth
from tests.bench.report import Row, ratio

MODEL = Path(__file__).parents[2] / "examples" / "tiny-sd" / "model"
BATCH = 4


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    steps: int = 24
    warm_up: int = 4
    rounds: int = 5
    class_images: int = 40


SHORT = Sizes(steps=5, warm_up=1, rounds=1, class_images=4)


def trainer_against_bare(folder: Path, short: bool) -> Iterator[Row]:
    """Lightning, callbacks, sampler and reports against a loop of ten lines."""
    bench = StepBench(folder, short)
    yield ratio("trainer's step / bare PyTorch's", bench.trainer_against_bare(), at_most=1.10)


def cached_against_uncached(folder: Path, short: bool) -> Iterator[Row]:
    """Looking latents and embeddings up against encoding images and captions in every step."""
    yield ratio("cached step / uncached", StepBench(folder, short).cached_against_uncached())


def one_forward_against_two(folder: Path, short: bool) -> Iterator[Row]:
    """Subject and class as one batch against one after the other."""
    yield ratio("one forward / two", StepBench(folder, short).one_forward_against_two())


class _Clock(Telemetry):
    """Telemetry that notes when each step's report came in."""

    def __init__(self, job: DreamBoothJob) -> None:
        super().__init__(job, Topology())
        self.times: list[float] = []

    def record_step(self, report: StepReport) -> None:
        self.times.append(time.perf_counter())
        super().record_step(report)


class StepBench:
    """One model, prepared once."""

    def __init__(self, folder: Path, short: bool) -> None:
        torch.manual_seed(0)
        self._sizes = SHORT if short else Sizes()
        self._job = _job(folder, self._sizes.steps)
        self._clock = _Clock(self._job)
        self._attempt = Attempt(
            self._job,
            Ranks(Topology()),
            Storage(StorageSettings(None, None, "auto")),
            self._clock,
            StopSignal(),
            torch.device("cpu"),
        )
        attempt = self._attempt
        self._family = load_family(
            self._job.spec.model,
            attempt.storage,
            attempt.ranks,
            attempt.device,
            self._job.spec.training,
        )
        self._trained = make_trainable(self._family, self._job.spec.training)
        mugs = _group(attempt, self._sizes.class_images, "a photo of a mug")
        subject = _group(attempt, 5, "a photo of sks mug")
        self._dataset = Dataset(self._job, [subject], {"mug": mugs})
        self._cache = build_cache(
            self._family,
            self._dataset.groups,
            64,
            text_is_trained=False,
            store=LatentStore(attempt.storage, attempt.layout.latents),
            ranks=attempt.ranks,
            device=attempt.device,
        )
        conditioning = self._cache.conditioning
        assert conditioning is not None
        self._texts = conditioning["hidden_states"][[1] * BATCH + [2] * BATCH]
        self._store = CheckpointStore(attempt.storage, f"{self._job.spec.output}/checkpoints")
        self._store.claim()

    def trainer_against_bare(self) -> list[float]:
        """Ratios, one a round."""
        return [self._trainer_step() / self._bare_step() for _ in range(self._sizes.rounds)]

    def _trainer_step(self) -> float:
        job, attempt = self._job, self._attempt
        module = DreamBooth(
            self._family, self._trained, job.spec.training, self._cache, job.spec.prior
        )
        self._clock.times.clear()
        writer = SampleWriter(ImageGenerator(attempt, self._family), attempt, lambda: None)
        fit(attempt, module, self._dataset, self._store, writer, split_batch(job, world_size=1))
        # Reports lag two steps behind, and the last two come with the final checkpoint.
        times = self._clock.times[self._sizes.warm_up : -2]
        return (times[-1] - times[0]) / (len(times) - 1)

    def _bare_step(self) -> float:
        unet = self._family.denoiser
        schedule = DDPMScheduler.from_config(self._family.pipeline().scheduler.config)
        optimizer = AdamW(unet.parameters(), lr=1e-6, fused=True)
        v_prediction = self._family.prediction_type == "v_prediction"

        def step() -> None:
            latents = self._family.sample_latents(
                self._cache.moments[torch.randint(len(self._cache.moments), (2 * BATCH,))],
                torch.randn(2 * BATCH, *self._noise_shape()),
            )
            noise = torch.randn_like(latents)
            timesteps = torch.randint(1000, (2 * BATCH,))
            noisy = schedule.add_noise(latents, noise, timesteps)
            target = noise
            if v_prediction:
                target = schedule.get_velocity(latents, noise, timesteps)
            found = unet(noisy, timesteps, self._texts).sample
            loss = mse_loss(found[:BATCH], target[:BATCH]) + mse_loss(found[BATCH:], target[BATCH:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return self._seconds(step)

    def _noise_shape(self) -> tuple[int, ...]:
        _, moments, height, width = self._cache.moments.shape
        return moments // 2, height, width

    def cached_against_uncached(self) -> list[float]:
        """Ratios, one a round."""
        pixels = torch.rand(2 * BATCH, 3, 64, 64) * 2 - 1
        captions = [1] * BATCH + [2] * BATCH
        tokens = {name: part[captions] for name, part in self._cache.tokens.items()}
        noise = torch.randn(2 * BATCH, *self._noise_shape())

        def cached() -> None:
            rows = torch.arange(2 * BATCH)
            moments = self._cache.moments[rows]
            self._forward_backward(moments, noise, {"hidden_states": self._texts.clone()})

        def uncached() -> None:
            with torch.no_grad():
                texts = self._family.encode_tokens(tokens)
            self._forward_backward(self._family.encode_images(pixels), noise, texts)

        return self._ratios(cached, uncached)

    def one_forward_against_two(self) -> list[float]:
        """Ratios, one a round."""
        noise = torch.randn(2 * BATCH, *self._noise_shape())
        texts = self._texts
        rows = self._cache.moments[: 2 * BATCH]

        def one() -> None:
            self._forward_backward(rows, noise, {"hidden_states": texts})

        def two() -> None:
            for part in (slice(0, BATCH), slice(BATCH, None)):
                self._forward_backward(rows[part], noise[part], {"hidden_states": texts[part]})

        return self._ratios(one, two)

    def _forward_backward(self, moments: Tensor, noise: Tensor, texts: dict[str, Tensor]) -> None:
        latents = self._family.sample_latents(moments, noise)
        timesteps = torch.randint(1000, (len(latents),))
        mse_loss(self._family.predict(latents, timesteps, texts), noise).backward()
        self._family.denoiser.zero_grad()

    def _ratios(self, one: Callable[[], None], other: Callable[[], None]) -> list[float]:
        return [self._seconds(one) / self._seconds(other) for _ in range(self._sizes.rounds)]

    def _seconds(self, step: Callable[[], None]) -> float:
        for _ in range(self._sizes.warm_up):
            step()
        count = self._sizes.steps - self._sizes.warm_up
        began = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - began) / count


def _group(attempt: Attempt, count: int, caption: str) -> ImageGroup:
    folder = f"{attempt.job.spec.output}/{caption.replace(' ', '-')}"
    for number in range(count):
        image = encode_png(Image.new("RGB", (64, 64), (6 * number, 90, 40)))
        attempt.storage.write(f"{folder}/{number}.png", image)
    found = load_images(attempt.storage, folder, field="images", resolution=64)
    return ImageGroup(found.images, [caption] * count, variants("center", flip=True))


def _job(folder: Path, steps: int) -> ResolvedJob:
    job = parse(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "bench", "uid": "bench"},
            "spec": {
                "model": {"source": str(MODEL)},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "file:///none"}],
                "output": f"file://{folder}/steps",
                # As in a bare loop, which has no second model.
                "prior": {"target": "noise"},
                "training": {
                    "method": "full", "steps": steps, "globalBatch": BATCH, "resolution": 64,
                    "precision": "fp32", "learningRate": 1e-6,
                },
                "checkpoints": {"every": steps, "keep": 1},
                "runtime": {"gpusPerNode": 0},
            },
        }
    )  # fmt: skip
    return fill_defaults(job, DEFAULTS)
