"""The variables of the trainer's containers (core/v1 EnvVar)."""

from dreambooth_api.contract import environment
from dreambooth_api.contract.version import VERSION
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import ranks_per_node
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.ports import PodPorts

CACHE_FOLDER = "/cache"
TERMINATION_LOG = "/dev/termination-log"
COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def common_env(job: DreamBoothJob) -> list[Manifest]:
    """Identity, folders and credentials of any pod."""
    return [
        _field(environment.POD_NAME, "metadata.name"),
        _field(environment.POD_NAMESPACE, "metadata.namespace"),
        _field(environment.POD_IP, "status.podIP"),
        _field(environment.NODE_NAME, "spec.nodeName"),
        variable(environment.CONTRACT_VERSION, VERSION),
        variable(environment.CACHE_DIR, CACHE_FOLDER),
        variable(environment.TERMINATION_LOG, TERMINATION_LOG),
        variable("PYTHONUNBUFFERED", 1),  # the last lines before a crash reach the log
        *_credentials(job),
    ]


def rendezvous_env(job: DreamBoothJob, attempt: int, ports: PodPorts) -> list[Manifest]:
    """Static rendezvous: what torchrun (PET_*) and torch.distributed (MASTER_*) read."""
    runtime = job.spec.runtime
    address = names.master_address(job, attempt)
    return [
        variable(environment.NODES, runtime.nodes),
        variable(environment.RANKS_PER_NODE, ranks_per_node(runtime)),
        _field(environment.NODE_RANK, COMPLETION_INDEX),
        variable(environment.LAUNCHER_MASTER_ADDR, address),
        variable(environment.LAUNCHER_MASTER_PORT, ports.rendezvous),
        variable(environment.MASTER_ADDR, address),
        variable(environment.MASTER_PORT, ports.rendezvous),
        variable(environment.ATTEMPT, attempt),
        variable(environment.METRICS_PORT, ports.metrics),
    ]


def push_env(job: DreamBoothJob) -> list[Manifest]:
    """The token for `spec.export.pushToHub`, for the pods that train alone."""
    push = job.spec.export.push_to_hub if job.spec.export else None
    return (
        [_secret(environment.HUB_TOKEN, push.secret_ref.name, push.secret_ref.key)] if push else []
    )


def _credentials(job: DreamBoothJob) -> list[Manifest]:
    """Credentials, as references to keys of Secrets."""
    env: list[Manifest] = []
    credentials = job.spec.storage.credentials
    if credentials:
        name, keys = credentials.secret_ref.name, credentials.secret_ref.keys
        env += [
            _secret(environment.AWS_ACCESS_KEY_ID, name, keys.access_key_id),
            _secret(environment.AWS_SECRET_ACCESS_KEY, name, keys.secret_access_key),
            _secret(environment.AWS_SESSION_TOKEN, name, keys.session_token, optional=True),
        ]
    endpoint = job.spec.captioning.endpoint if job.spec.captioning else None
    if endpoint and (key := endpoint.api_key_secret_ref):
        env.append(_secret(environment.OPENAI_API_KEY, key.name, key.key))
    wandb = job.spec.tracking.wandb
    if wandb and wandb.secret_ref:
        env.append(_secret(environment.WANDB_API_KEY, wandb.secret_ref.name, wandb.secret_ref.key))
    mlflow = job.spec.tracking.mlflow
    if mlflow and mlflow.secret_ref:
        env += [
            _secret(name, mlflow.secret_ref.name, name, optional=True)
            for name in (
                environment.MLFLOW_TRACKING_TOKEN,
                environment.MLFLOW_TRACKING_USERNAME,
                environment.MLFLOW_TRACKING_PASSWORD,
            )
        ]
    return env


def variable(name: str, value: str | int) -> Manifest:
    """A variable with a value of its own (core/v1 EnvVar)."""
    return {"name": name, "value": str(value)}


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _secret(name: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    reference: Manifest = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}
