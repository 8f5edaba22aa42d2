"""The notifier: makes messages of the ledger's notices and sends each until its channel has taken it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from dropflow.clock import utc_now
from dropflow.datasets import Datasets
from dropflow.errors import DropflowError
from dropflow.ledger import Ledger, Posting
from dropflow.notifying import Notify
from dropflow.objects import printable
from dropflow.report import report_at
from dropflow.storage import ObjectStore
from dropflow.unforeseen import Troubles

if TYPE_CHECKING:
    from notifications.channels import Channel
    from notifications.digest import Group
    from notifications.messages import Message

log = logging.getLogger(__name__)

MOST_CHANNELS = 16
"""That are sent to at once."""
URLS_SECONDS, FIRST_URLS_SECONDS = 30.0, 2.0
"""Between two questions for the channels; while there are none, what happens is told to nobody."""
TELL_DOWN_EVERY = timedelta(hours=2)
BACKOFF = (2, 10, 60, 300, 1800)
"""Seconds until a message is tried a second, third, … time; the last goes on."""
ELSEWHERE_AFTER = 3
"""Tries after which other channels are told, too."""
MOST_TRIES = 50
"""About a day."""
LEASE, LEASE_SECONDS = "notifier", 30.0
LARGEST_REPORT = 2 * 2**20


class Notifier:
    """Two jobs, each of which may be done as often as one likes: `compose` and `deliver`."""

    def __init__(
        self,
        ledger: Ledger,
        datasets: Datasets,
        store: ObjectStore,
        urls: Callable[[], SecretStr | None],
        *,
        holder: str,
        run_url: Callable[[str], str] = str,
        again: Callable[[str], str] = lambda _: "",
        runbooks: str = "",
    ) -> None:
        """`urls`: where messages go; `run_url`: a run's page; `again`: where a dataset is run by hand.

        `runbooks`: the address of docs/runbooks.md.

        While `urls` raises DropflowError, messages are made later.
        """
        self._ledger = ledger
        self._datasets = datasets
        self._store = store
        self._ask_urls = urls
        self._asked = float("-inf")
        self._holder = holder
        self._run_url = run_url
        self._again = again
        self._runbooks = runbooks
        self._channels: list[Channel] = []
        self._forms: dict[str, str] = {}
        self._sending: dict[str, Future[None]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def compose(self) -> int:
        """Make messages of what is untold; returns how many notices wait."""
        untold = self._ledger.notices.untold()
        if not untold or not self._ledger.watch.lease(LEASE, self._holder, LEASE_SECONDS):
            return sum(found.number for found in untold)
        if not self._known():
            for found in untold:
                self._ledger.notices.skip(found)
            return 0
        from notifications.digest import REMEMBERED, plan

        now = utc_now()
        recent = self._ledger.notices.recent(now - REMEMBERED)
        decided = plan(untold, self._notify, recent, self._ledger.notices.busy(), now)
        for found in decided.unwanted:
            self._ledger.notices.skip(found)
        troubles = Troubles()
        for group in decided.groups:
            with troubles.kept(f"message of {group.untold.dataset}"):
                self._compose(group)
        troubles.raise_last()
        done = {*decided.unwanted, *(group.untold for group in decided.groups)}
        return sum(found.number for found in untold if found not in done)

    def _notify(self, dataset: str) -> Notify:
        found = self._datasets.by_name.get(dataset)
        return found.notify if found else Notify()

    def _compose(self, group: "Group") -> None:
        from notifications.messages import MOST_TOLD, Message, Told

        told = tuple(
            Told(
                url=notice.ref.url,
                reason=notice.reason,
                seconds=notice.seconds,
                run_url=self._run_url(notice.run_id) if notice.run_id else "",
                report_key=notice.report_key,
            )
            for notice in self._ledger.notices.examples(group.untold, MOST_TOLD)
        )
        dataset = group.untold.dataset
        again = self._form(dataset)

        def content(number: int) -> str:
            message = Message(
                kind=group.kind,
                dataset=dataset,
                count=number,
                told=told[:number],
                again=again,
                repeated=group.repeated,
                runbooks=self._runbooks,
            )
            return message.model_dump_json()

        to = [channel.name for channel in self._for(dataset)]
        if self._ledger.notices.compose(group.untold, to, content):
            log.info("to be told: %s %s", dataset, group.kind)

    def _form(self, dataset: str) -> str:
        """Asked for once: Prefect may be slow, and the message is worth more than its link."""
        if dataset not in self._forms:
            try:
                self._forms[dataset] = self._again(dataset)
            except DropflowError as error:
                log.info("%s", error)
                return ""
        return self._forms[dataset]

    def _known(self, *, none_for: float = FIRST_URLS_SECONDS) -> list["Channel"]:
        """The channels, asked for again once in a while. Raises DropflowError when they never were told.

        `none_for`: seconds for which it is believed that there are none.
        """
        pause = URLS_SECONDS if self._channels else none_for
        if time.monotonic() - self._asked > pause:
            try:
                urls = self._ask_urls()
            except DropflowError:
                if self._asked < 0:
                    raise
            else:
                self._channels = _channels(urls) if urls else []
                self._reroute()
            self._asked = time.monotonic()
        return self._channels

    def _reroute(self) -> None:
        """A URL that was mended is another channel: what waits for the old one goes to those there are."""
        known = [channel.name for channel in self._channels]
        if number := self._ledger.notices.reroute(known, known) if known else 0:
            log.info("%d messages waited for channels that are no more, and go to those there are", number)

    def _for(self, dataset: str) -> list["Channel"]:
        from notifications.channels import chosen

        return chosen(self._known(), self._notify(dataset).to)

    def deliver(self) -> None:
        """Send what is due; a channel that is slow delays no other, nor us."""
        # Whoever has something to tell asks sooner. Asked once a second, it is a hundredth of a core.
        known = self._known(none_for=URLS_SECONDS)
        idle = {c.name: c for c in known if not self._is_sending(c.name)}
        if not idle:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MOST_CHANNELS, "notifier")
        for name, channel in idle.items():
            if posting := self._ledger.notices.due(name):
                self._sending[name] = self._pool.submit(self._send_safely, channel, posting)

    def _is_sending(self, name: str) -> bool:
        future = self._sending.get(name)
        return future is not None and not future.done()

    def _send_safely(self, channel: "Channel", posting: Posting) -> None:
        try:
            self._send(channel, posting)
        except Exception:
            # A defect of ours, or a message of a later version: it must not be tried for ever.
            log.exception("a message for %s", channel.name)
            self._ledger.notices.not_sent(posting, "defect", self._again_at(posting))

    def _send(self, channel: "Channel", posting: Posting) -> None:
        from notifications.messages import Message

        message = Message.model_validate_json(posting.content)
        # A service that refuses the attachment may have shown the message.
        report = self._report(message) if posting.tries == 1 else b""
        try:
            channel.deliver(message, report)
        except Exception as error:  # noqa: BLE001 - whatever a service's plugin raises, others are told
            self._not_sent(channel, posting, message, type(error).__name__)
        else:
            self._ledger.notices.sent(posting)

    def _again_at(self, posting: Posting) -> datetime | None:
        wait = BACKOFF[min(posting.tries, len(BACKOFF)) - 1]
        return utc_now() + timedelta(seconds=wait) if posting.tries < MOST_TRIES else None

    def _not_sent(self, channel: "Channel", posting: Posting, message: "Message", error: str) -> None:
        # Of several targets, some may have taken it: they must not get it again and again.
        last = channel.targets > 1 and posting.tries >= ELSEWHERE_AFTER
        again = None if last else self._again_at(posting)
        log.warning("%s did not take %r (%s)", channel.name, message.subject, error)
        self._ledger.notices.not_sent(posting, error, again)
        if posting.tries >= ELSEWHERE_AFTER or again is None:
            others = [one for one in self._known() if one.name != channel.name]
            self._ledger.notices.forward(posting.message, [one.name for one in others])
            self._tell_down(channel, others)

    def _tell_down(self, channel: "Channel", others: list["Channel"]) -> None:
        """Once in a while: the messages themselves are told there, too."""
        from notifications.messages import Message, Told

        recent = self._ledger.notices.recent(utc_now() - TELL_DOWN_EVERY)
        if others and (channel.name, "channel", "") not in recent:
            told = Told(url=channel.name, reason="does not take messages")
            message = Message(
                kind="channel", dataset=channel.name, count=1, told=(told,), runbooks=self._runbooks
            )
            names = [one.name for one in others]
            self._ledger.notices.announce(channel.name, "channel", names, message.model_dump_json())

    def _report(self, message: "Message") -> bytes:
        """The quality report of the one object that a message is about."""
        dataset = self._datasets.by_name.get(message.dataset)
        if message.count != 1 or not message.told or not message.told[0].report_key or dataset is None:
            return b""
        try:
            body = report_at(self._store, dataset.output_bucket, message.told[0].report_key)
        except DropflowError as error:
            log.info("no report for %r: %s", printable(message.subject), error)
            return b""
        return body if len(body) <= LARGEST_REPORT else b""


def _channels(urls: SecretStr) -> "list[Channel]":
    # Imported when there is something to tell: Apprise costs the listener 20 MiB.
    from notifications.channels import channels

    return channels(urls)
