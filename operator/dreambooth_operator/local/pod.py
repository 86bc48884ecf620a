"""One pod as a process group on this machine: its folder, environment, log, signals and end."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth_operator.local.outcome import PodEnd
from dreambooth_operator.local.parent_death_signal import with_parent_death_signal
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.names import Manifest

MESSAGE_LIMIT = 4096
"""Longest termination message (Kubernetes' own limit), in characters."""
LOG_FALLBACK_LINES = 20
MACHINES_OWN = {"/dev/shm", "/tmp"}
"""Mounts that are the same folder here as in a pod."""


@dataclass
class LocalPod:
    """A pod that was set up here. `start` it once; then `poll` until it has ended."""

    index: int
    name: str
    address: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    """Volumes and termination log; removed at the end, as a node does."""
    log: Path
    grace_seconds: float
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_start: int = 0

    @property
    def termination_log(self) -> Path:
        """File that the trainer writes its last words to."""
        return self.folder / "termination-log"

    def start(self) -> None:
        """Start the command in a process group of its own, out of reach of the terminal's Ctrl-C.

        Call it from the main thread: the kernel ties the process to the thread that started it.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                with_parent_death_signal(self.command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> PodEnd | None:
        """How the pod ended, or None while it runs. What is left of its group is killed."""
        if self._process is None or self._process.poll() is None:
            return None
        self._kill_group(self._process)
        code = self._process.returncode
        return PodEnd(self.index, code if code >= 0 else 128 - code, self._message(code))

    def terminate(self) -> None:
        """Ask the container's first process to stop, as a node does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole process group, while it runs."""
        if self._process is not None and self._process.poll() is None:
            self._kill_group(self._process)

    def close(self) -> None:
        """Kill what still runs and remove the pod's folder; the log stays."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        """The end of what the pod wrote in this attempt."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 64 * 1024))
            return log.read().decode(errors="replace").splitlines()[-count:]

    def _message(self, code: int) -> str:
        """TerminationMessagePolicy FallbackToLogsOnError."""
        written = self.termination_log
        text = written.read_text(errors="replace").strip() if written.exists() else ""
        if not text and code:
            text = "\n".join(self.last_lines(LOG_FALLBACK_LINES))
        return text[-MESSAGE_LIMIT:]


@dataclass(frozen=True)
class NodeEnvironment:
    """What all pods of an attempt share on this machine."""

    folder: Path
    """The run's folder: logs, and the pods' folders while they run."""
    addresses: tuple[str, ...]
    rendezvous_port: int
    environment: Mapping[str, str]
    """What a pod inherits: PATH, HOME, credentials in place of secrets."""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each pod."""


def local_pods(objects: list[Manifest], node: NodeEnvironment) -> list[LocalPod]:
    """The pods of the attempt's Job, set up and ready to start."""
    job = next(o for o in objects if o["kind"] == "Job")
    configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    return [_local_pod(job, configs, index, node) for index in range(job["spec"]["completions"])]


def _local_pod(
    job: Manifest, configs: Mapping[str, Mapping[str, str]], index: int, node: NodeEnvironment
) -> LocalPod:
    spec = job["spec"]["template"]["spec"]
    container = next(c for c in spec["containers"] if c["name"] == names.TRAINER)
    folder = node.folder / f"pod-{index}"
    paths = mount_volumes(container, _config_files(spec["volumes"], configs), folder)
    pod = LocalPod(
        index=index,
        name=f"{job['metadata']['name']}-{index}",
        address=node.addresses[index],
        command=local_command(container, paths),
        environment={},
        folder=folder,
        log=node.folder / f"pod-{index}.log",
        grace_seconds=spec["terminationGracePeriodSeconds"],
    )
    pod.environment = _environment(job, container, pod, paths, node)
    return pod


def mount_volumes(
    container: Manifest, contents: Mapping[str, Mapping[str, bytes]], folder: Path
) -> dict[str, Path]:
    """Make the container's folders; returns where each path inside it lies on this machine.

    `contents` are the files of each volume by name; a volume without any starts as an empty folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = {container["terminationMessagePath"]: folder / "termination-log"}
    for mount in container.get("volumeMounts", []):
        if mount["mountPath"] in MACHINES_OWN:
            continue
        place = folder / mount["name"]
        place.mkdir(exist_ok=True)
        for name, content in contents.get(mount["name"], {}).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        paths[mount["mountPath"]] = place
    return paths


def local_command(container: Manifest, paths: Mapping[str, Path]) -> list[str]:
    """The container's command, with this interpreter in place of the image's.

    Of the image's entrypoint it is assumed that it runs its arguments.
    """
    words = [*container.get("command", []), *container.get("args", [])]
    located = [to_host_path(word, paths) for word in words]
    return [sys.executable if word == "python" else word for word in located[:1]] + located[1:]


def to_host_path(value: str, paths: Mapping[str, Path]) -> str:
    """A path inside the container as a path on this machine; anything else stays as it is."""
    for inside, here in paths.items():
        if value == inside or value.startswith(f"{inside}/"):
            return str(here) + value.removeprefix(inside)
    return value


def _config_files(
    volumes: list[Manifest], configs: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, bytes]]:
    """The files of every volume that is a ConfigMap."""
    sources = {volume["name"]: volume.get("configMap", {}).get("name") for volume in volumes}
    return {
        volume: {name: text.encode() for name, text in configs[source].items()}
        for volume, source in sources.items()
        if source in configs
    }


def _environment(
    job: Manifest,
    container: Manifest,
    pod: LocalPod,
    paths: Mapping[str, Path],
    node: NodeEnvironment,
) -> dict[str, str]:
    """The container's environment on top of what the pod inherits from this machine."""
    service = job["spec"]["template"]["spec"]["subdomain"]
    hosts = {
        f"{job['metadata']['name']}-{index}.{service}": address
        for index, address in enumerate(node.addresses)
    }
    fields = _fields(job, pod)
    environment = _inherited(node, pod.index)
    for variable in container["env"]:
        name, source = variable["name"], variable.get("valueFrom", {})
        if "value" in variable:
            environment[name] = to_host_path(hosts.get(variable["value"], variable["value"]), paths)
        elif "fieldRef" in source:
            environment[name] = fields[source["fieldRef"]["fieldPath"]]
    for name in ("MASTER_PORT", "PET_MASTER_PORT"):
        environment[name] = str(node.rendezvous_port)
    environment["JOB_COMPLETION_INDEX"] = str(pod.index)
    return environment


def _inherited(node: NodeEnvironment, index: int) -> dict[str, str]:
    """The machine's environment without another launcher's ranks; secrets come from here too."""
    foreign = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"}
    kept = {
        name: value
        for name, value in node.environment.items()
        if name not in foreign and not name.startswith("PET_")
    }
    kept["CUDA_VISIBLE_DEVICES"] = node.devices[index] if node.devices else ""
    return kept


def _fields(job: Manifest, pod: LocalPod) -> dict[str, str]:
    """Values of the downward API's fields that the pod template uses."""
    return {
        "metadata.name": pod.name,
        "metadata.namespace": job["metadata"]["namespace"],
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(pod.index),
        "status.podIP": pod.address,
        "spec.nodeName": os.uname().nodename,
    }
