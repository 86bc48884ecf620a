"""A pod's status as a kubelet reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.cluster.client import Object

READY = {"status": "True", "reason": None, "message": None}
"""None takes away what was said while it was not ready."""


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def waiting(reason: str, message: str = "") -> Object:
    """State of a container that has not started."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def running(started_at: str) -> Object:
    """State of a container that runs."""
    return {"running": {"startedAt": started_at}}


def terminated(
    exit_code: int, started_at: str, message: str = "", reason: str | None = None
) -> Object:
    """State of a container that has ended now."""
    end: Object = {
        "exitCode": exit_code,
        "reason": reason or ("Error" if exit_code else "Completed"),
        "startedAt": started_at,
        "finishedAt": timestamp(),
    }
    return {"terminated": end | ({"message": message} if message else {})}


@dataclass
class PodState:
    """What is known of a pod on its node; `report` puts it into words."""

    pod: Object
    host_address: str
    state: Object = field(default_factory=lambda: waiting("ContainerCreating"))
    """Of its one container."""
    address: str = ""
    """Known once the pod's volumes are there."""
    ready: bool = False
    process: int | None = None
    refused: tuple[str, str] | None = None
    """Reason and message of a pod that the node does not run."""
    given_up: bool = False
    """It was deleted before it started."""
    start_time: str = field(default_factory=timestamp)
    _conditions: dict[str, Object] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """The pod's phase, from its container's state."""
        if self.refused or self.given_up:
            return "Failed"
        if "terminated" in self.state:
            return "Failed" if self.state["terminated"]["exitCode"] else "Succeeded"
        return "Running" if "running" in self.state else "Pending"

    def report(self) -> Object:
        """PodStatus; conditions change their transition time only with their status."""
        status: Object = {
            "phase": self.phase,
            "startTime": self.start_time,
            "conditions": self._report_conditions(),
            "hostIP": self.host_address,
            "hostIPs": [{"ip": self.host_address}],
        }
        if self.refused:
            return status | dict(zip(("reason", "message"), self.refused, strict=True))
        if self.address:
            status |= {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        return status | {"containerStatuses": [self._container_status()]}

    def _container_status(self) -> Object:
        container = self.pod["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": self.ready,
            "started": "running" in self.state,
            "restartCount": 0,
            "state": self.state,
            "lastState": {},
        }
        if self.process is not None:
            status |= {"containerID": f"process://{self.process}", "imageID": container["image"]}
        return status

    def _report_conditions(self) -> list[Object]:
        unready = self._unready()
        said = {
            "PodReadyToStartContainers": {"status": _truth(bool(self.address))},
            "Initialized": {"status": "True"},
            "ContainersReady": unready or READY,
            "Ready": unready or READY,
        }
        for kind, words in said.items():
            before = self._conditions.get(kind, {})
            same = before.get("status") == words["status"]
            since = before["lastTransitionTime"] if same else timestamp()
            self._conditions[kind] = {"type": kind, "lastTransitionTime": since} | words
        return list(self._conditions.values())

    def _unready(self) -> Object | None:
        if self.ready:
            return None
        finished = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(self.phase)
        if finished:
            return {"status": "False", "reason": finished, "message": None}
        name = self.pod["spec"]["containers"][0]["name"]
        message = f"containers with unready status: [{name}]"
        return {"status": "False", "reason": "ContainersNotReady", "message": message}


def _truth(value: bool) -> str:
    return "True" if value else "False"
