"""Jobs that another version of dreambooth has stored."""

import copy
from typing import Any

from pydantic import ValidationError

from dreambooth_api.models.job import DreamBoothJob


def with_known_fields(job: Any) -> Any:
    """A stored job, as far as this version knows its fields; what else is wrong with it stays."""
    try:
        DreamBoothJob.model_validate(job)
    except ValidationError as error:
        job = copy.deepcopy(job)
        for *path, name in (e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"):
            section = job
            for step in path:
                section = section[step]
            del section[name]
    return job
