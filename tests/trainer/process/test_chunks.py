"""Work is shared among the ranks without depending on how many there are."""

import pytest

from dreambooth_trainer.process.chunks import (
    CHUNK_SIZE,
    gather_chunks,
    images_per_pass,
    own_chunks,
)
from dreambooth_trainer.process.distributed import Ranks
from tests.trainer.thread_ranks import on_ranks


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 1])
def test_any_number_of_ranks_works_on_the_same_chunks(size: int, count: int) -> None:
    items = range(count)

    def work(ranks: Ranks) -> list[list[int]]:
        own = own_chunks(items, ranks.topology)
        return gather_chunks(ranks, {number: list(chunk) for number, chunk in own.items()})

    expected = [list(items[i : i + CHUNK_SIZE]) for i in range(0, count, CHUNK_SIZE)]
    assert on_ranks(size, work) == [expected] * size


@pytest.mark.parametrize(
    ("resolution", "images"), [(64, 8), (512, 8), (520, 7), (1024, 2), (2048, 1)]
)
def test_fewer_large_images_are_generated_at_once(resolution: int, images: int) -> None:
    assert images_per_pass(resolution) == images


def test_an_error_of_one_rank_is_raised_on_all() -> None:
    def work(ranks: Ranks) -> None:
        def fail_on_the_last() -> None:
            if ranks.topology.rank == 2:
                raise OSError("disk full")

        ranks.run_on_all(fail_on_the_last)

    assert [str(error) for error in on_ranks(3, work)] == ["disk full"] * 3


def test_an_error_that_cannot_be_pickled_still_reaches_all_ranks() -> None:
    class LocalError(Exception):
        pass

    def work(ranks: Ranks) -> None:
        def fail() -> None:
            raise LocalError("only here")

        ranks.run_on_first(fail)

    assert [str(error) for error in on_ranks(2, work)] == ["LocalError: only here"] * 2
