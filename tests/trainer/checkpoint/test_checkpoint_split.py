import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_trainer.checkpoint.split import Slice, join, split

SHAPES = [(), (0,), (7,), (3, 5), (64, 64), (2, 3, 4)]
DTYPES = [torch.float32, torch.bfloat16, torch.int64]
tensors = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.builds(
        lambda shape, dtype: torch.zeros(shape, dtype=dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(DTYPES),
    ),
    max_size=8,
)


def size(state: dict[str, torch.Tensor], shard: list[Slice]) -> int:
    return sum((s.stop - s.start) * state[s.name].element_size() for s in shard)


@settings(max_examples=60, deadline=None)
@given(tensors, st.integers(1, 7))
def test_every_element_is_in_exactly_one_shard(state: dict[str, torch.Tensor], shards: int) -> None:
    plan = split(state, shards)
    assert len(plan) == shards
    for name, tensor in state.items():
        slices = [s for shard in plan for s in shard if s.name == name]
        covered = [i for s in slices for i in range(s.start, s.stop)]
        assert slices, name
        assert covered == list(range(tensor.numel())), name


@settings(max_examples=60, deadline=None)
@given(tensors, st.integers(1, 7))
def test_shards_differ_by_no_more_than_two_elements(
    state: dict[str, torch.Tensor], shards: int
) -> None:
    even = sum(t.nbytes for t in state.values()) / shards
    assert all(abs(size(state, shard) - even) <= 16 for shard in split(state, shards))


def test_the_plan_does_not_depend_on_the_order_of_the_tensors() -> None:
    state = {"b": torch.zeros(10), "a": torch.zeros(3, 3), "c": torch.zeros(100)}
    assert split(state, 3) == split(dict(reversed(state.items())), 3)


@pytest.mark.parametrize("pieces", [[(0, 5)], [(1, 11)], [(0, 7), (5, 7)], [(0, 5), (6, 6)]])
def test_pieces_that_do_not_fit_are_refused(pieces: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError):
        join([(start, torch.zeros(count)) for start, count in pieces], [3, 4])
