"""Names and labels of a job's children: deterministic, so that creating one twice is harmless."""

from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods import overrides
from dreambooth_api.schema.base import GROUP

Manifest = dict[str, Any]
"""A Kubernetes object as it is written in YAML."""

JOB_LABEL = f"{GROUP}/job"
ATTEMPT_LABEL = f"{GROUP}/attempt"
COMPONENT_LABEL = "app.kubernetes.io/component"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
"""Names a Kueue WorkloadPriorityClass: the order in the queue, and who is preempted."""
TRAINER = overrides.TRAINER
"""The component that trains, and the name of its container in every pod."""
PREFLIGHT = "preflight"
METRICS_PORT = "metrics"
"""Name of the port of a pod's first rank (core/v1 ContainerPort)."""


def service_name(job: DreamBoothJob) -> str:
    """Name of the headless Service that gives the pods their DNS names (core/v1 Service)."""
    return f"{job.metadata.name}-ranks"


def config_name(job: DreamBoothJob) -> str:
    """Name of the ConfigMap that holds job.yaml (core/v1 ConfigMap)."""
    return f"{job.metadata.name}-config"


def attempt_name(job: DreamBoothJob, attempt: int) -> str:
    """Name of the Job of an attempt, numbered from 0 (batch/v1 Job)."""
    return f"{job.metadata.name}-{attempt}"


def preflight_name(job: DreamBoothJob) -> str:
    """Name of the Job that checks a job before it trains (batch/v1 Job)."""
    return f"{job.metadata.name}-{PREFLIGHT}"


def master_address(job: DreamBoothJob, attempt: int) -> str:
    """DNS name of rank 0's pod within the namespace (Indexed Job: `<job>-<index>.<service>`)."""
    return f"{attempt_name(job, attempt)}-0.{service_name(job)}"


def labels(job: DreamBoothJob, component: str, attempt: int | None = None) -> dict[str, str]:
    """The recommended labels (app.kubernetes.io), and those that the operator selects by."""
    own = {
        "app.kubernetes.io/name": "dreambooth",
        "app.kubernetes.io/instance": job.metadata.name,
        COMPONENT_LABEL: component,
        "app.kubernetes.io/managed-by": "dreambooth-operator",
        JOB_LABEL: job.metadata.name,
    }
    return own if attempt is None else own | {ATTEMPT_LABEL: str(attempt)}
