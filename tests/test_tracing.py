"""Traces: one for each object version, whoever writes into it; nothing of it where it is off."""

import asyncio
import hashlib
import logging
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from collecting import Collector, collecting
from memory_store import MemoryStore
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sharing import traced
from test_listener import Listener, _no_waiting, make_listener  # noqa: F401 - a fixture

from dropflow import tracing
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import free_port
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import PREFIX
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from flows.preparation import Prepared, Work
from listeners import intake

DATASETS = load_datasets(PROJECT / "datasets")
KEY = "churn/2026-11 fäil.csv"
ENDPOINT = tracing.SWITCHES[0]
OK, ERROR = 1, 2
STAGES = {
    "read",
    "parse",
    "validate",
    "reuse",
    "drop",
    "impute",
    "encode",
    "scale",
    "write",
    "commit",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in tracing.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    yield
    tracing.flush()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        yield collector
        tracing.flush()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda: exporter)
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    return exporter


@pytest.fixture
def listener(ledger: Ledger) -> Listener:
    return make_listener(ledger, MemoryStore(), DATASETS)


def bring(listener: Listener, content: bytes, key: str = KEY) -> tuple[ObjectRef, Prepared]:
    """One object all the way, as the real processes do."""
    ref = listener.put(key, content)

    async def notified() -> None:
        await intake.Intake(listener.ledger, DATASETS).record([ObjectCreated(ref, "webhook")])

    asyncio.run(notified())
    listener.dispatcher.dispatch()
    prepared = Work(DATASETS["churn"], "run-1").preparation(listener.store).prepare(key)
    listener.settler.read([("processed", one.key) for one in listener.store.list("processed", PREFIX)])
    return ref, prepared


def test_one_trace_from_notification_to_receipt_reaches_a_collector(
    listener: Listener, collector: Collector
) -> None:
    ref, prepared = bring(listener, churn_csv(rows=20))
    assert prepared.result == "processed"
    tracing.flush()
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"notification", "event", "preparation", "receipt", "object"} | STAGES
    assert {span.trace for span in collector.spans} == {
        hashlib.sha256(ref.identity.encode()).hexdigest()[:32]
    }
    whole = by_name["object"]
    assert whole.parent == ""
    for name in ("notification", "event", "preparation", "receipt"):
        assert by_name[name].parent == whole.id, name
        assert by_name[name].attributes["aws.s3.key"] == KEY
        assert by_name[name].seconds <= whole.seconds
    assert {by_name[name].parent for name in STAGES} == {by_name["preparation"].id}
    assert (whole.status, whole.service) == (OK, "dropflow")
    assert whole.attributes["dropflow.fate"] == "processed"
    assert {by_name[n].attributes["dropflow.run_id"] for n in ("preparation", "receipt", "object")} == {
        "run-1"
    }
    assert by_name["event"].attributes["dropflow.event_id"] == listener.prefect.events[0]["id"]
    assert by_name["notification"].attributes["dropflow.source"] == "webhook"


def test_no_content_of_a_file_is_sent(listener: Listener, collector: Collector) -> None:
    bad = churn_csv(rows=20).replace(b"France", b"hush-hush").replace(b"Germany", b"hush-hush")
    _, prepared = bring(listener, bad)
    assert prepared.result == "rejected"
    assert "hush-hush" in prepared.message
    tracing.flush()
    by_name = {span.name: span for span in collector.spans}
    assert by_name["object"].status == by_name["validate"].status == ERROR
    assert by_name["object"].attributes["dropflow.fate"] == "rejected"
    assert not any(b"hush-hush" in body for body in collector.bodies)


