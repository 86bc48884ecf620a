"""What the server exposes to Prometheus."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dreambooth_api.contract.metrics import SERVING_PREFIX, Definition, MetricKind

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
_IMAGES = (1, 2, 4, 8)


class ServingMetrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.definitions: list[Definition] = []
        self.requests = self._counter("requests", "Requests for images by HTTP status.", "status")
        self.images = self._counter("images", "Images made, by result.", "model")
        self.loads = self._counter(
            "model_uses", "Results of batches by whether they were loaded already.", "loaded"
        )
        self.seconds = self._histogram(
            "request_seconds", "From a request to its last image.", _SECONDS
        )
        self.first_event_seconds = self._histogram(
            "first_event_seconds", "From a request to its first image or partial image.", _SECONDS
        )
        self.batch_size = self._histogram(
            "batch_images", "Images that were made together.", _IMAGES
        )
        self._queued = Gauge(
            *self._define("queued_images", "gauge", "Images that wait."), registry=self.registry
        )

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Expose how many images wait."""
        self._queued.set_function(lambda: float(length()))

    def _counter(self, name: str, meaning: str, label: str) -> Counter:
        defined = self._define(f"{name}_total", "counter", meaning, label)
        return Counter(*defined, [label], registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        defined = self._define(name, "histogram", meaning)
        return Histogram(*defined, buckets=buckets, registry=self.registry)

    def _define(self, name: str, kind: MetricKind, meaning: str, *labels: str) -> tuple[str, str]:
        definition = Definition(f"{SERVING_PREFIX}_{name}", kind, labels, meaning)
        self.definitions.append(definition)
        return definition.name, definition.meaning
