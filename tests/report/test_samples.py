"""Which samples are shown: the same seeds and prompts at steps that are spread over the run."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dreambooth_report.samples import (
    MAX_PICTURES,
    SampleIndex,
    describe_rest,
    index,
    select,
)


def nothing(_: int) -> str:
    """The settings of a step that has none."""
    return ""


def test_the_index_leaves_out_steps_that_were_interrupted_and_other_files() -> None:
    whole = [f"step-{step:08d}/{p}-{s}.png" for step in (0, 8) for p in (0, 1) for s in (0, 1)]
    others = ["step-00000004/0-0.png", "step-00000008/grid.png", "before-after.png", "0-0.png"]
    assert index([*whole, *others], 2, 2, nothing) == SampleIndex([0, 8], 2, 2, [])
    assert index([], 2, 2, nothing) == SampleIndex([], 2, 2, [])


def test_a_job_may_have_fewer_prompts_and_images_than_it_had() -> None:
    """The files of those that it no longer has stay in the folder of the base model's samples."""
    base = [f"step-00000000/{prompt}-{seed}.png" for prompt in range(3) for seed in range(8)]
    later = [f"step-00000008/{prompt}-{seed}.png" for prompt in range(2) for seed in range(4)]
    assert index([*base, *later], 2, 4, nothing) == SampleIndex([0, 8], 2, 4, [])
    assert index([*base, *later], 3, 8, nothing) == SampleIndex([0], 3, 8, [])


def test_steps_with_other_prompts_are_left_out_and_named() -> None:
    files = {
        0: '{"samples": {"prompts": ["a"]}, "evaluation": null}',
        4: '{"samples": {"prompts": ["b"]}}',
        8: '{"samples": {"prompts": ["a"]}}',
        12: "",  # of a version that wrote none
        16: "[damaged",
        20: "[" * 100_000,
    }
    paths = [f"step-{step:08d}/0-0.png" for step in files]
    samples = index(paths, 1, 1, lambda step: files[step])
    assert samples == SampleIndex([0, 8, 12, 16, 20], 1, 1, [4])
    [text] = describe_rest(samples, select(samples, None))
    assert text.startswith("The samples and scores of step 4 are not shown")
    unknown = index(paths, 1, 1, lambda step: files[step] if step else "")
    assert unknown == SampleIndex([*files], 1, 1, [])
    # Also one that has fewer images than the job has now.
    more = [*paths, *(f"step-{step:08d}/0-1.png" for step in (0, 8, 12, 16, 20))]
    assert index(more, 1, 2, lambda step: files[step]).former == [4]


@pytest.mark.parametrize(
    ("steps", "prompts", "seeds", "expected"),
    [
        (5, 3, 4, (5, 3, 4)),
        (5, 3, 64, (5, 3, 4)),
        (101, 1, 4, (12, 1, 4)),
        (25, 10, 4, (12, 10, 2)),
        (101, 32, 4, (5, 32, 2)),
        (1, 32, 64, (1, 32, 4)),
    ],
)
def test_fewer_seeds_and_steps_are_shown(
    steps: int, prompts: int, seeds: int, expected: tuple[int, int, int]
) -> None:
    shown = select(SampleIndex(range(steps), prompts, seeds), None)
    assert (len(shown.steps), shown.prompts, shown.seeds) == expected


def test_first_last_and_chosen_step_are_kept_and_the_others_are_spread() -> None:
    shown = select(SampleIndex(range(0, 1010, 10), 1, 4), chosen=70)
    assert {0, 70, 1000} <= {*shown.steps}
    gaps = [after - before for before, after in pairwise(shown.steps)]
    assert min(gaps) >= 70
    assert max(gaps) <= 110


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("prompts", [1, 32, 1000])
@pytest.mark.parametrize("seeds", [1, 64])
def test_the_number_of_pictures_is_bounded(steps: int, prompts: int, seeds: int) -> None:
    samples = SampleIndex(range(steps), prompts, seeds)
    shown = select(samples, steps - 1)
    assert 0 < shown.total <= MAX_PICTURES
    assert len(shown.steps) == len(set(shown.steps))
    assert len(describe_rest(samples, shown)) == (shown.total < samples.total)


def test_what_is_left_out_is_said() -> None:
    [text] = describe_rest(SampleIndex(range(25), 10, 4), SampleIndex(range(12), 10, 2))
    assert "Of 1,000 samples, 240 are shown: 12 of 25 steps, 2 of 4 images per prompt." in text
    assert describe_rest(SampleIndex([0], 1, 1), SampleIndex([0], 1, 1)) == []
