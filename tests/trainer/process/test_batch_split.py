"""The batch of a run stays what it began with, on however many ranks it goes on."""

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.process.batch_split import BatchSplit, split_batch
from dreambooth_trainer.process.errors import BadConfigError


def job(**training: int) -> DreamBoothJob:
    return DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "/model"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
                "output": "s3://b/out",
                "training": training,
            },
        }
    )


def test_the_batch_follows_the_ranks_of_a_new_run() -> None:
    assert split_batch(job(), 6) == BatchSplit(1, 1, 6)
    assert split_batch(job(perDeviceBatch=3, accumulation=2), 2).total == 12
    assert split_batch(job(globalBatch=12, accumulation=2), 2) == BatchSplit(3, 2, 2)


@pytest.mark.parametrize(
    ("training", "world_size", "begun_with", "expected"),
    [
        ({}, 1, 2, BatchSplit(1, 2, 1)),
        ({}, 2, 12, BatchSplit(1, 6, 2)),
        ({"perDeviceBatch": 4}, 1, 8, BatchSplit(4, 2, 1)),
        ({"perDeviceBatch": 4}, 4, 8, BatchSplit(2, 1, 4)),
        ({"perDeviceBatch": 4}, 1, 6, BatchSplit(3, 2, 1)),
        ({"accumulation": 3}, 3, 6, BatchSplit(1, 2, 3)),
        ({"globalBatch": 12}, 3, 12, BatchSplit(4, 1, 3)),
    ],
)
def test_a_resumed_run_keeps_its_batch_and_needs_no_more_memory(
    training: dict[str, int], world_size: int, begun_with: int, expected: BatchSplit
) -> None:
    split = split_batch(job(**training), world_size, begun_with)
    assert split == expected
    assert split.total == begun_with


def test_ranks_that_cannot_divide_the_batch_are_refused() -> None:
    with pytest.raises(
        BadConfigError, match=r"^spec\.runtime\.nodes: .* 2 subject images.* 6 ranks"
    ):
        split_batch(job(), 6, begun_with=2)
    with pytest.raises(BadConfigError, match=r"^spec\.training\.globalBatch: 8 is not divisible"):
        split_batch(job(globalBatch=8), 6)
