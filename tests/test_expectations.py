"""Files that are expected by a time: missing, late, and what is told of it."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore
from pydantic import ValidationError
from rich.console import Console

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import TransientError
from dropflow.expecting import Expect
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated
from dropflow.settings import PROJECT
from dropflow.status import read_status
from dropflow.status import render as render_status
from listeners.expectations import GRACE, Expectations
from notifications.messages import Message, Told, render

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
CHURN = load_datasets(PROJECT / "datasets")["churn"]


class Prefect:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.down = False

    def post_events(self, events: list[dict[str, Any]]) -> None:
        if self.down:
            raise TransientError("down")
        self.events += events


class Office:
    """A listener at a desk with a clock."""

    def __init__(self, ledger: Ledger, expect: str = "by 08:00", zone: str = "UTC") -> None:
        self.ledger = ledger
        self.now = MONDAY
        self.store: Any = MemoryStore()
        self.prefect: Any = Prefect()
        self.datasets = Datasets(
            {"churn": CHURN.model_copy(update={"expect": Expect.model_validate(expect), "timezone": zone})}
        )
        self.open()

    def open(self) -> None:
        self.expectations = Expectations(
            self.ledger, self.datasets, self.store, self.prefect, now=lambda: self.now
        )

    def at(self, day: int, hour: int, minute: int = 0) -> None:
        self.now = MONDAY + timedelta(days=day, hours=hour, minutes=minute) + GRACE
        self.expectations.look()

    def drop(self, name: str, *, heard: bool = True, body: bytes = b"x") -> None:
        """Written now. `heard`: the ledger knows of it."""
        key = f"churn/{name}"
        ref = replace(self.store.put("raw", key, body, "text/csv"), modified=self.now)
        self.store.buckets["raw"][key].ref = ref
        if heard:
            self.ledger.record([ObjectCreated(ref, "webhook")])
            self.ledger.match((entry, "churn", self.now) for entry in self.ledger.unmatched(10))

    @property
    def told(self) -> list[tuple[str, str]]:
        """In order of time: one group holds notices of one kind."""
        groups = self.ledger.notices.untold()
        found = [(g.kind, n) for g in groups for n in self.ledger.notices.examples(g, 100)]
        return [(kind, notice.reason) for kind, notice in found]


def shown(ledger: Ledger) -> str:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(render_status(read_status(ledger)))
    return console.export_text()


MISSING = ("missing", "no file by Mon 08 Jan 08:00 UTC")


def test_what_does_not_come_is_told_once_and_that_it_came_late(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.at(0, 7, 59)
    assert office.told == []
    for minute in range(3):
        office.at(0, 8, minute)
    assert office.told == [MISSING]
    assert "churn: no file by Mon 08 Jan" in shown(ledger)
    office.now = MONDAY + timedelta(hours=8, minutes=12)
    office.drop("a.csv")
    office.drop("b.csv")
    office.at(0, 8, 13)
    office.at(0, 8, 14)
    late = ("late", "expected by Mon 08 Jan 08:00 UTC, came 12 min later")
    assert office.told == [MISSING, late]
    assert "no file by" not in shown(ledger)
    (group,) = (group for group in ledger.notices.untold() if group.kind == "late")
    assert ledger.notices.examples(group, 9)[0].ref.url == "s3://raw/churn/a.csv"
    office.at(1, 8)
    assert ("missing", "no file by Tue 09 Jan 08:00 UTC") in office.told, "Monday's is not Tuesday's"


def test_what_comes_in_time_is_not_told(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.drop("monday.csv")
    office.at(0, 8)
    office.drop("tuesday.csv", heard=False)
    office.at(0, 9)
    office.at(1, 8)
    assert office.told == []


def test_the_same_bytes_once_more_are_a_file_that_came(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.drop("latest.csv")
    office.at(0, 9)
    office.drop("latest.csv")
    office.at(1, 8)
    assert office.told == []
    office.at(2, 8)
    assert [kind for kind, _ in office.told] == ["missing"]


@pytest.mark.parametrize(("second", "told"), [(0, []), (1, ["missing"])])
def test_the_deadlines_own_second_is_in_time(ledger: Ledger, second: int, told: list[str]) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.now = MONDAY + timedelta(hours=8, seconds=second)
    office.drop("a.csv", heard=False)
    office.at(0, 8)
    assert [kind for kind, _ in office.told] == told


@pytest.mark.parametrize("name", ["_canary/a.csv", "a.txt"])
def test_other_files_do_not_count(ledger: Ledger, name: str) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.drop(name, heard=False)
    office.at(0, 8)
    assert office.told == [MISSING]


def test_a_canary_in_the_ledger_does_not_count(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.drop("_canary/a.csv")
    office.at(0, 8)
    office.drop("_canary/b.csv")
    office.at(0, 8, 1)
    assert office.told == [MISSING]


def test_a_deadline_that_passed_while_nobody_listened_is_judged_afterwards(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.open()
    office.at(1, 12)
    assert [reason for _, reason in office.told] == ["no file by Tue 09 Jan 08:00 UTC"]


def test_what_was_due_before_anybody_asked_is_not_told(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 9)
    office.at(0, 10)
    assert office.told == []


def test_two_listeners_tell_once(ledger: Ledger) -> None:
    one, other = Office(ledger), Office(ledger)
    for minute in (-1, 0, 1):
        for office in (one, other):
            office.at(0, 8, minute)
    assert one.told == [MISSING]
    assert len(one.prefect.events + other.prefect.events) >= 1
    assert len({event["id"] for event in one.prefect.events + other.prefect.events}) == 1


def test_prefect_is_told_as_soon_as_it_can_be(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    office.prefect.down = True
    office.at(0, 8)
    office.at(0, 8, 1)
    assert office.told == [MISSING], "whether Prefect is there or not"
    office.prefect.down = False
    for minute in (2, 3):
        office.at(0, 8, minute)
    (event,) = office.prefect.events
    assert (event["event"], event["payload"]["due"]) == ("dataset.missing", "2024-01-08T08:00:00+00:00")
    office.drop("a.csv")
    office.at(0, 9)
    office.drop("b.csv")
    for minute in range(3):
        office.at(1, 8, minute)
    assert [event["event"] for event in office.prefect.events] == ["dataset.missing", "dataset.punctual"]


def test_the_same_bytes_that_come_late_are_late_and_no_file_of_tomorrow(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(-1, 7)
    office.drop("latest.csv")
    office.at(-1, 8)
    for minute in range(3):
        office.at(0, 8, minute)
    assert office.told == [MISSING]
    office.drop("latest.csv")
    for minute in range(4, 8):
        office.at(0, 8, minute)
    assert [kind for kind, _ in office.told] == ["missing", "late"]
    for minute in range(3):
        office.at(1, 8, minute)
    assert sorted(kind for kind, _ in office.told) == ["late", "missing", "missing"]


def test_what_expects_nothing_any_more_is_forgotten(ledger: Ledger) -> None:
    office = Office(ledger)
    office.at(0, 7)
    assert list(ledger.deadlines.known()) == ["churn"]
    office.datasets = Datasets({"churn": CHURN})
    office.open()
    office.at(0, 8)
    assert ledger.deadlines.known() == {}
    assert office.told == []


def test_deadlines_are_in_the_time_of_the_dataset(ledger: Ledger) -> None:
    office = Office(ledger, "by 08:00 on weekdays", "Europe/Berlin")
    office.at(0, 6, 59)
    assert office.told == []
    office.at(0, 7)
    assert office.told == [("missing", "no file by Mon 08 Jan 08:00 CET")]
    office.at(5, 12)
    office.at(6, 12)
    assert len(office.told) == 2, "Friday's, and nothing at the weekend"


@pytest.mark.parametrize(
    ("text", "cron", "days"),
    [
        ("by 08:00", "0 8 * * *", 1),
        ("by 8:05 on weekdays", "5 8 * * 1-5", 3),
        ("by 23:59 on mon,thu", "59 23 * * mon,thu", 4),
        ("30 6 1 * *", "30 6 1 * *", 31),
        ("0 8-17 * * 1-5", "0 8-17 * * 1-5", 2 + 15 / 24),
    ],
)
def test_a_deadline_is_a_line(text: str, cron: str, days: int) -> None:
    expect = Expect.model_validate(text)
    assert (expect.cron, expect.longest) == (cron, timedelta(days=days))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("by 25:00", "expected by 08:00"),
        ("by 08:00 on funday", "Bad day-of-week"),
        ("0 8 * *", "expected minute hour day month weekday"),
        ("0 0 8 * * 1", "not five fields"),
        ("0 0 31 2 *", "day-of-month"),
    ],
)
def test_what_is_no_deadline_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Expect.model_validate(text)


@pytest.mark.parametrize("moment", ["07:59:59.999", "08:00:00", "08:00:00.001"])
def test_a_deadline_has_passed_from_its_moment_on(moment: str) -> None:
    now = datetime.fromisoformat(f"2024-01-08T{moment}+00:00")
    last, before = Expect.model_validate("by 08:00").deadlines(now, "UTC")
    days = 0 if moment >= "08:00:00" else -1
    assert last == MONDAY + timedelta(days=days, hours=8)
    assert before == last - timedelta(days=1)


def test_the_message_says_what_is_missing() -> None:
    told = Told(url="s3://raw/churn/**/*.csv", reason="no file by Mon 08 Jan 08:00 UTC")
    subject, body = render(Message(kind="missing", dataset="churn", count=1, told=(told,)), "text")
    assert subject == "Missing: churn · no file by Mon 08 Jan 08:00 UTC"
    assert "s3://raw/churn/**/*.csv" in body
    assert "change `expect` of the dataset" in body
