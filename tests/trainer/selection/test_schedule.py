"""Evaluations take no more than their share of the time."""

from itertools import pairwise

import pytest

from dreambooth_trainer.selection.schedule import is_due, next_step


@pytest.mark.parametrize(("seconds", "fraction"), [(5, 0.05), (60, 0.05), (60, 0.5), (0.1, 0.01)])
def test_each_evaluation_pays_for_itself(seconds: float, fraction: float) -> None:
    every, step_seconds, steps = 10, 0.2, 20_000
    earliest, evaluated = 0, []
    for step in range(1, steps + 1):
        if is_due(step, every=every, earliest=earliest):
            evaluated.append(step)
            earliest = next_step(
                step, seconds=seconds, step_seconds=step_seconds, every=every, fraction=fraction
            )
    assert evaluated[0] == every
    assert all(step % every == 0 for step in evaluated)
    for one, other in pairwise(evaluated):
        training = (other - one) * step_seconds
        assert seconds / (seconds + training) <= fraction
        # One interval less would have been too little, or none is left out.
        less = training - every * step_seconds
        assert less == 0 or seconds / (seconds + less) > fraction


def test_a_fraction_of_1_leaves_out_none_and_an_unknown_step_time_neither() -> None:
    assert next_step(10, seconds=99, step_seconds=0.1, every=10, fraction=1) == 20
    assert next_step(10, seconds=99, step_seconds=None, every=10, fraction=0.05) == 20


def test_nothing_is_due_without_an_interval_or_before_the_first_step() -> None:
    assert not is_due(10, every=None, earliest=0)
    assert not is_due(0, every=10, earliest=0)
    assert not is_due(15, every=10, earliest=0)
