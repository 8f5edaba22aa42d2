"""The notifier with a real ledger, a real SMTP server and real HTTP channels: good, slow, dead."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from html import escape as html_escape
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from memory_store import MemoryStore
from pydantic import SecretStr
from rich.console import Console
from serving import QuietHandler, serving

from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, smtp_server, subject_of
from dropflow.errors import TransientError
from dropflow.ledger import Fate, Ledger, Notice, Settlement
from dropflow.ledger.notices import tell
from dropflow.notifying import Notify
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.quality import Figures, FrameProfile
from dropflow.receipts import Receipt
from dropflow.settings import PROJECT
from dropflow.status import read_status
from dropflow.status import render as render_status
from dropflow.storage import ObjectStore
from listeners import notifier as notifying
from listeners.notifier import Notifier
from notifications import digest
from notifications.channels import Channel
from notifications.messages import TITLES, Message, Told

AS_EVER = Notify()


class Service(ThreadingHTTPServer):
    """A chat service's incoming webhook."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.received: list[tuple[str, Any]] = []
        self.status = 200
        self.seconds = 0.0
        self.refused: str | None = None

    def url(self, kind: str) -> str:
        host = f"127.0.0.1:{self.server_address[1]}"
        return {"mattermost": f"mmost://{host}/{'a' * 24}", "json": f"json://{host}/hook"}[kind]


class Hook(QuietHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.seconds)
        found = json.loads(body)
        self.server.received.append((self.path, found))
        is_refused = self.server.refused is not None and found.get("topic") == self.server.refused
        self.send_response(403 if is_refused else self.server.status)
        self.end_headers()
        self.wfile.write(b"ok")


def service() -> AbstractContextManager[Service]:
    return serving(Service())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "GATHER", timedelta(0))
    monkeypatch.setattr(notifying, "BACKOFF", (0.1,))


class Desk:
    """A ledger whose objects get fates, and a notifier that tells of them."""

    def __init__(self, ledger: Ledger, urls: str, notify: Notify = AS_EVER) -> None:
        self.ledger = ledger
        churn = load_datasets(PROJECT / "datasets")["churn"].model_copy(update={"notify": notify})
        self.store: Any = MemoryStore()
        self.notifier = Notifier(
            ledger,
            Datasets({"churn": churn}),
            self.store,
            lambda: SecretStr(urls) if urls else None,
            holder="me",
            run_url=lambda run: f"http://prefect/runs/{run}",
            again=lambda _: "http://prefect/form",
            runbooks="http://docs/runbooks",
        )

    def happen(
        self,
        fate: Fate,
        *names: str,
        reason: str = "why",
        dispatched: bool = True,
        age: float = 0,
        **more: Any,
    ) -> None:
        """Objects arrive, are delivered and get their receipt, which is so many seconds old."""
        written = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=age)
        refs = [ObjectRef("raw", f"churn/{name}", f"{name}{written}", modified=written) for name in names]
        self.ledger.record(ObjectCreated(ref, "webhook") for ref in refs)
        self.ledger.match((entry, "churn", written) for entry in self.ledger.unmatched(1000))
        if dispatched:
            self.ledger.outbox.claim("churn", "me", 100)
        done = [
            Settlement(ref, "churn", fate, reason, written + timedelta(seconds=2), run_id="r1", **more)
            for ref in refs
        ]
        self.ledger.settle(done)

    def tell(self, until: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, "nothing was told"
            self.notifier.compose()
            self.notifier.deliver()
            time.sleep(0.05)


@pytest.fixture
def desk(ledger: Ledger) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*urls: str, **options: Any) -> Desk:
        made.append(Desk(ledger, " ".join(urls), **options))
        return made[-1]

    yield make
    for one in made:
        one.notifier.close()


