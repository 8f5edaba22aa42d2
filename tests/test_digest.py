"""Which notices make a message now: folding, digests, windows. And how messages read, hostile names included."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from markdown import markdown

from dropflow.ledger import Fate, Notice
from dropflow.notifying import Notify
from dropflow.objects import ObjectRef
from notifications.digest import LONGEST_DIGEST, WINDOWS, Plan, cause_of, plan
from notifications.messages import MOST_TOLD, Format, Message, Told, render

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


AS_EVER = Notify()


def notice(number: int, news: str, reason: str = "", *, ago: float = 3, dataset: str = "churn") -> Notice:
    ref = ObjectRef("raw", f"{dataset}/{number}.csv")
    return Notice(number, NOW - timedelta(seconds=ago), dataset, news, ref, reason, 2.0, "run", "")


def planned(
    *notices: Notice,
    notify: Notify = AS_EVER,
    told: dict[tuple[str, str], str] | None = None,
    recent: dict[tuple[str, str, str], list[datetime]] | None = None,
    busy: tuple[str, ...] = (),
) -> Plan:
    return plan(notices, lambda _: notify, told or {}, recent or {}, busy, NOW)


def ago(*seconds: float) -> list[datetime]:
    return [NOW - timedelta(seconds=one) for one in seconds]


def test_a_burst_is_one_digest_once_nothing_is_in_flight_any_more() -> None:
    burst = [notice(n, Fate.PROCESSED, ago=60 - n / 10) for n in range(493)]
    assert planned(*burst, busy=("churn",)).groups == ()
    (group,) = planned(*burst).groups
    assert (group.kind, len(group.notices), group.repeated) == ("success", 493, False)


def test_a_digest_waits_no_longer_than_five_minutes() -> None:
    old = notice(1, Fate.PROCESSED, ago=LONGEST_DIGEST.total_seconds())
    assert len(planned(old, busy=("churn",)).groups) == 1


def test_failures_are_told_at_once_folded_by_cause_whatever_is_in_flight() -> None:
    bad = [
        notice(n, Fate.REJECTED, f"column Age: the value '{n}' in data row {n} is no number")
        for n in range(5)
    ]
    empty = [notice(n, Fate.REJECTED, "is empty (0 bytes)") for n in (7, 8)]
    groups = planned(*bad, *empty, busy=("churn",)).groups
    assert sorted(len(group.notices) for group in groups) == [2, 5]


def test_one_that_has_just_come_waits_a_moment_for_its_like() -> None:
    assert planned(notice(1, Fate.REJECTED, ago=1)).groups == ()


@pytest.mark.parametrize("number", range(1, 6))
def test_the_same_again_is_held_longer_each_time_then_counted(number: int) -> None:
    again = notice(1, Fate.REJECTED, "is blank")
    window = WINDOWS[min(number, len(WINDOWS)) - 1].total_seconds()
    before = [window - 1 + 60 * n for n in reversed(range(number))]
    key = ("churn", "rejected", "is blank")
    assert planned(again, recent={key: ago(*before)}).groups == ()
    if number < 3:
        (group,) = planned(again, recent={key: ago(*(one + 1 for one in before))}).groups
        assert group.repeated
    assert len(planned(again, recent={("churn", "rejected", "is empty"): ago(*before)}).groups) == 1


def test_a_file_that_was_told_of_as_bad_has_recovered() -> None:
    good = notice(1, Fate.PROCESSED, "10 rows in, 10 out")
    place = ("raw", "churn/1.csv")
    assert planned(good, told={place: Fate.REJECTED}).groups[0].kind == "recovered"
    assert planned(good, told={place: Fate.PROCESSED}).groups[0].kind == "success"


def test_who_wants_nothing_is_told_nothing() -> None:
    never = planned(notice(1, Fate.PROCESSED), notify=Notify(success="never"))
    assert (never.groups, len(never.unwanted)) == ((), 1)


def test_a_cause_is_a_reason_without_its_values() -> None:
    one, other = (
        notice(1, Fate.REJECTED, f"column Age: the value {value!r} in data row {row:,} is no number")
        for value, row in (("it's", 4), ("x", 1_234))
    )
    assert cause_of(one) == cause_of(other)


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
        assert f"s3://raw/churn/{shown}" in page.text


def test_a_command_to_paste_holds_a_hostile_key_as_one_word() -> None:
    body = render(message("'; rm -rf ~; '.csv"), "text")[1]
    assert "dropflow replay 'churn/'\\''; rm -rf ~; '\\''.csv'" in body


@pytest.mark.parametrize("form", ["text", "html", "markdown"])
def test_many_are_counted_and_some_named(form: Format) -> None:
    subject, body = render(message("a.csv", "success", 500), form)
    assert "500" in subject
    assert "490 more" in body
    assert len(body) < 4000