def test_runs_in_forked_processes_send_what_they_have_traced(
    settings: Settings, store: ObjectStore, collector: Collector
) -> None:
    keys = [f"churn/{number}.csv" for number in range(6)]
    refs = [store.put("raw", key, churn_csv(rows=20, seed=n), "text/csv") for n, key in enumerate(keys)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flows.preparers"])
    process = context.Process(target=traced, args=({ENDPOINT: collector.url}, settings, 2, keys))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    prepared = {span.attributes["aws.s3.key"]: span for span in collector.spans if span.name == "preparation"}
    assert {key: span.trace for key, span in prepared.items()} == {
        ref.key: hashlib.sha256(ref.identity.encode()).hexdigest()[:32] for ref in refs
    }
    for span in prepared.values():
        inside = {other.name for other in collector.spans if other.parent == span.id}
        assert inside == STAGES, "the last of them, too"


def test_given_up_and_gone_objects_end_their_traces(listener: Listener, memory: InMemorySpanExporter) -> None:
    given_up, gone = listener.put("churn/a.csv"), listener.put("churn/b.csv")
    listener.see(given_up, gone)
    listener.store.delete("raw", gone.key)
    for _ in range(4):
        listener.dispatcher.dispatch()
        listener.settler.look()
    tracing._made().force_flush()  # type: ignore[union-attr]
    whole = {
        span.attributes["aws.s3.key"]: span for span in memory.get_finished_spans() if span.name == "object"
    }
    fates = {key: span.attributes["dropflow.fate"] for key, span in whole.items()}
    assert fates == {"churn/a.csv": "failed", "churn/b.csv": "ignored"}
    assert whole["churn/a.csv"].status.status_code is StatusCode.ERROR


def test_what_a_new_ledger_finds_settled_is_no_trace(
    listener: Listener, memory: InMemorySpanExporter
) -> None:
    ref = listener.put("churn/a.csv")
    listener.receipt(ref)
    listener.sweep()
    made = tracing._made()
    assert made
    made.force_flush()
    assert not memory.get_finished_spans()


def test_all_processes_sample_the_same_traces(
    listener: Listener, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    refs = [ObjectRef("raw", f"churn/{number}.csv", "e") for number in range(60)]
    now = time.time_ns()
    seen: list[set[str]] = []
    for process in (tracing.record, tracing.settled):
        for ref in refs:
            process("event", ref, now) if process is tracing.record else tracing.settled(ref, now, good=True)
        made = tracing._made()
        assert made
        made.force_flush()
        seen.append({str(span.attributes["aws.s3.key"]) for span in memory.get_finished_spans()})
        memory.clear()
    assert seen[0] == seen[1]
    assert 10 < len(seen[0]) < 50


def test_names_are_the_standard_ones(memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "files")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    tracing.record("event", ObjectRef("raw", "a\x1b[31m\udcff", "e"), time.time_ns())
    made = tracing._made()
    assert made
    made.force_flush()
    (span,) = memory.get_finished_spans()
    assert span.resource.attributes["service.name"] == "files"
    assert span.resource.attributes["deployment.environment.name"] == "test"
    assert span.attributes
    assert str(span.attributes["aws.s3.key"]).isprintable()


def test_a_collector_that_is_away_keeps_nobody(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{free_port()}")
    _, prepared = bring(listener, churn_csv(rows=20))
    assert prepared.result == "processed"
    began = time.monotonic()
    tracing.flush()
    assert time.monotonic() - began < tracing.FLUSH_SECONDS + 5, "the exporter itself tries for ten"


def test_without_the_extra_it_is_said_once_and_all_goes_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, trace_exporter.__name__, None)
    with caplog.at_level(logging.WARNING):
        _, prepared = bring(listener, churn_csv(rows=20))
    assert prepared.result == "processed"
    assert [record.getMessage() for record in caplog.records if "dropflow[otel]" in record.getMessage()] != []
    assert len([record for record in caplog.records if "dropflow[otel]" in record.getMessage()]) == 1


OFF = """
import asyncio, sys
from pathlib import Path
from dropflow import tracing
import listeners.service, flows.preparation
from dropflow.objects import ObjectRef
def stage(*_): ...
assert tracing.staged(stage) is stage
with tracing.span("a", ObjectRef("b", "k", "e")):
    tracing.record("c", ObjectRef("b", "k", "e"), 0)
tracing.warm_up()
tracing.flush()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_where_it_is_off_nothing_of_it_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFF], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
