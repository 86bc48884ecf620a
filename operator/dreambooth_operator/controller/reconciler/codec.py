"""A DreamBoothJob out of what the store keeps of it, and its status as it is written."""

import json
import logging
from datetime import datetime
from typing import Any

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.times import rfc3339
from dreambooth_api.models.conditions import MAX_MESSAGE
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import Status
from dreambooth_api.parsing.load import InvalidJobError, parse
from dreambooth_operator.controller.watch.cache import DreamBoothJobSnapshot
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)


def read_job(record: DreamBoothJobSnapshot) -> DreamBoothJob:
    """The job; a status that cannot be read counts as empty, as the children know better.

    Raises `InvalidJobError` when the spec is not one that this operator understands: the CRD is
    older
    or newer than the operator.
    """
    body = json.loads(record.body)
    try:
        return parse(body)
    except InvalidJobError as error:
        job = parse({name: value for name, value in body.items() if name != "status"})
        logger.warning(
            "%s: its status is not understood and counts as empty: %s", record.key, error
        )
        return job


def status_body(status: Status) -> Manifest:
    """A status as JSON: times in UTC to the second."""
    body: Manifest = _plain(status.model_dump(by_alias=True, exclude_none=True))
    return body


def refused_status(record: DreamBoothJobSnapshot, problem: str, now: datetime) -> Manifest | None:
    """The status that says that a spec is not understood; None when it says so already.

    Nothing else in it is touched, so whatever runs is still reported as it was.
    """
    body = json.loads(record.body)
    status = body["status"] if isinstance(body["status"], dict) else {}
    known = [each for each in _list(status.get("conditions")) if isinstance(each, dict)]
    old = next((each for each in known if each.get("type") == ConditionType.ACCEPTED), {})
    new = {
        "type": ConditionType.ACCEPTED,
        "status": "False",
        "reason": Reason.INVALID_SPEC,
        "message": problem[:MAX_MESSAGE],
        "observedGeneration": body["metadata"].get("generation", 1),
        "lastTransitionTime": old.get("lastTransitionTime")
        if old.get("status") == "False"
        else rfc3339(now),
    }
    if old == new:
        return None
    others = [each for each in known if each.get("type") != ConditionType.ACCEPTED]
    return {"phase": "Pending", **status, "conditions": [*others, new]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return rfc3339(value) if isinstance(value, datetime) else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
