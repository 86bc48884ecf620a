"""The Kubernetes objects of an attempt, as pure functions of the job.

An attempt is one Indexed batch/v1 Job with a pod per node. Any pod's failure ends it, because ranks
depend on each other; the next attempt is a new Job. The Service and the ConfigMap are shared by all
attempts.
"""

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.parsing import yamljson
from dreambooth_api.schema.base import API_VERSION, KIND
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.content import with_content_hash
from dreambooth_operator.manifests.metadata import child_metadata
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.pods import CONFIG_FILE, preflight_template, trainer_template
from dreambooth_operator.manifests.ports import pod_ports

PREFLIGHT_RETRIES = 4
"""With the Job controller's waits of 10, 20, 40 and 80 s, storage may be away for two minutes."""


def attempt_objects(
    job: DreamBoothJob, attempt: int, default_image: str, *, preflight: bool = False
) -> list[Manifest]:
    """Service, ConfigMap and Job of attempt number `attempt` (from 0), in the order of creation.

    `default_image` is the trainer's image for jobs that name none; `preflight` has the first pod
    check the job.
    """
    attempt_of = attempt_job(job, attempt, default_image, preflight=preflight)
    return [service(job, attempt), config_map(job), attempt_of]


def service(job: DreamBoothJob, attempt: int) -> Manifest:
    """The headless Service of the pods (core/v1 Service), by which rank 0 has a DNS name."""
    ports = pod_ports(job, attempt)
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, names.service_name(job), names.labels(job, names.TRAINER)),
        "spec": {
            "clusterIP": "None",
            # A pod is ready once its ranks have joined, and for that they need rank 0's address.
            "publishNotReadyAddresses": True,
            "selector": {
                names.JOB_LABEL: job.metadata.name,
                names.COMPONENT_LABEL: names.TRAINER,
            },
            "ports": [
                {"name": "rendezvous", "port": ports.rendezvous, "protocol": "TCP"},
                {"name": names.METRICS_PORT, "port": ports.metrics, "protocol": "TCP"},
            ],
        },
    }
    return with_content_hash(manifest)


def config_map(job: DreamBoothJob) -> Manifest:
    """The ConfigMap with the job as `job.yaml`, all defaults filled in (core/v1 ConfigMap)."""
    text = yamljson.dump(_trainer_config(job))
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, names.config_name(job), names.labels(job, names.TRAINER)),
        "data": {CONFIG_FILE: text},
    }
    return with_content_hash(manifest)


def _trainer_config(job: DreamBoothJob) -> Manifest:
    """The job with all defaults, without what may change while it runs."""
    meta = job.metadata
    spec = resolved(job)["spec"]
    # The ConfigMap is applied again for each attempt: these may have changed, all else is fixed.
    spec.pop("suspend")
    spec["runtime"].pop("ttlSecondsAfterFinished", None)
    spec["runtime"].pop("preflight")
    # Of the pods, which have them already; with the operator's defaults they may exceed the bounds
    # of a job.
    spec["runtime"].pop("podOverrides", None)
    known = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {key: value for key, value in known.items() if value},
        "spec": spec,
    }


def attempt_job(
    job: DreamBoothJob, attempt: int, default_image: str, *, preflight: bool = False
) -> Manifest:
    """The Indexed Job of an attempt (batch/v1 Job): one pod per node, and none is restarted."""
    labels = names.labels(job, names.TRAINER, attempt)
    queue = job.spec.runtime.queue
    queued = labels | ({names.QUEUE_LABEL: queue} if queue else {})
    # The only label of Kueue's that is passed on: each attempt is queued anew.
    if priority := job.metadata.labels.get(names.QUEUE_PRIORITY_LABEL):
        queued[names.QUEUE_PRIORITY_LABEL] = priority
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(job, names.attempt_name(job, attempt), queued),
        "spec": {
            "completionMode": "Indexed",
            # Kueue admits suspended Jobs: one that is not suspended would start before its turn.
            **({"suspend": True} if queue else {}),
            "completions": job.spec.runtime.nodes,
            "parallelism": job.spec.runtime.nodes,
            # The ranks depend on each other: the first pod that fails ends the attempt.
            "backoffLimit": 0,
            # A pod that is still stopping must not train beside its replacement.
            "podReplacementPolicy": "Failed",
            # The first rule that matches decides. It puts its reason into the Job's conditions,
            # which outlive the pods.
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [_disrupted()]},
                    {"action": "FailJob", "onExitCodes": _exit_codes(*NOT_RETRYABLE)},
                    # A suspended Job deletes its pods, which save and exit: that is no failure.
                    {"action": "Ignore", "onExitCodes": _exit_codes(ExitCode.STOPPED)},
                ]
            },
            "template": trainer_template(job, attempt, default_image, preflight=preflight),
        },
    }


def preflight_job(job: DreamBoothJob, default_image: str) -> Manifest:
    """The Job that checks storage, images, model and prompts before a GPU is taken (batch/v1 Job).

    It leaves nothing behind, so it can be retried.
    """
    labels = names.labels(job, names.PREFLIGHT)
    queue = preflight_queue(job)
    queued = labels | {names.QUEUE_LABEL: queue} if queue else labels
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(job, names.preflight_name(job), queued),
        "spec": {
            **({"suspend": True} if queue else {}),
            "backoffLimit": PREFLIGHT_RETRIES,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    # Preflight holds no state: a disrupted pod is replaced, and not counted.
                    {"action": "Ignore", "onPodConditions": [_disrupted()]},
                    {"action": "FailJob", "onExitCodes": _exit_codes(*NOT_RETRYABLE)},
                ]
            },
            "template": preflight_template(job, default_image),
        },
    }


def preflight_queue(job: DreamBoothJob) -> str | None:
    """The Kueue LocalQueue that the preflight waits in (spec.runtime.preflight.queue)."""
    return job.spec.runtime.preflight.queue or job.spec.runtime.queue


def _disrupted() -> Manifest:
    return {"type": "DisruptionTarget", "status": "True"}


def _exit_codes(*codes: int) -> Manifest:
    return {
        "containerName": names.TRAINER,
        "operator": "In",
        "values": [int(code) for code in codes],
    }
