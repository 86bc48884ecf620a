"""The rules of the Job controller, all of them pure: what a pod counts as, why a Job fails."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.cluster.client import Object
from tests.cluster.controllers.events import parse, timestamp

TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
"""Label and annotation with a pod's index."""

BACKOFF_SECONDS = 10.0
BACKOFF_MOST_SECONDS = 600.0
NEVER = datetime.min.replace(tzinfo=UTC)


def unsupported(job: Object) -> str | None:
    """The field of a Job that this controller does not know, if it has one."""
    spec = job["spec"]
    for field in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy", "managedBy"):
        if spec.get(field) is not None:
            return field
    return "completions" if spec.get("completions") is None else None


def is_indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def is_suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend"))


def is_finished(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def replaces_failed_only(job: Object) -> bool:
    """Whether a pod is replaced only once it has ended, not already while it is terminating."""
    spec = job["spec"]
    return spec.get("podReplacementPolicy") == "Failed" or bool(spec.get("podFailurePolicy"))


def phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def has_ended(pod: Object) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    return not has_ended(pod) and "deletionTimestamp" not in pod["metadata"]


def is_terminating(pod: Object) -> bool:
    return not has_ended(pod) and "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    return condition_is(pod, "Ready", "True")


def is_tracked(pod: Object) -> bool:
    """Whether the Job still has to count this pod."""
    return TRACKING_FINALIZER in pod["metadata"].get("finalizers", [])


def is_failed(job: Object, pod: Object) -> bool:
    """Whether the pod counts as failed; a deleted one does where it is replaced at once."""
    if phase(pod) == "Failed":
        return True
    return not replaces_failed_only(job) and is_terminating(pod)


def condition_is(object_: Object, kind: str, status: str) -> bool:
    conditions = object_.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == status for c in conditions)


def index_of(job: Object, pod: Object) -> int | None:
    """The pod's index within an Indexed Job; None for one that the Job does not have."""
    text = pod["metadata"].get("annotations", {}).get(INDEX, "")
    return int(text) if text.isdecimal() and int(text) < job["spec"]["completions"] else None


def belongs(job: Object, pod: Object) -> bool:
    """Whether the Job counts the pod: in an Indexed Job it has to have a valid index."""
    return not is_indexed(job) or index_of(job, pod) is not None


# Completed indexes: "0-2,5" in a Job's status.


def parse_indexes(text: str) -> set[int]:
    indexes: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        indexes.update(range(int(first), int(last or first) + 1))
    return indexes


def format_indexes(indexes: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)


# spec.podFailurePolicy


@dataclass(frozen=True)
class PodFailure:
    """What `spec.podFailurePolicy` says of a failed pod."""

    counted: bool = True
    """Whether the failure counts towards `spec.backoffLimit`."""
    fails_job: str | None = None
    """Why the whole Job fails at once, if it does."""


