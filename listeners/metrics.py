"""What the listener tells Prometheus."""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dropflow import unforeseen
from dropflow.clock import utc_now
from dropflow.errors import DropflowError
from dropflow.ledger import Delivery, Entry, Fate, Ledger, Settlement

log = logging.getLogger(__name__)

LAG_BUCKETS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 900, 3600)


class Metrics:
    """Counters of this process, and at each scrape what the ledger says, which all listeners share."""

    def __init__(self, ledger: Ledger, *, sweep_seconds: float = 30) -> None:
        """`sweep_seconds`: as it is set."""
        self.registry = CollectorRegistry()
        self.registry.register(_LedgerCollector(ledger))
        self.registry.register(_Unforeseen())
        Gauge(
            "dropflow_sweep_interval_seconds", "Between two sweeps, as it is set", registry=self.registry
        ).set(sweep_seconds)
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
        self.events = Counter("dropflow_events_posted", "Events posted to Prefect", registry=self.registry)
        self.redelivered = Counter(
            "dropflow_events_redelivered", "Of them, after a first one", registry=self.registry
        )

    def posted(self, delivery: Delivery) -> None:
        self.events.inc()
        if delivery.number > 1:
            self.redelivered.inc()

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

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Without a ledger a scrape says so: one that fails would look as if nobody listened."""
        found: list[GaugeMetricFamily] = []
        try:
            for part in (self._objects, self._ages, self._sources, self._channels, self._sweep):
                found += part()
        except DropflowError as error:
            log.warning("metrics: %s", error)
            found.clear()
        yield GaugeMetricFamily("dropflow_ledger_up", "Whether the ledger answers", value=bool(found))
        yield from found

    def _objects(self) -> Iterator[GaugeMetricFamily]:
        objects = GaugeMetricFamily("dropflow_objects", "Objects by fate", labels=["dataset", "fate"])
        held = GaugeMetricFamily("dropflow_objects_held", "Of paused datasets", labels=["dataset"])
        waiting = self._ledger.outbox.held()
        for dataset, counts in self._ledger.counts().items():
            held.add_metric([dataset], waiting.get(dataset, 0))
            for fate in Fate:
                objects.add_metric([dataset, fate.value], counts.get(fate, 0))
        yield from (objects, held)
        yield GaugeMetricFamily(
            "dropflow_unreadable_notifications", "Kept in the ledger", value=self._ledger.unreadable()
        )

    def _ages(self) -> Iterator[GaugeMetricFamily]:
        outbox = self._ledger.outbox
        untold = min((group.since for group in self._ledger.notices.untold()), default=None)
        yield _age(
            "dropflow_outbox_age_seconds", "Of what could have left, and has not", outbox.waiting_since()
        )
        yield _age("dropflow_in_flight_age_seconds", "Of the event awaited longest", outbox.in_flight_since())
        yield _age("dropflow_notices_age_seconds", "Of what no message tells of yet", untold)

    def _sources(self) -> Iterator[GaugeMetricFamily]:
        live: dict[str, int] = {}
        for source in self._ledger.watch.sources():
            live[source.name] = live.get(source.name, 0) + source.live
        family = GaugeMetricFamily("dropflow_sources_live", "Listeners that hear by it", labels=["source"])
        for name, number in live.items():
            family.add_metric([name], number)
        yield family

    def _channels(self) -> Iterator[GaugeMetricFamily]:
        def family(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"dropflow_messages_{name}", text, labels=["channel"])

        waiting = family("waiting", "Messages that a channel has not taken yet")
        age = family("age_seconds", "Of the one that waits longest")
        given_up = family("given_up", "Messages that were given up")
        for channel in self._ledger.notices.channels():
            waiting.add_metric([channel.channel], channel.waiting)
            age.add_metric([channel.channel], _seconds(channel.since))
            given_up.add_metric([channel.channel], channel.given_up)
        yield from (waiting, age, given_up)

    def _sweep(self) -> Iterator[GaugeMetricFamily]:
        if sweep := self._ledger.watch.last_sweep():
            yield GaugeMetricFamily(
                "dropflow_unaccounted", "Objects in the bucket without a fate", value=sweep.unaccounted
            )
            yield GaugeMetricFamily(
                "dropflow_unswept_buckets",
                "Buckets that the last sweep could not list",
                value=len(sweep.unswept.splitlines()),
            )
            yield GaugeMetricFamily("dropflow_sweep_seconds", "Of the last sweep", value=sweep.seconds)
            yield GaugeMetricFamily(
                "dropflow_sweep_timestamp_seconds",
                "When the last sweep began",
                value=sweep.started.timestamp(),
            )


class _Unforeseen(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "dropflow_unforeseen_errors", "Errors that nobody foresaw, of this process", labels=["type"]
        )
        for kind, number in unforeseen.seen.items():
            family.add_metric([kind], number)
        yield family


def _age(name: str, text: str, since: datetime | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=_seconds(since))


def _seconds(since: datetime | None) -> float:
    return max(0.0, (utc_now() - since).total_seconds()) if since else 0.0
