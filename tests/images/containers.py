"""Containers as a node runs them under the restricted Pod Security Standard.

Each has a PID namespace of its own, any user, no capabilities, and a root file system that may be
read-only. The network is the host's.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.processes import Daemon

Tree = dict[str, Any]
DEVICES = ("null", "zero", "full", "random", "urandom")
TOOLS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
COMPILERS = ("gcc", "cc", "g++", "c++", "clang", "tcc", "as", "ld", "rustc", "cargo", "go", "pip")
"""Programs that an image has no use for."""
ISOLATED = ("unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-ec")


@dataclass(frozen=True)
class Image:
    """An image that was built."""

    root: Path
    """Its files, in a layer that may be written to."""
    config: Tree
    """Its OCI configuration: Entrypoint, Cmd, Env, User, Labels."""

    def files(self) -> Iterator[Path]:
        """Every file, links as they are."""
        for folder, _, names in os.walk(self.root):
            yield from (Path(folder) / name for name in names)

    def packages(self) -> set[str]:
        """Names of the Python packages in it."""
        (folder,) = self.root.glob("opt/venv/lib/python3*/site-packages")
        return {path.name for path in folder.iterdir()}


@dataclass(frozen=True)
class Container:
    """A container that runs, or did."""

    daemon: Daemon
    termination_log: Path

    @property
    def message(self) -> str:
        """Its termination message."""
        return self.termination_log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process 1, as the kubelet does to stop a pod."""
        pid = self.daemon.pid
        (first,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(first), number)


@contextmanager
def running(
    image: Image,
    container: Tree,
    user: str,
    log: Path,
    *,
    volumes: Mapping[str, Path],
    environment: Mapping[str, str],
) -> Iterator[Container]:
    """A pod's container (as in a PodSpec), run by `user` (`uid:gid`); killed at the end.

    `volumes` are what is mounted, by the name of the pod's volume. `environment` stands in for the
    container's variables.
    """
    termination_log = log.with_suffix(".termination")
    termination_log.touch()
    termination_log.chmod(0o666)
    steps = [
        *_mounts(image.root, container, volumes),
        f"message={shlex.quote(str(termination_log))}",
        "touch dev/termination-log && mount --bind $message dev/termination-log",
        _process(image, container, user, environment),
    ]
    daemon = Daemon(container["name"], [*ISOLATED, "\n".join(steps)], log, TOOLS)
    try:
        yield Container(daemon, termination_log)
    finally:
        daemon.kill()


def _mounts(root: Path, container: Tree, volumes: Mapping[str, Path]) -> Iterator[str]:
    """Shell commands that put the container's files in place, in a mount namespace of its own."""
    binds = [(mount["mountPath"], mount) for mount in container.get("volumeMounts", [])]
    yield f"root={shlex.quote(str(root))}"
    for path, _ in binds:
        yield f"mkdir -p $root{path}"
    yield "mount --bind $root $root"
    if container["securityContext"]["readOnlyRootFilesystem"]:
        yield "mount -o remount,bind,ro $root"
    yield "cd $root"
    yield "mount -t proc proc proc"
    yield "mount -t tmpfs -o mode=755 tmpfs dev && mkdir dev/shm"
    yield f"for name in {' '.join(DEVICES)}; do"
    yield "  touch dev/$name; mount --bind /dev/$name dev/$name"
    yield "done"
    for path, mount in binds:
        yield f"mount --bind {shlex.quote(str(volumes[mount['name']]))} .{path}"
        if mount.get("readOnly"):
            yield f"mount -o remount,bind,ro .{path}"


def _process(image: Image, container: Tree, user: str, environment: Mapping[str, str]) -> str:
    """The shell command that becomes process 1. A user that is not root has no capabilities."""
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    words = ["exec", "setpriv", "--no-new-privs", "env", "-i", *image.config["Env"]]
    words += [f"{name}={value}" for name, value in environment.items()]
    words += ["/usr/sbin/chroot", f"--userspec={user}", "--groups=", "."]
    words += container.get("command") or image.config["Entrypoint"]
    words += container.get("args") or image.config["Cmd"]
    return shlex.join(words)