def prepared(store: ObjectStore) -> str:
    """The key of a receipt with figures."""
    figures = Figures(before=FrameProfile(10, ()), after=FrameProfile(10, ()))
    own = {"dataset": "churn", "bucket": "raw", "key": "churn/a.csv", "etag": "e1", "fingerprint": "f"}
    receipt = Receipt(**own, fate="processed", rows_in=10, rows_out=10, figures=figures)
    store.put("processed", "_receipts/churn/churn/a.csv/e1.f.json", receipt.to_json(), "application/json")
    return "_receipts/churn/churn/a.csv/e1.f.json"


def test_every_kind_of_message_arrives_by_mail_with_the_report(desk: Callable[..., Desk]) -> None:
    with smtp_server() as (mailbox, url):
        one = desk(url.get_secret_value().replace("format=text", "format=html"))
        receipt = prepared(one.store)
        one.happen(Fate.REJECTED, "a.csv", reason="column Age: the value 'x' in data row 4 is no number")
        one.tell(lambda: len(mailbox.messages) == 1)
        one.happen(Fate.PROCESSED, "a.csv", reason="10 rows in, 10 out", report_key=receipt)
        one.tell(lambda: len(mailbox.messages) == 2)
        one.happen(Fate.PROCESSED, "b.csv", "c.csv")
        one.tell(lambda: len(mailbox.messages) == 3)
        subjects = [subject_of(mail) for mail in mailbox.messages]
        assert subjects == ["Rejected: churn · a.csv", "Recovered: churn · a.csv", "Ready: churn · 2 files"]
        told = mailbox.messages[0].as_string()
        for part in ("http://prefect/runs/r1", "http://prefect/form", "http://docs/runbooks#rejected"):
            assert part in told.replace("=\n", "")
        attached = {part.get_filename(): part for part in mailbox.messages[1].walk()}
        assert b"<title>a.csv" in attached["quality.html"].get_payload(decode=True)


TO_DO = {
    "success": "",
    "failure": "When the cause is mended, run it again: dropflow replay 'churn/a`<b>.csv'",
    "waiting": "Nothing is lost, and it is tried on and on. What is in the way: dropflow doctor",
    "rejected": "Mend the file and drop it again; or mend the dataset, and run it again: "
    "dropflow replay 'churn/a`<b>.csv'",
    "recovered": "",
    "missing": "Ask whoever sends it; if it is not meant to come any more, change `expect` of the dataset.",
    "late": "",
    "canary": "Something on the way from drop to receipt does not work: dropflow status",
    "channel": "What it has missed is told here, and tried there again: dropflow notify test",
    "test": "",
}


@pytest.mark.parametrize("kind", TITLES)
def test_every_kind_is_received_as_it_was_written(kind: str) -> None:
    told = Told(url="s3://raw/churn/a`<b>.csv", reason="why <i>", seconds=3, run_url="http://prefect/r1")
    message = Message(kind=kind, dataset="churn", count=1, told=(told,), again="http://prefect/form")
    subject = f"{TITLES[kind]}: churn · " + ("why <i>" if kind == "missing" else "a`<b>.csv")
    with smtp_server() as (mailbox, url), service() as chat:
        for form in ("text", "html"):
            Channel(SecretStr(url.get_secret_value().replace("format=text", f"format={form}"))).deliver(
                message
            )
        Channel(SecretStr(chat.url("mattermost"))).deliver(message)
    plain, rich = mailbox.messages
    assert subject_of(plain) == subject_of(rich) == subject
    facts = ["s3://raw/churn/a`<b>.csv", "why <i>", "3 s from drop to receipt", "Run: http://prefect/r1"]
    to_do = [TO_DO[kind], "Run by hand: http://prefect/form"] if TO_DO[kind] else []
    assert body_of(plain).splitlines() == [*facts, "", *to_do][: 5 + len(to_do) if to_do else 4]
    (html,) = (part for part in rich.walk() if part.get_content_type() == "text/html")
    shown = html.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert "<b>s3://raw/churn/a`&lt;b&gt;.csv</b><br>why &lt;i&gt;<br>3 s from drop to receipt" in shown
    assert '<a href="http://prefect/r1">' in shown
    assert html_escape(TO_DO[kind]) in shown
    assert ("http://prefect/form" in shown) == bool(to_do)
    ((_, posted),) = chat.received
    for part in ("``s3://raw/churn/a`<b>.csv``", "`why <i>`", "[the run](http://prefect/r1)"):
        assert part in posted["text"]
    assert ("[Run by hand](http://prefect/form)" in posted["text"]) == bool(to_do)


