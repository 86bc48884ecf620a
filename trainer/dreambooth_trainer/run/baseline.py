"""The baseline: samples and scores of the model before training, for "before and after".

The first attempt creates it. A later one repeats it when the first did not get that far, or when
the job's prompts, samples or scores have changed: until an attempt loads trained weights, its model
is the base model.
"""

import json
from typing import Any

from dreambooth_storage import ObjectNotFoundError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.selection.record import scoring_settings
from dreambooth_trainer.telemetry.telemetry import write_json


def needs_baseline(attempt: Attempt) -> bool:
    """Whether there is no baseline yet for the job's settings. Collective.

    Raises:
        StorageError: The settings of the baseline cannot be read.
    """
    # Rank 0 decides for all: generating samples is collective, and another rank might read the
    # settings after rank 0 has written them.
    return attempt.ranks.run_on_first(
        lambda: bool(_stored_settings(attempt) != scoring_settings(attempt.job))
    )


def record_baseline(attempt: Attempt) -> None:
    """Record the settings of a complete baseline. Rank 0 writes; raises `StorageError`."""
    # Last, so that a baseline that was interrupted is repeated; over the settings of its samples.
    if attempt.topology.rank == 0:
        uri = attempt.layout.sample_settings(0)
        write_json(attempt.storage, uri, scoring_settings(attempt.job))


def _stored_settings(attempt: Attempt) -> Any:
    try:
        return json.loads(attempt.storage.read(attempt.layout.sample_settings(0)))
    except (ObjectNotFoundError, ValueError):
        return None
