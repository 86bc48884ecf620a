"""The one interface that training needs from a model family."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Conditioning = dict[str, Tensor]
"""What the denoiser is conditioned on; every tensor has the captions as its first dimension."""


class Family(Protocol):
    """A base model of one family: its parts, and the arithmetic between them.

    `denoiser` is trained; `text_encoders` may be (by name, "text_encoder" first); the VAE never is.
    """

    model_hash: str
    denoiser: nn.Module
    text_encoders: dict[str, nn.Module]

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative signal of every training timestep, [T]."""

    @property
    def lora_text_targets(self) -> list[str]:
        """Modules of a text encoder that get an adapter."""

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of an image's latent."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, R, R] in -1..1 -> moments of the latents' posterior [N, 2C, h, w]."""

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Moments [N, 2C, h, w], standard normal noise [N, C, h, w] -> scaled latents [N, C, h,
        w].
        """

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids of the captions; the first dimension is the caption."""

    def encode_tokens(self, tokens: Tensor) -> Conditioning:
        """Conditioning of the captions; differentiable in the text encoders."""

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction, [N, C, h, w]."""

    def pipeline(self) -> Any:
        """A diffusers pipeline over the very modules that are trained."""
