"""What the operator may do in a cluster: no more than it does.

`python -m dreambooth_operator.controller.app.permissions --namespace NS [--watch NS ...]` prints
the ServiceAccount, Roles and bindings to apply. No secret is read and nothing is run in a pod.
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
"""Server-side apply creates with both; what has the name already is looked at first."""


def rules() -> list[Manifest]:
    """Rules of the Role for the namespaces that are watched, each with what it is for."""
    return [
        _rule(DREAMBOOTH_JOB, "get", *WATCH, "delete"),  # delete: the time to live
        _rule(DREAMBOOTH_JOB, "patch", subresource="status"),
        _rule(JOB, *WATCH, *APPLY, "delete"),
        _rule(SERVICE, *WATCH, *APPLY),
        _rule(CONFIG_MAP, *WATCH, *APPLY),
        _rule(POD, *WATCH),
        _rule(EVENT, "create"),
    ]


def lease_rules() -> list[Manifest]:
    """Rules of the Role for the namespace of the Lease."""
    return [_rule(LEASE, "get", "create", "update")]


def manifests(namespace: str, watched: Sequence[str]) -> list[Manifest]:
    """ServiceAccount in `namespace`, and what it may do in the watched namespaces; none: in all."""
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": namespace},
    }
    if watched:
        granted = [m for ns in watched for m in _grant("", NAME, ns, rules(), subject)]
    else:
        granted = _grant("Cluster", NAME, None, rules(), subject)
    lease = _grant("", f"{NAME}-leader", namespace, lease_rules(), subject)
    return [account, *granted, *lease]


def _grant(
    scope: str, name: str, namespace: str | None, granted: list[Manifest], subject: Manifest
) -> list[Manifest]:
    """A Role with its binding, or a ClusterRole with its."""
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
    parser.add_argument("--namespace", required=True, help="where the operator runs")
    parser.add_argument("--watch", action="append", default=[], help="namespace; none: all")
    arguments = parser.parse_args()
    sys.stdout.write(to_yaml(manifests(arguments.namespace, arguments.watch)))


if __name__ == "__main__":
    main()
