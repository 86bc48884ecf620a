"""The GPU memory of every stage of a job, measured on the shapes of its model.

The trainer's own code runs on the meta device: loading, encoding, generating, a training step,
scoring and exporting. Saving copies from the GPU to the host directly, and takes none.
"""

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from dreambooth_trainer.data.cache import DEVICE_BYTES, TrainingCache
from dreambooth_trainer.data.crops import variants
from dreambooth_trainer.evaluation.encoder_config import EncoderConfig
from dreambooth_trainer.evaluation.encoders import CHUNK
from dreambooth_trainer.models import Conditioning
from dreambooth_trainer.models.adapters.trainable import PRECISIONS, make_trainable
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.models.offload.apply import offloaded_bytes
from dreambooth_trainer.models.prompts import count_bytes
from dreambooth_trainer.preflight.memory.meta_device import META, CudaArithmetic, MemoryMeter
from dreambooth_trainer.preflight.memory.sharded import state_of_others, weights_of_others
from dreambooth_trainer.process.chunks import images_per_pass
from dreambooth_trainer.process.out_of_memory import GpuStage
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedTraining
from dreambooth_trainer.training.module import DreamBooth
from dreambooth_trainer.training.optimizer_state import device_bytes, empty_state
from dreambooth_trainer.training.saved_weights import exported_group

GIB = 1024**3
OVERHEAD = 1 * GIB
"""What torch's allocator does not count: CUDA's context, the libraries' workspaces, gaps."""
WEIGHT, AVERAGE = 4, 4
"""Bytes of a checkpoint per trained parameter: the weight, and its average, in fp32."""


def measure_stages(
    job: ResolvedJob,
    config: ModelConfig,
    *,
    local_batch: int,
    ranks: int,
    encoders: Sequence[EncoderConfig] = (),
    captions: Collection[str] | None = None,
) -> dict[GpuStage, int]:
    """Largest number of bytes of tensors on one GPU, by stage; `OVERHEAD` comes on top.

    Args:
        job: The job.
        config: Its model.
        local_batch: Images of a forward pass, of subject and class together.
        ranks: All ranks: gradients of several stay allocated between steps.
        encoders: The models of `spec.evaluation`.
        captions: All different texts: captions, prompts of images, the empty one. By default one
            that is as long as can be.
    """
    with MemoryMeter() as meter, META:
        return _Measurement(job, config, encoders, captions, ranks, meter).run(local_batch)


