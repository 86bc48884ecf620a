"""Which modules get an adapter of which size."""

import pytest
from torch import nn

from dreambooth_api.models.lora import Lora
from dreambooth_trainer.models.adapters.targets import alpha_of, fits, named_modules, rank_of

NAME = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("to_q", True),
        ("attn1.to_q", True),
        ("attn?.to_q", True),
        ("down_blocks.*", True),
        ("attentions.*.to_q", True),
        (NAME, True),
        ("o_q", False),
        ("attn1", False),
        ("to_k", False),
        ("up_blocks.*", False),
    ],
)
def test_a_pattern_is_the_end_of_a_name(pattern: str, expected: bool) -> None:
    assert fits(pattern, NAME) == expected


def test_the_longest_pattern_counts_in_any_order() -> None:
    patterns = {"to_q": 8, "attn1.to_q": 2, "*": 4}
    for ranks in (patterns, dict(reversed(patterns.items()))):
        lora = Lora(rank=16, rank_pattern=ranks)
        assert rank_of(lora, NAME) == 2
        assert rank_of(lora, "x.attn2.to_q") == 8
        assert rank_of(lora, "x.to_k") == 4


def test_alpha_is_the_rank_of_the_module_unless_the_job_says() -> None:
    assert alpha_of(Lora(rank=16, rank_pattern={"to_q": 4}), NAME) == 4
    assert alpha_of(Lora(rank=16, alpha=8, rank_pattern={"to_q": 4}), NAME) == 8
    assert alpha_of(Lora(rank=16, alpha=8, alpha_pattern={"to_q": 0.5}), NAME) == 0.5


def test_targets_that_cannot_be_adapted_are_not_found() -> None:
    part = nn.ModuleDict(
        {
            "proj": nn.Linear(4, 4),
            "conv_point": nn.Conv2d(8, 8, 1),
            "conv_depth": nn.Conv2d(8, 8, 3, groups=8),
            "embedding": nn.Embedding(4, 4),
            "norm": nn.LayerNorm(4),
        }
    )
    assert [*named_modules(part, [*part])] == ["proj", "conv_point"]
