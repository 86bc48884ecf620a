"""The class half of the batch, with targets of the base model's own, and with the empty prompt."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from dreambooth_api.models.prior import Prior
from dreambooth_trainer.data.batches import Batch, make_batch
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from tests.trainer.resolved import resolve_training

PRIOR = Prior(weight=0.6, target="prediction", empty_prompt_fraction=0.5)
CAPTIONS = ["", "a photo of sks mug", "a photo of a mug", "what guidance subtracts"]
CLASS, EMPTY = 2, 3
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "lora": {"rank": 2, "dropout": 0.5}},
}


@pytest.fixture(params=["epsilon", "v_prediction"])
def family(random_pipeline: Any, request: pytest.FixtureRequest) -> StableDiffusion:
    random_pipeline.scheduler.register_to_config(prediction_type=request.param)
    return StableDiffusion(random_pipeline, "hash")


@pytest.fixture
def cache(family: StableDiffusion) -> TrainingCache:
    torch.manual_seed(1)
    tokens = family.tokenize(CAPTIONS)
    with torch.no_grad():
        conditioning = family.encode_tokens(tokens)
    moments = torch.cat([torch.randn(10, 4, 16, 16), torch.full((10, 4, 16, 16), -2.0)], dim=1)
    rows = torch.tensor([1] * 4 + [CLASS] * 6)
    return TrainingCache(
        moments, torch.zeros(10, 4), rows, CAPTIONS[:EMPTY], tokens, conditioning, None, EMPTY
    )


@pytest.fixture
def batch() -> Batch:
    sampler = TrainingSampler(
        seed=3, subjects=[ImagePool(0, 4)], priors=[ImagePool(4, 6)], weights=[1.0],
        objective=DDPMObjective(torch.linspace(0.99, 0.01, 1000), "epsilon", None),
        latent_shape=(4, 16, 16), global_batch=4, empty_prompt_fraction=0.5,
    )  # fmt: skip
    made = make_batch(sampler, 0.0, 0, range(4))
    assert not made["empty_prompt"][:4].any()
    assert set(made["empty_prompt"][4:].tolist()) == {True, False}
    return made


def train_a_little(module: DreamBooth) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.trained.all.values():
            parameter.add_(0.02 * torch.randn_like(parameter))


def predict(pipeline: Any, module: DreamBooth, cache: TrainingCache, batch: Batch) -> Tensor:
    """The prediction of a pipeline for the class half, one sample at a time."""
    found = []
    for i in range(4, 8):
        mean, log_variance = cache.moments[batch["row"][i]].chunk(2)
        latent = mean + torch.exp(log_variance / 2) * batch["latent_noise"][i]
        latent = latent[None] * pipeline.vae.config.scaling_factor
        t = batch["timestep"][i][None]
        noisy = module.objective.add_noise(latent, batch["noise"][i][None], t)
        text = pipeline.tokenizer(
            CAPTIONS[EMPTY if batch["empty_prompt"][i] else CLASS],
            padding="max_length", max_length=77, return_tensors="pt",
        )  # fmt: skip
        states = pipeline.text_encoder(text.input_ids).last_hidden_state
        found.append(pipeline.unet(noisy, t, states).sample)
    return torch.cat(found)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_class_is_pulled_to_what_the_base_model_predicts(
    family: StableDiffusion, cache: TrainingCache, batch: Batch, method: str, gamma: float | None
) -> None:
    base = copy.deepcopy(family.pipeline())
    training = resolve_training({**METHODS[method], "precision": "fp32", "minSnrGamma": gamma})
    training.lora.dropout = 0.0
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    module.training_step(batch, 0)
    assert module.losses is not None
    assert module.losses.prior < 1e-8

    train_a_little(module)
    module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    name, parameter = next(iter(module.trained.denoiser.items()))
    gradient = parameter.grad
    assert gradient is not None
    module.zero_grad()
    with torch.no_grad():
        target = predict(base, module, cache, batch)
    each = mse_loss(
        predict(family.pipeline(), module, cache, batch), target, reduction="none"
    ).mean(dim=(1, 2, 3))
    weights = module.objective.weights(batch["timestep"])
    prior = (each if weights is None else each * weights[4:]).mean()
    torch.testing.assert_close(module.losses.prior, prior)
    assert prior > 1e-5

    subject_only = {key: part[:4] for key, part in batch.items()}
    with_noise = DreamBooth(family, module.trained, training, cache, None)
    total = with_noise.training_step(subject_only, 0) + PRIOR.weight * prior
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(module.losses.total, total)
    torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_one_more_pass_for_the_class_alone_takes_no_gradient(
    family: StableDiffusion, cache: TrainingCache, batch: Batch, method: str
) -> None:
    training = resolve_training({**METHODS[method], "precision": "fp32"})
    trained = make_trainable(family, training)
    passes = []

    def note(_module: Any, inputs: Any) -> None:
        passes.append((len(inputs[0]), torch.is_grad_enabled()))

    family.denoiser.register_forward_pre_hook(note)
    module = DreamBooth(family, trained, training, cache, PRIOR)
    module.training_step(batch, 0)
    assert passes == [(4, False), (8, True)]
    # Nor is the copy trained, saved, or sent to other ranks.
    assert {id(p) for p in module.parameters() if p.requires_grad} == {
        id(p) for p in trained.all.values()
    }
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in family.denoiser.parameters()
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_keeps_the_class_of_the_base_and_not_of_the_checkpoint(
    random_pipeline: Any, cache: TrainingCache, batch: Batch, method: str
) -> None:
    training = resolve_training({**METHODS[method], "precision": "fp32"})
    training.lora.dropout = 0.0

    def make(pipeline: Any, resume: ResumeState | None = None) -> DreamBooth:
        family = StableDiffusion(pipeline, "hash")
        trained = make_trainable(family, training)
        return DreamBooth(family, trained, training, cache, PRIOR, resume)

    other = copy.deepcopy(random_pipeline)
    first = make(random_pipeline)
    train_a_little(first)
    weights = {f"weight/{name}": p.detach().clone() for name, p in first.trained.all.items()}
    second = make(other, ResumeState(1, weights))
    assert second.training_step(batch, 0).equal(first.training_step(batch, 0))


def test_a_trained_text_encoder_is_not_the_text_encoder_of_the_base(
    family: StableDiffusion, cache: TrainingCache, batch: Batch
) -> None:
    base = copy.deepcopy(family.pipeline())
    training = resolve_training(
        {"method": "lora", "precision": "fp32", "textEncoder": {"method": "full"}}
    )
    live = replace(cache, conditioning=None, base_conditioning=cache.conditioning)
    module = DreamBooth(family, make_trainable(family, training), training, live, PRIOR)
    train_a_little(module)
    module.training_step(batch, 0)
    assert module.losses is not None
    with torch.no_grad():
        target = predict(base, module, cache, batch)
        found = predict(family.pipeline(), module, cache, batch)
    torch.testing.assert_close(module.losses.prior, mse_loss(found, target))


def test_a_copy_has_the_precision_of_the_forward_pass(
    family: StableDiffusion, cache: TrainingCache
) -> None:
    training = resolve_training({"method": "full", "precision": "bf16"})
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    assert module._base is not None
    assert module._base._copy is not None
    assert {p.dtype for p in module._base._copy.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in family.denoiser.parameters()} == {torch.float32}
