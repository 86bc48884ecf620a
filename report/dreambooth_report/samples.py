"""Which samples of a run the page shows."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 12
MAX_SEEDS = 4
MAX_PICTURES = 320
READERS = 16
"""Files of settings that are read at once."""

_PATH = re.compile(r"step-(\d{8})/(\d{1,4})-(\d{1,4})\.png")


@dataclass(frozen=True)
class SampleIndex:
    """The samples in a run's folder: numbers of steps, prompts and seeds that all have files."""

    steps: Sequence[int]
    prompts: int
    seeds: int
    former: Sequence[int] = ()
    """Steps whose samples have other prompts or settings than the job has now."""

    @property
    def total(self) -> int:
        """Number of files."""
        return len(self.steps) * self.prompts * self.seeds


def index(
    paths: Iterable[str], prompts: int, seeds: int, settings: Callable[[int], str]
) -> SampleIndex:
    """The index of the paths below `samples/`.

    A step that was interrupted is left out, and so is one that had other prompts or settings.

    Args:
        paths: Relative to that folder.
        prompts: Their number in the job.
        seeds: Images of each.
        settings: Reads the file with the settings of a step; empty, where there is none.
    """
    found: dict[int, set[tuple[int, int]]] = {}
    for path in paths:
        if match := _PATH.fullmatch(path):
            step, prompt, seed = map(int, match.groups())
            images = found.setdefault(step, set())
            if prompt < prompts and seed < seeds:  # others are of a job that had more
                images.add((prompt, seed))
    steps = sorted(found)
    with ThreadPoolExecutor(READERS) as pool:
        made_with = dict(zip(steps, map(_sampling, pool.map(settings, steps)), strict=True))
    current = made_with.get(0, {})  # made again when the job's settings change
    former = [step for step in steps if _differ(made_with[step], current)]
    whole = [step for step in steps if len(found[step]) == prompts * seeds]
    return SampleIndex([step for step in whole if step not in former], prompts, seeds, former)


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


def describe_rest(samples: SampleIndex, shown: SampleIndex) -> list[str]:
    """What is left out, in sentences."""
    return [text for text in (_describe_number(samples, shown), _describe_former(samples)) if text]


def _describe_former(samples: SampleIndex) -> str:
    if not samples.former:
        return ""
    steps = ", ".join(f"{step:,}" for step in samples.former[:MAX_STEPS])
    more = " and later ones" if len(samples.former) > MAX_STEPS else ""
    noun = "step" if len(samples.former) == 1 else "steps"
    return (
        f"The samples and scores of {noun} {steps}{more} are not shown: the job had other prompts"
        " or settings then. They are in the folder of the run, below samples/ and scores/."
    )


def _describe_number(samples: SampleIndex, shown: SampleIndex) -> str:
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


def _sampling(text: str) -> dict[str, Any]:
    """spec.samples in a file of settings; empty where it cannot be read."""
    try:
        return dict(json.loads(text)["samples"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    # Another version of the trainer may write more fields, or fewer.
    return any(one[name] != other[name] for name in one.keys() & other.keys())


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
