"""How long the next attempt waits: one table for the cluster and for a local run."""

from dreambooth_api.contract.stages import Outcome

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 10, 60

WAITS: list[tuple[list[Outcome], int]] = [
    (["Failed"], 10),
    (["Failed", "Failed"], 20),
    (["Failed", "Stalled", "Failed"], 40),
    (["Failed"] * 4, 60),
    (["Failed"] * 1000, 60),
    (["Disrupted"], 10),
    (["Disrupted"] * 2, 20),
    (["Disrupted"] * 3, 40),
    (["Disrupted"] * 4, 60),
    (["Disrupted"] * 1000, 60),
    (["Disrupted", "Failed", "Disrupted"], 10),
    (["Failed", "Failed", "Disrupted"], 10),
    (["Failed", "Disrupted", "Failed"], 10),
]
"""(outcomes of attempts without a checkpoint, the newest last; seconds until the next one)."""
