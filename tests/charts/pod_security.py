"""The restricted Pod Security Standard, as Kubernetes' own documentation lists it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Spec) -> list[str]:
    """What in a PodSpec the standard forbids, and what it demands and is missing."""
    return [*_of_pod(spec), *(fault for one in _containers(spec) for fault in _of(one, spec))]


def _containers(spec: Spec) -> list[Spec]:
    return [one for key in ("initContainers", "containers") for one in spec.get(key, [])]


def _of_pod(spec: Spec) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        if not volume.keys() - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}"


def _of(container: Spec, spec: Spec) -> Iterator[str]:
    pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    both = pod | own
    capabilities = own.get("capabilities", {})
    seccomp = both.get("seccompProfile", {}).get("type")
    wanted = {
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities.drop": "ALL" in capabilities.get("drop", []),
        "capabilities.add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": both.get("runAsNonRoot") is True,
        "runAsUser": both.get("runAsUser") != 0,
        "seccompProfile": seccomp in ("RuntimeDefault", "Localhost"),
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
    }
    yield from (f"{container['name']}: {rule}" for rule, holds in wanted.items() if not holds)