def test_a_chat_service_gets_markdown(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        one = desk(chat.url("mattermost"))
        one.happen(Fate.REJECTED, "<img src=x onerror=alert(1)>.csv")
        one.tell(lambda: chat.received)
    ((path, body),) = chat.received
    assert path.startswith("/hooks/")
    assert "`s3://raw/churn/<img src=x onerror=alert(1)>.csv`" in body["text"]
    assert "(http://prefect/runs/r1)" in body["text"]


def test_five_hundred_files_and_seven_failures_are_three_messages(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        one = desk(chat.url("json"))
        one.happen(Fate.PROCESSED, *(f"{n}.csv" for n in range(493)))
        one.happen(Fate.REJECTED, *(f"bad{n}.csv" for n in range(4)), reason="is empty (0 bytes)")
        one.happen(Fate.REJECTED, *(f"late{n}.csv" for n in range(3)), reason="is blank")
        one.tell(lambda: len(chat.received) >= 3)
        one.tell(lambda: not one.ledger.notices.untold())
        time.sleep(0.3)
    assert sorted(body["title"] for _, body in chat.received) == [
        "Ready: churn · 493 files",
        "Rejected: churn · 3 files",
        "Rejected: churn · 4 files",
    ]


def test_what_a_ledger_that_is_built_anew_finds_is_old_news(desk: Callable[..., Desk]) -> None:
    one = desk("json://127.0.0.1:1")
    one.happen(Fate.PROCESSED, "a.csv", dispatched=False, age=60)
    assert one.ledger.notices.untold() == []


def test_what_is_prepared_by_hand_before_it_was_delivered_is_told(desk: Callable[..., Desk]) -> None:
    one = desk("json://127.0.0.1:1")
    one.happen(Fate.REJECTED, "a.csv", dispatched=False)
    assert [group.kind for group in one.ledger.notices.untold()] == ["rejected"]


def test_what_is_good_by_now_is_not_told_as_bad(desk: Callable[..., Desk]) -> None:
    one = desk("json://127.0.0.1:1")
    one.happen(Fate.REJECTED, "a.csv", "b.csv")
    one.happen(Fate.PROCESSED, "a.csv")
    assert [(group.kind, group.number) for group in one.ledger.notices.untold()] == [
        ("rejected", 1),
        ("success", 1),
    ]


def test_who_wants_no_recoveries_hears_of_every_success(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        one = desk(chat.url("json"), notify=Notify(success="now", recovered="never"))
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: len(chat.received) == 1)
        for number in (2, 3):
            one.happen(Fate.PROCESSED, "a.csv", age=-number)
            one.tell(lambda n=number: len(chat.received) == n)
    assert [body["title"].partition(":")[0] for _, body in chat.received] == ["Rejected", "Ready", "Ready"]


def test_behind_a_hundred_thousand_the_next_is_told_at_once(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        one = desk(chat.url("json"))
        with one.ledger.database.write() as db:
            refs = (ObjectRef("raw", f"iris/{number}.csv") for number in range(100_000))
            tell(db, [("iris", "success", Notice(ref, "")) for ref in refs])
        one.happen(Fate.PROCESSED, "busy.csv", reason="in flight")
        one.happen(Fate.FAILED, "a.csv")
        one.tell(lambda: any(body["title"].startswith("Failed") for _, body in chat.received))


def test_two_listeners_make_one_message(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as chat:
        one, other = desk(chat.url("json")), desk(chat.url("json"))
        one.happen(Fate.REJECTED, "a.csv")

        def slow(_: str) -> str:
            """Prefect takes longer than the lease lasts."""
            one.ledger.watch.release("notifier", "me")
            other.notifier.compose()
            return ""

        monkeypatch.setattr(one.notifier, "_again", slow)
        monkeypatch.setattr(other.notifier, "_holder", "other")
        one.notifier.compose()
        assert [state.waiting for state in one.ledger.notices.channels()] == [1]


def test_what_waits_for_a_url_that_is_mended_is_sent_to_the_new_one(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        wrong = desk("json://127.0.0.1:1/")
        wrong.happen(Fate.REJECTED, "a.csv")
        wrong.tell(lambda: (s := wrong.ledger.notices.channels()) and s[0].error)
        mended = desk(chat.url("json"))
        mended.tell(lambda: chat.received)
        # It is noted once the service's answer is there.
        mended.tell(lambda: not any(state.waiting for state in mended.ledger.notices.channels()))


def test_of_several_targets_those_that_took_it_get_it_three_times_at_most(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        host = f"127.0.0.1:{chat.server_address[1]}"
        chat.refused = "gone"
        one = desk(f"ntfy://{host}/team/gone")
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: (s := one.ledger.notices.channels()) and s[0].given_up)
        for _ in range(5):
            one.notifier.deliver()
        assert [body["topic"] for _, body in chat.received].count("team") == 3


def test_a_message_of_a_later_version_is_given_up(desk: Callable[..., Desk]) -> None:
    with service() as chat:
        one = desk(chat.url("json"))
        one.ledger.notices.announce(
            "churn", "new", [c.name for c in one.notifier._known()], '{"kind": "new"}'
        )
        one.tell(lambda: one.ledger.notices.channels()[0].error == "defect")


@pytest.mark.parametrize("url", ["mailto:me:s3cretpass@example.com", "hunter2pass@host"])
def test_of_a_mistyped_url_nothing_is_shown(url: str) -> None:
    assert re.fullmatch("unreadable-[0-9a-f]{4}", Channel(SecretStr(url)).name)


def test_slack_gets_its_own_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def post(*_: Any, data: Any, **__: Any) -> Any:
        sent.append(json.loads(data))
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"ok"
        return answer

    monkeypatch.setattr("apprise.plugins.slack.requests.request", post)
    told = Told(url="s3://raw/churn/<!channel> <@U1>.csv", reason="why", run_url="http://prefect/r1")
    message = Message(kind="rejected", dataset="churn", count=1, told=(told,), again="http://prefect/form")
    Channel(SecretStr("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#team")).deliver(message)
    shown = json.dumps(sent)
    assert "<http://prefect/r1|the run>" in shown
    assert "<!channel>" not in shown
    assert "<@U1>" not in shown


def test_without_channels_nothing_gathers(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.happen(Fate.REJECTED, "a.csv")
    assert one.notifier.compose() == 0
    assert one.ledger.notices.untold() == []


def test_the_first_channel_is_known_within_a_second(ledger: Ledger) -> None:
    one = Desk(ledger, "")
    with service() as chat:
        known: list[SecretStr] = []
        one.notifier = Notifier(
            ledger, Datasets({}), one.store, lambda: known[0] if known else None, holder="me"
        )
        one.happen(Fate.REJECTED, "a.csv")
        assert one.notifier.compose() == 0
        known.append(SecretStr(chat.url("json")))
        time.sleep(notifying.FIRST_URLS_SECONDS)
        one.happen(Fate.REJECTED, "b.csv")
        one.tell(lambda: chat.received)
        one.notifier.close()
    assert "b.csv" in str(chat.received)


def test_while_nobody_knows_the_channels_nothing_is_forgotten(ledger: Ledger) -> None:
    one = Desk(ledger, "")

    def away() -> SecretStr:
        raise TransientError("Prefect is away")

    one.notifier = Notifier(ledger, Datasets({}), one.store, away, holder="me")
    one.happen(Fate.REJECTED, "a.csv")
    with pytest.raises(TransientError):
        one.notifier.compose()
    assert len(ledger.notices.untold()) == 1


def test_a_dead_channel_is_recorded_tried_again_and_others_are_told(desk: Callable[..., Desk]) -> None:
    with service() as dead, service() as alive:
        dead.status = 500
        one = desk(f"ops={dead.url('json')}", alive.url("json"), notify=Notify(to=("ops",)))
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: len(alive.received) == 2)
        titles = sorted(body["title"].split("-")[0] for _, body in alive.received)
        assert titles == ["Channel down: ops", "Rejected: churn · a.csv"]
        state = {channel.channel[:3]: channel for channel in one.ledger.notices.channels()}
        assert state["ops"].waiting == 1
        assert state["ops"].error == "TransientError"
        dead.status = 200
        before = len(dead.received)
        one.tell(lambda: len(dead.received) > before)
        one.tell(lambda: one.ledger.notices.channels()[1].waiting == 0)


def test_a_slow_channel_delays_no_other_and_is_told_once(desk: Callable[..., Desk]) -> None:
    with service() as slow, service() as quick:
        slow.seconds = 8
        one = desk(slow.url("json"), quick.url("json"))
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: quick.received)
        one.happen(Fate.REJECTED, "b.csv", reason="other")
        one.tell(lambda: len(quick.received) == 2)
        assert slow.received == []
        one.tell(lambda: not any(channel.waiting for channel in one.ledger.notices.channels()), 90)
        assert len(slow.received) == 2


def test_a_message_that_was_being_sent_when_the_listener_died_is_sent_again(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropflow.ledger.notices.LOST_AFTER", timedelta(0))
    with service() as chat:
        one = desk(chat.url("json"))
        one.happen(Fate.REJECTED, "a.csv")
        one.notifier.compose()
        (state,) = one.ledger.notices.channels()
        assert one.ledger.notices.due(state.channel), "taken, and never heard of again"
        one.tell(lambda: chat.received)
    assert len(chat.received) == 1


def test_secrets_are_in_no_table_and_no_log(
    desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture, churn: Dataset
) -> None:
    assert churn
    with service() as dead:
        dead.status = 500
        one = desk(dead.url("json").replace("json://", "json://user:a-secret@"))
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: (s := one.ledger.notices.channels()) and s[0].error)
        assert "a-secret" not in str(one.ledger.notices.channels())
    assert "a-secret" not in caplog.text


def test_status_shows_how_the_channels_are(desk: Callable[..., Desk]) -> None:
    with service() as dead, service() as alive:
        dead.status = 500
        one = desk(f"ops={dead.url('json')}", alive.url("json"), notify=Notify(to=("ops",)))
        one.happen(Fate.REJECTED, "a.csv")
        one.tell(lambda: len(alive.received) == 2)
        shown = Console(record=True, width=200)
        shown.print(render_status(read_status(one.ledger)))
    text = shown.export_text()
    assert "1 messages wait (TransientError): dropflow notify test" in text
    assert "told 0 s ago" in text


def test_each_channel_is_tried_by_command(tmp_path: Path) -> None:
    with service() as dead, service() as alive:
        dead.status = 500
        urls = f"ops={dead.url('json')} {alive.url('json').replace('json://', 'json://u:a-secret@')}"
        done = subprocess.run(
            [str(Path(sys.executable).with_name("dropflow")), "notify", "test"],
            env={
                "PATH": os.environ["PATH"],
                "DROPFLOW_DATA_DIR": str(tmp_path),
                "DROPFLOW_NOTIFY_URLS": urls,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        ops, other = done.stdout.splitlines()
        assert ops.startswith("ops-")
        assert "did not take the message" in ops
        assert other.endswith("took it")
        assert "a-secret" not in done.stdout + done.stderr
        ((_, body),) = alive.received
        assert body["title"].startswith("Test: dropflow")
