"""The text encoder and the transformer, trained together on cached latents."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_z_image import RopeEmbedder
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Tokenizer, Qwen3Model

from tinyflow.text import WIDTH, Captions, build_text_encoder
from tinysd.fitting import fit
from tinysd.lessons import Lesson

SHIFT = 1.0


def build_transformer(dim: int = 192, layers: int = 5, heads: int = 6) -> ZImageTransformer2DModel:
    """An untrained transformer whose layers start as the identity, and its output at zero."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=dim,
        n_layers=layers,
        n_refiner_layers=1,
        n_heads=heads,
        n_kv_heads=heads,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[1536, 512, 512],
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and "adaLN_modulation" in name:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    last = transformer.all_final_layer["2-1"].linear
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return transformer


class RealRope:
    """The transformer's rotary embedding in real numbers, which torch can compile."""

    def __init__(self, rope: RopeEmbedder) -> None:
        self._rope = rope

    def __call__(self, ids: Tensor) -> Tensor:
        """Cosines and sines, [tokens, head dim / 2, 2], of positions [tokens, 3]."""
        return torch.view_as_real(self._rope(ids))


class RealAttention:
    """The attention of a transformer with ``RealRope``, for sequences of equal lengths."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """Self-attention over ``hidden_states``, [n, tokens, dim]."""
        assert freqs_cis is not None
        assert attention_mask is None
        cos, sin = freqs_cis[..., 0].unsqueeze(2), freqs_cis[..., 1].unsqueeze(2)

        def rotate(states: Tensor) -> Tensor:
            a, b = states.float().unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(3)

        def split(states: Tensor) -> Tensor:
            return states.unflatten(-1, (attn.heads, -1))

        query = rotate(attn.norm_q(split(attn.to_q(hidden_states)))).transpose(1, 2)
        key = rotate(attn.norm_k(split(attn.to_k(hidden_states)))).transpose(1, 2)
        value = split(attn.to_v(hidden_states)).transpose(1, 2)
        weights = (query @ key.transpose(2, 3) * attn.scale).softmax(-1)
        attended: Tensor = attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))
        return attended


def compile_for_training(transformer: ZImageTransformer2DModel) -> None:
    """Compiles the blocks, which makes a step on a CPU several times faster; weights stay."""
    transformer.rope_embedder = RealRope(transformer.rope_embedder)
    for module in transformer.modules():
        if isinstance(module, Attention):
            module.set_processor(RealAttention())
    transformer.compile_repeated_blocks()


def train(lessons: Sequence[Lesson], tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Trains on one lesson after the other; saves ``text_encoder`` and ``transformer``.

    The files are written every thousand steps and at the end of each lesson.
    """
    torch.manual_seed(0)
    text_encoder, transformer = build_text_encoder(tokenizer), build_transformer()
    text_encoder.layers[-1].requires_grad_(False)  # what is read are the states before it
    text_encoder.norm.requires_grad_(False)
    compile_for_training(transformer)
    modules = [transformer, text_encoder]
    inner = (*transformer.layers, *transformer.noise_refiner, *transformer.context_refiner)
    matrices = [
        parameter
        for block in (*inner, *text_encoder.layers[:-1])
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2 and "adaLN" not in name
    ]

    def save() -> None:
        text_encoder.save_pretrained(folder / "text_encoder")
        transformer.save_pretrained(folder / "transformer")

    for lesson in lessons:
        loss = velocity_loss(text_encoder, transformer, lesson, Captions(tokenizer))
        fit("diffusion", modules, loss, lesson.recipe, save, matrices=matrices)
        save()


def velocity_loss(
    text_encoder: Qwen3Model,
    transformer: ZImageTransformer2DModel,
    lesson: Lesson,
    captions: Captions,
) -> Callable[[], Tensor]:
    """The velocity's mean squared error on a fresh random batch at every call.

    The noise levels are the sigmoid of a normal variable (Esser et al. 2024, section 3.1), shifted
    as the scheduler shifts them.
    """
    rng, batch = np.random.default_rng(lesson.seed), lesson.recipe.batch

    def loss() -> Tensor:
        clean, texts = lesson.draw_batch(batch, rng)
        ids, lengths = captions.ids(texts)
        states = text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        prompts = [each[:length] for each, length in zip(states, lengths, strict=True)]
        noise = torch.randn_like(clean)
        sigmas = torch.randn(batch).sigmoid()
        sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
        noisy = torch.lerp(clean, noise, sigmas[:, None, None, None])
        images = list(noisy.unsqueeze(2).unbind())
        velocities = transformer(images, 1 - sigmas, prompts, return_dict=False)[0]
        predicted = torch.stack(velocities).squeeze(2).float()
        return functional.mse_loss(predicted, clean - noise)

    return loss


def export(
    vae: AutoencoderKL,
    text_encoder: Qwen3Model,
    tokenizer: Qwen2Tokenizer,
    transformer: ZImageTransformer2DModel,
    folder: Path,
) -> None:
    """Saves the parts as a Z-Image pipeline in half precision."""
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )
    for part in (vae, transformer):  # else their configs name the folder that they came from
        part.register_to_config(_name_or_path="")
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
