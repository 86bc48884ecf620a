"""The interface of a model family: all that differs from one kind of diffusion model to another."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.adapters.exported import Adapter, LoadedAdapter
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.prompts import Conditioning, PromptEncoder
from dreambooth_trainer.models.published import PublishedModel
from dreambooth_trainer.models.tokens.names import expand_captions

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""The prediction types of DDPM models that can be trained."""

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Bounds of a posterior's log variance, as in diffusers' DiagonalGaussianDistribution."""

Config = Mapping[str, Any]
ReadWeights = Callable[[str], dict[str, Tensor]]
"""The exported weights of a part, by the name of its folder."""


class Family(PromptEncoder):
    """A base model of one family: its parts, and the arithmetic between them.

    `denoiser` is trained; `text_encoders` may be (by their folders, "text_encoder" first); the VAE
    never is. Everything but the weights' values works on the meta device too, which preflight uses.
    Shapes: N images of H x W pixels, R x R for squares, latents of C channels and h x w cells; for
    Stable Diffusion C is 4, and h and w are H/8 and W/8.

    Args:
        pipeline: A diffusers pipeline with all parts.
        model_hash: sha256 of the files that it was loaded from.
    """

    name: ClassVar[str]
    """As people call it."""
    published: ClassVar[Sequence[PublishedModel]] = ()
    """The models that people know by name, the one to begin with first; see docs/models.md."""
    pipeline_class: ClassVar[Any]
    """The diffusers pipeline that model_index.json names; it generates the images."""
    pipeline_settings: ClassVar[Sequence[str]] = ()
    """Entries of model_index.json, besides the parts, that the pipeline is built with."""
    other_pipelines: ClassVar[Mapping[str, str]] = {}
    """What diffusers' other pipelines for models of this kind are for; none can be trained."""
    modules: ClassVar[Mapping[str, Any]]
    """The classes of the parts with weights that training loads, by their folders."""
    tokenizers: ClassVar[Mapping[str, Any]]
    """The classes of the tokenizers (or processors), by their folders."""
    missing_parts: ClassVar[Sequence[str]] = ()
    """Parts that the pipeline has, and this variant of the family has not."""
    denoiser_part: ClassVar[str] = "transformer"
    """The folder of the part that is trained."""
    objective_kind: ClassVar[Literal["ddpm", "flow"]]
    """How the denoiser was trained, see `objectives`."""
    unguided_scale: ClassVar[float] = 1.0
    """The guidance scale at which the pipeline predicts what training does: without guidance."""
    pipeline_multiple: ClassVar[int] = 1
    """Its pipeline refuses sides that are no multiple of this, in pixels, whatever the VAE."""
    guides_in_one_pass: ClassVar[bool] = True
    """Whether the pipeline takes both halves of guidance through the denoiser as one batch."""
    noise_level_note: ClassVar[str] = ""
    """Where training and sampling shift noise levels differently: a sentence for docs/models.md."""
    waits_in_step: ClassVar[bool] = False
    """Whether a training step waits for the device, as its denoiser takes lengths of captions."""
    trains_text: ClassVar[bool] = False
    """Whether its text encoders can be trained: language models of gigabytes cannot."""
    reads_images: ClassVar[bool] = False
    """Whether its text encoder is a vision-language model, which can describe images as well."""
    learns_tokens: ClassVar[bool] = False
    """Whether new words can be learned: its text encoders are CLIP's, and `tokenize` expands its
    captions, see `tokens.names`."""
    lora_text_targets: ClassVar[Sequence[str]] = ("q_proj", "k_proj", "v_proj", "out_proj")
    """Ends of the names of a text encoder's modules that get an adapter."""
    not_adapted: ClassVar[Sequence[str]] = ()
    """Modules of the denoiser with blocks of their own that no preset of adapters includes."""
    export_dtype: ClassVar[torch.dtype] = torch.bfloat16
    """Precision of an exported pipeline's weights."""
    card_tag: ClassVar[str]
    """The family's tag on model hubs."""
    card_dtype: ClassVar[torch.dtype] = torch.bfloat16
    """Precision of the code on a result's card."""

    def __init__(self, pipeline: Any, model_hash: str) -> None:
        self.model_hash = model_hash
        self.clip_skip = 1
        """`spec.model.clipSkip`, where `max_clip_skip` allows it."""
        self.start: LoadedAdapter | None = None
        """The adapter that is trained further (`spec.model.adapter`)."""
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self.denoiser: nn.Module = getattr(pipeline, self.denoiser_part)
        self.text_encoders: dict[str, nn.Module] = {
            part: getattr(pipeline, part) for part in self.text_parts()
        }
        # `make_trainable` unfreezes what is trained.
        for module in self.parts.values():
            module.requires_grad_(False)
            module.eval()

    @classmethod
    def assemble(cls, parts: Mapping[str, Any]) -> Any:
        """The pipeline of loaded parts: modules, tokenizers and scheduler by their folders.

        `pipeline_settings` that model_index.json has are among them.
        """
        return cls.pipeline_class(**parts)

    @classmethod
    def for_index(cls, index: Config) -> "type[Family]":
        """The variant of the family that a model_index.json describes, by the parts it has."""
        return cls

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Why parts with these configurations, by folder, make up no model that can be trained."""
        yield from ()

    @classmethod
    def text_parts(cls) -> list[str]:
        """The folders of the text encoders."""
        return [part for part in cls.modules if part.startswith("text_encoder")]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts with weights, by their folders."""
        return {part: getattr(self._pipeline, part) for part in self.modules}

    def pipeline(self) -> Any:
        """A diffusers pipeline of the modules that are trained: it shares their weights."""
        return self._pipeline

    @property
    @abstractmethod
    def defaults(self) -> ModelDefaults:
        """What a job that leaves it to the model is trained and sampled with."""

    @property
    def training_notes(self) -> list[str]:
        """What a user should know before training this model, such as what becomes of distillation.

        Preflight shows them as warnings.
        """
        return []

    @property
    def max_clip_skip(self) -> int:
        """The largest `clip_skip`; 1 where no other layer of a text encoder can be read."""
        return 1

    def unused_modules(self, part: str) -> Sequence[nn.Module]:
        """Modules of a part without effect on its output: they are excluded from training."""
        return ()

    # Geometry

    @property
    def vae_factor(self) -> int:
        """Pixels per cell of the latent, along one side."""
        # Every level of an AutoencoderKL but the first halves the resolution.
        return int(2 ** (len(self._vae.config.block_out_channels) - 1))

    @property
    @abstractmethod
    def resolution_step(self) -> int:
        """Images of a multiple of this size, in pixels, use every level or patch in full."""

    @property
    def side_multiple(self) -> int:
        """Sides of images must be a multiple of this, in pixels."""
        return math.lcm(self.pipeline_multiple, self.vae_factor)

    @property
    def largest_side(self) -> int | None:
        """Sides of images must be at most this, in pixels; None: the model has no such limit."""
        return None

    @property
    @abstractmethod
    def native_resolution(self) -> int:
        """Size, in pixels along one side, of the images that the model was trained on."""

    @property
    def latent_channels(self) -> int:
        """C."""
        return int(self._vae.config.latent_channels)

    def latent_shape(self, width: int, height: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images of a size in pixels; of squares without a height."""
        height = height or width
        return self.latent_channels, height // self.vae_factor, width // self.vae_factor

    # Images

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] in -1..1 -> what `sample_latents` draws from, fp32.

        For a variational autoencoder the posterior's mean and log variance, [N, 2C, h, w].
        """
        # The moments, not a sample: a new sample is drawn at every step that uses the image.
        parameters: Tensor = self._vae.encode(pixels.to(self._vae.dtype)).latent_dist.parameters
        return parameters.float()

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Sample latents from their posterior, in the denoiser's scale.

        Moments [N, 2C, h, w], standard normal noise [N, C, h, w] -> latents [N, C, h, w].
        """
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()
        return self.scale_latents(mean + deviation * noise)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """The VAE's latents [N, C, h, w] at about unit variance, as the denoiser sees them.

        Source: Rombach et al. 2022, appendix G.
        """
        shift = self._vae.config.get("shift_factor") or 0.0
        scaled: Tensor = (latents - shift) * self._vae.config.scaling_factor
        return scaled

    def unpack_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """Latents as the pipeline's scheduler sees them -> [N, C, h, w], see `latent_shape`."""
        return latents

    def decode_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """What the pipeline returns for `output_type="latent"` -> pixels [N, 3, H, W] in -1..1."""
        shift = self._vae.config.get("shift_factor") or 0.0
        latents = self.unpack_latents(latents, width, height)
        unscaled = latents.to(self._vae.dtype) / self._vae.config.scaling_factor + shift
        pixels: Tensor = self._vae.decode(unscaled, return_dict=False)[0]
        return pixels

    # Text

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those that the tokenizer adds."""
        tokenizer = self._pipeline.tokenizer
        [text] = expand_captions([text], tokenizer)
        return len(tokenizer(text, truncation=False, verbose=False).input_ids)

    # The denoiser

    @property
    def prediction_type(self) -> str:
        """Of DDPM models: `epsilon` (Ho et al. 2020) or `v_prediction` (Salimans & Ho 2022)."""
        raise NotImplementedError

    @property
    def alphas_cumprod(self) -> Tensor:
        """Of DDPM models: cumulative signal of every timestep, [T] (Ho et al. 2020, section 2)."""
        raise NotImplementedError

    def flow_shift(self, resolution: int) -> float | None:
        """Shift of the noise levels for images of R x R pixels; 1 leaves them. None for DDPM.

        Where a model has mu by resolution, exp(mu). Source: Esser et al. 2024, section 5.3.2.
        """
        return None

    @abstractmethod
    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The denoiser's prediction [N, C, h, w] for noisy latents [N, C, h, w].

        Args:
            noisy: Noisy latents.
            timesteps: [N]. DDPM: integers from 0 (nearly clean) to T - 1 (nearly noise). Flow
                matching: sigma in 0..1, and the prediction is noise - latents.
            conditioning: Of each sample's caption.
            crops: [N, 4], for families that know where an image was cropped: height and width of
                the original, then top and left of the crop after scaling, in pixels. None: as of an
                image that was neither scaled nor cropped.
        """

    # Sampling

    @abstractmethod
    def sampling_scheduler(self, sampler: Sampler) -> Any:
        """A new scheduler for a pipeline call, for a sampler of the API."""

    @abstractmethod
    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """Arguments of the pipeline for images with these prompts, one of them an image.

        They are encoded as for training, so the pipeline's text encoders are not needed.
        """

    # Export

    @classmethod
    def card_arguments(cls, guidance_scale: float) -> dict[str, Any]:
        """Arguments, besides prompt, steps and size, with which people call the pipeline."""
        return {"guidance_scale": guidance_scale}

    def web_ui_name(self, part: str, module: str) -> str:
        """The name of a module's adapter in files of LyCORIS, which ComfyUI loads too."""
        return f"lycoris_{module.replace('.', '_')}"

    def web_ui_lora(
        self, adapters: Sequence[Adapter]
    ) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors under the names of kohya's sd-scripts, and what web UIs read from the header.

        None where they load the names of diffusers.
        """
        return None

    def single_file(self, read: ReadWeights) -> dict[str, Tensor] | None:
        """All weights under the names of the original code, as web UIs load whole models.

        None where there is no such file.

        Raises:
            KeyError: A weight has no name in that layout.
        """
        return None
