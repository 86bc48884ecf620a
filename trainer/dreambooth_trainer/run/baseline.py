"""How the model was before training, for "before and after": looked at once, by the first attempt.

A later attempt looks again when the first one did not get through, or when the job now asks for
other prompts, samples or scores: before it takes over the trained weights, the model is still the
base model.
"""

import json
from typing import Any

from dreambooth_api.models.job import resolved
from dreambooth_storage import ObjectNotFoundError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.telemetry.telemetry import write_json

NAME = "samples/step-00000000/settings.json"


def is_due(attempt: Attempt) -> bool:
    """Whether there is nothing yet that the trained model could be compared with. Collective."""
    return attempt.ranks.run_on_first(lambda: _is_due(attempt))


def _is_due(attempt: Attempt) -> bool:
    try:
        found = json.loads(attempt.storage.read(attempt.layout.path(NAME)))
    except (ObjectNotFoundError, ValueError):
        return True
    return bool(found != _settings(attempt))


def note(attempt: Attempt) -> None:
    """Note that the model was looked at, and how. Rank 0 writes."""
    if attempt.topology.rank == 0:
        write_json(attempt.storage, attempt.layout.path(NAME), _settings(attempt))


def _settings(attempt: Attempt) -> dict[str, Any]:
    """All that samples and scores depend on, beside what a resumed job may not change anyway."""
    spec = resolved(attempt.job)["spec"]
    samples = {name: value for name, value in spec["samples"].items() if name != "every"}
    return {"samples": samples, "evaluation": spec.get("evaluation")}
