"""Synchronizes one Job: creates or deletes pods, counts those that ended, writes the status."""

import asyncio
import copy
from datetime import UTC, datetime

from tests.cluster.client import ApiError, Object
from tests.cluster.controllers import job_pods, job_rules
from tests.cluster.controllers.events import parse, timestamp
from tests.cluster.controllers.job_rules import Outcome
from tests.cluster.controllers.writes import Writes


class JobSync:
    """One synchronization of a Job.

    A pod is counted exactly once even if the controller dies between two writes: its uid stays in
    `status.uncountedTerminatedPods` until its finalizer is removed.
    """

    def __init__(
        self, writes: Writes, job: Object, pods: list[Object], backoff: job_rules.Backoff
    ) -> None:
        self.backoff = backoff
        self._writes = writes
        self._job = job
        self._status: Object = copy.deepcopy(job.get("status", {}))
        self._pods = sorted(pods, key=lambda pod: _order(job, pod))
        self._tracked = {pod["metadata"]["uid"] for pod in filter(job_rules.is_tracked, pods)}
        self._active = list(filter(job_rules.is_active, self._pods))
        self._terminating = sum(map(job_rules.is_terminating, pods))
        self._now = datetime.now(UTC)
        self._news: list[tuple[str, str, bool]] = []

    async def run(self) -> float | None:
        """Do what is to be done; the seconds after which to look again, if time alone matters."""
        self._settle()
        if not self._status.get("startTime") and not job_rules.is_suspended(self._job):
            self._status["startTime"] = timestamp()
        succeeded, failed = self._newly_ended()
        backoff = self.backoff.after(succeeded, failed)
        outcome = self._outcome(failed)
        again, refusal = None, None
        self._shown_active = self._active
        if outcome:
            await self._delete(self._active, untrack=False)
        else:
            if "deletionTimestamp" not in self._job["metadata"]:
                try:
                    again = await self._manage(backoff)
                except ApiError as error:  # the status is written all the same
                    refusal = error
            if again and any(map(job_rules.is_ready, self._active)):
                # The real one writes here that nothing is active, which the API server refuses as
                # long as a pod is ready: nothing comes of its work until the pause is over.
                return again
            if self._succeeded() >= self._job["spec"]["completions"] and not self._shown_active:
                outcome = job_rules.COMPLETED
            else:
                self._note_suspension()
        await self._track(outcome)
        for reason, message, warning in self._news:
            self._writes.record_event(self._job, reason, message, warning)
        self.backoff = backoff
        if refusal:
            raise refusal
        return min((at for at in (again, self._deadline()) if at is not None), default=None)

    # What has happened

    def _new(self, pod: Object, counted: str) -> bool:
        """Whether this ended pod has still to be counted."""
        uid = pod["metadata"]["uid"]
        noted = self._status["uncountedTerminatedPods"].get(counted, [])
        return uid in self._tracked and uid not in noted and job_rules.belongs(self._job, pod)

    def _newly_ended(self) -> tuple[list[Object], list[Object]]:
        succeeded = [pod for pod in self._pods if job_rules.phase(pod) == "Succeeded"]
        failed = [pod for pod in self._pods if job_rules.is_failed(self._job, pod)]
        return (
            [pod for pod in succeeded if self._new(pod, "succeeded")],
            [pod for pod in failed if self._new(pod, "failed")],
        )

    def _completed(self) -> set[int]:
        """The completed indexes of an Indexed Job, with those that are not in its status yet."""
        indexes = job_rules.parse_indexes(self._status.get("completedIndexes", ""))
        for pod in self._newly_ended()[0]:
            index = job_rules.index_of(self._job, pod)
            if index is not None:
                indexes.add(index)
        return indexes

    def _succeeded(self) -> int:
        if job_rules.is_indexed(self._job):
            return len(self._completed())
        noted = len(self._status["uncountedTerminatedPods"].get("succeeded", []))
        return int(self._status.get("succeeded", 0)) + noted + len(self._newly_ended()[0])

    def _outcome(self, newly_failed: list[Object]) -> Outcome | None:
        known = job_rules.decided(self._status)
        known = known or job_rules.failed_by_policy(self._job, self._pods)
        if known:
            return known
        failed = self._status.get("failed", 0)
        failed += len(self._status["uncountedTerminatedPods"].get("failed", []))
        failed += sum(job_rules.classify(self._job, pod).counted for pod in newly_failed)
        if failed > self._job["spec"]["backoffLimit"]:
            return job_rules.BACKOFF_LIMIT
        remaining = self._deadline()
        return job_rules.DEADLINE if remaining is not None and remaining <= 0 else None

    def _deadline(self) -> float | None:
        """Seconds until `spec.activeDeadlineSeconds`."""
        seconds = self._job["spec"].get("activeDeadlineSeconds")
        start = self._status.get("startTime")
        if seconds is None or not start or job_rules.is_suspended(self._job):
            return None
        return float(seconds - (datetime.now(UTC) - parse(start)).total_seconds())

    # What is to be done about it

    async def _manage(self, backoff: job_rules.Backoff) -> float | None:
        job, spec = self._job, self._job["spec"]
        if job_rules.is_suspended(job):
            await self._delete(self._active, untrack=True)
            return None
        indexed = job_rules.is_indexed(job)
        want = max(0, min(spec["parallelism"], spec["completions"] - self._succeeded()))
        if extra := job_pods.surplus(job, self._active, want, indexed):
            await self._delete(extra, untrack=True)
            return None
        waits_for = self._terminating if job_rules.replaces_failed_only(job) else 0
        missing = want - len(self._active) - waits_for
        if missing <= 0:
            return None
        pause = backoff.remaining(self._now)
        if pause > 0:
            self._shown_active = []  # so does the real one, whatever still runs
            return pause
        await self._create(missing, indexed)
        return None

    async def _create(self, count: int, indexed: bool) -> None:
        indexes: list[int | None] = [None] * count
        if indexed:
            taken = self._active
            if job_rules.replaces_failed_only(self._job):
                taken = taken + list(filter(job_rules.is_terminating, self._pods))
            indexes = [*job_pods.missing_indexes(self._job, taken, self._completed(), count)]
        new = [job_pods.new_pod(self._job, index) for index in indexes]
        await asyncio.gather(*(self._writes.create_pod(pod, self._job) for pod in new))
        self._shown_active = self._active + new

    async def _delete(self, pods: list[Object], untrack: bool) -> None:
        """Delete active pods: with `untrack` they are not counted as failed."""

        async def delete(pod: Object) -> None:
            if untrack and job_rules.is_tracked(pod):
                pod = await self._writes.untrack(pod)
                self._tracked.discard(pod["metadata"]["uid"])
            await self._writes.delete_pod(pod, self._job)

        await asyncio.gather(*map(delete, pods))
        self._terminating += len(pods)
        self._shown_active = [pod for pod in self._shown_active if pod not in pods]

    def _note_suspension(self) -> None:
        suspended = job_rules.is_suspended(self._job)
        word, sentence = ("Suspended", "Job suspended") if suspended else ("Resumed", "Job resumed")
        reason = f"Job{word}"
        if job_rules.set_condition(self._status, "Suspended", suspended, reason, sentence):
            self._news.append((word, sentence, False))
            self._status.pop("startTime", None)
            if not suspended:
                self._status["startTime"] = timestamp()

    # Reading the status

    async def _track(self, outcome: Outcome | None) -> None:
        ended = self._note_ended(outcome)
        if outcome:
            set_now = job_rules.set_condition
            set_now(self._status, outcome.target, True, outcome.reason, outcome.message)
        await self._write()
        await asyncio.gather(*map(self._writes.untrack, ended))
        self._tracked -= {pod["metadata"]["uid"] for pod in ended}
        self._settle()
        if outcome and not self._terminating:
            self._finish(outcome)
        await self._write()

    def _note_ended(self, outcome: Outcome | None) -> list[Object]:
        """Count the pods that have ended, all of them once the Job has; those that may go now."""
        uncounted = self._status["uncountedTerminatedPods"]
        completed = self._completed()
        all_end = outcome is not None or "deletionTimestamp" in self._job["metadata"]
        ended = []
        for pod in self._pods:
            uid, success = pod["metadata"]["uid"], job_rules.phase(pod) == "Succeeded"
            failed = job_rules.is_failed(self._job, pod)
            if uid not in self._tracked or not (failed or success or all_end):
                continue
            ended.append(pod)
            failed = failed or (outcome is not None and outcome.failed)
            if success and not job_rules.is_indexed(self._job) and self._new(pod, "succeeded"):
                uncounted.setdefault("succeeded", []).append(uid)
            elif not success and failed and self._counts_as_failed(pod):
                uncounted.setdefault("failed", []).append(uid)
        if job_rules.is_indexed(self._job):
            self._status["completedIndexes"] = job_rules.format_indexes(completed)
            self._status["succeeded"] = len(completed)
        return ended

    def _counts_as_failed(self, pod: Object) -> bool:
        return self._new(pod, "failed") and job_rules.classify(self._job, pod).counted

    def _settle(self) -> None:
        """Count the pods that lost their finalizer since their uids were noted."""
        uncounted = self._status.setdefault("uncountedTerminatedPods", {})
        for counted in ("succeeded", "failed"):
            noted = uncounted.pop(counted, [])
            left = [uid for uid in noted if uid in self._tracked]
            self._status[counted] = self._status.get(counted, 0) + len(noted) - len(left)
            if left:
                uncounted[counted] = left

    def _finish(self, outcome: Outcome) -> None:
        set_now = job_rules.set_condition
        set_now(self._status, outcome.terminal, True, outcome.reason, outcome.message)
        if outcome.failed:
            self._news.append((outcome.reason, outcome.message, True))
        else:
            self._status["completionTime"] = timestamp()
            self._news.append(("Completed", "Job completed", False))

    async def _write(self) -> None:
        """Write the status if it changed; fields that are zero are left out, as the API does."""
        self._status["active"] = len(self._shown_active)
        self._status["ready"] = sum(map(job_rules.is_ready, self._shown_active))
        self._status["terminating"] = self._terminating
        for field in ("active", "succeeded", "failed", "completedIndexes", "conditions"):
            if not self._status.get(field):
                self._status.pop(field, None)
        if self._status != self._job.get("status", {}):
            self._job = await self._writes.put_job_status(self._job, self._status)
            self._status = copy.deepcopy(self._job["status"])


def _order(job: Object, pod: Object) -> tuple[int, str]:
    index = job_rules.index_of(job, pod) if job_rules.is_indexed(job) else None
    return -1 if index is None else index, pod["metadata"]["creationTimestamp"]
