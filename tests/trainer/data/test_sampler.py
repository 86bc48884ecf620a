"""The sampler is a pure function of seed, step and position."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreambooth_trainer.data.batches import BatchPlan, BatchStream, make_batch
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.objectives.flow_matching import FlowMatchingObjective, logit_normal

SHAPE = (4, 8, 8)
DDPM = DDPMObjective(torch.linspace(0.99, 0.01, 1000), "epsilon", None)
FLOW = FlowMatchingObjective(logit_normal(0, 1), shift=3)


def sampler(**changes):
    settings = {
        "seed": 7,
        "subjects": [ImagePool(0, 5, 2)],
        "priors": [ImagePool(10, 20, 2)],
        "weights": [1.0],
        "objective": DDPM,
        "latent_shape": SHAPE,
        "global_batch": 4,
    }
    return TrainingSampler(**settings | changes)


def equal(left, right):
    return all(
        np.array_equal(a, b) for a, b in zip(vars(left).values(), vars(right).values(), strict=True)
    )


def test_a_draw_does_not_depend_on_the_draws_before_it():
    fresh, used = sampler(), sampler()
    for step in range(3):
        used.draw(step, 1)
    for one, other in zip(fresh.draw(5, 2), used.draw(5, 2), strict=True):
        assert equal(one, other)


@pytest.mark.parametrize("changed", [{"seed": 8}, {"step": 6}, {"position": 3}])
def test_seed_step_and_position_each_give_other_noise(changed):
    base = {"seed": 7, "step": 5, "position": 2}
    one, other = base, base | changed
    first = sampler(seed=one["seed"]).draw(one["step"], one["position"])[0]
    second = sampler(seed=other["seed"]).draw(other["step"], other["position"])[0]
    assert not np.allclose(first.noise, second.noise)


def test_subject_prior_latent_and_added_noise_are_independent():
    draws = [sampler().draw(step, 0) for step in range(200)]
    subject = np.stack([s.noise for s, _ in draws]).ravel()
    prior = np.stack([p.noise for _, p in draws]).ravel()
    latent = np.stack([s.latent_noise for s, _ in draws]).ravel()
    correlations = np.corrcoef([subject, prior, latent])[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.02
    assert abs(subject.mean()) < 0.02
    assert abs(subject.std() - 1) < 0.02


def test_every_image_comes_once_before_any_comes_again():
    rows = [sampler().draw(step, p)[0].row // 2 for step in range(5) for p in range(4)]
    epochs = [rows[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_variants_and_timesteps_cover_their_whole_range():
    draws = [sampler().draw(step, 0) for step in range(600)]
    assert {s.row % 2 for s, _ in draws} == {0, 1}
    assert {p.row for _, p in draws} == set(range(10, 50))
    timesteps = np.array([s.timestep for s, _ in draws])
    assert timesteps.min() < 20
    assert timesteps.max() > 980
    assert abs(timesteps.mean() - 500) < 40


def test_draws_of_ddpm_are_those_of_earlier_versions():
    """A run that is resumed would else continue with other images and noise."""
    draws = [
        draw
        for step, position in ((0, 0), (0, 2), (3, 0), (3, 2))
        for draw in sampler(caption_dropout=0.3).draw(step, position)
    ]
    assert [(d.row, d.timestep, d.drop_caption) for d in draws] == [
        (9, 295, False), (44, 832, False), (6, 199, False), (24, 737, True),
        (6, 976, True), (42, 1, False), (0, 307, False), (16, 32, False),
    ]  # fmt: skip
    assert [d.noise[0, 0, 0] for d in draws] == pytest.approx(
        [-0.578573525, -0.304785460, 0.373753607, 0.548955739,
         0.554695666, -0.688246906, 0.398235679, 1.023709893], abs=1e-8,
    )  # fmt: skip
    assert [d.offset[0, 0, 0] for d in draws] == pytest.approx(
        [-0.462243885, 0.902493358, 0.510142505, -0.214074180,
         0.209096685, 0.807439148, 0.999201953, -0.165606290], abs=1e-8,
    )  # fmt: skip


def test_subjects_are_drawn_by_weight_with_their_own_class():
    both = sampler(
        subjects=[ImagePool(0, 3), ImagePool(3, 3)],
        priors=[ImagePool(6, 2), ImagePool(8, 2)],
        weights=[3.0, 1.0],
    )
    pairs = [both.draw(step, 0) for step in range(2000)]
    second = [(s, p) for s, p in pairs if s.row >= 3]
    assert 0.21 < len(second) / len(pairs) < 0.29
    assert all(p.row >= 8 for _, p in second)
    assert all(p.row < 8 for s, p in pairs if s.row < 3)
    # Also within a class, whose images are of different prompts.
    for images in ((6, 7), (8, 9)):
        one, other = (sum(p.row == row for _, p in pairs) for row in images)
        assert 0.8 < one / other < 1.25


def test_captions_are_dropped_at_the_rate_asked_for():
    dropped = [sampler(caption_dropout=0.3).draw(step, 0)[0].drop_caption for step in range(2000)]
    assert 0.26 < np.mean(dropped) < 0.34
    assert not any(sampler().draw(step, 0)[0].drop_caption for step in range(100))


def test_the_empty_prompt_is_the_class_half_s_alone_and_changes_no_other_draw():
    pairs = [sampler(empty_prompt_fraction=0.3).draw(step, 0) for step in range(2000)]
    assert 0.26 < np.mean([prior.empty_prompt for _, prior in pairs]) < 0.34
    assert not any(subject.empty_prompt for subject, _ in pairs)
    for step in range(5):
        for one, other in zip(pairs[step], sampler().draw(step, 0), strict=True):
            assert equal(replace(one, empty_prompt=False), other)


@pytest.mark.parametrize("objective", [DDPM, FLOW], ids=["ddpm", "flow"])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_any_split_of_the_global_batch_holds_the_same_samples(ranks, accumulation, objective):
    def noise_of_step(ranks, accumulation):
        local = 8 // ranks // accumulation
        parts = []
        for rank in range(ranks):
            plan = BatchPlan(2, 3, accumulation, local, rank, ranks)
            assert plan.global_batch == 8
            drawn = sampler(global_batch=8, objective=objective, empty_prompt_fraction=0.5)
            for batch in BatchStream(drawn, plan):
                columns = batch["row"], batch["timestep"], batch["empty_prompt"], batch["noise"]
                parts += [
                    (int(row), timestep.item(), bool(empty), float(noise.sum()))
                    for row, timestep, empty, noise in zip(*columns, strict=True)
                ]
        return sorted(parts)

    assert noise_of_step(ranks, accumulation) == noise_of_step(1, 1)


def test_a_batch_holds_the_subjects_first_and_their_class_after_them():
    batch = make_batch(sampler(), 0.0, 0, range(3))
    assert batch["row"].shape == (6,)
    assert (batch["row"][:3] < 10).all()
    assert (batch["row"][3:] >= 10).all()
    assert batch["noise"].shape == (6, *SHAPE)


@pytest.mark.parametrize(
    ("objective", "dtype"), [(DDPM, torch.int64), (FLOW, torch.float32)], ids=["ddpm", "flow"]
)
def test_timesteps_have_the_type_of_their_objective(objective, dtype):
    batch = make_batch(sampler(objective=objective), 0.0, 0, range(3))
    assert batch["timestep"].dtype == dtype
    assert len(batch["timestep"].unique()) == 6


def test_the_density_of_sigma_changes_neither_images_nor_noise():
    uniform, other = (
        sampler(objective=FlowMatchingObjective(density), caption_dropout=0.5).draw(3, 1)
        for density in (lambda u: u, logit_normal(1, 0.5))
    )
    for one, two in zip(uniform, other, strict=True):
        assert one.timestep != two.timestep
        assert equal(replace(one, timestep=0), replace(two, timestep=0))


def test_without_prior_a_batch_holds_subjects_alone():
    assert make_batch(sampler(priors=[]), 0.0, 0, range(3))["row"].shape == (3,)


def test_noise_offset_shifts_whole_channels():
    plain = make_batch(sampler(), 0.0, 0, range(2))["noise"]
    shifted = make_batch(sampler(), 0.5, 0, range(2))["noise"]
    difference = shifted - plain
    assert difference.std(dim=(2, 3)).max() < 1e-6
    assert difference.abs().max() > 0.01


def test_an_error_while_making_batches_reaches_the_loop():
    broken = sampler(subjects=[ImagePool(0, 0)])
    with pytest.raises(ZeroDivisionError):
        list(BatchStream(broken, BatchPlan(0, 2, 1, 1, 0, 1)))
