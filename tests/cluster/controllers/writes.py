"""What the controllers write about pods and Jobs; the informers know of it at once."""

from tests.cluster.client import ApiError, Client, Object
from tests.cluster.controllers.events import Events, timestamp
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.job_rules import TRACKING_FINALIZER
from tests.cluster.controllers.resource import JOBS, JSON_PATCH, NOT_FOUND, PODS


class Writes:
    """The writes of one component. An object that is gone is no error where it was to go anyway."""

    def __init__(
        self, client: Client, informers: Informers, events: Events, component: str
    ) -> None:
        self._client = client
        self._pods = informers.of(PODS)
        self._jobs = informers.of(JOBS)
        self._events = events
        self._component = component

    def record_event(self, about: Object, reason: str, message: str, warning: bool = False) -> None:
        """Record an event."""
        self._events.record(about, self._component, reason, message, warning)

    async def create_pod(self, pod: Object, job: Object) -> None:
        try:
            created = await self._client.create(PODS.path(pod["metadata"]["namespace"]), pod)
        except ApiError as error:
            if _is_caused_by(error, "NamespaceTerminating"):
                return
            self.record_event(job, "FailedCreate", f"Error creating: {error.message}", warning=True)
            raise
        self._pods.put(created)
        self.record_event(job, "SuccessfulCreate", f"Created pod: {created['metadata']['name']}")

    async def untrack(self, pod: Object) -> Object:
        """Take the Job's finalizer off a pod: it is counted, or will never be."""
        place = f"/metadata/finalizers/{pod['metadata']['finalizers'].index(TRACKING_FINALIZER)}"
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": pod["metadata"]["uid"]},
            {"op": "test", "path": place, "value": TRACKING_FINALIZER},
            {"op": "remove", "path": place},
        ]
        try:
            pod = await self._client.patch(PODS.path_of(pod), patch, JSON_PATCH)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            self._pods.forget(pod)
        else:
            self._pods.put(pod)
        return pod

    async def delete_pod(self, pod: Object, job: Object | None = None, **options: object) -> None:
        """Delete a pod, within its grace period unless `options` say otherwise."""
        options["preconditions"] = {"uid": pod["metadata"]["uid"]}
        try:
            answer = await self._client.delete(PODS.path_of(pod), options)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            self._pods.forget(pod)
            return
        if answer.get("kind") == "Pod":
            self._pods.put(answer)
        if job:
            self.record_event(job, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

    async def patch_pod_status(self, pod: Object, conditions: list[Object], **more: object) -> None:
        """Set conditions of a pod, and further fields of its status; nothing if the pod is gone."""
        patch = {
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {
                "conditions": [{"lastTransitionTime": timestamp(), **c} for c in conditions],
                **more,
            },
        }
        try:
            path = PODS.path_of(pod, "status")
            self._pods.put(await self._client.patch(path, patch))
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            self._pods.forget(pod)

    async def put_job_status(self, job: Object, status: Object) -> Object:
        """Write the whole status of a Job, unless someone else wrote to the Job since."""
        body = {**job, "apiVersion": "batch/v1", "kind": "Job", "status": status}
        written = await self._client.replace(JOBS.path_of(job, "status"), body)
        self._jobs.put(written)
        return written


def _is_caused_by(error: ApiError, reason: str) -> bool:
    return any(cause.get("reason") == reason for cause in error.details.get("causes", []))
