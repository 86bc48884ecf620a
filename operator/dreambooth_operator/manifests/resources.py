"""The Kubernetes objects of one attempt, as a pure function of the job.

An attempt is one Indexed batch/v1 Job with a pod per node. Any pod's failure ends it, because ranks
depend on each other; the next attempt is a new Job. The Service and the ConfigMap are shared by all
attempts.
"""

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT, DEFAULT_RENDEZVOUS_PORT
from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.models.base import API_VERSION, KIND
from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.parsing import yamljson
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.metadata import child_metadata
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.pods import CONFIG_FILE, preflight_template, trainer_template

PREFLIGHT_RETRIES = 4
"""The Job controller waits 10 s, 20 s, 40 s and 80 s: storage may be away for two minutes."""


def attempt_objects(job: DreamBoothJob, attempt: int, default_image: str) -> list[Manifest]:
    """Service, ConfigMap and Job of attempt number `attempt` (from 0), in the order of creation.

    `default_image` is the trainer's image for jobs that name none.
    """
    return [service(job), config_map(job), attempt_job(job, attempt, default_image)]


def service(job: DreamBoothJob) -> Manifest:
    """Headless Service: DNS names for the pods before they are ready, as rendezvous comes first."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, names.service_name(job), names.labels(job, names.TRAINER)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                names.JOB_LABEL: job.metadata.name,
                names.COMPONENT_LABEL: names.TRAINER,
            },
            "ports": [
                {"name": "rendezvous", "port": DEFAULT_RENDEZVOUS_PORT, "protocol": "TCP"},
                {"name": "metrics", "port": DEFAULT_METRICS_PORT, "protocol": "TCP"},
            ],
        },
    }


def config_map(job: DreamBoothJob) -> Manifest:
    """ConfigMap with the complete job as `job.yaml`."""
    text = yamljson.dump(_trainer_config(job))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, names.config_name(job), names.labels(job, names.TRAINER)),
        "data": {CONFIG_FILE: text},
    }


def _trainer_config(job: DreamBoothJob) -> Manifest:
    """The job with all defaults, without what may change while it runs."""
    meta = job.metadata
    spec = resolved(job)["spec"]
    spec.pop("suspend")
    spec["runtime"].pop("ttlSecondsAfterFinished", None)
    known = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {key: value for key, value in known.items() if value},
        "spec": spec,
    }


def attempt_job(job: DreamBoothJob, attempt: int, default_image: str) -> Manifest:
    """The Indexed Job of one attempt: one pod per node, all or nothing."""
    labels = names.labels(job, names.TRAINER, attempt)
    queue = job.spec.runtime.queue
    queued = labels | {names.QUEUE_LABEL: queue} if queue else labels
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(job, names.attempt_name(job, attempt), queued),
        "spec": {
            "completionMode": "Indexed",
            # A Job that waits for a queue is born suspended, or it would run before it is seen.
            **({"suspend": True} if queue else {}),
            "completions": job.spec.runtime.nodes,
            "parallelism": job.spec.runtime.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [_disrupted()]},
                    {"action": "FailJob", "onExitCodes": _exit_codes(*NOT_RETRYABLE)},
                    {"action": "Ignore", "onExitCodes": _exit_codes(ExitCode.STOPPED)},
                ]
            },
            "template": trainer_template(job, attempt, default_image),
        },
    }


def preflight_job(job: DreamBoothJob, default_image: str) -> Manifest:
    """A Job on the CPU that finds what is wrong with a job before a GPU is taken.

    It never waits in the job's queue, and may be tried again: it changes nothing.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(
            job, names.preflight_name(job), names.labels(job, names.PREFLIGHT)
        ),
        "spec": {
            "backoffLimit": PREFLIGHT_RETRIES,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [_disrupted()]},
                    {"action": "FailJob", "onExitCodes": _exit_codes(*NOT_RETRYABLE)},
                ]
            },
            "template": preflight_template(job, default_image),
        },
    }


def _disrupted() -> Manifest:
    return {"type": "DisruptionTarget", "status": "True"}


def _exit_codes(*codes: int) -> Manifest:
    return {
        "containerName": names.TRAINER,
        "operator": "In",
        "values": [int(code) for code in codes],
    }
