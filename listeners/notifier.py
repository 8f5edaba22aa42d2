"""The notifier: makes messages of the ledger's notices and sends each until its channel has taken it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from dropflow.datasets import Datasets, canary_prefix
from dropflow.errors import DropflowError
from dropflow.ledger import CANARY, Ledger, Notice, Posting
from dropflow.notifying import Notify
from dropflow.objects import printable
from dropflow.storage import ObjectStore

if TYPE_CHECKING:
    from notifications.channels import Channel
    from notifications.digest import Group
    from notifications.messages import Message

log = logging.getLogger(__name__)

MOST_UNTOLD = 10_000
MOST_CHANNELS = 16
"""That are sent to at once."""
URLS_SECONDS = 30.0
REMEMBERED = timedelta(hours=2)
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
    ) -> None:
        """`urls`: where messages go; `run_url`: a run's page; `again`: where a dataset is run by hand.

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
        self._channels: list[Channel] = []
        self._sending: dict[str, Future[None]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def compose(self) -> int:
        """Make messages of what is untold; returns how many notices wait."""
        untold = self._ledger.notices.untold(MOST_UNTOLD)
        if not untold or not self._ledger.watch.lease(LEASE, self._holder, LEASE_SECONDS):
            return len(untold)
        if not self._known():
            self._ledger.notices.skip(untold)
            return 0
        from notifications.digest import plan

        now = datetime.now(UTC)
        canaries = [notice for notice in untold if self._is_canary(notice)]
        wanted = [notice for notice in untold if notice not in canaries] if canaries else untold
        decided = plan(
            wanted,
            self._notify,
            self._ledger.notices.fates_told(wanted),
            self._ledger.notices.recent(now - REMEMBERED),
            self._ledger.notices.busy() if len(untold) < MOST_UNTOLD else (),
            now,
        )
        self._ledger.notices.skip([*canaries, *decided.unwanted])
        for group in decided.groups:
            self._compose(group)
        return len(untold) - len(canaries) - len(decided.unwanted)

    def _is_canary(self, notice: Notice) -> bool:
        if notice.news == CANARY:
            return False
        dataset = self._datasets.by_name.get(notice.dataset)
        return dataset is not None and notice.ref.key.startswith(canary_prefix(dataset))

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
            for notice in group.notices[:MOST_TOLD]
        )
        message = Message(
            kind=group.kind,
            dataset=group.dataset,
            count=len(group.notices),
            told=told,
            again=self._form(group.dataset),
            repeated=group.repeated,
        )
        self._post(message, group.cause, group.notices, self._for(group.dataset))

    def _form(self, dataset: str) -> str:
        try:
            return self._again(dataset)
        except DropflowError as error:
            # The message is worth more than its link.
            log.info("%s", error)
            return ""

    def _post(self, message: "Message", cause: str, notices: tuple[Notice, ...], to: list["Channel"]) -> None:
        self._ledger.notices.compose(
            notices,
            [channel.name for channel in to],
            dataset=message.dataset,
            kind=message.kind,
            cause=cause,
            content=message.model_dump_json(),
        )
        log.info("to be told: %s", message.subject)

    def _known(self) -> list["Channel"]:
        """The channels, asked for again once in a while. Raises DropflowError when they never were told."""
        if time.monotonic() - self._asked > URLS_SECONDS:
            try:
                urls = self._ask_urls()
            except DropflowError:
                if self._asked < 0:
                    raise
            else:
                self._channels = _channels(urls) if urls else []
            self._asked = time.monotonic()
        return self._channels

    def _for(self, dataset: str) -> list["Channel"]:
        from notifications.channels import chosen

        return chosen(self._known(), self._notify(dataset).to)

    def deliver(self) -> None:
        """Send what is due; a channel that is slow delays no other, nor us."""
        idle = {c.name: c for c in self._known() if not self._is_sending(c.name)}
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
        except DropflowError as error:
            log.warning("notifications: %s", error)

    def _send(self, channel: "Channel", posting: Posting) -> None:
        from notifications.messages import Message

        message = Message.model_validate_json(posting.content)
        try:
            channel.deliver(message, self._report(message))
        except Exception as error:  # noqa: BLE001 - whatever a service's plugin raises, others are told
            self._not_sent(channel, posting, message, type(error).__name__)
        else:
            self._ledger.notices.sent(posting)

    def _not_sent(self, channel: "Channel", posting: Posting, message: "Message", error: str) -> None:
        wait = BACKOFF[min(posting.tries, len(BACKOFF)) - 1]
        again = datetime.now(UTC) + timedelta(seconds=wait) if posting.tries < MOST_TRIES else None
        log.warning("%s did not take %r (%s)", channel.name, message.subject, error)
        self._ledger.notices.not_sent(posting, error, again)
        if posting.tries == ELSEWHERE_AFTER:
            others = [one for one in self._known() if one.name != channel.name]
            self._ledger.notices.forward(posting.message, [one.name for one in others])
            self._tell_down(channel, others)

    def _tell_down(self, channel: "Channel", others: list["Channel"]) -> None:
        """Once in a while: the messages themselves are told there, too."""
        from notifications.messages import Message, Told

        recent = self._ledger.notices.recent(datetime.now(UTC) - REMEMBERED)
        if others and (channel.name, "channel", "") not in recent:
            told = Told(url=channel.name, reason=f"took no message in {ELSEWHERE_AFTER} tries")
            self._post(Message(kind="channel", dataset=channel.name, count=1, told=(told,)), "", (), others)

    def _report(self, message: "Message") -> bytes:
        """The quality report of the one object that a message is about."""
        dataset = self._datasets.by_name.get(message.dataset)
        if message.count != 1 or not message.told or not message.told[0].report_key or dataset is None:
            return b""
        try:
            body = self._store.get(dataset.output_bucket, message.told[0].report_key)[1]
        except DropflowError as error:
            log.info("no report for %r: %s", printable(message.subject), error)
            return b""
        return body if len(body) <= LARGEST_REPORT else b""


def _channels(urls: SecretStr) -> "list[Channel]":
    # Imported when there is something to tell: Apprise costs the listener 20 MiB.
    from notifications.channels import channels

    return channels(urls)
