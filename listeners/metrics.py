"""What the listener tells Prometheus."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dropflow.ledger import Entry, Fate, Ledger, Settlement

LAG_BUCKETS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 900, 3600)


class Metrics:
    """Counters of this process, and at each scrape the ledger's counts."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_LedgerCollector(ledger))
        self.lag = Histogram(
            "dropflow_lag_seconds",
            "From an object's last write to its receipt",
            ["dataset"],
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        self.reconnects = Counter(
            "dropflow_stream_reconnects", "Connections of a listen stream", ["bucket"], registry=self.registry
        )
        self.requests = Counter(
            "dropflow_webhook_requests", "Webhook calls by result", ["result"], registry=self.registry
        )

    def settled(self, changed: Iterable[tuple[Entry, Settlement]]) -> None:
        for entry, outcome in changed:
            # Not what the sweep found settled long ago, nor what was replayed.
            if entry.ref.modified and entry.fate is Fate.DISPATCHED and not entry.after:
                lag = (outcome.receipt_at - entry.ref.modified).total_seconds()
                self.lag.labels(outcome.dataset).observe(max(0.0, lag))


class _LedgerCollector(Collector):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # else registering would ask the ledger

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        objects = GaugeMetricFamily("dropflow_objects", "Objects by fate", labels=["dataset", "fate"])
        for dataset, counts in self._ledger.counts().items():
            for fate in Fate:
                objects.add_metric([dataset, fate.value], counts.get(fate, 0))
        yield objects
        posted, again = self._ledger.outbox.counts()
        yield CounterMetricFamily("dropflow_events_posted", "Events posted to Prefect", value=posted)
        yield CounterMetricFamily("dropflow_events_redelivered", "Of them, after a first one", value=again)
        yield GaugeMetricFamily(
            "dropflow_unreadable_notifications", "Kept in the ledger", value=self._ledger.unreadable()
        )
        sweep = self._ledger.watch.last_sweep()
        if sweep:
            yield GaugeMetricFamily(
                "dropflow_unaccounted", "Objects in the bucket without a fate", value=sweep.unaccounted
            )
            yield GaugeMetricFamily("dropflow_sweep_seconds", "Of the last sweep", value=sweep.seconds)
            yield GaugeMetricFamily(
                "dropflow_sweep_timestamp_seconds",
                "When the last sweep began",
                value=sweep.started.timestamp(),
            )