def classify(job: Object, pod: Object) -> PodFailure:
    """The first rule of `spec.podFailurePolicy` that matches a failed pod decides."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules", [])
    place = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate(rules):
        if codes := rule.get("onExitCodes"):
            matched = _matching_exit(codes, pod)
            happened = matched and f"Container {matched[0]} for pod {place} failed with exit code "
            reason = matched and f"{happened}{matched[1]}"
        else:
            kind = _matching_condition(rule.get("onPodConditions", []), pod)
            reason = kind and f"Pod {place} has condition {kind}"
        if not reason:
            continue
        if rule["action"] == "FailJob":
            return PodFailure(fails_job=f"{reason} matching FailJob rule at index {number}")
        return PodFailure(counted=rule["action"] != "Ignore")
    return PodFailure()


def _matching_exit(rule: Object, pod: Object) -> tuple[str, int] | None:
    """Name and exit code of the first container, init containers last, that the rule is about."""
    status = pod.get("status", {})
    for containers in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(containers, []):
            code = container.get("state", {}).get("terminated", {}).get("exitCode", 0)
            named = rule.get("containerName") in (None, container["name"])
            if named and code and (code in rule["values"]) == (rule["operator"] == "In"):
                return container["name"], code
    return None


def _matching_condition(patterns: list[Object], pod: Object) -> str | None:
    for condition in pod.get("status", {}).get("conditions", []):
        for pattern in patterns:
            wanted = (pattern["type"], pattern.get("status", "True"))
            if (condition["type"], condition["status"]) == wanted:
                return str(condition["type"])
    return None


# The pause before a failed pod is replaced.


@dataclass(frozen=True)
class Backoff:
    """How often pods failed since one last succeeded, and when the last one did."""

    failures: int = 0
    last: datetime = NEVER

    def after(self, succeeded: list[Object], failed: list[Object]) -> "Backoff":
        """With the pods that ended since."""
        before = self
        if succeeded:
            last_success = max(map(finish_time, succeeded))
            failed = [pod for pod in failed if finish_time(pod) > last_success]
            before = Backoff()
        if not failed:
            return before
        return Backoff(before.failures + len(failed), max(map(finish_time, failed)))

    def remaining(self, now: datetime) -> float:
        """Seconds until a pod may be created."""
        if not self.failures:
            return 0
        pause: float = min(BACKOFF_SECONDS * 2 ** min(self.failures - 1, 10), BACKOFF_MOST_SECONDS)
        return max(0, pause - (now - self.last).total_seconds())


def finish_time(pod: Object) -> datetime:
    """When a pod ended: by its containers, else by its conditions, else by its deletion."""
    meta, status = pod["metadata"], pod.get("status", {})
    ends = [
        container.get("state", {}).get("terminated", {}).get("finishedAt")
        for container in status.get("containerStatuses", [])
    ]
    if ends and all(ends):
        return max(map(parse, ends))
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "False":
            return parse(condition["lastTransitionTime"])
    if "deletionTimestamp" in meta:
        grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
        return parse(meta["deletionTimestamp"]) - grace
    return parse(meta["creationTimestamp"])


# Conditions of a Job


@dataclass(frozen=True)
class Outcome:
    """How a Job ends: first `target` is true, then, when all of its pods have ended, `terminal`."""

    target: str
    reason: str
    message: str

    @property
    def failed(self) -> bool:
        return self.target == "FailureTarget"

    @property
    def terminal(self) -> str:
        return "Failed" if self.failed else "Complete"


COMPLETED = Outcome(
    "SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods"
)
BACKOFF_LIMIT = Outcome(
    "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
)
DEADLINE = Outcome(
    "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
)


def decided(status: Object) -> Outcome | None:
    """The outcome that is already in a Job's status."""
    found = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
    for target in ("SuccessCriteriaMet", "FailureTarget"):
        if known := found.get(target):
            return Outcome(target, known.get("reason", ""), known.get("message", ""))
    return None


def failed_by_policy(job: Object, pods: list[Object]) -> Outcome | None:
    """The outcome by the first failed pod for which `spec.podFailurePolicy` says FailJob."""
    for pod in filter(lambda pod: is_failed(job, pod), pods):
        if message := classify(job, pod).fails_job:
            return Outcome("FailureTarget", "PodFailurePolicy", message)
    return None


def set_condition(status: Object, kind: str, true: bool, reason: str, message: str) -> bool:
    """Set a condition; one that never was true does not become false. Whether that changed it."""
    conditions = status.setdefault("conditions", [])
    value = {"status": str(true), "reason": reason, "message": message}
    for condition in conditions:
        if condition["type"] == kind:
            if all(condition.get(key) == text for key, text in value.items()):
                return False
            now = timestamp()
            condition.update(value, lastProbeTime=now, lastTransitionTime=now)
            return True
    if true:
        now = timestamp()
        conditions.append({"type": kind, "lastProbeTime": now, "lastTransitionTime": now, **value})
    return true
