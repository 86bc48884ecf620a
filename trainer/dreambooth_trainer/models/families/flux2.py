"""What the models of FLUX.2 share: one transformer, one VAE, layers of a language model as text."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.bases.language_model import text_width
from dreambooth_trainer.models.bases.packing import PackedFamily, pack, positions, unpack
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.names.flux2_kohya import flux2_kohya_lora
from dreambooth_trainer.models.prompts import Conditioning, Tokens

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "attn.to_out")
"""All of attention, with the MLPs that are fused with it in the single-stream blocks."""
TRAINING_GUIDANCE = 1.0
"""The input at which a model with distilled guidance predicts without: see `flux`."""


class Flux2(PackedFamily):
    """A model of FLUX.2 (Black Forest Labs 2025).

    Training shifts noise levels as the scheduler's configuration says, linearly in the number of
    image tokens, with which the base models were trained. The pipelines sample with a larger,
    empirical shift by tokens and steps, which is no model of the training's noise levels.
    """

    modules: ClassVar[Mapping[str, Any]] = {
        "transformer": Flux2Transformer2DModel,
        "vae": AutoencoderKLFlux2,
    }
    text_layers: ClassVar[tuple[int, int, int]]
    """The layers of the language model whose states the transformer reads; 0 is its input."""
    noise_level_note = (
        "The default shift is that of the base model's training, 3.2 at 1024 pixels; sampling has a"
        " larger one, 7.6 with 50 steps."
    )
    card_tag = "flux2"

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of latents, or of text."""
        yield from super().find_mismatches(configs)
        transformer, text = configs["transformer"], configs["text_encoder"]
        read, width = transformer.get("joint_attention_dim"), text_width(text)
        if width is None or read != len(cls.text_layers) * width:
            yield (
                f"its transformer expects text of width {read}, {len(cls.text_layers)} layers of"
                f" its text encoder, which makes {width}"
            )

    @property
    def max_tokens(self) -> int:
        """512, with those of the chat template."""
        return 512

    def scale_latents(self, latents: Tensor) -> Tensor:
        """The VAE's latents [N, 32, h, w], normalized as its batch norm, which sees 2 x 2 cells."""
        mean, deviation = self._statistics()
        return unpack((pack(latents) - mean) / deviation, _shape(latents))

    def decode_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """Tokens as the pipeline returns them -> pixels [N, 3, H, W]."""
        mean, deviation = self._statistics()
        latents = self.unpack_latents(latents, width, height).to(self._vae.dtype)
        unscaled = unpack(pack(latents) * deviation + mean, _shape(latents))
        pixels: Tensor = self._vae.decode(unscaled, return_dict=False)[0]
        return pixels

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents, [128] each, in the order of a token's channels."""
        norm = self._vae.bn
        return norm.running_mean, (norm.running_var + self._vae.config.batch_norm_eps).sqrt()

    @property
    @abstractmethod
    def language_model(self) -> Any:
        """The text encoder without its output layer, which would compute a number for each word."""

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Three of its layers side by side, [captions, 512, 3D]; padding is used as it is."""
        states = self.language_model(
            tokens["ids"],
            attention_mask=tokens["mask"],
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        joined = torch.cat([states[layer] for layer in self.text_layers], dim=-1)
        return {"hidden_states": joined}

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, without guidance."""
        states = conditioning["hidden_states"]
        height, width = noisy.shape[2:]
        guidance = None
        if self._pipeline.transformer.config.guidance_embeds:
            guidance = conditioning.get("guidance", torch.full_like(timesteps, TRAINING_GUIDANCE))
        # Four axes: the image (of several), row, column, and the token of the text.
        text = torch.arange(states.shape[1], device=noisy.device).unsqueeze(1)
        velocity = self.denoiser(
            hidden_states=pack(noisy),
            timestep=timesteps,
            guidance=guidance,
            encoder_hidden_states=states,
            txt_ids=pad(text, (3, 0)),
            img_ids=pad(positions(height // 2, width // 2, noisy.device), (1, 1)),
            return_dict=False,
        )[0]
        return unpack(velocity, _shape(noisy))

    def web_ui_lora(
        self, adapters: Sequence[Adapter]
    ) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The original code's names; None if a module outside of the blocks is adapted."""
        return flux2_kohya_lora(adapters)


def _shape(latents: Tensor) -> tuple[int, int, int]:
    channels, height, width = latents.shape[1:]
    return channels, height, width
