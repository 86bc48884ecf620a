"""Kubernetes events about a DreamBoothJob (core/v1 Event)."""

import uuid
from datetime import datetime

from dreambooth_api.contract.times import rfc3339
from dreambooth_api.models.base import API_VERSION, KIND
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.decide.decision import Event
from dreambooth_operator.manifests.names import Manifest

COMPONENT = "dreambooth-operator"
MESSAGE_LIMIT = 1024


def event_body(job: DreamBoothJob, event: Event, now: datetime) -> Manifest:
    """The event as it is posted. It does not outlive the API server's event TTL, an hour."""
    meta = job.metadata
    time = rfc3339(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
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
        "message": event.message[:MESSAGE_LIMIT],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
