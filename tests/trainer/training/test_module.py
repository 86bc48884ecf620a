"""The training step against a reference that is written out by hand with diffusers' own parts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from dreambooth_api.models.prior import Prior
from dreambooth_trainer.data.batches import make_batch
from dreambooth_trainer.data.cache import HostConditioning, TrainingCache
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from tests.trainer.resolved import resolve_training

PRIOR = Prior(weight=0.6, target="noise", empty_prompt_fraction=0.0)
CAPTIONS = ["", "a photo of sks mug", "a photo of a mug"]


@pytest.fixture(params=["epsilon", "v_prediction"])
def family(random_pipeline, request):
    random_pipeline.scheduler.register_to_config(prediction_type=request.param)
    return StableDiffusion(random_pipeline, "hash")


@pytest.fixture
def cache(family):
    torch.manual_seed(1)
    tokens = family.tokenize(CAPTIONS)
    with torch.no_grad():
        conditioning = family.encode_tokens(tokens)
    moments = torch.cat([torch.randn(10, 4, 16, 16), torch.full((10, 4, 16, 16), -2.0)], dim=1)
    return TrainingCache(
        moments, torch.zeros(10, 4), torch.tensor([1] * 4 + [2] * 6), CAPTIONS, tokens, conditioning
    )


@pytest.fixture
def batch():
    sampler = TrainingSampler(
        seed=3, subjects=[ImagePool(0, 4)], priors=[ImagePool(4, 6)], weights=[1.0],
        objective=DDPMObjective(torch.linspace(0.99, 0.01, 1000), "epsilon", None),
        latent_shape=(4, 16, 16), global_batch=3,
    )  # fmt: skip
    return make_batch(sampler, 0.0, 0, range(3))


def reference(family, cache, batch, gamma):
    """Two forward passes, one sample at a time, in the words of the papers."""
    pipeline = family.pipeline()
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    parts = []
    for samples in (range(3), range(3, 6)):
        losses = []
        for i in samples:
            mean, log_variance = cache.moments[batch["row"][i]].chunk(2)
            latent = mean + torch.exp(log_variance / 2) * batch["latent_noise"][i]
            latent = latent[None] * pipeline.vae.config.scaling_factor
            noise, t = batch["noise"][i][None], batch["timestep"][i][None]
            text = pipeline.tokenizer(
                CAPTIONS[cache.caption_of_row[batch["row"][i]]],
                padding="max_length", max_length=77, return_tensors="pt",
            )  # fmt: skip
            states = pipeline.text_encoder(text.input_ids).last_hidden_state
            found = pipeline.unet(schedule.add_noise(latent, noise, t), t, states).sample
            is_v = schedule.config.prediction_type == "v_prediction"
            target = schedule.get_velocity(latent, noise, t) if is_v else noise
            loss = mse_loss(found, target)
            if gamma is not None:
                alpha = float(schedule.alphas_cumprod[t])
                snr = alpha / (1 - alpha)
                loss = loss * min(snr, gamma) / (snr + 1 if is_v else snr)
            losses.append(loss)
        parts.append(sum(losses) / len(losses))
    return parts[0], parts[1], parts[0] + PRIOR.weight * parts[1]


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_and_gradient_equal_the_reference(family, cache, batch, gamma):
    training = resolve_training({"method": "full", "precision": "fp32", "minSnrGamma": gamma})
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)

    module.training_step(batch, 0).backward()
    gradient = family.denoiser.conv_in.weight.grad.clone()
    family.denoiser.zero_grad()
    subject, prior, total = reference(family, cache, batch, gamma)
    total.backward()

    torch.testing.assert_close(module.losses.subject, subject)
    torch.testing.assert_close(module.losses.prior, prior)
    torch.testing.assert_close(module.losses.total, total)
    torch.testing.assert_close(gradient, family.denoiser.conv_in.weight.grad, rtol=1e-3, atol=1e-5)


def test_the_loss_counts_cells_by_the_masks_of_their_images(family, cache, batch):
    """What is drawn outside of the mask has no part in loss and gradient, but in the class half."""
    training = resolve_training({"method": "full", "precision": "fp32"})
    weights = torch.ones(10, 1, 16, 16)
    weights[:4, ..., :8] = 0  # the left half of the subject's images
    weights[:4, ..., 8:] = 2
    masked = replace(cache, loss_weights=weights)
    module = DreamBooth(family, make_trainable(family, training), training, masked, PRIOR)
    predicted = []

    def record(_module, _inputs, output):
        output[0].retain_grad()
        predicted.append(output[0])

    hook = family.denoiser.register_forward_hook(record)
    module.training_step(batch, 0).backward()
    hook.remove()
    [prediction] = predicted
    subject, prior = prediction.grad.abs().chunk(2)
    assert subject[..., :8].max() == 0
    assert subject[..., 8:].min() > 0
    assert prior.min() > 0
    plain = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    plain.training_step(batch, 0)
    assert torch.equal(module.losses.prior, plain.losses.prior)
    assert not torch.equal(module.losses.subject, plain.losses.subject)


def test_subject_and_class_go_through_one_forward_pass(family, cache, batch):
    training = resolve_training({"method": "full", "precision": "fp32"})
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    sizes = []
    family.denoiser.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    module.training_step(batch, 0)
    assert sizes == [6]


def test_a_dropped_caption_is_the_empty_one(family, cache, batch):
    training = resolve_training({"method": "full", "precision": "fp32"})
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    batch["drop_caption"][:] = True
    conditioning = module._conditioning(batch)["hidden_states"]
    assert torch.equal(conditioning, cache.conditioning["hidden_states"][[0] * 6])


def one_step(family, cache, batch):
    """The loss of a step that Lightning runs."""
    training = resolve_training({"method": "full", "precision": "fp32"})
    module = DreamBooth(family, make_trainable(family, training), training, cache, PRIOR)
    trainer = pl.Trainer(barebones=True, accelerator="cpu", max_steps=1)
    trainer.fit(module, train_dataloaders=DataLoader([batch], batch_size=None))
    return module.losses.total


# Lightning 2.6 calls what torch 2.13 deprecates.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_conditioning_that_stays_in_host_memory_is_the_same(family, cache, batch):
    batch["drop_caption"][0] = True
    weights = {name: value.clone() for name, value in family.denoiser.state_dict().items()}
    family.retire_text_encoders(CAPTIONS, [""], torch.device("cpu"))
    host = HostConditioning(
        family.prompt_table.rows(CAPTIONS), cache.caption_of_row, torch.device("cpu")
    )
    table = family.encode_prompts(CAPTIONS)
    expected = one_step(family, replace(cache, conditioning=table), batch)
    family.denoiser.load_state_dict(weights)
    assert one_step(family, replace(cache, conditioning=None, host=host), batch) == expected


def test_a_trained_text_encoder_gets_gradients(family, cache, batch):
    training = resolve_training(
        {"method": "lora", "precision": "fp32", "textEncoder": {"method": "full"}}
    )
    live = replace(cache, conditioning=None)
    trained = make_trainable(family, training)
    module = DreamBooth(family, trained, training, live, PRIOR)
    module.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in trained.text.values())
    assert all("lora" in name for name in trained.denoiser)


def test_adapters_are_fp32_on_a_base_in_the_precision_of_the_forward_pass(family):
    training = resolve_training({"method": "lora", "precision": "bf16", "lora": {"rank": 2}})
    family.denoiser.to(torch.bfloat16)
    trained = make_trainable(family, training)
    frozen = [p for p in family.denoiser.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert {p.dtype for p in trained.denoiser.values()} == {torch.float32}
    assert sum(p.numel() for p in trained.denoiser.values()) < sum(p.numel() for p in frozen) / 5


def test_after_its_stop_the_text_encoder_costs_nothing(family, cache, batch):
    """No forward pass, no gradient: the denoiser's alone is clipped."""
    training = resolve_training(
        {"method": "lora", "precision": "fp32", "steps": 4, "maxGradNorm": 0,
         "textEncoder": {"method": "full", "stopFraction": 0.5}}
    )  # fmt: skip
    live = replace(cache, conditioning=None)
    trained = make_trainable(family, training)
    module = DreamBooth(family, trained, training, live, PRIOR)
    module.trainer = SimpleNamespace(global_step=1, precision_plugin=None)
    passes = []
    family.text_encoders["text_encoder"].register_forward_hook(lambda *_: passes.append(1))

    def micro_batch():
        passes.clear()
        module.zero_grad()
        module.on_train_batch_start(batch, 0)
        module.training_step(batch, 0).backward()
        module.configure_gradient_clipping(None)

    micro_batch()
    assert all(parameter.grad is not None for parameter in trained.text.values())
    loss = module.losses.total
    module.trainer.global_step = 2
    micro_batch()
    torch.testing.assert_close(module.losses.total, loss)
    micro_batch()
    assert passes == []
    assert all(parameter.grad is None for parameter in trained.text.values())
    of_denoiser = [parameter.grad.norm() for parameter in trained.denoiser.values()]
    torch.testing.assert_close(module.gradient_norm, torch.stack(of_denoiser).norm())


def test_the_restored_state_is_not_kept_beside_the_restored_training(family, cache):
    training = resolve_training({"method": "full", "ema": {"enabled": True}})
    trainer = SimpleNamespace(precision_plugin=None)

    def make(resume=None):
        module = DreamBooth(family, make_trainable(family, training), training, cache, None, resume)
        module.trainer = trainer
        optimizer = module.configure_optimizers()["optimizer"]
        # Lightning moves what is there to the device: a paged state would be paged no more.
        assert not optimizer.state
        module.on_fit_start()
        return module, optimizer

    first, optimizer = make()
    for parameter in first.trained.all.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = {name: value.clone() for name, value in first.state().items()}
    resume = ResumeState(1, {name: value.clone() for name, value in saved.items()})
    second, _ = make(resume)
    restored = second.state()
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[name], value) for name, value in saved.items())
    assert resume.tensors == {}
