"""Checks that a job may resume from a checkpoint: it must be one that the job would have reached.

run.json records what a state depends on: the resolved job, and the hashes of model, images and
captions. When the current job differs, resuming would give a result that neither job file
describes. That is refused, with a list of the differences. The number of nodes, and the intervals
of checkpoints and samples, may change; so may the number of steps, unless the learning rate or the
training of the text encoder depends on it.
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
from dreambooth_trainer.resume.run_record import read_run_record

log = logging.getLogger(__name__)

SECTIONS = ("model", "subjects", "prior", "training")
"""Parts of the spec that a state depends on."""
FREE = ("prior.cache", "training.steps", "training.gradientCheckpointing")
"""Fields of these sections that may change: they affect no state, or only the number of states."""
SPLIT = ("training.perDeviceBatch", "training.accumulation")
"""How the global batch is divided: free as well where `globalBatch` fixes its size."""
CLASS_IMAGES = "class "
"""Beginning of the names of class images among the hashes."""


def fingerprint(job: DreamBoothJob) -> str:
    """sha256, in hexadecimal, of the settings that a training state depends on."""
    return hashlib.sha256(json.dumps(relevant(resolved(job)), sort_keys=True).encode()).hexdigest()


def relevant(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """The settings of a resolved job that a training state depends on: values by field name.

    Args:
        config: As `resolved` returns it.
    """
    spec = config["spec"]
    # A change of the batch per device would otherwise change the global batch.
    free = {*FREE, *(SPLIT if "globalBatch" in spec["training"] else ())}
    if _depends_on_steps(spec["training"]):
        free.discard("training.steps")
    values = (pair for name in SECTIONS for pair in _values(spec.get(name), name))
    return {f"spec.{path}": value for path, value in values if path not in free}


def _depends_on_steps(training: Mapping[str, Any]) -> bool:
    """Whether the number of steps affects the states before the last one."""
    text = training["textEncoder"]
    stops = text["method"] != "frozen" and text["stopFraction"] < 1
    return bool(stops or training["schedule"]["name"] != "constant")


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
    """One line for each field whose value has changed."""
    return [
        f"{name}: {_shown(then, name)} then, {_shown(now, name)} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _shown(values: Mapping[str, JsonValue], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def check_config(attempt: Attempt, manifest: Manifest) -> None:
    """Check that a checkpoint belongs to the current job. Collective.

    Raises:
        BadConfigError: It belongs to another one; the message lists every field that differs.
    """
    steps = attempt.job.spec.training.steps
    if manifest.step > steps:
        raise BadConfigError(
            f"spec.training.steps: {steps}, but the newest checkpoint is of step {manifest.step};"
            f" use at least {manifest.step}, or give the job another name"
        )
    # All ranks compare the same manifest and job, so all or none enter the collective. A different
    # fingerprint is no proof: a new version of the trainer may have added a field.
    if manifest.fingerprint != fingerprint(attempt.job):
        attempt.ranks.run_on_first(lambda: _refuse_other_config(attempt, manifest.step))


def _refuse_other_config(attempt: Attempt, step: int) -> None:
    earlier = read_run_record(attempt.storage, attempt.layout)
    if earlier is None:
        raise _refusal(step, ["spec: unknown, as run.json is missing"])
    # Parsed by this version's models: a field that is new has its default.
    then = relevant(resolved(DreamBoothJob.model_validate(earlier["job"])))
    changed = differences(then, relevant(resolved(attempt.job)))
    if changed:
        raise _refusal(step, changed)


def check_contents(attempt: Attempt, step: int, hashes: Mapping[str, str]) -> None:
    """Check that model and images are those of the earlier attempts. Collective.

    Class images that were generated again are only a warning.

    Args:
        attempt: The current one.
        step: Of the checkpoint that it resumes from.
        hashes: sha256 by name, as run.json holds them.

    Raises:
        BadConfigError: The model or the subject's images have changed.
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
        *(f"{name}: was removed" for name in sorted(then.keys() - now.keys())),
        *(f"{name}: is new" for name in sorted(now.keys() - then.keys())),
        *(f"{name}: has changed" for name in sorted(then.keys() & now) if then[name] != now[name]),
    ]


def _refusal(step: int, lines: Sequence[str]) -> BadConfigError:
    return BadConfigError(
        f"the checkpoint of step {step} was made from other settings or images; undo the"
        " changes, or give the job another name:\n" + "\n".join(f"  {line}" for line in lines)
    )
