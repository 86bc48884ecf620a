"""The memory estimate counts what is there: checked on Stable Diffusion 1.5's own shapes."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.training import Training
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.memory import (
    GIB,
    MemoryEstimate,
    checkpoint_bytes,
    count_parameters,
    estimate_memory,
)
from dreambooth_trainer.preflight.resources import check_grace_period


@pytest.fixture(scope="module")
def sd15() -> ModelConfig:
    """Stable Diffusion 1.5 without weights."""
    return ModelConfig(
        unet={
            "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
            "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        vae={
            "block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        text_encoder={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "vocab_size": 49408, "projection_dim": 768,
        },
        tokenizer=SimpleNamespace(),  # type: ignore[arg-type]
    )  # fmt: skip


def needed(config: ModelConfig, images: int = 2, ranks: int = 1, **training: Any) -> MemoryEstimate:
    return estimate_memory(config, Training(**training), images, ranks)


def test_the_skeleton_has_the_published_sizes_and_no_memory(sd15: ModelConfig) -> None:
    sizes = {name: count_parameters(part) / 1e6 for name, part in sd15.skeleton.items()}
    assert sizes == pytest.approx({"unet": 859.5, "vae": 83.7, "text_encoder": 123.1}, abs=0.1)
    assert all(weight.is_meta for weight in sd15.skeleton["unet"].parameters())
    assert isinstance(sd15.skeleton["unet"], nn.Module)
    assert (sd15.vae_factor, sd15.unet_factor, sd15.native_resolution) == (8, 8, 512)


def test_full_training_needs_what_its_optimizer_holds(sd15: ModelConfig) -> None:
    full = needed(sd15, method="full", precision="fp32", learning_rate=1e-6)
    assert full.weights == pytest.approx(859.5e6 * 16 + (83.7e6 + 123.1e6) * 4, rel=1e-3)
    more = needed(sd15, ranks=8, method="full", precision="fp32", learning_rate=1e-6)
    assert more.weights - full.weights == pytest.approx(859.5e6 * 4, rel=1e-3)


def test_adapters_need_a_fraction(sd15: ModelConfig) -> None:
    assert needed(sd15, method="lora").total < 6 * GIB
    assert 16 * GIB < needed(sd15, method="full").total < 22 * GIB


def test_activations_grow_with_the_images_and_shrink_with_checkpointing(sd15: ModelConfig) -> None:
    two = needed(sd15).activations
    assert needed(sd15, images=8).activations == pytest.approx(4 * two)
    assert needed(sd15, resolution=1024).activations == pytest.approx(4 * two)
    assert needed(sd15, precision="fp32").activations == pytest.approx(2 * two)
    assert needed(sd15, gradient_checkpointing=True).activations == pytest.approx(two / 6)


def test_a_checkpoint_holds_weights_and_moments(sd15: ModelConfig) -> None:
    full = checkpoint_bytes(sd15, Training(method="full", learning_rate=1e-6))
    assert full == pytest.approx(10.3e9, rel=0.01)
    assert checkpoint_bytes(sd15, Training(method="lora")) < 0.1e9


def test_a_grace_period_that_is_too_short_for_a_checkpoint_is_warned_of(sd15: ModelConfig) -> None:
    (warning,) = check_grace_period(job_with(grace=60, nodes=1), sd15)
    assert "spec.runtime.terminationGracePeriodSeconds" in warning
    assert "10.3 GB, and its upload may take 119 s; 60 s are too few, so raise it" in warning
    assert not list(check_grace_period(job_with(grace=60, nodes=4), sd15))
    assert not list(check_grace_period(job_with(grace=300, nodes=1), sd15))


def job_with(grace: int, nodes: int) -> DreamBoothJob:
    """Full fine-tuning with that grace period."""
    return DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "s3://models/sd15"},
                "subjects": [{"images": "s3://data/mug", "identifier": "zwx", "classNoun": "mug"}],
                "output": "s3://results",
                "training": {"method": "full"},
                "runtime": {"nodes": nodes, "terminationGracePeriodSeconds": grace},
            },
        }
    )
