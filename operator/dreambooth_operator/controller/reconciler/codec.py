"""A DreamBoothJob decoded from what the cache holds, and status and events encoded for the API."""

import json
import logging
import uuid
from datetime import datetime
from typing import Any

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.times import rfc3339
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import Status
from dreambooth_api.parsing.load import InvalidJobError, parse
from dreambooth_api.schema.base import API_VERSION, KIND
from dreambooth_operator.controller.decide.state.conditions import MAX_MESSAGE
from dreambooth_operator.controller.decide.state.decision import Event
from dreambooth_operator.controller.watch.snapshots import DreamBoothJobSnapshot
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)

MAX_EVENT_MESSAGE = 1024
"""Longest message of a core/v1 Event, in characters."""
COMPONENT = "dreambooth-operator"
"""Source of the operator's events (core/v1 EventSource)."""


def decode_job(snapshot: DreamBoothJobSnapshot) -> DreamBoothJob:
    """The job; a status that cannot be read counts as empty, as the children know better.

    A job that was accepted goes on, whatever rules have come with a newer operator.

    Raises:
        InvalidJobError: The spec is not one that this operator understands, because the CRD is of
            an older or newer version.
    """
    body = json.loads(snapshot.body)
    check_rules = _accepted(_conditions(body)).get("status") != "True"
    try:
        return parse(body, check_rules=check_rules)
    except InvalidJobError as error:
        # A status of another version of the CRD, or one edited by hand, must not stop a valid job.
        without = {name: value for name, value in body.items() if name != "status"}
        job = parse(without, check_rules=check_rules)
        logger.warning("%s: ignoring its status, which is not valid: %s", snapshot.key, error)
        return job


def encode_status(status: Status) -> Manifest:
    """Encode a status as JSON, with times in UTC to the second (meta/v1 Time)."""
    body: Manifest = _encode_times(status.model_dump(by_alias=True, exclude_none=True))
    return body


def encode_invalid_spec(
    snapshot: DreamBoothJobSnapshot, problem: str, now: datetime
) -> Manifest | None:
    """The status of a job whose spec is not understood.

    Only the condition Accepted changes, so that whatever runs is still reported as it was. The
    status is edited as JSON, because it may be of another version, too.

    Returns:
        The complete status; None if it has this condition already.
    """
    body = json.loads(snapshot.body)
    status = body["status"] if isinstance(body["status"], dict) else {}
    conditions = _conditions(body)
    others = [each for each in conditions if each.get("type") != ConditionType.ACCEPTED]
    old = _accepted(conditions)
    since = old.get("lastTransitionTime") if old.get("status") == "False" else rfc3339(now)
    new = {
        "type": ConditionType.ACCEPTED,
        "status": "False",
        "reason": Reason.INVALID_SPEC,
        "message": problem[:MAX_MESSAGE],
        "observedGeneration": body["metadata"].get("generation", 1),
        "lastTransitionTime": since,
    }
    if old == new:
        return None
    return {"phase": "Pending", **status, "conditions": [*others, new]}


def _conditions(body: Manifest) -> list[Manifest]:
    """Those of the status, which may be of another version of the CRD."""
    status = body.get("status")
    known = status.get("conditions") if isinstance(status, dict) else None
    return [each for each in known if isinstance(each, dict)] if isinstance(known, list) else []


def _accepted(conditions: list[Manifest]) -> Manifest:
    """The condition Accepted; empty where it is not there."""
    return next((each for each in conditions if each.get("type") == ConditionType.ACCEPTED), {})


def encode_event(job: DreamBoothJob, event: Event, now: datetime) -> Manifest:
    """A core/v1 Event about a job, which the API server keeps for an hour by default."""
    meta = job.metadata
    time = rfc3339(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # A random name: events are only created, never updated, so equal ones may not collide.
        "metadata": {"name": f"{meta.name}.{uuid.uuid4().hex[:16]}", "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:MAX_EVENT_MESSAGE],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def _encode_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encode_times(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_encode_times(item) for item in value]
    return rfc3339(value) if isinstance(value, datetime) else value
