"""Captions whose tags are shuffled."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreambooth_api.models.training import Training
from dreambooth_trainer.data.batches import BatchPlan, BatchStream
from dreambooth_trainer.data.cache import NO_CAPTION
from dreambooth_trainer.data.captions.tags import split_tags, vary_tags
from dreambooth_trainer.data.sampler import CAPTION_ORDERS, ImagePool, TrainingSampler
from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.training.module import DreamBooth

CAPTION = "a photo of sks mug, red, on a table,  steam , window"
CAPTION_TAGS = ["red", "on a table", "steam", "window"]
TAGS = set(CAPTION_TAGS)
SHUFFLED = Training(shuffle_tags=True)


def test_tags_are_shuffled_and_the_trigger_stays_first() -> None:
    orders = vary_tags(CAPTION, "sks", 7, 0, SHUFFLED)
    assert len(orders) == CAPTION_ORDERS
    assert orders[0] == CAPTION
    for order in orders[1:]:
        first, *others = order.split(", ")
        assert first == "a photo of sks mug"
        assert set(others) == TAGS
    assert len(set(orders)) > CAPTION_ORDERS // 2
    assert orders == vary_tags(CAPTION, "sks", 7, 0, SHUFFLED)
    assert orders != vary_tags(CAPTION, "sks", 7, 1, SHUFFLED)
    assert orders != vary_tags(CAPTION, "sks", 8, 0, SHUFFLED)


@pytest.mark.parametrize(
    "caption",
    ["a photo of sks mug", "sks, red", "", "blue, SKS mug, ", "red, (sks mug)", "sks., red"],
)
def test_a_caption_without_tags_to_shuffle_stays_as_it_is(caption: str) -> None:
    assert set(vary_tags(caption, "sks", 7, 0, SHUFFLED)) == {caption}


@pytest.mark.parametrize("shuffled", [False, True])
def test_tags_are_left_out_but_never_the_trigger(shuffled: bool) -> None:
    training = Training(shuffle_tags=shuffled, tag_dropout=0.3)
    dropped = []
    for image in range(50):
        variants = vary_tags(CAPTION, "sks", 7, image, training)
        assert variants == vary_tags(CAPTION, "sks", 7, image, training)
        for first, *others in (variant.split(", ") for variant in variants if variant != CAPTION):
            assert first == "a photo of sks mug"
            assert set(others) <= TAGS
            assert shuffled or others == [t for t in CAPTION_TAGS if t in others]
        dropped += [5 - len(split_tags(variant)) for variant in variants]
    assert sum(dropped) / len(dropped) == pytest.approx(0.3 * 4, abs=0.15)


def test_a_caption_of_which_nothing_would_be_left_stays_as_it_is() -> None:
    variants = vary_tags("red, blue", "sks", 7, 0, Training(tag_dropout=0.9))
    assert "" not in variants
    assert "red, blue" in variants


def test_the_order_is_drawn_anew_for_each_sample_whatever_the_ranks() -> None:
    sampler = TrainingSampler(
        seed=3, subjects=[ImagePool(0, 2)], priors=[], weights=[1.0], global_batch=2,
        objective=DDPMObjective(torch.linspace(0.99, 0.01, 1000), "epsilon", None),
        latent_shape=(1, 1, 1), caption_dropout=0.25,
    )  # fmt: skip
    # Captions 1 to 8 are the orders of the first image's, 9 to 16 those of the second's.
    caption_of_row = torch.arange(1, 17).view(2, CAPTION_ORDERS)
    module: Any = SimpleNamespace(_cache=SimpleNamespace(empty_prompt=None))

    def captions(ranks: int) -> list[int]:
        plans = [BatchPlan(0, 400, 1, 2 // ranks, rank, ranks) for rank in range(ranks)]
        found = []
        for batches in zip(*(BatchStream(sampler, plan) for plan in plans), strict=True):
            for batch in batches:
                found += DreamBooth._captions_of(module, batch, caption_of_row).tolist()
        return found

    drawn = captions(1)
    assert drawn == captions(2)
    counts = Counter(drawn)
    assert counts.keys() == {NO_CAPTION, *range(1, 17)}
    assert counts[NO_CAPTION] / len(drawn) == pytest.approx(0.25, abs=0.05)
    assert max(counts[i] for i in range(1, 17)) < 2.5 * min(counts[i] for i in range(1, 17))