class _Measurement:
    """Goes through the stages of a job; what a stage leaves on the GPU stays for the next one."""

    def __init__(
        self,
        job: ResolvedJob,
        config: ModelConfig,
        encoders: Sequence[EncoderConfig],
        captions: Collection[str] | None,
        ranks: int,
        meter: MemoryMeter,
    ) -> None:
        self._ranks = ranks
        self._is_sharded = ranks > 1 and job.spec.runtime.strategy == "fsdp"
        self._meter = meter
        self._spec = job.spec
        self._training = job.spec.training
        half = PRECISIONS[self._training.precision]
        self._half = None if half is torch.float32 else half
        self._family = config.build(self._training, job.spec.model.quantization)
        self._meter.reset_peak()  # weights reach the device in their own precision
        self._latent_shape = self._family.latent_shape(self._training.resolution)
        self._stages: dict[GpuStage, int] = {}
        self._of_others = 0
        """Bytes that other ranks hold, where they divide the denoiser."""
        self._state_of_others = 0
        """Those of them that are needed for training alone."""
        if self._is_sharded:
            self._of_others = weights_of_others(self._family.denoiser, ranks)
        if (offload := job.spec.runtime.offload) is not None:
            excluded = self._family.not_adapted
            self._of_others = offloaded_bytes(self._family.denoiser, excluded, offload)
        self._note("loading the model")
        tokens = self._family.tokenize([""])
        self._tokens = {name: torch.empty_like(part, device=META) for name, part in tokens.items()}
        self._captions = captions
        self._conditioning = self._encode_text()
        self._encoder_configs = encoders
        self._encoders: list[nn.Module] = []

    def run(self, local_batch: int) -> dict[GpuStage, int]:
        """The bytes by stage, in the order of the stages."""
        self._generate("generating class images", self._spec.prior.guidance_scale)
        self._encoders = [each.architecture.build(each.config) for each in self._encoder_configs]
        self._encode()
        module = self._module(local_batch)
        self._step(module, local_batch)
        # Before the first step there is less beside the samples.
        with module.averaged_weights():
            self._generate("sampling", self._spec.samples.guidance_scale)
        module.release_optimizer()
        del self._moments
        self._of_others -= self._state_of_others
        self._meter.reset_peak()
        with module.averaged_weights():
            self._score()
            self._export()
        return self._stages

    def _note(self, stage: GpuStage) -> None:
        """Record the peak since the last stage."""
        peak = self._meter.peak - self._of_others
        self._stages[stage] = max(peak, self._stages.get(stage, 0))
        self._meter.reset_peak()

    def _generate(self, stage: GpuStage, guidance_scale: float) -> None:
        """A denoising step, then one image through the VAE."""
        count = images_per_pass(self._training.resolution)
        is_guided = guidance_scale > self._family.unguided_scale
        halves = 2 if is_guided and self._family.defaults.takes_negative_prompt else 1
        batch = count * (halves if self._family.guides_in_one_pass else 1)
        # Of prompts and negative prompts there are the trainer's rows, and the pipeline's copies.
        given, *passes = (
            {name: torch.cat([part] * rows) for name, part in self._conditioning.items()}
            for rows in (count * halves, *[batch] * (count * halves // batch))
        )
        with torch.no_grad():
            with CudaArithmetic(self._half):
                latents = torch.empty(count, *self._latent_shape)
                self._family.predict(
                    torch.empty(batch, *self._latent_shape),
                    torch.zeros(batch),
                    passes[0],
                )
            with CudaArithmetic(None):
                self._family.decode_latents(latents[:1], self._training.resolution)
        del given, passes
        self._note(stage)

    def _encode(self) -> None:
        """One image: see `latents.load_latents`."""
        side = self._training.resolution
        with CudaArithmetic(None):
            moments = self._family.encode_images(torch.empty(1, 3, side, side))
        self._moments_shape = moments.shape[1:]
        del moments
        self._note("encoding latents")

    @torch.no_grad()
    def _encode_text(self) -> Conditioning:
        """Of one prompt; the text encoders leave the GPU where they are frozen."""
        with CudaArithmetic(None):
            conditioning = self._family.encode_tokens(self._tokens)
        self._note("encoding text")
        if not self._spec.trains_text:
            self._retire_text_encoders()
        return self._without_padding(conditioning)

    def _without_padding(self, conditioning: Conditioning) -> Conditioning:
        """With the tokens of the longest caption: see `prompts.drop_padding`."""
        if self._captions is None or not self._family.ignores_padding:
            return conditioning
        longest = max(map(self._family.count_tokens, self._captions))
        return {name: part[:, :longest].clone() for name, part in conditioning.items()}

    def _retire_text_encoders(self) -> None:
        """They leave the GPU, see `Family.retire_text_encoders`."""
        for part in self._family.text_encoders:
            setattr(self._family.pipeline(), part, None)
        self._family.text_encoders.clear()
        self._meter.reset_peak()

    def _module(self, local_batch: int) -> DreamBooth:
        flips = len(variants("center", self._training.flip))
        rows = max(self._spec.prior.count * flips if self._spec.prior.enabled else 0, local_batch)
        text_is_trained = self._spec.trains_text
        cache = TrainingCache(
            moments=torch.empty(rows, *self._moments_shape),
            crops=torch.empty(rows, 4, dtype=torch.long),
            caption_of_row=torch.empty(rows, dtype=torch.long),
            captions=[""],
            tokens=self._tokens,
            conditioning=None if text_is_trained else self._conditioning_table(),
            base_conditioning=self._conditioning_table() if text_is_trained else None,
        )
        trained = make_trainable(self._family, self._training)
        prior = self._spec.prior if self._spec.prior.enabled and self._spec.prior.weight else None
        module = DreamBooth(self._family, trained, self._training, cache, prior)
        optimizer = self._training.optimizer
        self._moments = [
            torch.empty(
                device_bytes(optimizer.name, name, parameter, optimizer.beta1), dtype=torch.uint8
            )
            for name, parameter in trained.all.items()
        ]
        if self._is_sharded:
            self._state_of_others = state_of_others(trained, self._training, prior, self._ranks)
            self._of_others += self._state_of_others
        return module

    def _conditioning_table(self) -> Conditioning:
        """Of all captions, unless they stay in host memory: see `cache.HostConditioning`."""
        count = len(self._captions or [""])
        if count * count_bytes([self._conditioning]) > DEVICE_BYTES:
            count = 1
        return {
            name: part.new_empty(count, *part.shape[1:])
            for name, part in self._conditioning.items()
        }

    def _step(self, module: DreamBooth, local_batch: int) -> None:
        parameters = list(module.trained.all.values())
        if self._ranks > 1 or self._training.accumulation > 1:
            # DDP's buckets stay allocated, and the gradients are views of them.
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
        with CudaArithmetic(self._half):
            batch = _batch(local_batch, self._latent_shape, module.objective.timestep_dtype)
            loss = module.training_step(batch, 0)
        if self._training.gradient_checkpointing:
            # Its repeated forward passes do not run under a function mode; one block's are small.
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        del loss
        optimizer = self._training.optimizer.name
        if self._training.precision == "fp16" or optimizer == "schedule-free-adamw":
            # Where it is not fused, AdamW takes the roots of all second moments at once.
            _ = [torch.empty_like(parameter) for parameter in parameters]
            del _
        self._note("a training step")

    def _score(self) -> None:
        for found, encoder in zip(self._encoder_configs, self._encoders, strict=True):
            with torch.no_grad(), CudaArithmetic(None):
                pixels = torch.empty(CHUNK, 3, *found.preprocessing.shape)
                found.architecture.encode(encoder, pixels)
            del pixels
            self._note("scoring")

    def _export(self) -> None:
        training = self._training
        if training.method == "lora" and training.text_encoder.method == "full":
            copy.deepcopy(self._family.denoiser).float()  # adapters are merged into a copy
        self._note("exporting")


def _batch(
    count: int, latent_shape: tuple[int, int, int], timestep_dtype: torch.dtype
) -> dict[str, Tensor]:
    """A micro-batch, see `batches.Batch`."""
    return {
        "row": torch.zeros(count, dtype=torch.long),
        "timestep": torch.zeros(count, dtype=timestep_dtype),
        "drop_caption": torch.zeros(count, dtype=torch.bool),
        "empty_prompt": torch.zeros(count, dtype=torch.bool),
        "latent_noise": torch.empty(count, *latent_shape),
        "noise": torch.empty(count, *latent_shape),
    }


def checkpoint_bytes(config: ModelConfig, training: ResolvedTraining) -> int:
    """Bytes of a checkpoint: trained weights, the optimizer's state, EMA's average."""
    with META:
        trained = make_trainable(config.build(training), training).all
    per_trained = WEIGHT + (AVERAGE if exported_group(training) == "average" else 0)
    if training.lora.init == "pissa":
        per_trained += WEIGHT  # what the adapters started with
    optimizer = training.optimizer
    states = (
        empty_state(optimizer.name, name, parameter, optimizer.beta1)
        for name, parameter in trained.items()
    )
    return sum(parameter.numel() for parameter in trained.values()) * per_trained + sum(
        each.nbytes for state in states for each in state.values()
    )
