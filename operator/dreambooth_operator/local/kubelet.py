"""The kubelet's work before a container starts: its volumes, command and environment."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.contract import environment as variables
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.pod import TERMINATION_LOG, LocalPod
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.names import Manifest

HOST_MOUNTS = {"/dev/shm", "/tmp"}
"""Mounts that are the same folder here as in a pod."""
LAUNCHER_VARIABLES = {
    variables.RANK,
    variables.LOCAL_RANK,
    variables.WORLD_SIZE,
    variables.LOCAL_WORLD_SIZE,
    variables.GROUP_RANK,
}
"""What another launcher, in which `dreambooth` may have been started, sets for its own ranks."""


@dataclass(frozen=True)
class NodeEnvironment:
    """What all pods of an attempt share on this machine (core/v1 Node)."""

    folder: Path
    """The run's folder: logs, and the pods' folders while they run."""
    addresses: tuple[str, ...]
    """Loopback address of each pod."""
    rendezvous_port: int
    """TCP port of torch's store, in place of the one in the manifests."""
    metrics_port: int
    """TCP port of a pod's first rank, in place of the one in the manifests."""
    environment: Mapping[str, str]
    """What a pod inherits: PATH, HOME, credentials in place of secrets."""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each pod; empty: no pod has a GPU."""


def local_pods(objects: list[Manifest], node: NodeEnvironment) -> list[LocalPod]:
    """The pods of an attempt's batch/v1 Job, set up and ready to start.

    `objects` are those of `manifests.resources.attempt_objects`. Only the trainer's container runs:
    init containers and sidecars have images, and there is nothing to run an image here.

    Raises:
        UserError: The job's overrides refer to a field that a process does not have.
    """
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
    return LocalPod(
        index=index,
        name=_pod_name(job, index),
        address=node.addresses[index],
        command=local_command(container, paths),
        environment=_environment(job, container, index, paths, node),
        folder=folder,
        log=node.folder / f"pod-{index}.log",
        grace_seconds=spec["terminationGracePeriodSeconds"],
    )


def _pod_name(job: Manifest, index: int) -> str:
    """Host name of a pod of an Indexed Job."""
    return f"{job['metadata']['name']}-{index}"


def mount_volumes(
    container: Manifest, contents: Mapping[str, Mapping[str, bytes]], folder: Path
) -> dict[str, Path]:
    """Create the container's volumes (core/v1 VolumeMount).

    Args:
        container: Its volumeMounts and terminationMessagePath.
        contents: Files of each volume, by their names; other volumes start as empty folders.
        folder: The pod's folder; what an earlier attempt left there is deleted.

    Returns:
        The path on this machine of each path inside the container.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = {container["terminationMessagePath"]: folder / TERMINATION_LOG}
    for mount in container.get("volumeMounts", []):
        # No chroot or mount namespace: a path inside the container is a folder of the pod here.
        if mount["mountPath"] in HOST_MOUNTS:
            continue
        volume = folder / mount["name"]
        volume.mkdir(exist_ok=True)
        for name, content in contents.get(mount["name"], {}).items():
            (volume / name).parent.mkdir(parents=True, exist_ok=True)
            (volume / name).write_bytes(content)
        paths[mount["mountPath"]] = volume
    return paths


def local_command(container: Manifest, paths: Mapping[str, Path]) -> list[str]:
    """The container's command line (core/v1 Container), with this interpreter for `python`.

    The image's entrypoint is assumed to run its arguments as a command.
    """
    line = [*container.get("command", []), *container.get("args", [])]
    program, *arguments = [to_host_path(argument, paths) for argument in line]
    return [sys.executable if program == "python" else program, *arguments]


def to_host_path(value: str, paths: Mapping[str, Path]) -> str:
    """A path inside the container as a path on this machine; any other text is left as it is."""
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
    job: Manifest, container: Manifest, index: int, paths: Mapping[str, Path], node: NodeEnvironment
) -> dict[str, str]:
    """The container's environment on top of what the pod inherits from this machine."""
    service = job["spec"]["template"]["spec"]["subdomain"]
    addresses = {
        f"{_pod_name(job, peer)}.{service}": address for peer, address in enumerate(node.addresses)
    }
    fields = _downward_api(job, index, node)
    environment = _inherited(node, index)
    for variable in container["env"]:
        name, source = variable["name"], variable.get("valueFrom", {})
        if "value" in variable:
            value = variable["value"]
            environment[name] = to_host_path(addresses.get(value, value), paths)
        elif "fieldRef" in source:
            environment[name] = _field_value(fields, name, source["fieldRef"]["fieldPath"])
    # Rank 0's store listens on all addresses, so two runs cannot share the pods' usual port.
    for name in (variables.MASTER_PORT, variables.LAUNCHER_MASTER_PORT):
        environment[name] = str(node.rendezvous_port)
    environment[variables.METRICS_PORT] = str(node.metrics_port)
    environment[variables.JOB_COMPLETION_INDEX] = str(index)
    return environment


def _field_value(fields: Mapping[str, str], name: str, path: str) -> str:
    if path not in fields:
        raise UserError(
            f"spec.runtime.podOverrides: {name} refers to the field {path}, which a local process"
            f" does not have; use one of {', '.join(fields)}, or a value"
        )
    return fields[path]


def _inherited(node: NodeEnvironment, index: int) -> dict[str, str]:
    """The machine's environment without the ranks of another launcher.

    Secrets come from here too: the variables that the pod template takes from a Secret keep the
    values that they have in the user's shell.
    """
    kept = {
        name: value
        for name, value in node.environment.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith("PET_")
    }
    # Empty, not unset: a pod without GPUs must not see those of the machine.
    kept["CUDA_VISIBLE_DEVICES"] = node.devices[index] if node.devices else ""
    return kept


def _downward_api(job: Manifest, index: int, node: NodeEnvironment) -> dict[str, str]:
    """Values of the pod fields that the pod template refers to (core/v1 ObjectFieldSelector)."""
    return {
        "metadata.name": _pod_name(job, index),
        "metadata.namespace": job["metadata"]["namespace"],
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
        "status.podIP": node.addresses[index],
        "spec.nodeName": os.uname().nodename,
    }
