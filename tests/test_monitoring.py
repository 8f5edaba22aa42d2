"""Alert rules and dashboard ask for what is served, and every alert, message and check has its runbook."""

import json
import operator
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dropflow import unforeseen
from dropflow.doctor import Finding, swept_within
from dropflow.errors import TransientError
from dropflow.ledger import Entry, Fate, Ledger, Settlement, SweepReport
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.settings import PROJECT, Settings
from listeners.metrics import Metrics
from listeners.service import SWEEP_SHARE
from notifications.messages import SECTIONS, TITLES, Message, Told, render

RULES = yaml.safe_load((PROJECT / "monitoring" / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((PROJECT / "monitoring" / "dashboard.json").read_text())
RUNBOOKS = (PROJECT / "docs" / "runbooks.md").read_text()
HEADINGS = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", RUNBOOKS, re.MULTILINE)}
PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
"""What Prometheus itself makes."""
LONG_AGO = timedelta(days=100)


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


QUERIES = [*((rule["alert"], rule["expr"]) for rule in RULES), *panels()]


def selectors(query: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """Name, labels matched and labels grouped by of each metric of a query."""
    query = query.replace("$__rate_interval", "5m")
    grouped: set[str] = set()

    def walk(node: Any) -> Iterator[tuple[str, set[str], set[str]]]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, {one.name for one in node.matchers.matchers}, grouped
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)
        for part in ("expr", "lhs", "rhs", "vector_selector", "vs"):
            if child := getattr(node, part, None):
                yield from walk(child)
        for child in getattr(node, "args", None) or ():
            yield from walk(child)

    yield from list(walk(promql_parser.parse(query)))


def threshold(alert: str, **values: float) -> float:
    """What an alert's metric is compared with, where the metrics in that have these values."""

    def amount(node: Any) -> float:
        if isinstance(node, promql_parser.NumberLiteral):
            return float(node.val)
        if isinstance(node, promql_parser.VectorSelector):
            return values[node.name]
        if isinstance(node, promql_parser.AggregateExpr):
            return amount(node.expr)
        apply = {"+": operator.add, "*": operator.mul}[str(node.op)]
        return float(apply(amount(node.lhs), amount(node.rhs)))

    (expr,) = (rule["expr"] for rule in RULES if rule["alert"] == alert)
    comparison: Any = promql_parser.parse(expr)
    assert str(comparison.op) == ">"
    return amount(comparison.rhs)


@pytest.mark.parametrize("interval", [30, 600, 86400])
@pytest.mark.parametrize("seconds", [2, 3600])
def test_a_sweep_is_old_when_more_than_one_is_overdue(interval: float, seconds: float) -> None:
    pause = max(interval, (SWEEP_SHARE - 1) * seconds)
    limit = threshold(
        "DropflowSweepOld", dropflow_sweep_interval_seconds=interval, dropflow_sweep_seconds=seconds
    )
    assert limit > seconds + pause + seconds, "the last one, the pause after it, and the next"
    assert limit < 600 + 3 * (seconds + pause)
    assert limit == swept_within(interval, seconds).total_seconds(), "the doctor says the same"


def test_receipts_are_late_when_no_run_may_take_so_long() -> None:
    settings = Settings()
    before_and_after = settings.receipt_seconds + threshold("DropflowEventsWait")
    assert threshold("DropflowReceiptsLate") > 60 * settings.run_minutes + before_and_after


def test_the_interval_of_sweeps_is_told_as_it_is_set(ledger: Ledger) -> None:
    assert value(Metrics(ledger, sweep_seconds=3600), "dropflow_sweep_interval_seconds") == 3600


@pytest.fixture
def served(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Of a listener to which everything has happened that is counted."""
    monkeypatch.setitem(unforeseen.seen, "KeyError", 1)
    metrics = Metrics(ledger)
    ref = ObjectRef("raw", "churn/a.csv", "a", modified=datetime.now(UTC))
    ledger.record([ObjectCreated(ref, "webhook")])
    (entry,) = ledger.unmatched(1)
    ledger.match([(entry, "churn", datetime.now(UTC))])
    delivery = ledger.outbox.claim("churn", "me", 1)
    assert delivery
    metrics.posted(delivery)
    metrics.settled(ledger.settle([settlement(ref)]))
    metrics.reconnects.labels("raw").inc()
    metrics.requests.labels("recorded").inc()
    ledger.watch.beat("me", "me")
    ledger.watch.report("me", "webhook", live=True)
    ledger.watch.swept(SweepReport(datetime.now(UTC), 1.5, 1, 1, 0, 0, 0, 0, unaccounted=2))
    ledger.notices.announce("churn", "channel", ["ops"], "{}")
    return metrics


def settlement(ref: ObjectRef) -> Settlement:
    return Settlement(ref, "churn", Fate.PROCESSED, "", datetime.now(UTC))


def families(metrics: Metrics) -> dict[str, set[str]]:
    """Every series that is served, with its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_what_is_asked_for_is_served(served: Metrics, name: str, query: str) -> None:
    known = families(served) | PROMETHEUS
    asked = list(selectors(query))
    assert asked
    for metric, matched, grouped in asked:
        assert metric in known, metric
        assert matched | grouped <= known[metric] | {"job", "instance"} | {"bucket"} & known[metric]


def test_every_metric_of_ours_is_shown_or_watched(served: Metrics) -> None:
    asked = {metric for _, query in QUERIES for metric, _, _ in selectors(query)}
    ours = {name for name in families(served) if not name.endswith(("_created", "_sum"))}
    assert ours - asked == set()


def test_every_alert_says_what_where_and_how_bad() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert (PROJECT / page).samefile(PROJECT / "docs" / "runbooks.md")
        assert section in HEADINGS, section
        text = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", RUNBOOKS, re.M | re.S | re.I)
        assert text
        assert f"`{rule['alert']}`" in text[1], "the section names its alert"


def test_every_alert_that_a_runbook_names_is_there() -> None:
    assert set(re.findall(r"`(Dropflow[A-Z]\w+)`", RUNBOOKS)) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("kind", [*SECTIONS])
def test_messages_about_trouble_name_their_section(kind: str) -> None:
    assert SECTIONS[kind] in HEADINGS
    message = Message(
        kind=kind,
        dataset="churn",
        count=1,
        told=(Told(url="s3://raw/a", reason="b"),),
        runbooks="docs/runbooks.md",
    )
    assert render(message, "text")[1].endswith(f"Runbook: docs/runbooks.md#{SECTIONS[kind]}")
    assert "href" not in render(message, "html")[1]
    assert "](" not in render(message, "markdown")[1]
    linked = message.model_copy(update={"runbooks": "https://docs.example.com/runbooks"})
    address = f"https://docs.example.com/runbooks#{SECTIONS[kind]}"
    assert f'<a href="{address}">Runbook</a>' in render(linked, "html")[1]
    assert f"[Runbook]({address})" in render(linked, "markdown")[1]


def test_good_news_and_older_messages_need_no_runbook() -> None:
    told = (Told(url="s3://raw/a", reason="b"),)
    for kind in set(TITLES) - set(SECTIONS):
        assert not Message(
            kind=kind, dataset="churn", count=1, told=told, runbooks="docs/runbooks.md"
        ).runbook
    assert "Runbook" not in render(Message(kind="failure", dataset="churn", count=1, told=told), "text")[1]


@pytest.mark.parametrize(
    "name",
    [
        "datasets", "store", "store's clock", "bucket raw", "Prefect", "Prefect's clock", "worker",
        "deployments and automations", "ledger", "listener", "notifications", "messages", "channel ops", "disk",
    ],
)  # fmt: skip
def test_checks_name_their_section(name: str) -> None:
    assert Finding(name, "failed", "").section in HEADINGS


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def entry(ledger: Ledger, key: str) -> Entry:
    return ledger.find("raw", key)[0]


def test_ages_tell_what_waits_and_not_what_is_held(ledger: Ledger) -> None:
    metrics = Metrics(ledger)
    ages = ("outbox", "in_flight", "notices")
    assert [value(metrics, f"dropflow_{age}_age_seconds") for age in ages] == [0, 0, 0]
    ref = ObjectRef("raw", "churn/a.csv", "a")
    ledger.record([ObjectCreated(ref, "webhook")])
    assert value(metrics, "dropflow_outbox_age_seconds")
    ledger.match([(entry(ledger, ref.key), "churn", None)])
    assert value(metrics, "dropflow_outbox_age_seconds") == 0, "it waits for its marker"
    ledger.match([(entry(ledger, ref.key), "churn", datetime.now(UTC))])
    assert value(metrics, "dropflow_outbox_age_seconds")
    ledger.outbox.hold("churn", None)
    assert value(metrics, "dropflow_outbox_age_seconds") == 0
    assert value(metrics, "dropflow_objects_held", dataset="churn") == 1
    ledger.outbox.release("churn")
    delivery = ledger.outbox.claim("churn", "me", 1)
    assert delivery
    assert value(metrics, "dropflow_outbox_age_seconds"), "it is claimed and not posted"
    assert value(metrics, "dropflow_in_flight_age_seconds") == 0
    ledger.outbox.posted(delivery, datetime.now(UTC), datetime.now(UTC))
    assert value(metrics, "dropflow_outbox_age_seconds") == 0
    assert value(metrics, "dropflow_in_flight_age_seconds")
    ledger.settle([settlement(ref)])
    assert value(metrics, "dropflow_in_flight_age_seconds") == 0
    assert value(metrics, "dropflow_notices_age_seconds")


def test_what_is_replayed_waits_since_then(ledger: Ledger) -> None:
    metrics = Metrics(ledger)
    ref = ObjectRef("raw", "churn/a.csv", "a")
    ledger.record([ObjectCreated(ref, "webhook")])
    ledger.settle([settlement(ref)])
    ledger.replay([entry(ledger, ref.key)], force=False)
    ledger.match([(entry(ledger, ref.key), "churn", datetime.now(UTC) - LONG_AGO)])
    age = value(metrics, "dropflow_outbox_age_seconds")
    assert age is not None
    assert 0 < age < LONG_AGO.total_seconds() / 2


def test_sources_and_channels_that_are_down(ledger: Ledger) -> None:
    metrics = Metrics(ledger)
    for listener, live in (("one", False), ("two", True)):
        ledger.watch.beat(listener, listener)
        ledger.watch.report(listener, "stream raw", live)
    assert value(metrics, "dropflow_sources_live", source="stream raw") == 1
    ledger.watch.report("two", "stream raw", live=False)
    assert value(metrics, "dropflow_sources_live", source="stream raw") == 0
    ledger.notices.announce("churn", "channel", ["ops"], "{}")
    assert value(metrics, "dropflow_messages_waiting", channel="ops") == 1
    assert value(metrics, "dropflow_messages_age_seconds", channel="ops")
    posting = ledger.notices.due("ops")
    assert posting
    ledger.notices.sent(posting)
    assert value(metrics, "dropflow_messages_age_seconds", channel="ops") == 0


def test_a_ledger_that_does_not_answer_is_told_and_hides_nothing_else(
    served: Metrics, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value(served, "dropflow_ledger_up") == 1

    def away() -> None:
        raise TransientError("the ledger: away")

    monkeypatch.setattr(ledger.watch, "last_sweep", away)
    assert value(served, "dropflow_ledger_up") == 0
    assert value(served, "dropflow_unaccounted") is None
    assert value(served, "dropflow_events_posted_total") == 1


def test_the_dashboard_allows_a_sweep_what_the_alert_does() -> None:
    (alert,) = (rule["expr"] for rule in RULES if rule["alert"] == "DropflowSweepOld")
    age, allowed = (" ".join(part.split()) for part in alert.split(">"))
    shown = dict(panels())["Last sweep"].replace('"$job"', '"dropflow"')
    assert shown == f"({age}) / ({allowed})"
