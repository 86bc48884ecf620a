"""A vision-language model as Ministral 3 is published, with random weights and a token per byte."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "tiny-sd"))

from tinysd.captioner import model as captioner

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "head_dim": 16,
}  # fmt: skip


def build(folder: Path) -> Path:
    """Write the model to a folder."""
    torch.manual_seed(0)
    tokenizer = captioner.train_tokenizer([])
    captioner.export(captioner.build(len(tokenizer), TEXT, VISION), tokenizer, folder)
    return folder
