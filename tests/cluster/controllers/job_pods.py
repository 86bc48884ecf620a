"""The pods that a Job asks for."""

import copy

from tests.cluster.client import Object
from tests.cluster.controllers.job_rules import INDEX, TRACKING_FINALIZER, index_of

LONGEST_PREFIX = 58
"""Of a generated name: five letters follow, and it is a label too."""


def new_pod(job: Object, index: int | None) -> Object:
    """The pod of a Job's template, for one index of an Indexed Job."""
    meta = job["metadata"]
    template = copy.deepcopy(job["spec"]["template"])
    template_meta, spec = template.get("metadata", {}), template["spec"]
    pod_meta = {
        "generateName": f"{meta['name']}-",
        "namespace": meta["namespace"],
        "labels": template_meta.get("labels", {}),
        "annotations": template_meta.get("annotations", {}),
        "finalizers": [*template_meta.get("finalizers", []), TRACKING_FINALIZER],
        "ownerReferences": [_controller_reference(job)],
    }
    if index is not None:
        suffix = f"-{index}-"
        pod_meta["generateName"] = meta["name"][: LONGEST_PREFIX - len(suffix)] + suffix
        pod_meta["labels"][INDEX] = pod_meta["annotations"][INDEX] = str(index)
        spec["hostname"] = f"{meta['name']}-{index}"
        for container in spec.get("initContainers", []) + spec["containers"]:
            _tell_index(container)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_meta, "spec": spec}


def missing_indexes(job: Object, taken: list[Object], completed: set[int], count: int) -> list[int]:
    """The first `count` indexes that are neither completed nor those of a pod in `taken`."""
    used = completed | {index_of(job, pod) for pod in taken}
    free = (index for index in range(job["spec"]["completions"]) if index not in used)
    return [index for index, _ in zip(free, range(count), strict=False)]


def surplus(job: Object, active: list[Object], want: int, indexed: bool) -> list[Object]:
    """Active pods that are to go: a second one of an index, else what is more than `want`."""
    if indexed:
        indexes = [index_of(job, pod) for pod in active]
        twice = [
            pod
            for place, pod in enumerate(active)
            if indexes[place] is None or indexes[place] in indexes[:place]
        ]
        if twice:
            return twice
    return active[want:]


def _controller_reference(job: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _tell_index(container: Object) -> None:
    name = "JOB_COMPLETION_INDEX"
    env = container.setdefault("env", [])
    if all(variable["name"] != name for variable in env):
        source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
        env.append({"name": name, "valueFrom": source})
