"""The LightningModule: one forward pass for subject and class, without waiting for the device."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from dreambooth_trainer.data.batches import Batch
from dreambooth_trainer.data.cache import NO_CAPTION, TrainingCache, encode_captions
from dreambooth_trainer.models import Conditioning, Family
from dreambooth_trainer.models.adapters.trainable import TrainableParameters
from dreambooth_trainer.models.base_model import BaseModel
from dreambooth_trainer.models.sharding import average_gradients, clip_gradients, is_sharded
from dreambooth_trainer.objectives.loss import Losses, dreambooth_loss
from dreambooth_trainer.objectives.make import make_objective
from dreambooth_trainer.resolved_job import ResolvedPrior, ResolvedTraining
from dreambooth_trainer.training.ema import ExponentialMovingAverage, applied, assign
from dreambooth_trainer.training.optimizer import learning_rates, make_optimizer
from dreambooth_trainer.training.optimizer_state import (
    optimizer_tensors,
    restore_optimizer,
    restore_scaler,
    scaler_tensors,
)
from dreambooth_trainer.training.saved_weights import copy_weights, exported_group, starts
from dreambooth_trainer.training.schedule import make_schedule, text_stop_step
from dreambooth_trainer.training.schedule_free import schedule_free_average


@dataclass(frozen=True)
class ResumeState:
    """The state that an earlier attempt saved.

    Args:
        step: Optimizer steps done.
        tensors: Those of `DreamBooth.state`, until they are loaded: every rank of a node holds
            them, which takes 16 GB each for Stable Diffusion 1.5 with EMA.
    """

    step: int
    tensors: dict[str, Tensor]


class DreamBooth(pl.LightningModule):
    """Trains a family's denoiser (and text encoders) on cached latents.

    After each step `losses` holds the three losses of the last micro-batch, and `gradient_norm` the
    norm of the gradient that the weights were updated with. Both stay on the device: reading them
    would make the host wait for it.

    Args:
        family: The base model.
        trained: Its trained parameters.
        training: `spec.training`.
        cache: Latents and conditioning.
        prior: `spec.prior`; None without class samples.
        resume: The state to continue from.
    """

    def __init__(
        self,
        family: Family,
        trained: TrainableParameters,
        training: ResolvedTraining,
        cache: TrainingCache,
        prior: ResolvedPrior | None,
        resume: ResumeState | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = family.denoiser
        # Submodules only if they are trained: DDP would broadcast their weights.
        if trained.text:
            self.text_encoders = nn.ModuleDict(family.text_encoders)
        if trained.tokens:
            self.tokens = nn.ParameterList(trained.tokens.values())
        self.trained = trained
        self.training_spec = training
        self.start = resume.step if resume else 0
        self.losses: Losses | None = None
        self.gradient_norm: Tensor | None = None
        self._family = family
        self._cache = cache
        self._prior_weight = prior.weight if prior else None
        # Before the weights of the resumed state take the place of the base model's.
        keeps_base = prior is not None and prior.target == "prediction"
        self._base = BaseModel(family, training) if keeps_base else None
        self._resume = resume
        self._optimizer: Optimizer | None = None
        self._is_schedule_free = training.optimizer.name == "schedule-free-adamw"
        self._copied: Conditioning | None = None
        """Of the batch, where conditioning is in host memory."""
        self.objective = make_objective(family, training, cache.moments.device)
        self.ema = (
            ExponentialMovingAverage(trained.all, training.ema.decay)
            if training.ema.enabled
            else None
        )
        if resume:
            self._restore_weights(resume.tensors)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images of a size in pixels."""
        return self._family.latent_shape(width, height)

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the job began, over all attempts."""
        return self.start + self.trainer.global_step

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Start to copy the captions' conditioning, where it is in host memory.

        Lightning's hook for a batch that is still there itself.
        """
        if self._cache.host is not None:
            host = self._cache.host
            self._copied = host.look_up(self._captions_of(batch, host.caption_of_row))
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """After `textEncoder.stopFraction` of the steps, look the text's conditioning up.

        The text encoders then have no forward and backward pass, and no gradient to be clipped.
        """
        text_trains = self.trained.tokens or self.steps_done < text_stop_step(self.training_spec)
        if self._copied is None and self._cache.conditioning is None and not text_trains:
            for encoder in self._family.text_encoders.values():
                encoder.eval()
            conditioning = encode_captions(self._family, self._cache.tokens)
            self._cache = replace(self._cache, conditioning=conditioning)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one micro-batch, a scalar (Ruiz et al. 2022, equation 2).

        Its gradient is averaged over ranks and micro-batches.
        """
        timesteps, noise = batch["timestep"], batch["noise"]
        moments = self._cache.moments_of(batch["row"], *noise.shape[2:])
        latents = self._family.sample_latents(moments, batch["latent_noise"])
        noisy = self.objective.add_noise(latents, noise, timesteps)
        conditioning, crops = self._conditioning(batch), self._cache.crops[batch["row"]]
        target = self.objective.target(latents, noise, timesteps)
        if self._base is not None:  # first, as its memory is free again before activations are kept
            target = torch.cat(
                [target.chunk(2)[0], self._base_prediction(batch, noisy, conditioning)]
            )
        prediction = self._family.predict(noisy, timesteps, conditioning, crops)
        losses = dreambooth_loss(
            prediction,
            target,
            self.objective.weights(timesteps),
            self._prior_weight,
            self._cache.loss_weights_of(batch["row"], *noise.shape[2:]),
        )
        self.losses = Losses(*(part.detach() for part in vars(losses).values()))
        return losses.total

    def _base_prediction(self, batch: Batch, noisy: Tensor, conditioning: Conditioning) -> Tensor:
        """The base model's prediction for the class half of a batch, [B, C, h, w]."""
        assert self._base is not None
        base = self._cache.base_conditioning
        if base is not None:  # the text encoder has changed since
            conditioning = self._look_up(base, batch)
        half = len(noisy) // 2
        return self._base.predict(
            noisy[half:],
            batch["timestep"][half:],
            {key: part[half:] for key, part in conditioning.items()},
            self._cache.crops[batch["row"][half:]],
        )

    def _conditioning(self, batch: Batch) -> Conditioning:
        """Of each sample's caption, or of the empty one that replaces it."""
        if self._copied is not None:
            return self._with_guidance(self._copied, batch)
        if self._cache.conditioning is None:
            return self._encode(batch)
        return self._look_up(self._cache.conditioning, batch)

    def _encode(self, batch: Batch) -> Conditioning:
        """By the text encoders as they are; of the class half only where they train themselves."""
        tokens = self._look_up(self._cache.tokens, batch)
        base = self._cache.base_conditioning
        if self.trained.text or self._prior_weight is None or base is None:
            return self._family.encode_tokens(tokens)
        # No prompt of a class has a learned word.
        half = len(batch["row"]) // 2
        own = self._family.encode_tokens({name: part[:half] for name, part in tokens.items()})
        of_class = self._look_up(base, batch)
        return {name: torch.cat([part, of_class[name][half:]]) for name, part in own.items()}

    def _look_up(self, table: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Each sample's row of tokens or conditioning."""
        captions = self._captions_of(batch, self._cache.caption_of_row)
        return self._with_guidance({key: part[captions] for key, part in table.items()}, batch)

    def _captions_of(self, batch: Batch, caption_of_row: Tensor) -> Tensor:
        """Row of each sample's caption in the tables, or of the empty one that replaces it, [N]."""
        captions = caption_of_row[batch["row"]]
        if captions.dim() == 2:  # tags are shuffled
            captions = captions.gather(1, batch["caption_order"].unsqueeze(1)).squeeze(1)
        captions = torch.where(batch["drop_caption"], NO_CAPTION, captions)
        if self._cache.empty_prompt is not None and self._family.defaults.takes_negative_prompt:
            captions = torch.where(batch["empty_prompt"], self._cache.empty_prompt, captions)
        return captions

    def _with_guidance(self, looked_up: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """With each sample's guidance, where it is an input of the model that samples differ in."""
        if self._cache.empty_prompt is None or self._family.defaults.takes_negative_prompt:
            return looked_up
        # What samples are made with stands for the empty prompt where guidance needs none.
        guidance = torch.where(
            batch["empty_prompt"], self._family.defaults.guidance_scale, self._family.unguided_scale
        )
        return {**looked_up, "guidance": guidance}

    def configure_optimizers(self) -> Any:
        """A new optimizer, and its learning-rate schedule as the resumed state left it."""
        self._optimizer = optimizer = make_optimizer(self.trained, self.training_spec)
        schedule = make_schedule(optimizer, self.training_spec, self.start)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Restore the resumed state of the optimizer and of fp16's gradient scaler.

        Lightning's hook. Before, Lightning moves an optimizer's state to the device, which would
        take a paged one's out of the memory that can be paged.
        """
        if self._resume is None:
            return
        assert self._optimizer is not None
        restore_optimizer(self._optimizer, self.trained, self._resume.tensors)
        restore_scaler(self._scaler, self._resume.tensors)
        self._resume.tensors.clear()  # the caller holds the state too
        self._resume = None

    def release_optimizer(self) -> None:
        """Free gradients, moments and the base model: what follows needs the weights alone.

        The weights of a schedule-free optimizer become their average.
        """
        if self._is_schedule_free:
            assign(self.trained.all, self._schedule_free_average())
            self._is_schedule_free = False
        self._optimizer = None
        self._base = None
        self.zero_grad(set_to_none=True)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip to `maxGradNorm`: Lightning itself refuses to with a fused AdamW under bf16."""
        if is_sharded(self.denoiser):
            average_gradients(self.trained.all.values())
        limit = self.training_spec.max_grad_norm or math.inf
        norm = clip_gradients(list(self.trained.all.values()), limit)
        # With fp16 it may be infinite, which is no failure: the scaler then skips the step.
        self.gradient_norm = norm if self._scaler is None else torch.zeros_like(norm)

    @property
    def learning_rates(self) -> list[float]:
        """The rates of the current step, the denoiser's first; between steps, of the next one."""
        assert self._optimizer is not None
        return learning_rates(self._optimizer)

    def state(self) -> dict[str, Tensor]:
        """Everything that a later attempt needs, by name, still on its device.

        `weight/<name>`, the optimizer's state, `average/<name>` where one is kept, and the gradient
        scaler's state with fp16. The learning rate is a function of the step.
        """
        assert self._optimizer is not None
        tensors = {f"weight/{name}": p.detach() for name, p in self.trained.all.items()}
        tensors |= {f"start/{name}": p.detach() for name, p in starts(self._family)}
        tensors |= optimizer_tensors(self._optimizer, self.trained)
        tensors |= scaler_tensors(self._scaler)
        if self.ema:
            tensors |= {f"average/{name}": t for name, t in self.ema.averages.items()}
        if self._is_schedule_free:
            average = self._schedule_free_average()
            tensors |= {f"average/{name}": t for name, t in average.items()}
        return tensors

    @property
    def _scaler(self) -> GradScaler | None:
        """Lightning's gradient scaler, which fp16 alone needs."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within, the model has its averaged weights, if there are any.

        Samples, scores and exports use them.
        """
        if self._is_schedule_free:
            return applied(self.trained.all, self._schedule_free_average())
        return self.ema.applied() if self.ema else nullcontext()

    @property
    def exported_group(self) -> str:
        """The start of the names of a state's `averaged_weights`."""
        return exported_group(self.training_spec)

    def _schedule_free_average(self) -> dict[str, Tensor]:
        """What the weights are averaged to; before the first update, they are the average."""
        weights = self.trained.all
        if self._resume is not None:
            return {name: self._resume.tensors[f"average/{name}"] for name in weights}
        state = self._optimizer.state if self._optimizer else {}
        steps = {name: state.get(p, {}).get("z", p) for name, p in weights.items()}
        return schedule_free_average(weights, steps, self.training_spec.optimizer)

    def load_exported(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a saved state's `averaged_weights`: the tensors of `exported_group`.

        Raises:
            KeyError: One is missing.
        """
        copy_weights(self.trained.all.items(), tensors, self.exported_group)

    def _restore_weights(self, tensors: Mapping[str, Tensor]) -> None:
        copy_weights(self.trained.all.items(), tensors, "weight")
        copy_weights(starts(self._family), tensors, "start")
        if self.ema:
            self.ema.load({name: tensors[f"average/{name}"] for name in self.ema.averages})
