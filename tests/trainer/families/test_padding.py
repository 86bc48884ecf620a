"""Where a model ignores padding, captions carry as many tokens as the longest of the job.

Whether it does is decided in `test_predict`: plain pipelines predict the same without padding.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dreambooth_trainer.data.cache import HostConditioning
from dreambooth_trainer.models import Conditioning, Family
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.prompts import drop_padding, join_rows
from tests.trainer.families.conftest import SIDE, build, load

CPU = torch.device("cpu")
LONG = "a red mug on the beach, seen from above"
CAPTIONS = ["", "a mug", LONG]
IGNORING = ["krea2", "qwen_image", "sana", "z_image"]


@pytest.fixture(params=IGNORING)
def ignoring(request: pytest.FixtureRequest) -> Family:
    return load(build(request.param))


def predict(family: Family, conditioning: Conditioning) -> Tensor:
    count = len(conditioning["mask"])
    noisy = torch.randn(1, *family.latent_shape(SIDE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return family.predict(
            noisy.expand(count, -1, -1, -1), torch.full((count,), 0.5), conditioning
        )


def count_tokens(conditioning: Conditioning) -> int:
    [count] = {part.shape[1] for part in conditioning.values()}
    return count


def test_predictions_are_the_same_without_padding(ignoring: Family) -> None:
    with torch.no_grad():
        padded = ignoring.encode_tokens(ignoring.tokenize(CAPTIONS))
    found = ignoring.encode_prompts(CAPTIONS)
    longest = int(padded["mask"].sum(dim=1).max())
    assert count_tokens(found) == longest < count_tokens(padded) // 4
    torch.testing.assert_close(predict(ignoring, found), predict(ignoring, padded))


def test_what_chroma_masks_is_read_all_the_same() -> None:
    family = load(build("chroma"))
    with torch.no_grad():
        padded = family.encode_tokens(family.tokenize(CAPTIONS))
    padded = {name: part[-1:] for name, part in padded.items()}
    change = predict(family, drop_padding(padded)) - predict(family, padded)
    assert change.abs().max() > 1e-2
    assert count_tokens(family.encode_prompts(CAPTIONS)) == count_tokens(padded)


def test_every_batch_of_a_job_has_the_length_of_its_longest_caption(ignoring: Family) -> None:
    """On every rank and in every attempt, whichever captions a batch has."""
    ignoring.retire_text_encoders(CAPTIONS, [""], CPU)
    rows = ignoring.encode_rows(CAPTIONS) + ignoring.encode_rows([""], is_negative=True)
    table = join_rows(rows, CPU)
    host = HostConditioning(rows, torch.zeros(1), CPU)
    for batch in ([0], [1], [3, 1], [2, 0]):
        looked_up = host.look_up(torch.tensor(batch))
        assert count_tokens(looked_up) == count_tokens(table)
        for name, part in looked_up.items():
            assert torch.equal(part, table[name][batch])


def test_an_image_takes_no_more_tokens_than_its_prompts(
    ignoring: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    sampling_arguments = ignoring.sampling_arguments

    def record(
        prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, object]:
        lengths.extend(map(count_tokens, (prompts, negative)))
        return sampling_arguments(prompts, negative, guidance_scale)

    monkeypatch.setattr(ignoring, "sampling_arguments", record)
    [alone] = images(ignoring, ["a mug"])
    assert max(lengths) < 64
    beside, _ = images(ignoring, ["a mug", LONG])
    difference = torch.tensor(alone).float() - torch.tensor(beside).float()
    assert difference.abs().max() <= 3  # of 255: kernels round differently


def images(family: Family, prompts: Sequence[str]) -> list[list[int]]:
    found = generate_images(
        family,
        [ImageRequest(prompt, seed=0) for prompt in prompts],
        sampler=family.defaults.sampler,
        steps=2,
        guidance_scale=4.0,
        size=SIDE,
    )
    return [list(image.tobytes()) for image in found]
