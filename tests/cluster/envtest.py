"""Kubernetes' own etcd, API server, controllers and scheduler as processes on loopback."""

from __future__ import annotations

import os
import secrets
import signal
import ssl
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import yaml

from tests.cluster.processes import Daemon, NotReadyError
from tests.ports import free_ports

READY_SECONDS = 90.0
NODE_GRACE_SECONDS = 8
"""A node whose heartbeats stop is given up after this long."""
TOLERATION_SECONDS = 2
"""Pods that do not say otherwise tolerate a lost node for this long."""
CONTROLLERS = (
    "job-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "ttl-after-finished-controller",
    "disruption-controller",
)
"""What a DreamBoothJob can meet. Fewer controllers start faster and take less memory."""


class EnvtestPlane:
    """A control plane from the binaries in a folder, with RBAC.

    `folder` holds its data, its logs and an admin `kubeconfig`.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._kubeconfig = folder / "kubeconfig"
        self._keys = folder / "service-accounts.key"
        self._token = secrets.token_hex(16)

    def start(self, processes: ExitStack) -> Daemon:
        """Start everything and return the API server once it is ready; `processes` ends it all.

        Raises `NotReadyError` with the end of a log when it does not come up.
        """
        server = self.start_server(processes)
        self.start_controllers(processes)
        return server

    def start_server(self, processes: ExitStack) -> Daemon:
        """Start etcd and the API server alone: objects are kept, and nothing comes of them."""
        client_port, peer_port, port = free_ports(3)
        etcd = f"http://127.0.0.1:{client_port}"
        self._make_keys()
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        self._run(
            processes,
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",  # etcd requires it beside listen-client-urls
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            "--unsafe-no-fsync",
        )
        server = self._run(
            processes,
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._folder / 'certificates'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",  # it refuses to announce a loopback address
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._keys}",
            f"--service-account-signing-key-file={self._keys}",
            f"--default-not-ready-toleration-seconds={TOLERATION_SECONDS}",
            f"--default-unreachable-toleration-seconds={TOLERATION_SECONDS}",
            "--profiling=false",
        )
        certificate = self._folder / "certificates" / "apiserver.crt"
        server.wait_ready(certificate.exists, READY_SECONDS)
        self._write_kubeconfig(f"https://127.0.0.1:{port}", certificate)
        server.wait_ready(lambda: answers(self._kubeconfig), READY_SECONDS)
        return server

    def start_controllers(self, processes: ExitStack) -> None:
        """Start the controllers and the scheduler."""
        connection = (
            f"--kubeconfig={self._kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--profiling=false",
        )
        manager_port, scheduler_port = free_ports(2)
        self._run(
            processes,
            "kube-controller-manager",
            *connection,
            f"--secure-port={manager_port}",
            f"--cert-dir={self._folder / 'manager-certificates'}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={self._keys}",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
            "--node-eviction-rate=100",
        )
        self._run(
            processes,
            "kube-scheduler",
            *connection,
            f"--secure-port={scheduler_port}",
            f"--cert-dir={self._folder / 'scheduler-certificates'}",
        )

    def _run(self, processes: ExitStack, name: str, *arguments: str) -> Daemon:
        binary = self._binaries / name
        if not binary.exists():
            raise NotReadyError(f"KUBEBUILDER_ASSETS={self._binaries}: there is no {name} in it")
        log = self._folder / f"{name}.log"
        # Killed outright: nothing that they hold is kept.
        killed = signal.SIGKILL
        daemon = Daemon(name, [str(binary), *arguments], log, os.environ, when_orphaned=killed)
        processes.callback(daemon.kill)
        return daemon

    def _make_keys(self) -> None:
        """A private key that signs service accounts' tokens."""
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self._keys), "2048"], check=True, capture_output=True
        )

    def _write_kubeconfig(self, url: str, certificate: Path) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "tests",
                    "cluster": {"server": url, "certificate-authority": str(certificate)},
                }
            ],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
            "current-context": "tests",
        }
        self._kubeconfig.touch(mode=0o600)
        self._kubeconfig.write_text(yaml.safe_dump(config))


def answers(kubeconfig: Path) -> bool:
    """Whether the API server says that it is ready."""
    if not kubeconfig.exists() or not kubeconfig.read_text():
        return False
    config = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority")
    trust = ssl.create_default_context(cafile=authority) if authority else None
    token = config["users"][0]["user"].get("token", "")
    request = urllib.request.Request(
        f"{cluster['server']}/readyz", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
