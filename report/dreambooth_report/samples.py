"""Which samples of a run the page shows."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_STEPS = 12
MAX_SEEDS = 4
MAX_PICTURES = 320

_PATH = re.compile(r"step-(\d{8})/(\d{1,4})-(\d{1,4})\.png")


@dataclass(frozen=True)
class SampleIndex:
    """The samples in a run's folder: numbers of steps, prompts and seeds that all have files."""

    steps: Sequence[int]
    prompts: int
    seeds: int

    @property
    def total(self) -> int:
        """Number of files."""
        return len(self.steps) * self.prompts * self.seeds


def index(paths: Iterable[str]) -> SampleIndex:
    """The index of the paths below `samples/`; a step that was interrupted is left out."""
    found: dict[int, set[tuple[int, int]]] = {}
    for path in paths:
        if match := _PATH.fullmatch(path):
            step, prompt, seed = map(int, match.groups())
            found.setdefault(step, set()).add((prompt, seed))
    prompts = max((prompt for each in found.values() for prompt, _ in each), default=-1) + 1
    seeds = max((seed for each in found.values() for _, seed in each), default=-1) + 1
    whole = [step for step, each in found.items() if len(each) == prompts * seeds]
    return SampleIndex(sorted(whole), prompts, seeds)


def select(samples: SampleIndex, chosen: int | None) -> SampleIndex:
    """At most `MAX_PICTURES` samples: the same seeds and prompts at steps spread over the run.

    The first step, the last and the chosen one are kept as long as steps are.
    """
    prompts, seeds = samples.prompts, min(samples.seeds, MAX_SEEDS)
    steps = min(len(samples.steps), MAX_STEPS)
    while steps * prompts * seeds > MAX_PICTURES:
        if seeds > 2:
            seeds -= 1
        elif steps > 5:
            steps -= 1
        elif seeds > 1:
            seeds = 1
        elif steps > 2:
            steps -= 1
        else:
            prompts -= 1
    return SampleIndex(_spread(samples.steps, steps, chosen), prompts, seeds)


def describe_rest(samples: SampleIndex, shown: SampleIndex) -> str:
    """What is left out, as a sentence; empty if nothing is."""
    if shown.total == samples.total:
        return ""
    parts = (
        (len(shown.steps), len(samples.steps), "steps"),
        (shown.prompts, samples.prompts, "prompts"),
        (shown.seeds, samples.seeds, "images per prompt"),
    )
    kept = ", ".join(f"{few} of {all_} {name}" for few, all_, name in parts if few < all_)
    return (
        f"Of {samples.total:,} samples, {shown.total:,} are shown: {kept}."
        " All are in the folder of the run, below samples/."
    )


def _spread(steps: Sequence[int], count: int, chosen: int | None) -> list[int]:
    """`count` steps, the first and the last among them, evenly spread; `chosen` replaces one."""
    if count >= len(steps):
        return list(steps)
    if count < 2:
        return list(steps[-count:]) if count else []
    picked = [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
    if chosen is not None and chosen in steps and chosen not in picked and count > 2:
        nearest = min(picked[1:-1], key=lambda step: abs(step - chosen))
        picked[picked.index(nearest)] = chosen
    return sorted(picked)
