"""What stands for the empty prompt in the class half is what guidance uses, whatever the family."""

import copy

import torch

from dreambooth_api.models.prior import Prior
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.prompts import join_rows
from dreambooth_trainer.training.module import DreamBooth
from tests.trainer.families.conftest import SIDE
from tests.trainer.resolved import resolve_training

CAPTIONS = ["", "a photo of sks dog", "a photo of a dog"]


def test_the_class_half_keeps_both_predictions_of_guidance(family: Family) -> None:
    base = copy.deepcopy(family)
    shape = family.latent_shape(SIDE)
    rows = [family.encode_prompts([text]) for text in CAPTIONS] + [family.encode_negative([""])]
    moments = torch.randn(3, *family.encode_images(torch.zeros(1, 3, SIDE, SIDE)).shape[1:])
    cache = TrainingCache(
        moments=moments,
        crops=torch.zeros(3, 4, dtype=torch.long),
        caption_of_row=torch.tensor([1, 2, 2]),
        captions=CAPTIONS,
        tokens={},
        conditioning=join_rows(rows, torch.device("cpu")),
        empty_prompt=3,
    )
    training = resolve_training(
        {
            "method": "lora", "precision": "fp32", "resolution": SIDE,
            "lora": {"rank": 2, "targets": list(family.defaults.lora_targets)},
        },
        family.flow_shift,
    )  # fmt: skip
    prior = Prior(weight=1.0, target="prediction", empty_prompt_fraction=0.5)
    trained = make_trainable(family, training)
    module = DreamBooth(family, trained, training, cache, prior)
    batch = {
        "row": torch.tensor([0, 0, 1, 2]),
        "timestep": torch.tensor([0.2, 0.4, 0.6, 0.8]),
        "drop_caption": torch.zeros(4, dtype=torch.bool),
        "empty_prompt": torch.tensor([False, False, False, True]),
        "latent_noise": torch.randn(4, *shape),
        "noise": torch.randn(4, *shape),
    }
    if family.objective_kind == "ddpm":
        batch["timestep"] = torch.tensor([200, 400, 600, 800])
    module.training_step(batch, 0)
    assert module.losses is not None
    assert module.losses.prior < 1e-8

    with torch.no_grad():
        for parameter in trained.all.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.training_step(batch, 0)
    errors = []
    for place, conditioning in ((2, rows[2]), (3, rows[3])):
        latents = family.sample_latents(moments[[place - 1]], batch["latent_noise"][[place]])
        timestep = batch["timestep"][[place]]
        noisy = module.objective.add_noise(latents, batch["noise"][[place]], timestep)
        if place == 3 and not family.defaults.takes_negative_prompt:
            # Guidance is an input, or is not used at all: there is no second prediction to keep.
            conditioning = {**rows[2], "guidance": torch.tensor([family.defaults.guidance_scale])}
        crops = torch.zeros(1, 4, dtype=torch.long)
        with torch.no_grad():
            expected, found = (
                each.predict(noisy, timestep, conditioning, crops) for each in (base, family)
            )
        weights = module.objective.weights(timestep)
        error = (found - expected).square().mean()
        errors.append(error if weights is None else error * weights[0])
    torch.testing.assert_close(module.losses.prior, sum(errors) / 2, rtol=1e-3, atol=1e-6)
