"""Which notices make a message now: folding, digests, windows. And how messages read, hostile names included."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from uuid import uuid4

import pytest
from markdown import markdown

from dropflow.ledger import Untold
from dropflow.ledger.notices import cause_of
from dropflow.notifying import Kind, Notify
from dropflow.objects import ObjectRef
from notifications.digest import LONGEST_DIGEST, WINDOWS, Group, Plan, plan
from notifications.messages import MOST_TOLD, Format, Message, Told, render

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


AS_EVER = Notify()


def untold(
    kind: Kind, cause: str = "", *, number: int = 1, ago: float = 3, until: float | None = None
) -> Untold:
    """`ago`, `until`: seconds since the first and the last."""
    since, last = (NOW - timedelta(seconds=one) for one in (ago, ago if until is None else until))
    return Untold("churn", kind, cause, number, since, last, number)


def planned(
    *found: Untold,
    notify: Notify = AS_EVER,
    recent: dict[tuple[str, str, str], list[datetime]] | None = None,
    busy: tuple[str, ...] = (),
) -> Plan:
    return plan(found, lambda _: notify, recent or {}, busy, NOW)


def ago(*seconds: float) -> list[datetime]:
    return [NOW - timedelta(seconds=one) for one in seconds]


def test_a_burst_is_one_digest_once_nothing_is_in_flight_any_more() -> None:
    burst = untold("success", number=493, ago=60, until=10)
    assert planned(burst, busy=("churn",)).groups == ()
    assert planned(burst).groups == (Group(burst, "success"),)


def test_a_digest_waits_no_longer_than_five_minutes() -> None:
    old = untold("success", ago=LONGEST_DIGEST.total_seconds())
    assert len(planned(old, busy=("churn",)).groups) == 1


def test_failures_are_told_at_once_whatever_is_in_flight() -> None:
    groups = planned(untold("rejected", "a"), untold("rejected", "b"), busy=("churn",)).groups
    assert [group.untold.cause for group in groups] == ["a", "b"]


def test_one_that_has_just_come_waits_a_moment_for_its_like() -> None:
    assert planned(untold("rejected", ago=1)).groups == ()


@pytest.mark.parametrize("number", range(1, 9))
def test_the_same_again_is_held_longer_each_time_then_counted(number: int) -> None:
    again = untold("rejected", "is blank")
    window = WINDOWS[min(number, len(WINDOWS)) - 1].total_seconds()
    before = [window - 1 + 60 * n for n in reversed(range(number))]
    key = ("churn", "rejected", "is blank")
    assert planned(again, recent={key: ago(*before)}).groups == ()
    (group,) = planned(again, recent={key: ago(*(one + 1 for one in before))}).groups
    assert group.repeated
    assert len(planned(again, recent={("churn", "rejected", "is empty"): ago(*before)}).groups) == 1


def test_a_digest_is_held_five_minutes_at_the_most() -> None:
    key = ("churn", "success", "")
    lately = [300 + 200 * n for n in reversed(range(8))]
    assert planned(untold("success"), recent={key: ago(*lately, 299)}).groups == ()
    assert len(planned(untold("success"), recent={key: ago(*lately)}).groups) == 1


def test_what_fails_all_the_time_is_told_once_an_hour_in_the_end() -> None:
    hourly = ago(*(3600 * n for n in range(10, 0, -1)))
    key = ("churn", "rejected", "")
    assert len(planned(untold("rejected"), recent={key: hourly}).groups) == 1
    assert planned(untold("rejected"), recent={key: [*hourly, *ago(3599)]}).groups == ()


def test_after_two_quiet_hours_the_next_is_a_first_one_again() -> None:
    (group,) = planned(untold("rejected"), recent={("churn", "rejected", ""): ago(7201)}).groups
    assert not group.repeated


def test_who_wants_nothing_is_told_nothing() -> None:
    never = planned(untold("success"), notify=Notify(success="never"))
    assert (never.groups, len(never.unwanted)) == ((), 1)


def test_who_wants_no_recoveries_is_told_of_a_success() -> None:
    groups = planned(untold("recovered"), notify=Notify(recovered="never", success="now")).groups
    assert [group.kind for group in groups] == ["success"]


@pytest.mark.parametrize(
    "reason",
    [
        "column Age: the value {value!r} in data row {row:,} is no number",
        "{url}: the store answered AccessDenied",
        "get {url}: 403\nmore of {value}",
        "{place} is too large: {row} bytes",
        "5 deliveries, the last run ended as Failed: {url} lies in run {run}",
    ],
)
def test_a_cause_is_a_reason_without_names_and_values(reason: str) -> None:
    causes = set()
    for name, value, row in (("a b.csv", "it's", 4), ("other.csv", "x", 1_234)):
        ref = ObjectRef("raw", f"churn/{name}")
        given = {"url": ref.url, "place": f"raw/churn/{name}", "value": value, "row": row, "run": uuid4()}
        causes.add(cause_of(reason.format(**given), ref))
    assert len(causes) == 1


# Messages

HOSTILE = [
    "<img src=x onerror=alert(1)>.csv",
    "{{ 7*7 }}.csv",
    "[x](javascript:alert(1)).csv",
    "``` `a` ``b.csv",
    "<!channel> <@U1> *b* _i_ ~s~.csv",
    "a\nb\x1b[31m\u202ec.csv",
    "'; rm -rf ~; '.csv",
    "&amp;&lt;.csv",
    "@everyone <@123> <!here>.csv",
]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(name == "href" and str(value).startswith("http://p") for name, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def message(name: str, kind: str = "rejected", count: int = 1) -> Message:
    told = Told(url=f"s3://raw/churn/{name}", reason=f"has {name}", seconds=2, run_url="http://p/runs/1")
    return Message(
        kind=kind, dataset="churn", count=count, told=(told,) * min(count, MOST_TOLD), again="http://p/f"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name: str) -> None:
    shown = name.replace("\n", "%0A").replace("\x1b", "%1B").replace("\u202e", "%E2%80%AE")
    for form in ("text", "html", "markdown"):
        subject, body = render(message(name), form)  # type: ignore[arg-type]
        assert subject.isprintable()
        if form == "text":
            assert f"s3://raw/churn/{shown}" in body
            continue
        page = Page(body if form == "html" else markdown(body))
        assert set(page.tags) <= {"p", "b", "br", "a", "code"}
        assert f"s3://raw/churn/{shown}" in page.text.replace("\u200b", "")
        if form == "markdown":
            assert not re.search(r"@(everyone|here|channel|\d)|<!", body), "nobody is called"


def test_a_command_to_paste_holds_a_hostile_key_as_one_word() -> None:
    body = render(message("'; rm -rf ~; '.csv"), "text")[1]
    assert "dropflow replay 'churn/'\\''; rm -rf ~; '\\''.csv'" in body


@pytest.mark.parametrize("form", ["text", "html", "markdown"])
def test_many_are_counted_and_some_named(form: Format) -> None:
    subject, body = render(message("a.csv", "success", 500), form)
    assert "500" in subject
    assert "490 more" in body
    assert len(body) < 4000
