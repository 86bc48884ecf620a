"""What the server exposes to Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "dreambooth_serving"
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class ServingMetrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests for images by HTTP status.", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self.images = Counter(
            f"{PREFIX}_images", "Images made, by result.", ["model"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_request_seconds", "From a request to its last image.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_event_seconds = Histogram(
            f"{PREFIX}_first_event_seconds", "From a request to its first image or partial image.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_size = Histogram(
            f"{PREFIX}_batch_images", "Images that were made together.",
            buckets=(1, 2, 4, 8), registry=self.registry,
        )  # fmt: skip
        self.loads = Counter(
            f"{PREFIX}_model_uses", "Batches by whether their result was loaded already.",
            ["loaded"], registry=self.registry,
        )  # fmt: skip

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Expose how many images wait."""
        gauge = Gauge(f"{PREFIX}_queued_images", "Images that wait.", registry=self.registry)
        gauge.set_function(lambda: float(length()))
