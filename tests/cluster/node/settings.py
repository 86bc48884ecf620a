"""Settings of a node agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class NodeSettings:
    """One node."""

    name: str
    folder: Path
    """Logs (`logs/NAMESPACE/POD-UID.log`) and, while pods run, their files (`pods/`)."""
    images: frozenset[str]
    """Images that the node has. Each stands for this virtual environment."""
    address: str = "127.0.0.1"
    cpu: str = "16"
    memory: str = "64Gi"
    resources: dict[str, str] = field(default_factory=dict)
    """Extended resources; they are announced, not handed out."""
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that every container sees, on top of PATH, HOME and HOSTNAME."""
    heartbeat_seconds: float = 2.0

    def log(self, namespace: str, pod: str, uid: str) -> Path:
        """Where a pod's output goes; it stays when the pod is gone."""
        return self.folder / "logs" / namespace / f"{pod}-{uid}.log"

    def pod_folder(self, namespace: str, pod: str, uid: str) -> Path:
        """The pod's files while it runs: volumes, and `pid` with its first process."""
        return self.folder / "pods" / namespace / f"{pod}-{uid}"
