"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .batching import Answered

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; threads may count at once."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "rar_requests", "Requests by what answers them and status", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "rar_request_seconds",
            "From a request's head to its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter("rar_pictures", "Pictures answered, by outcome", ["outcome"], registry=registry)
        self.waited = Histogram(
            "rar_waited_seconds", "Until a picture's batch was picked up", buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(
            "rar_batch_pictures", "Pictures that a picture's batch had", buckets=_PICTURES, registry=registry
        )
        self.stages = Counter("rar_stage_seconds", "Seconds of each stage", ["stage"], registry=registry)
        self.waiting = Gauge("rar_waiting_pictures", "Pictures that wait now", registry=registry)
        self.held = Gauge("rar_held_bytes", "Bytes of bodies that are held now", registry=registry)
        self.changes = Counter("rar_memory_changes", "Changes of the memory", ["change"], registry=registry)
        self.classes = Gauge("rar_memory_classes", "Classes that can be found", registry=registry)

    def count(self, answers: Iterable[Answered]) -> None:
        """Counts answered pictures."""
        for answer in answers:
            self.waited.observe(answer.waited)
            self.batch.observe(answer.batch)
            for result in answer.results:
                self.pictures.labels("error" if result.error else "answered").inc()
                for stage, milliseconds in result.timings.items():
                    self.stages.labels(stage).inc(milliseconds / 1e3)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
