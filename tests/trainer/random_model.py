"""A Stable Diffusion model with random weights, for tests of mechanics: small, and made at once."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


def save_random_model(folder: Path) -> None:
    """Save it in the diffusers layout.

    64 px, VAE factor 4, 16 px latents, 77 tokens, one token per letter; prompts have an effect.
    """
    torch.manual_seed(0)
    tokenizer = _letters_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=8,
    )  # fmt: skip
    for name, weight in unet.named_parameters():
        if "attn2.to_" in name or name.startswith("conv_out"):
            weight.data.mul_(4)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    for weight in vae.decoder.conv_out.parameters():
        weight.data.mul_(8)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def _letters_tokenizer() -> CLIPTokenizer:
    units = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {unit: i for i, unit in enumerate([*units, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
