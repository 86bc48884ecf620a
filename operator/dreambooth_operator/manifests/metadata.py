"""Metadata of a job's children: its own labels and annotations, and the job as owner.

Cost reports, policies and sidecar injectors so treat a child as they treat the job (as in JobSet).
Keys by which other tools keep track of the job itself are not passed on: on a child, Argo CD, Helm,
kapp, Rancher Fleet or `kubectl apply --prune` would take it for an object of theirs and delete it,
and Kueue would queue it a second time.
"""

from collections.abc import Mapping

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.schema.base import API_VERSION, GROUP, KIND
from dreambooth_operator.manifests.names import Manifest

# GROUP and batch.kubernetes.io: the operator and the Job controller select pods by these.
NOT_INHERITED_DOMAINS = {
    GROUP,
    "applyset.kubernetes.io",
    "argocd.argoproj.io",
    "batch.kubernetes.io",
    "helm.sh",
    "helm.toolkit.fluxcd.io",
    "kapp.k14s.io",
    "kopf.zalando.org",
    "kubectl.kubernetes.io",
    "kueue.x-k8s.io",
    "kustomize.toolkit.fluxcd.io",
    "meta.helm.sh",
    "objectset.rio.cattle.io",
}
NOT_INHERITED = {
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
    "controller-uid",
    "job-name",
}
"""Labels that the operator and the Job controller set themselves; `instance` is Argo CD's too."""


MAX_ANNOTATION_BYTES = 256 * 1024
"""Of all keys and values of an object: the API server refuses more (meta/v1 ObjectMeta)."""
ADDED_ANNOTATION_BYTES = 16 * 1024
"""Room for what the operator, the Job controller, Kueue and admission webhooks add."""

NO_SIDECAR_LABELS = {"sidecar.istio.io/inject": "false"}
NO_SIDECAR_ANNOTATIONS = {"linkerd.io/inject": "disabled"}
"""Labels and annotations that keep meshes from adding a proxy to a pod: it would run on when the
training has ended, and the ranks talk to each other without it anyway."""


def child_metadata(job: DreamBoothJob, name: str, labels: Mapping[str, str]) -> Manifest:
    """Metadata of a child (meta/v1 ObjectMeta), owned by the job if that has a uid.

    `blockOwnerDeletion` stays unset: strict clusters demand finalizer rights for it.
    """
    meta: Manifest = {"name": name, "namespace": job.metadata.namespace}
    meta |= _labelled(job, labels)
    if job.metadata.uid:
        owner = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": job.metadata.name,
            "uid": job.metadata.uid,
            "controller": True,
        }
        meta["ownerReferences"] = [owner]
    return meta


def template_metadata(job: DreamBoothJob, labels: Mapping[str, str]) -> Manifest:
    """Labels and annotations of a pod template (core/v1 PodTemplateSpec).

    Sidecar injection is off unless the job's labels or annotations, or those of its `podOverrides`,
    say otherwise: Istio reads either, and a label wins there.
    """
    given = job.spec.runtime.pod_overrides.get("metadata", {})
    meta = _labelled(job, labels, given.get("annotations", {}))
    known = {*meta["labels"], *meta.get("annotations", {})}
    known |= {*given.get("labels", {}), *given.get("annotations", {})}
    for field, defaults in (
        ("labels", NO_SIDECAR_LABELS),
        ("annotations", NO_SIDECAR_ANNOTATIONS),
    ):
        unset = {key: value for key, value in defaults.items() if key not in known}
        if unset:
            meta[field] = unset | meta.get(field, {})
    return meta


def _labelled(
    job: DreamBoothJob, labels: Mapping[str, str], overrides: Mapping[str, str] | None = None
) -> Manifest:
    """The job's labels and annotations; the operator's own labels win: it selects by them.

    Annotations that do not fit beside `overrides`, those of `podOverrides`, are left out, the
    largest ones first: without them the child can be created.
    """
    meta: Manifest = {"labels": {**inherited(job.metadata.labels), **labels}}
    annotations = inherited(job.metadata.annotations)
    room = MAX_ANNOTATION_BYTES - ADDED_ANNOTATION_BYTES - _count_bytes(overrides or {})
    excess = _count_bytes(annotations) - room
    sizes = {key: _count_bytes({key: value}) for key, value in annotations.items()}
    for key in sorted(sizes, key=lambda key: sizes[key], reverse=True):
        if excess <= 0:
            break
        excess -= sizes[key]
        del annotations[key]
    if annotations:
        meta["annotations"] = annotations
    return meta


def _count_bytes(annotations: Mapping[str, str]) -> int:
    """Bytes of keys and values, as the API server counts them."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())


def inherited(given: Mapping[str, str]) -> dict[str, str]:
    """The labels or annotations of a job that its children get, too."""
    return {
        key: value
        for key, value in given.items()
        if key not in NOT_INHERITED and key.partition("/")[0] not in NOT_INHERITED_DOMAINS
    }
