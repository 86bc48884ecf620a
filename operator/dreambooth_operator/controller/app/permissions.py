"""The operator's permissions: exactly what it uses.

`python -m dreambooth_operator.controller.app.permissions --namespace NS [--watch NS ...]` prints
the ServiceAccount, Roles and bindings to apply. The operator reads no Secrets and runs no commands
in pods.
"""

import argparse
import sys
from collections.abc import Sequence

from dreambooth_operator.controller.kube.kinds import (
    CONFIG_MAP,
    DREAMBOOTH_JOB,
    EVENT,
    JOB,
    LEASE,
    POD,
    SERVICE,
    Kind,
)
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.serialize import to_yaml

NAME = "dreambooth-operator"
RBAC = "rbac.authorization.k8s.io"
WATCH = ("list", "watch")
APPLY = ("get", "create", "patch")
"""A child is created, or read if its name is taken, and patched if it is the job's own."""


def rules() -> list[Manifest]:
    """Rules of the Role in each watched namespace (rbac/v1 PolicyRule)."""
    return [
        _rule(DREAMBOOTH_JOB, "get", *WATCH, "delete"),  # delete: ttlSecondsAfterFinished
        _rule(DREAMBOOTH_JOB, "patch", subresource="status"),
        _rule(JOB, *WATCH, *APPLY, "delete"),
        _rule(SERVICE, *WATCH, *APPLY),
        _rule(CONFIG_MAP, *WATCH, *APPLY),
        _rule(POD, *WATCH),
        _rule(EVENT, "create", "list"),  # list: why the pods of a Job are refused
    ]


def lease_rules() -> list[Manifest]:
    """Rules of the Role in the namespace of the Lease (rbac/v1 PolicyRule)."""
    return [_rule(LEASE, "get", "create", "update")]


def manifests(namespace: str, watched: Sequence[str]) -> list[Manifest]:
    """The operator's ServiceAccount with its Roles and bindings.

    Args:
        namespace: Where the operator runs, and its Lease is.
        watched: Namespaces to grant access to; none: all, by a ClusterRole.
    """
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": namespace},
    }
    if watched:
        roles = [m for ns in watched for m in _grant("", NAME, ns, rules(), subject)]
    else:
        roles = _grant("Cluster", NAME, None, rules(), subject)
    # A Role of its own: the Lease is in the operator's namespace, which may not be watched.
    lease = _grant("", f"{NAME}-leader", namespace, lease_rules(), subject)
    return [account, *roles, *lease]


def _grant(
    scope: str, name: str, namespace: str | None, granted: list[Manifest], subject: Manifest
) -> list[Manifest]:
    """A Role and its binding, or with scope "Cluster" a ClusterRole and its binding."""
    kind = f"{scope}Role"
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    role = {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": meta, "rules": granted}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": meta,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [subject],
    }
    return [role, binding]


def _rule(kind: Kind, *verbs: str, subresource: str = "") -> Manifest:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    return {"apiGroups": [kind.group], "resources": [resource], "verbs": list(verbs)}


def main() -> None:
    """Print the manifests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", required=True, help="namespace in which the operator runs")
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        help="namespace to watch; may be repeated; default: all",
    )
    arguments = parser.parse_args()
    sys.stdout.write(to_yaml(manifests(arguments.namespace, arguments.watch)))


if __name__ == "__main__":
    main()
