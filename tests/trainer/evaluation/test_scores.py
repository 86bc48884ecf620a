"""What is scored, and how certain the scores are."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambooth_api.contract.scores import Estimate, ScoreName, ScoreValues
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.evaluation.estimates import (
    distance_change,
    estimate,
    fidelity,
    half_distances,
    kernel_distances,
)
from dreambooth_trainer.evaluation.scores import (
    GeneratedVectors,
    RealVectors,
    prompts_of,
    score_prompts,
    score_subject,
    with_class_nouns,
)

SKS = Subject(identifier="sks", class_noun="coffee mug", images="file:///none")
ZWX = Subject(identifier="zwx", class_noun="cat", images="file:///none")


def test_a_subject_is_scored_on_the_prompts_that_name_it() -> None:
    prompts = ["SKS mug on the moon", "a dog", "a zwx, and a sks mug", "sksy mug"]
    assert prompts_of(SKS, prompts) == ["SKS mug on the moon", "a zwx, and a sks mug"]
    chinese = "\u4e00\u5f20sks\u7684\u7167\u7247"
    assert prompts_of(SKS, [chinese, "a dog"]) == [chinese]
    assert prompts_of(SKS, ["a dog"]) == ["a photo of sks coffee mug"]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a zwx cat, by a sks coffee mug", "a cat, by a coffee mug"),
        ("Sks on the moon", "coffee mug on the moon"),
        ("sks coffee mugs", "coffee mug coffee mugs"),
        ("sksy", "sksy"),
        ("\u4e00\u5f20sks\u7684\u7167\u7247", "\u4e00\u5f20coffee mug\u7684\u7167\u7247"),
    ],
)
def test_encoders_read_class_nouns_in_place_of_identifiers(prompt: str, read: str) -> None:
    assert with_class_nouns(prompt, [SKS, ZWX]) == read


def known(values: Tensor) -> Estimate:
    found = estimate(values)
    assert found
    return found


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    found = [known(torch.randn(30) + 1) for _ in range(100)]
    assert 88 <= sum(each.low <= 1 <= each.high for each in found) <= 100
    pairs = [vectors(20, spread=1) for _ in range(50)]
    truth = float(torch.stack([1 - each @ each.T for each in pairs]).mean()) * 20 / 19
    held = [known(1 - each @ each.T) for each in pairs]
    assert 42 <= sum(each.low <= truth <= each.high for each in held) <= 50


def test_intervals_are_the_same_every_time() -> None:
    values = torch.arange(7.0)
    assert estimate(values) == estimate(values)
    assert known(torch.ones(5)) == Estimate(value=1, low=1, high=1)


def test_one_image_has_no_pair() -> None:
    assert estimate(torch.ones(1, 1)) is None
    assert half_distances(torch.ones(3, 2)) is None


def vectors(count: int, *, spread: float, towards: int = 0, size: int = 16) -> Tensor:
    """Unit vectors around one axis."""
    mean = torch.zeros(size)
    mean[towards] = 1
    return normalize(mean + spread * torch.randn(count, size) / size**0.5, dim=-1)


def test_the_drift_of_a_model_from_itself_is_nothing() -> None:
    torch.manual_seed(0)
    images = vectors(16, spread=1)
    assert known(kernel_distances(images, images)) == Estimate(value=0, low=0, high=0)
    halves = half_distances(images)
    assert halves
    assert halves.is_noise
    moved = known(kernel_distances(images, vectors(16, spread=1, towards=1)))
    assert moved.low > halves.high


def test_a_drift_is_noticed_that_is_small_beside_the_variety_of_the_class() -> None:
    torch.manual_seed(0)
    images = vectors(16, spread=2)
    shift = torch.zeros(16)
    shift[3] = 0.3
    drifted = kernel_distances(images, normalize(images + shift, dim=-1))
    shaken = kernel_distances(images, normalize(images + 0.1 * torch.randn(16, 16), dim=-1))
    halves = half_distances(images)
    assert halves
    assert distance_change(drifted).value < halves.high
    assert distance_change(drifted).low > 0
    assert distance_change(shaken).is_noise


def test_the_drift_of_an_unchanged_model_is_noise_about_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    noise = 0
    for _ in range(100):
        images = vectors(12, spread=1)
        pair = [normalize(images + 0.1 * torch.randn(12, 16), dim=-1) for _ in range(2)]
        noise += distance_change(kernel_distances(*pair)).is_noise
    assert noise >= 88


def test_fidelity_is_that_of_the_same_seeds_and_none_of_other_ones() -> None:
    torch.manual_seed(0)
    images = vectors(16, spread=1)
    one = Estimate(value=1, low=1, high=1)
    assert fidelity(images, images) == one
    shifted = fidelity(images, normalize(images + 0.1 * torch.randn(16, 16), dim=-1))
    other_seeds = fidelity(images, images.roll(1, 0))
    damaged = fidelity(images, vectors(16, spread=1, towards=1))
    assert shifted
    assert other_seeds
    assert damaged
    assert 0.6 < shifted.low < shifted.high < 1
    assert other_seeds.low < 0 < other_seeds.high
    # Further than from other seeds: images that the base model does not make at all.
    assert damaged.high < 0


def test_there_is_no_fidelity_to_images_that_are_all_alike() -> None:
    assert fidelity(torch.ones(4, 2) / 2**0.5, vectors(4, spread=1, size=2)) is None
    assert fidelity(vectors(1, spread=1), vectors(1, spread=1)) is None


def generated(like: int, count: int = 12) -> GeneratedVectors:
    """Images of a subject that look like axis `like`; the class is axis 1."""
    return GeneratedVectors(
        subject=vectors(count, spread=0.3, towards=like),
        subject_clip=vectors(count, spread=0.3, towards=like),
        class_images=vectors(count, spread=0.3, towards=1),
        prompts=torch.stack([vectors(4, spread=0.3, towards=2), vectors(4, spread=0.3, towards=3)]),
    )


def real(**fields: Any) -> RealVectors:
    references = vectors(5, spread=0.3)
    given = {
        "references": references,
        "references_clip": references,
        "training": references,
        "held_out": False,
        "texts": vectors(2, spread=0, towards=2),
        "class_text": vectors(1, spread=0)[0],
    }
    return RealVectors(**given | fields)


def test_a_learned_subject_has_better_scores_than_the_base_and_no_more_than_real_images() -> None:
    torch.manual_seed(0)
    scores = score_subject(real(), generated(like=4), generated(like=0))
    assert set(scores) == set(ScoreName)
    similarity = scores[ScoreName.SUBJECT_SIMILARITY]
    assert similarity.base
    assert similarity.trained
    assert similarity.real
    assert similarity.change
    assert similarity.base.high < 0.3 < similarity.trained.low
    assert similarity.trained.value == pytest.approx(similarity.real.value, abs=0.1)
    assert similarity.change.value == pytest.approx(
        similarity.trained.value - similarity.base.value
    )
    # Other images of the same model: class images have not changed.
    for name in (ScoreName.CLASS_SIMILARITY, ScoreName.CLASS_DIVERSITY):
        change = scores[name].change
        assert change
        assert change.is_noise, name


def test_images_of_the_training_are_not_their_own_neighbours() -> None:
    torch.manual_seed(0)
    values = score_subject(real(), generated(like=0), None)[ScoreName.MEMORIZATION]
    assert values.real
    assert values.real.value < 0.99
    copies = GeneratedVectors(**vars(generated(like=0)) | {"subject": real().training})
    training = copies.subject
    copied = score_subject(real(training=training), copies, None)[ScoreName.MEMORIZATION]
    assert copied.base
    assert copied.base.value == pytest.approx(1)
    held_out = real(held_out=True, references=vectors(5, spread=0.3))
    values = score_subject(held_out, copies, None)[ScoreName.MEMORIZATION]
    assert values.real
    assert values.real.value < 0.99


def test_a_single_training_image_has_no_neighbour() -> None:
    alone = {"references": vectors(1, spread=0.3), "training": vectors(1, spread=0.3)}
    values = score_subject(real(**alone), generated(like=0), None)[ScoreName.MEMORIZATION]
    assert values.base
    assert values.real is None


def test_each_prompt_is_scored_on_its_own_images() -> None:
    torch.manual_seed(0)
    first, second = score_prompts(real(), generated(like=0), None)
    assert first.base
    assert second.base
    assert first.base.low > 0.8
    assert second.base.high < 0.3
    whole = score_subject(real(), generated(like=0), None)[ScoreName.PROMPT_SIMILARITY]
    assert isinstance(whole, ScoreValues)
    assert whole.base
    assert second.base.value < whole.base.value < first.base.value


def test_real_images_show_how_well_prompts_can_be_followed() -> None:
    torch.manual_seed(0)
    usual = score_subject(real(), generated(like=0), None)[ScoreName.PROMPT_SIMILARITY].real
    odd = real(class_text=vectors(1, spread=0, towards=1)[0])
    unusual = score_subject(odd, generated(like=0), None)[ScoreName.PROMPT_SIMILARITY].real
    assert usual
    assert unusual
    assert usual.low > 0.8
    assert unusual.high < 0.3
