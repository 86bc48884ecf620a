"""The baseline: samples and scores of the model before training, for "before and after".

The first attempt makes it. A later one makes it again when the first did not get that far, or when
the job now asks for other prompts, samples or scores: until an attempt loads trained weights, its
model is the base model.
"""

import json
from typing import Any

from dreambooth_api.models.job import resolved
from dreambooth_storage import ObjectNotFoundError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.telemetry.telemetry import write_json


def needs_baseline(attempt: Attempt) -> bool:
    """Whether there is no baseline yet for what the job asks for. Collective."""
    return attempt.ranks.run_on_first(lambda: bool(_stored_settings(attempt) != _settings(attempt)))


def record_baseline(attempt: Attempt) -> None:
    """Record that the baseline is complete, and for which settings. Rank 0 writes."""
    if attempt.topology.rank == 0:
        write_json(attempt.storage, _uri(attempt), _settings(attempt))


def _uri(attempt: Attempt) -> str:
    return f"{attempt.layout.samples(0)}/settings.json"


def _stored_settings(attempt: Attempt) -> Any:
    try:
        return json.loads(attempt.storage.read(_uri(attempt)))
    except (ObjectNotFoundError, ValueError):
        return None


def _settings(attempt: Attempt) -> dict[str, Any]:
    """What samples and scores depend on, beside what a resumed job cannot change anyway."""
    spec = resolved(attempt.job)["spec"]
    samples = {name: value for name, value in spec["samples"].items() if name != "every"}
    return {"samples": samples, "evaluation": spec.get("evaluation")}
