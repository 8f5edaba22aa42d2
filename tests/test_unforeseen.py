"""What nobody foresaw stays the trouble of the one object, message or page that it is about."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from test_listener import Listener, _no_waiting, make_listener  # noqa: F401 - a fixture

from dropflow import unforeseen
from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import DropflowError, TransientError, UnforeseenError
from dropflow.ledger import Fate, Ledger
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import latest_receipt
from dropflow.settings import PROJECT
from dropflow.storage import ObjectStore
from dropflow.unforeseen import Troubles, contained
from listeners import service
from listeners.expectations import Expectations
from listeners.intake import Intake
from listeners.notifier import Notifier
from listeners.parsing import Parsed
from notifications.messages import Message

BAD = "churn/bad.csv"


@pytest.fixture
def listener(ledger: Ledger, store: ObjectStore) -> Listener:
    return make_listener(ledger, store, load_datasets(PROJECT / "datasets"))


class Odd:
    """Raises KeyError where a method is asked about BAD, else does what the real one does."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, owner: Any, *arguments: Any, **named: Any) -> Any:
        if BAD in str(arguments):
            raise KeyError("etag")
        return self._real(owner, *arguments, **named)


def make_odd(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    odd = Odd(getattr(owner, name))

    def method(*arguments: Any, **named: Any) -> Any:
        # Unlike an object that can be called, a function is bound to the one it is called on.
        return odd(*arguments, **named)

    monkeypatch.setattr(owner, name, method)


def test_the_message_names_what_it_is_about_and_the_log_has_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = unforeseen.seen["KeyError"]
    with (
        pytest.raises(UnforeseenError, match=r"^s3://raw/a\.csv: KeyError, which nobody foresaw") as raised,
        contained("s3://raw/a.csv"),
    ):
        raise KeyError("hush-hush")
    assert "hush" not in str(raised.value), "what an exception says may hold anything"
    assert "Traceback" in caplog.text
    assert unforeseen.seen["KeyError"] == before + 1


def test_what_was_foreseen_stays_what_it_is() -> None:
    with pytest.raises(TransientError, match="503"), contained("a thing"):
        raise TransientError("503")


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_what_the_machine_lacks_is_no_fault_of_the_object(error: Exception) -> None:
    with pytest.raises(TransientError, match="a thing: "), contained("a thing"):
        raise error


def test_troubles_are_raised_after_all_others_have_been_seen_to() -> None:
    done, troubles = [], Troubles()
    for number in range(4):
        with troubles.kept(f"number {number}"):
            done.append(1 // number)
    assert done == [1, 0, 0]
    with pytest.raises(UnforeseenError, match="number 0: ZeroDivisionError"):
        troubles.raise_last()


def test_an_object_that_cannot_be_looked_up_is_failed_and_the_others_leave(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_odd(monkeypatch, ObjectStore, "stat")
    good = listener.put("churn/good.csv")
    listener.see(ObjectRef("raw", BAD), ObjectRef("raw", good.key))
    listener.dispatcher.dispatch()
    listener.dispatcher.dispatch()
    fate, reason = listener.fate(BAD)
    assert fate is Fate.FAILED
    assert reason.startswith(f"s3://raw/{BAD}: KeyError")
    assert listener.fate(good.key)[0] is Fate.DISPATCHED
    assert [key for key, _ in listener.failed] == [BAD], "and it is told"


def test_an_event_that_cannot_be_made_keeps_no_other_from_leaving(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_odd(monkeypatch, type(listener.prefect), "post_events")
    listener.see(listener.put(BAD), listener.put("churn/good.csv"))
    for _ in range(12):
        listener.dispatcher.dispatch()
    assert listener.fate("churn/good.csv")[0] is Fate.DISPATCHED
    assert listener.fate(BAD)[0] is Fate.FAILED


def test_a_dispatched_object_that_cannot_be_looked_at_is_failed_and_the_others_are_settled(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = listener.put(BAD), listener.put("churn/good.csv")
    listener.see(bad, good)
    listener.dispatcher.dispatch()
    listener.receipt(good, **listener.output(good, b"good"))
    make_odd(monkeypatch, ObjectStore, "is_current")
    listener.settler.look()
    assert listener.fate(good.key)[0] is Fate.PROCESSED
    assert listener.fate(BAD)[0] is Fate.FAILED


def test_a_receipt_that_cannot_be_read_keeps_no_other_from_being_read(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = listener.put("churn/good.csv")
    listener.see(good)
    listener.dispatcher.dispatch()
    receipt = listener.receipt(good, **listener.output(good, b"good"))
    key = next(ref.key for ref in listener.store.list("processed", "_receipts/"))
    make_odd(monkeypatch, ObjectStore, "get")
    assert listener.settler.read([("processed", f"_receipts/{BAD}"), ("processed", key)]) == 1
    assert listener.fate(good.key) == (Fate.PROCESSED, receipt.summary)


def test_one_object_in_a_sweep_keeps_no_other_from_its_fate(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in (BAD, "churn/good.csv"):
        ref = listener.put(key)
        listener.receipt(ref, **listener.output(ref, key.encode()))
    make_odd(monkeypatch, ObjectStore, "get")
    monkeypatch.setattr("listeners.sweep.latest_receipt", Odd(latest_receipt))
    report = listener.sweep()
    assert report.unswept == ""
    assert listener.fate("churn/good.csv")[0] is Fate.PROCESSED
    assert listener.fate(BAD)[0] is Fate.PENDING, "its run finds the receipt"


def test_a_notification_that_breaks_the_parser_is_kept_and_accepted(ledger: Ledger) -> None:
    def parse(_: bytes) -> Parsed:
        raise KeyError("eTag")

    intake = Intake(ledger, Datasets({}))
    parsed = asyncio.run(intake.read(b"{}", parse))
    assert parsed.created == []
    assert ledger.unreadable() == 1


def test_a_record_that_breaks_the_ledger_keeps_no_other_from_being_recorded(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_odd(monkeypatch, type(listener.ledger), "record")
    intake = Intake(listener.ledger, listener.datasets)

    async def record() -> list[Any]:
        made = (
            intake.record([ObjectCreated(ObjectRef("raw", key, "e"), "webhook")])
            for key in (BAD, "churn/good.csv")
        )
        return await asyncio.gather(*made, return_exceptions=True)

    bad, good = asyncio.run(record())
    assert isinstance(bad, UnforeseenError)
    assert good is None
    assert listener.fate("churn/good.csv")[0] is Fate.PENDING


def test_a_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TICK", 0.01)
    rounds = []

    async def step() -> None:
        rounds.append(1)
        if len(rounds) < 3:
            raise KeyError("etag")

    asyncio.run(service._patiently("a loop", step))
    assert len(rounds) == 3


def test_one_message_that_cannot_be_made_keeps_no_other_from_being_made(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notices = listener.ledger.notices
    for dataset, key in (("aaa", BAD), ("churn", "churn/good.csv")):
        notices.tell(dataset, "canary", ObjectRef("raw", key), "a reason")
    made: list[str] = []

    def composed(group: Any, _to: Any, content: Any) -> bool:
        if group.dataset == "aaa":
            raise KeyError("url")
        made.append(Message.model_validate_json(content(1)).dataset)
        return True

    monkeypatch.setattr(notices, "compose", composed)
    monkeypatch.setattr("notifications.digest.GATHER", timedelta(0))
    urls = SecretStr("json://127.0.0.1:9")
    notifier = Notifier(listener.ledger, listener.datasets, listener.store, lambda: urls, holder="me")
    with pytest.raises(DropflowError, match="message of aaa: KeyError"):
        notifier.compose()
    assert made == ["churn"]


def test_one_deadline_that_cannot_be_judged_keeps_no_other_from_being_judged(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    churn = listener.datasets["churn"]
    expect = type(churn).model_validate({**churn.model_dump(mode="json"), "expect": "by 08:00"}).expect
    named = {name: churn.model_copy(update={"name": name, "expect": expect}) for name in ("aaa", "churn")}
    begun: list[str] = []

    def begin(name: str, _due: datetime) -> None:
        if name == "aaa":
            raise KeyError("due")
        begun.append(name)

    monkeypatch.setattr(listener.ledger.deadlines, "begin", begin)
    now = datetime.now(UTC) + timedelta(days=1)
    looking = Expectations(listener.ledger, Datasets(named), listener.store, listener.prefect, lambda: now)  # type: ignore[arg-type]
    with pytest.raises(UnforeseenError, match="deadline of aaa: KeyError"):
        looking.look()
    assert begun == ["churn"]
