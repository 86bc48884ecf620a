"""All prompts are encoded before training: stops and values that are not finite end it in words."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.finite import check_finite
from dreambooth_trainer.models.prompts import PROMPTS_BETWEEN_CHECKS
from dreambooth_trainer.process.errors import BadConfigError, BadModelError
from dreambooth_trainer.process.signals import StoppedError

META = torch.device("meta")
PROMPTS = [f"mug {number}" for number in range(2 * PROMPTS_BETWEEN_CHECKS + 1)]


@pytest.fixture
def family(random_pipeline: Any) -> StableDiffusion:
    return StableDiffusion(random_pipeline, "hash")


def test_a_stop_is_seen_while_prompts_are_encoded(family: StableDiffusion) -> None:
    encoded: list[int] = []
    hook: Any = SimpleNamespace(checks=0)
    family.text_encoders["text_encoder"].register_forward_hook(lambda *_: encoded.append(1))

    def check_stop() -> None:
        hook.checks += 1
        if hook.checks == 2:
            raise StoppedError("asked to stop")

    with pytest.raises(StoppedError):
        family.retire_text_encoders(PROMPTS, [""], META, check_stop)
    assert len(encoded) == PROMPTS_BETWEEN_CHECKS
    assert family.prompt_table is None


def overflow(family: StableDiffusion, dtype: torch.dtype) -> None:
    """Make the text encoder's states exceed what fp16 can hold, with weights that do not."""
    encoder = family.text_encoders["text_encoder"].to(dtype)
    norm = next(part for name, part in encoder.named_modules() if name.endswith("final_layer_norm"))
    with torch.no_grad():
        norm.weight.fill_(60_000)
        norm.bias.fill_(60_000)


def test_an_overflow_in_fp16_names_the_precision(family: StableDiffusion) -> None:
    overflow(family, torch.float16)
    with pytest.raises(BadConfigError) as refused:
        family.retire_text_encoders(["a mug"], [""], META)
    assert str(refused.value) == (
        "spec.training.precision: in fp16, the text encoders make NaN or infinite values of the"
        " prompt 'a mug'; use bf16, or fp32 on GPUs without bf16"
    )


def test_the_same_weights_are_encoded_in_another_precision(family: StableDiffusion) -> None:
    overflow(family, torch.bfloat16)
    family.retire_text_encoders(["a mug"], [""], META)
    assert family.prompt_table


def test_values_that_are_not_finite_in_bf16_are_the_models(family: StableDiffusion) -> None:
    overflow(family, torch.bfloat16)
    encoder = family.text_encoders["text_encoder"]
    encoder.register_forward_hook(lambda _module, _inputs, output: _without_values(output))
    with pytest.raises(BadModelError, match=r"^spec.model.source: the text encoders make NaN"):
        family.retire_text_encoders(["a mug"], [""], META)


def _without_values(output: Any) -> Any:
    output.last_hidden_state = torch.full_like(output.last_hidden_state, torch.nan)
    return output


def test_a_weight_that_fp16_cannot_hold_is_not_called_damaged() -> None:
    part = nn.Linear(2, 2)
    with torch.no_grad():
        part.weight.fill_(1e5)
    check_finite({"text_encoder": part}, "spec.model.source", "/model")
    with pytest.raises(BadConfigError) as refused:
        check_finite({"text_encoder": part.half()}, "spec.model.source", "/model")
    assert str(refused.value) == (
        "spec.training.precision: the weight weight of the text_encoder of /model exceeds 65504,"
        " the largest number of fp16; use bf16, or fp32 on GPUs without bf16"
    )
    with torch.no_grad():
        part.weight.fill_(torch.nan)
    with pytest.raises(BadModelError, match="is damaged"):
        check_finite({"text_encoder": part}, "spec.model.source", "/model")
