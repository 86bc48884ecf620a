"""Phases of a job, and stages of a running one."""

from typing import Literal, get_args

Phase = Literal[
    "Pending",
    "Preflight",
    "Queued",
    "Starting",
    "Running",
    "Restarting",
    "Suspended",
    "Succeeded",
    "Failed",
]
Stage = Literal["Preparing", "Captioning", "GeneratingPrior", "Training", "Evaluating", "Exporting"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Outcome = Literal["Succeeded", "Failed", "Disrupted", "Preempted", "Stalled", "Suspended"]
"""How an attempt ended."""
