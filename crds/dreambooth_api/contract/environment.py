"""Environment variables and ports of a pod: the operator sets them, the trainer reads them."""

from typing import Final

CONTRACT_VERSION: Final = "DREAMBOOTH_CONTRACT_VERSION"
"""Version of this contract that the operator speaks (see `version`)."""
ATTEMPT: Final = "DREAMBOOTH_ATTEMPT"
"""Number of the attempt, from 0."""
PREFLIGHT: Final = "DREAMBOOTH_PREFLIGHT"
"""1: the pod of node rank 0 checks the job before it starts its ranks."""
CACHE_DIR: Final = "DREAMBOOTH_CACHE_DIR"
"""Node-local folder for downloads."""
MODELS_DIR: Final = "DREAMBOOTH_MODELS_DIR"
"""Folder in memory for models that no later attempt needs; unset: the cache folder."""
METRICS_PORT: Final = "DREAMBOOTH_METRICS_PORT"
"""Port of the pod's first rank; rank i of the pod serves on this port + i."""
TERMINATION_LOG: Final = "DREAMBOOTH_TERMINATION_LOG"
"""File that the termination message is written to."""

# From the downward API (core/v1 ObjectFieldSelector): a pod template cannot name its own pods.
POD_NAME: Final = "POD_NAME"
POD_NAMESPACE: Final = "POD_NAMESPACE"
POD_IP: Final = "POD_IP"
NODE_NAME: Final = "NODE_NAME"

# torchrun's own variables (torch.distributed.run): PET_* for the launcher, the rest for its ranks.
NODES: Final = "PET_NNODES"
RANKS_PER_NODE: Final = "PET_NPROC_PER_NODE"
NODE_RANK: Final = "PET_NODE_RANK"
LAUNCHER_MASTER_ADDR: Final = "PET_MASTER_ADDR"
LAUNCHER_MASTER_PORT: Final = "PET_MASTER_PORT"
MASTER_ADDR: Final = "MASTER_ADDR"
MASTER_PORT: Final = "MASTER_PORT"
RANK: Final = "RANK"
WORLD_SIZE: Final = "WORLD_SIZE"
LOCAL_RANK: Final = "LOCAL_RANK"
LOCAL_WORLD_SIZE: Final = "LOCAL_WORLD_SIZE"
GROUP_RANK: Final = "GROUP_RANK"
JOB_COMPLETION_INDEX: Final = "JOB_COMPLETION_INDEX"
"""Set by the Job controller."""

AWS_ACCESS_KEY_ID: Final = "AWS_ACCESS_KEY_ID"
AWS_SECRET_ACCESS_KEY: Final = "AWS_SECRET_ACCESS_KEY"
AWS_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"
WANDB_API_KEY: Final = "WANDB_API_KEY"
OPENAI_API_KEY: Final = "OPENAI_API_KEY"
"""Key of the endpoint that is asked for captions (spec.captioning)."""
# Not HF_TOKEN, which a user may set to download models with.
HUB_TOKEN: Final = "DREAMBOOTH_HUB_TOKEN"
MLFLOW_TRACKING_TOKEN: Final = "MLFLOW_TRACKING_TOKEN"
MLFLOW_TRACKING_USERNAME: Final = "MLFLOW_TRACKING_USERNAME"
MLFLOW_TRACKING_PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"

# Another value of one of these would break the rendezvous, or make a pod report as another. AWS_*,
# MLFLOW_*, OPENAI_API_KEY and WANDB_API_KEY stay free: podOverrides may have them in place of the
# Secrets of the spec.
RESERVED: Final = (
    *(MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE),
    *(JOB_COMPLETION_INDEX, POD_NAME, POD_NAMESPACE, POD_IP, NODE_NAME),
)
"""Variables that a job cannot override, beside those of `RESERVED_PREFIXES`."""
RESERVED_PREFIXES: Final = ("PET_", "DREAMBOOTH_")

DEFAULT_METRICS_PORT: Final = 9400
# torchrun's own default.
DEFAULT_RENDEZVOUS_PORT: Final = 29500
