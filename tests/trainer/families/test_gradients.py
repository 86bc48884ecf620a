"""Every parameter that is trained gets a gradient: DDP waits for it, and so do checkpoints."""

import torch

from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import SIDE, build, load
from tests.trainer.families.test_lora import training


def without_gradient(job: MakeJob, family: Family, **settings: object) -> list[str]:
    """The trained parameters that a training step gives no gradient."""
    trained = make_trainable(family, training(job, family, **settings))
    latents = torch.randn(2, *family.latent_shape(SIDE))
    is_ddpm = family.objective_kind == "ddpm"
    timesteps = torch.tensor([3, 500] if is_ddpm else [0.3, 0.7])
    captions = family.encode_tokens(family.tokenize(["a photo of sks dog", "a mug"]))
    family.predict(latents, timesteps, captions).square().mean().backward()
    return [name for name, each in trained.all.items() if each.grad is None]


def test_full_training_reaches_every_weight(job: MakeJob, family: Family) -> None:
    assert without_gradient(job, family, method="full") == []


def test_adapters_without_effect_are_not_trained(job: MakeJob) -> None:
    family = load(build("qwen_image"))
    assert without_gradient(job, family, lora={"targets": ["to_add_out"]}) == []
