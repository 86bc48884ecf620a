"""Condition types of a DreamBoothJob, and their reasons (meta/v1 Condition)."""

from enum import StrEnum


class ConditionType(StrEnum):
    """Types of a job's conditions (status.conditions[].type)."""

    # Users' scripts and alerts refer to these values: they are part of the API, as field names are.
    ACCEPTED = "Accepted"
    """The job can be carried out as it is written."""
    PREFLIGHT_PASSED = "PreflightPassed"
    """Storage, images, model and prompts were checked, and nothing is wrong."""
    QUEUED = "Queued"
    """A queue holds the pods back."""
    PODS_READY = "PodsReady"
    """All ranks have joined."""
    PROGRESS_KNOWN = "ProgressKnown"
    """Rank 0 answers GET /progress."""
    CHECKPOINTS_SAVED = "CheckpointsSaved"
    """Saves succeed. False: the last one failed, and training goes on."""
    PUSHED_TO_HUB = "PushedToHub"
    """The export is on the hub too. False: it could not be pushed, and is in storage alone."""
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """Why a condition has its status (status.conditions[].reason).

    A condition may also have the reason for which a container waits (ImagePullBackOff), and Failed
    the outcome of the last attempt.
    """

    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    NOT_ALLOWED = "NotAllowed"
    WEBHOOK_FAILED = "WebhookFailed"

    RUNNING = "Running"
    RETRYING = "Retrying"
    PASSED = "Passed"
    REFUSED = "Refused"
    NOT_STARTED = "NotStarted"
    IN_FIRST_POD = "InFirstPod"

    WAITING = "Waiting"
    ADMITTED = "Admitted"

    STARTING = "Starting"
    STOPPING = "Stopping"
    ALL_JOINED = "AllJoined"
    PODS_LEFT = "PodsLeft"
    UNSCHEDULABLE = "Unschedulable"
    FAILED_CREATE = "FailedCreate"

    ANSWERS = "Answers"
    NO_ANSWER = "NoAnswer"
    UNREADABLE = "Unreadable"

    SAVED = "Saved"
    SAVE_FAILED = "SaveFailed"

    PUSHED = "Pushed"
    PUSH_FAILED = "PushFailed"

    TRAINED = "Trained"
    STOPPED_EARLY = "StoppedEarly"

    OTHER = "Other"
    """A reason of other origin that is not one CamelCase word; the message tells more."""
