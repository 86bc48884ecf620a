"""The model, its tokenizer and its chat template, in the layout of the published Ministral 3."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    Ministral3Config,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
)

SIZE, PATCH, MERGED = 64, 8, 2
ROWS = SIZE // PATCH // MERGED
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]",
           "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")  # fmt: skip
PIXELS = "".join(["[IMG_BREAK]".join(["[IMG]" * ROWS] * ROWS), "[IMG_END]"])
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}[SYSTEM_PROMPT]{{ message.content }}[/SYSTEM_PROMPT]
  {%- elif message.role == 'assistant' -%}{{ message.content }}{{ eos_token }}
  {%- else -%}[INST]
    {%- if message.content is string -%}{{ message.content }}
    {%- else -%}
      {%- for part in message.content -%}
        {%- if part.type == 'text' -%}{{ part.text }}{%- else -%}[IMG]{%- endif -%}
      {%- endfor -%}
    {%- endif -%}[/INST]
  {%- endif -%}
{%- endfor -%}"""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the lessons' words; anything else falls apart into bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


TEXT = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
VISION = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "head_dim": 24,
}  # fmt: skip
"""1.4 M parameters together."""


def build(
    vocabulary: int, text: Mapping[str, int] = TEXT, vision: Mapping[str, int] = VISION
) -> Mistral3ForConditionalGeneration:
    """An untrained model of these sizes."""
    ids = {name: number for number, name in enumerate(SPECIAL)}
    config = Mistral3Config(
        text_config=Ministral3Config(
            **text, vocab_size=vocabulary, max_position_embeddings=4096,
            pad_token_id=ids["<pad>"], bos_token_id=ids["<s>"], eos_token_id=ids["</s>"],
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0,
                "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 1024, "llama_4_scaling_beta": 0.1,
            },
        ),
        vision_config=PixtralVisionConfig(**vision, image_size=SIZE, patch_size=PATCH),
        image_token_index=ids["[IMG]"], spatial_merge_size=MERGED, tie_word_embeddings=True,
    )  # fmt: skip
    model = Mistral3ForConditionalGeneration(config)
    model.generation_config.update(
        bos_token_id=ids["<s>"], eos_token_id=ids["</s>"], pad_token_id=ids["<pad>"]
    )
    return model


def see(model: Mistral3ForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Tokens (n * 16, 128) of pictures (n, 3, 64, 64).

    As the model's own `get_image_features`, which puts all pictures into one sequence and pays for
    attention between them.
    """
    tower = model.model.vision_tower
    patches = tower.ln_pre(tower.patch_conv(pixels).flatten(2).transpose(1, 2))
    side = torch.arange(SIZE // PATCH)
    places = tower.patch_positional_embedding(patches, torch.cartesian_prod(side, side))
    states = tower.transformer(patches, attention_mask=None, position_embeddings=places)
    sizes = torch.tensor([[SIZE, SIZE]] * len(pixels))
    tokens: Tensor = model.model.multi_modal_projector(
        states.last_hidden_state.flatten(0, 1), sizes
    )
    return tokens


def normalized(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, 3, 64, 64), as Pixtral's image processor makes it."""
    values = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


def export(
    model: Mistral3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Saves the model in bfloat16 with tokenizer, processor and chat template."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n")
    images = {
        "image_processor_type": "PixtralImageProcessor", "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
        "image_std": STD, "patch_size": PATCH, "resample": 3, "rescale_factor": 1 / 255,
        "size": {"longest_edge": SIZE},
    }  # fmt: skip
    processor = {
        "processor_class": "PixtralProcessor", "image_processor": images, "patch_size": PATCH,
        "spatial_merge_size": MERGED, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
