"""May a job go on from an earlier state? Only if that state would have come about in the same way.

What a state depends on is in run.json: the resolved job, and the hashes of model and images. Where
the job of today differs, going on would make a result that neither job file describes, so it is
refused, with every difference. How long, where, how often saved and sampled: all that may change.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import Manifest
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.run.run_record import read_run_record

log = logging.getLogger(__name__)

SECTIONS = ("model", "subjects", "prior", "training")
"""Parts of the spec that a state depends on."""
FREE = ("prior.cache", "training.steps", "training.gradientCheckpointing")
"""What of them changes nothing in the states, or only how many there are."""
SPLIT = ("training.perDeviceBatch", "training.accumulation")
"""How the global batch is cut: free as well where `globalBatch` fixes its size."""
CLASS_IMAGES = "class "
"""Beginning of the names of class images among the hashes."""


def fingerprint(job: DreamBoothJob) -> str:
    """sha256 of what a training state depends on; it stands in every checkpoint's manifest."""
    return hashlib.sha256(json.dumps(relevant(resolved(job)), sort_keys=True).encode()).hexdigest()


def relevant(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """What a training state depends on in a resolved job: values by field, as
    `spec.training.seed`.
    """
    spec = config["spec"]
    free = {*FREE, *(SPLIT if "globalBatch" in spec["training"] else ())}
    values = (pair for name in SECTIONS for pair in _values(spec.get(name), name))
    return {f"spec.{path}": value for path, value in values if path not in free}


def _values(node: Any, path: str) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _values(value, f"{path}.{name}")
    elif isinstance(node, list) and all(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from _values(item, f"{path}[{index}]")
    else:
        yield path, node


def differences(then: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> list[str]:
    """One line for each field whose value is another one now."""
    return [
        f"{name}: {_shown(then, name)} then, {_shown(now, name)} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _shown(values: Mapping[str, JsonValue], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def check_config(attempt: Attempt, manifest: Manifest) -> None:
    """Raise `BadConfigError` when the checkpoint was made for another job than today's.
    Collective.
    """
    steps = attempt.job.spec.training.steps
    if manifest.step > steps:
        raise BadConfigError(
            f"spec.training.steps: {steps}, but the newest checkpoint is of step {manifest.step};"
            f" use at least {manifest.step}, or take another name"
        )
    if manifest.fingerprint != fingerprint(attempt.job):
        attempt.ranks.run_on_first(lambda: _refuse_other_config(attempt, manifest.step))


def _refuse_other_config(attempt: Attempt, step: int) -> None:
    earlier = read_run_record(attempt.storage, attempt.layout)
    if earlier is None:
        raise _refusal(step, ["spec: what it was is lost with run.json"])
    # Read through today's models: a field that is new in this version has its default.
    then = relevant(resolved(DreamBoothJob.model_validate(earlier["job"])))
    found = differences(then, relevant(resolved(attempt.job)))
    if found:
        raise _refusal(step, found)


def check_contents(attempt: Attempt, step: int, hashes: Mapping[str, str]) -> None:
    """Raise `BadConfigError` when model or images are not what they were. Collective.

    hashes: sha256 by name, as run.json holds them. Class images may have been made again: that is
    a warning.
    """
    attempt.ranks.run_on_first(lambda: _refuse_other_contents(attempt, step, hashes))


def _refuse_other_contents(attempt: Attempt, step: int, hashes: Mapping[str, str]) -> None:
    earlier = read_run_record(attempt.storage, attempt.layout)
    if earlier is None:
        return
    changed = _changed(earlier["hashes"], hashes)
    classes = [line for line in changed if line.startswith(CLASS_IMAGES)]
    if classes:
        log.warning("not all class images are those of step %d: %s", step, "; ".join(classes))
    if others := [line for line in changed if line not in classes]:
        raise _refusal(step, others)


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        *(f"{name}: is gone" for name in sorted(then.keys() - now.keys())),
        *(f"{name}: is new" for name in sorted(now.keys() - then.keys())),
        *(f"{name}: has changed" for name in sorted(then.keys() & now) if then[name] != now[name]),
    ]


def _refusal(step: int, lines: Sequence[str]) -> BadConfigError:
    return BadConfigError(
        f"the checkpoint of step {step} was made from something else; undo the changes, or take"
        " another name:\n" + "\n".join(f"  {line}" for line in lines)
    )
