"""What a training state depends on, and how two jobs differ in it. Pure.

The number of nodes, and the intervals of checkpoints and samples, may change; so may the number of
steps, unless the learning rate or the training of the text encoder depends on it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from dreambooth_api.models.job import accepted, resolved
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.former_defaults import with_former_defaults

SECTIONS = ("model", "subjects", "prior", "training")
"""Parts of the spec that a state depends on."""
FREE = ("prior.cache", "training.steps", "training.gradientCheckpointing")
"""Fields of these sections that may change: they affect no state, or only the number of states."""
SCORED = ".evaluationImages"
"""End of the fields of subjects that are scored with, and not trained on."""
SAMPLING = "spec.training.timestepSampling."
SPLIT = ("training.perDeviceBatch", "training.accumulation")
"""How the global batch is divided: free as well where `globalBatch` fixes its size."""
CLASS_IMAGES = "class "
"""Beginning of the names of class images among the hashes."""
SHAPES = (
    "spec.model.adapter",
    "spec.training.method",
    "spec.training.lora.type",
    "spec.training.lora.rank",
    "spec.training.lora.alpha",
    "spec.training.lora.rslora",
    "spec.training.lora.init",
    "spec.training.lora.targetPreset",
    "spec.training.lora.targets",
    "spec.training.lora.rankPattern",
    "spec.training.lora.alphaPattern",
    "spec.training.lora.decomposeFactor",
    "spec.training.textEncoder.method",
    "spec.training.optimizer.name",
    "spec.training.ema.enabled",
)
"""Settings that decide which tensors a state holds, and what they mean."""
WORDS = re.compile(r"spec\.subjects\[\d+\]\.token\.vectors:")
"""Those of subjects: the number of rows that are learned."""


def fingerprint(job: ResolvedJob) -> str:
    """sha256, in hexadecimal, of the settings that a training state depends on."""
    return hashlib.sha256(json.dumps(relevant(resolved(job)), sort_keys=True).encode()).hexdigest()


def relevant(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """The settings of a resolved job that a training state depends on: values by field name.

    Args:
        config: As `resolved` returns it for a `ResolvedJob`.
    """
    spec = config["spec"]
    # A change of the batch per device would otherwise change the global batch.
    free = {*FREE, *(SPLIT if "globalBatch" in spec["training"] else ())}
    if _depends_on_steps(spec["training"]):
        free.discard("training.steps")
    values = (pair for name in SECTIONS for pair in _values(spec.get(name), name))
    relevant = {
        f"spec.{path}": value
        for path, value in values
        if path not in free and not path.endswith(SCORED)
    }
    # Not where it is 0: a job without spec.evaluation holds out as many.
    if held_out := spec.get("evaluation", {}).get("holdOut"):
        relevant["spec.evaluation.holdOut"] = held_out
    return relevant


def _depends_on_steps(training: Mapping[str, Any]) -> bool:
    """Whether states before the end would be others with another number of steps.

    A decay at the end alone is left out on purpose: where more follow, the rate is full again.
    """
    text = training["textEncoder"]
    stops = text["method"] != "frozen" and text["stopFraction"] < 1
    return bool(stops or training["schedule"]["name"] not in ("constant", "warmup-stable-decay"))


def _values(node: Any, path: str) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _values(value, f"{path}.{name}")
    elif isinstance(node, list) and all(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from _values(item, f"{path}[{index}]")
    else:
        yield path, node


def changes_since(earlier: Any, job: ResolvedJob) -> list[str]:
    """One line for each setting that has changed since an earlier job, as run.json has it."""
    then = relevant(resolved(accepted(with_former_defaults(earlier))))
    now = relevant(resolved(job))
    # Runs of earlier versions, whose jobs do not name the model's own values, trained with them.
    if f"{SAMPLING}shift" not in then:
        now = {k: v for k, v in now.items() if k in then or not k.startswith(SAMPLING)}
    return differences(then, now)


def differences(then: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> list[str]:
    """One line for each field whose value has changed."""
    return [
        f"{name}: {_shown(then, name)} then, {_shown(now, name)} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _shown(values: Mapping[str, JsonValue], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each file that has changed, from its sha256 by name."""
    return [
        *(f"{name}: was removed" for name in sorted(then.keys() - now.keys())),
        *(f"{name}: is new" for name in sorted(now.keys() - then.keys())),
        *(f"{name}: has changed" for name in sorted(then.keys() & now) if then[name] != now[name]),
    ]
