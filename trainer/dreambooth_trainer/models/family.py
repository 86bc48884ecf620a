"""The interface of a model family that training uses."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn

Conditioning = dict[str, Tensor]
"""What the denoiser is conditioned on; the first dimension of every tensor is the caption."""

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""The prediction types that can be trained."""


class Family(Protocol):
    """A base model of one family: its parts, and the arithmetic between them.

    `denoiser` is trained; `text_encoders` may be (by name, "text_encoder" first); the VAE never is.
    Shapes: N images of R x R pixels, latents of C channels and h x w cells; for Stable Diffusion C
    is 4, and h and w are R/8.
    """

    model_hash: str
    denoiser: nn.Module
    text_encoders: dict[str, nn.Module]

    @property
    def objective_kind(self) -> Literal["ddpm", "flow"]:
        """The kind of the objective that it is trained with."""

    @property
    def prediction_type(self) -> str:
        """`epsilon` (Ho et al. 2020, section 3.2) or `v_prediction` (Salimans & Ho 2022)."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative signal of every training timestep, [T] (Ho et al. 2020, section 2)."""

    @property
    def lora_text_targets(self) -> list[str]:
        """Ends of the names of a text encoder's modules that get an adapter."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, R, R] in -1..1 -> moments of the latents' posterior [N, 2C, h, w]."""

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Sample latents from their posterior, in the denoiser's scale.

        Moments [N, 2C, h, w], standard normal noise [N, C, h, w] -> latents [N, C, h, w].
        """

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids [captions, ...], padded or truncated to the text encoder's length."""

    def encode_tokens(self, tokens: Tensor) -> Conditioning:
        """Conditioning of token ids [captions, ...]; differentiable in the text encoders."""

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction [N, C, h, w] for noisy latents [N, C, h, w].

        timesteps: [N], integers from 0 (nearly clean) to T - 1 (nearly noise).
        """

    def pipeline(self) -> Any:
        """A diffusers pipeline of the modules that are trained: it shares their weights."""
