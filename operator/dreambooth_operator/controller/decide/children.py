"""The children of a job as the operator applies them: what `resources` makes, and what the past of
the job adds to it.
"""

import copy

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import Counters
from dreambooth_operator.controller.kube.snapshots import COUNTERS_ANNOTATION
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.resources import attempt_objects, config_map, preflight_job

AVOID_WEIGHT = 100
"""The heaviest preference: another node is taken where there is one, else the same again."""


def attempt_children(
    job: DreamBoothJob,
    attempt: int,
    default_image: str,
    *,
    counters: Counters,
    bad_nodes: list[str],
) -> list[Manifest]:
    """Service, ConfigMap and Job of an attempt, in the order of creation.

    The Job carries the counters, so that they survive a status that was lost.
    """
    *shared, manifest = attempt_objects(job, attempt, default_image)
    return [*shared, _with_counters(_avoiding(manifest, bad_nodes), counters)]


def preflight_children(job: DreamBoothJob, default_image: str) -> list[Manifest]:
    """ConfigMap and Job of the preflight, in the order of creation."""
    return [config_map(job), preflight_job(job, default_image)]


def _with_counters(manifest: Manifest, counters: Counters) -> Manifest:
    manifest = copy.deepcopy(manifest)
    annotations = manifest["metadata"].setdefault("annotations", {})
    annotations[COUNTERS_ANNOTATION] = counters.model_dump_json()
    return manifest


def _avoiding(manifest: Manifest, nodes: list[str]) -> Manifest:
    """The Job with a preference for every node but these (core/v1 NodeAffinity)."""
    if not nodes:
        return manifest
    manifest = copy.deepcopy(manifest)
    spec = manifest["spec"]["template"]["spec"]
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    preferred = affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
    # matchFields takes one value for each expression.
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in nodes]
    preferred.append({"weight": AVOID_WEIGHT, "preference": {"matchFields": others}})
    return manifest
