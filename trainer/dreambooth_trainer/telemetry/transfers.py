"""Turns storage's events into metrics and heartbeats of this rank."""

from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.telemetry.metrics import Metrics


class TransferTelemetry:
    """The `TransferObserver` of a rank: every response of storage is a heartbeat."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def progressed(self) -> None:
        """Send a heartbeat."""
        heartbeat.send()

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        """Count `size` bytes, and observe the operation's `seconds`."""
        self._metrics.transferred(operation, size, seconds)

    def failed(self, operation: str, error_code: str) -> None:
        """Count a failed request."""
        self._metrics.failed(operation, error_code)
