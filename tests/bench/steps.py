"""Single-process steps on tiny-sd: the trainer's against the same arithmetic in a bare loop."""

import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import AdamW

from dreambooth_api.job import DreamBoothJob
from dreambooth_trainer import fit as fitting
from dreambooth_trainer.adapters import attach
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.cache import Cache
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.config import Topology
from dreambooth_trainer.distributed import Ranks
from dreambooth_trainer.families import load_family
from dreambooth_trainer.module import DreamBooth
from dreambooth_trainer.observe import Observers
from dreambooth_trainer.sampler import Pool, Sampler
from dreambooth_trainer.stop import StopSignal
from dreambooth_trainer.storage import Storage, StorageSettings

MODEL = Path(__file__).parents[2] / "examples" / "tiny-sd" / "model"
BATCH = 4
STEPS = 24
WARM_UP = 4
ROUNDS = 5


class _Images:
    """Stands where the dataset stands: only its sampler is needed, as the latents are made up."""

    has_prior = True

    def sampler(
        self, global_batch: int, latent_shape: tuple[int, int, int], timesteps: int
    ) -> Sampler:
        return Sampler(
            seed=0, subjects=[Pool(0, 5, 2)], priors=[Pool(10, 40, 2)], weights=[1.0],
            timesteps=timesteps, latent_shape=latent_shape, global_batch=global_batch,
        )  # fmt: skip


class _Clock(pl.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.times.append(time.perf_counter())


class StepBench:
    """One model, prepared once."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self._job = _job(folder)
        self._attempt = Attempt(
            self._job,
            Ranks(Topology()),
            Storage(StorageSettings(None, None, "auto")),
            Observers(self._job, Topology()),
            StopSignal(),
            torch.device("cpu"),
        )
        attempt = self._attempt
        self._family = load_family(
            self._job.spec.model, attempt.storage, attempt.ranks, attempt.device
        )
        self._trained = attach(self._family, self._job.spec.training)
        self._cache = self._made_up_cache()

    def _made_up_cache(self) -> Cache:
        tokens = self._family.tokenize(["", "a photo of sks mug", "a photo of a mug"])
        channels, height, width = self._family.latent_shape(64)
        with torch.no_grad():
            conditioning = self._family.encode_tokens(tokens)
        return Cache(
            torch.randn(90, 2 * channels, height, width),
            torch.tensor([1] * 10 + [2] * 80),
            ["", "a photo of sks mug", "a photo of a mug"],
            tokens,
            conditioning,
        )

    def trainer_against_bare(self) -> list[float]:
        """Lightning, callbacks, sampler and reports against a loop of ten lines."""
        return [self._trainer_step() / self._bare_step() for _ in range(ROUNDS)]

    def _trainer_step(self) -> float:
        job = self._job
        module = DreamBooth(
            self._family, self._trained, job.spec.training, self._cache, job.spec.prior.weight
        )
        clock = _Clock()
        store = CheckpointStore(self._attempt.storage, f"{job.spec.output}/checkpoints")
        store.claim()
        callbacks = fitting._callbacks
        fitting._callbacks = lambda *arguments: [
            *callbacks(*arguments)[:-2],
            clock,
        ]  # no save, no samples
        try:
            fitting.fit(self._attempt, module, _Images(), store, None)  # type: ignore[arg-type]
        finally:
            fitting._callbacks = callbacks
        return (clock.times[-1] - clock.times[WARM_UP - 1]) / (STEPS - WARM_UP)

    def _bare_step(self) -> float:
        unet = self._family.denoiser
        schedule = DDPMScheduler.from_config(self._family.pipeline().scheduler.config)
        optimizer = AdamW(unet.parameters(), lr=1e-6, fused=True)
        texts = self._cache.conditioning["hidden_states"]
        captions = torch.tensor([1] * BATCH + [2] * BATCH)

        def step() -> None:
            latents = self._family.sample_latents(
                self._cache.moments[torch.randint(90, (2 * BATCH,))],
                torch.randn(2 * BATCH, *self._noise_shape()),
            )
            noise = torch.randn_like(latents)
            timesteps = torch.randint(1000, (2 * BATCH,))
            noisy = schedule.add_noise(latents, noise, timesteps)
            found = unet(noisy, timesteps, texts[captions]).sample
            loss = mse_loss(found[:BATCH], noise[:BATCH]) + mse_loss(found[BATCH:], noise[BATCH:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return _seconds(step)

    def _noise_shape(self) -> tuple[int, ...]:
        _, moments, height, width = self._cache.moments.shape
        return moments // 2, height, width

    def cached_against_uncached(self) -> list[float]:
        """Looking latents and embeddings up against encoding images and captions in every step."""
        pixels = torch.rand(2 * BATCH, 3, 64, 64) * 2 - 1
        tokens = self._cache.tokens[[1] * BATCH + [2] * BATCH]
        noise = torch.randn(2 * BATCH, *self._noise_shape())

        def cached() -> None:
            rows = torch.arange(2 * BATCH)
            texts = self._cache.conditioning["hidden_states"][[1] * BATCH + [2] * BATCH]
            self._forward_backward(self._cache.moments[rows], noise, {"hidden_states": texts})

        def uncached() -> None:
            with torch.no_grad():
                texts = self._family.encode_tokens(tokens)
            self._forward_backward(self._family.encode_images(pixels), noise, texts)

        return _ratios(cached, uncached)

    def one_forward_against_two(self) -> list[float]:
        """Subject and class as one batch against one after the other."""
        noise = torch.randn(2 * BATCH, *self._noise_shape())
        texts = self._cache.conditioning["hidden_states"][[1] * BATCH + [2] * BATCH]
        rows = self._cache.moments[: 2 * BATCH]

        def one() -> None:
            self._forward_backward(rows, noise, {"hidden_states": texts})

        def two() -> None:
            for part in (slice(0, BATCH), slice(BATCH, None)):
                self._forward_backward(rows[part], noise[part], {"hidden_states": texts[part]})

        return _ratios(one, two)

    def _forward_backward(self, moments: Tensor, noise: Tensor, texts: dict[str, Tensor]) -> None:
        latents = self._family.sample_latents(moments, noise)
        timesteps = torch.randint(1000, (len(latents),))
        mse_loss(self._family.predict(latents, timesteps, texts), noise).backward()
        self._family.denoiser.zero_grad()


def _job(folder: Path) -> DreamBoothJob:
    return DreamBoothJob.model_validate(
        {
            "metadata": {"name": "bench", "uid": "bench"},
            "spec": {
                "model": {"source": str(MODEL)},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "file:///none"}],
                "output": f"file://{folder}/steps",
                "training": {
                    "method": "full", "steps": STEPS, "globalBatch": BATCH, "resolution": 64,
                    "precision": "fp32", "learningRate": 1e-6,
                },
                "runtime": {"gpusPerNode": 0},
            },
        }
    )  # fmt: skip


def _seconds(step: Callable[[], None]) -> float:
    for _ in range(WARM_UP):
        step()
    began = time.perf_counter()
    for _ in range(STEPS - WARM_UP):
        step()
    return (time.perf_counter() - began) / (STEPS - WARM_UP)


def _ratios(one: Callable[[], None], other: Callable[[], None]) -> list[float]:
    return [_seconds(one) / _seconds(other) for _ in range(ROUNDS)]
