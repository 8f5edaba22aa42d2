"""The settler closes the loop: dispatched objects get the fate of their receipt, or are delivered again."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from dropflow import tracing
from dropflow.clock import utc_now
from dropflow.crashpoints import Point, reached
from dropflow.datasets import Datasets
from dropflow.errors import AccessError, DropflowError, ReceiptError, TransientError, UnforeseenError
from dropflow.ledger import INTERRUPTED, Entry, Fate, Ledger, Settlement
from dropflow.logs import of
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import PERMANENT, PrefectApi, Run
from dropflow.receipts import Receipt, latest_receipt, load_receipt, stands
from dropflow.storage import ObjectStore
from dropflow.unforeseen import Troubles, contained

log = logging.getLogger(__name__)

GONE = "overwritten or deleted before it was prepared"
AT_ONCE = 8
BATCH = 200
LOOK_AGAIN = timedelta(seconds=10)
LOOK_AGAIN_EACH = timedelta(milliseconds=50)
"""Longer by so much for each object in flight: in a flood, looking must not take the store's time."""
BACKOFF = (0, 2, 10, 30)
"""Seconds until a second, third, … delivery."""
SLACK = timedelta(seconds=10)
"""How far Prefect's clock may be off ours."""


@dataclass(frozen=True)
class Patience:
    """How long and how often the loop tries before it asks, and before it gives up."""

    receipt: timedelta = timedelta(seconds=20)
    run: timedelta = timedelta(hours=1)
    deliveries: int = 5


@dataclass(frozen=True)
class Verdict:
    """What a look at a dispatched object has found. `trouble`: why nothing could be looked at."""

    entry: Entry
    outcome: Settlement | None = None
    older: Settlement | None = None
    """A receipt from before the object was replayed: it counts once a run has found nothing to do."""
    waits: bool = False
    """Neither settled nor gone: if it is late, Prefect is asked."""
    gone: str = ""
    broken: str = ""
    trouble: str = ""


def outcome_of(own: ObjectRef, receipt: Receipt) -> Settlement:
    """The fate that a receipt gives; `own` is the reference of the receipt itself."""
    return Settlement(
        ref=ObjectRef(receipt.bucket, receipt.key, receipt.etag),
        dataset=receipt.dataset,
        fate=Fate(receipt.fate),
        reason=receipt.reason or receipt.summary,
        # The store's clock and whole seconds, as a GET tells them: comparable with each other.
        receipt_at=(own.modified or receipt.written_at).replace(microsecond=0),
        output_bucket=receipt.output_bucket,
        output_key=receipt.output_key,
        output_etag=receipt.output_etag,
        quarantined=receipt.quarantined,
        run_id=receipt.flow_run_id,
        report_key=receipt.report_key or (own.key if receipt.figures else ""),
    )


class Settler:
    """Reads receipts, asks Prefect about those that do not come, gives up in the end."""

    def __init__(
        self,
        ledger: Ledger,
        datasets: Datasets,
        store: ObjectStore,
        prefect: PrefectApi,
        *,
        patience: Patience = Patience(),
        settled: Callable[[list[tuple[Entry, Settlement]]], None] = lambda _: None,
    ) -> None:
        """`settled` is told of changed fates."""
        self._ledger = ledger
        self._datasets = datasets
        self._store = store
        self._prefect = prefect
        self._patience = patience
        self._settled = settled
        self._pool = ThreadPoolExecutor(AT_ONCE, "receipts")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def settle(self, outcomes: Iterable[Settlement]) -> int:
        """Give objects the fate of their receipt; returns how many changed."""
        began = time.time_ns()
        changed = self._ledger.settle(outcomes)
        reached(Point.FATE_RECORDED)
        for entry, outcome in changed:
            own = of(entry.ref, dataset=outcome.dataset, run_id=outcome.run_id)
            log.info("%s %s", outcome.fate, printable(entry.ref.url), extra=own)
            about = {"dataset": outcome.dataset, "fate": outcome.fate.value, "run_id": outcome.run_id}
            _trace(entry, began, about)
        if changed:
            self._settled(changed)
        return len(changed)

    def read(self, told: Iterable[tuple[str, str]]) -> int:
        """Read the receipts, given by bucket and key, that notifications told of."""
        read = [found for found in self._pool.map(self._read, told) if found]
        known = self._ledger.versions({(r.bucket, r.key) for _, r in read})
        # One version, never settled: its receipt is news. Else an old one may be told of again.
        plain = [pair for pair in read if known.get((pair[1].bucket, pair[1].key)) == 1]
        doubtful = [pair for pair in read if pair not in plain]
        standing = [
            pair for pair, true in zip(doubtful, self._pool.map(self._holds, doubtful), strict=True) if true
        ]
        return self.settle([outcome_of(*pair) for pair in [*plain, *standing]])

    def _read(self, told: tuple[str, str]) -> tuple[ObjectRef, Receipt] | None:
        try:
            with contained("/".join(told)):
                return load_receipt(self._store, *told)
        except DropflowError as error:
            # Not visible yet, or nonsense: who waits for it looks again, and is told then.
            log.info("%s", error)
            return None

    def _holds(self, found: tuple[ObjectRef, Receipt]) -> bool:
        """Whether a receipt settles its object: not bytes that are back while the output is of others."""
        _, receipt = found
        ref = ObjectRef(receipt.bucket, receipt.key, receipt.etag)
        try:
            with contained(ref.url):
                return stands(self._store, receipt) or not self._store.is_current(ref)
        except DropflowError as error:
            log.info("%s", error, extra=of(ref, run_id=receipt.flow_run_id))
            return False

    def look(self) -> int:
        """Look after dispatched objects whose time has come; returns how many there were."""
        entries = self._ledger.outbox.to_look_after(BATCH, LOOK_AGAIN, LOOK_AGAIN_EACH)
        verdicts = list(self._pool.map(self._look, entries))
        if troubles := [v.trouble for v in verdicts if v.trouble]:
            log.warning("%d objects could not be looked after: %s", len(troubles), troubles[-1])
        self.settle([v.outcome for v in verdicts if v.outcome])
        for verdict in verdicts:
            entry = verdict.entry
            if verdict.gone:
                own = of(entry.ref, dataset=entry.dataset)
                log.info("ignored %s: %s", printable(entry.ref.url), verdict.gone, extra=own)
                began = time.time_ns()
                self._ledger.ignore([entry], verdict.gone, entry.dataset)
                _trace(entry, began, {"dataset": entry.dataset, "fate": Fate.IGNORED.value})
            if verdict.broken:
                self._give_up(entry.dataset, [entry], verdict.broken)
        now = utc_now()
        late = [v for v in verdicts if v.waits and v.entry.due and v.entry.due <= now]
        asking = Troubles()
        for dataset in {v.entry.dataset for v in late}:
            with asking.kept(f"late objects of {dataset}"):
                self._ask(dataset, [v for v in late if v.entry.dataset == dataset])
        asking.raise_last()
        return len(entries)

    def _look(self, entry: Entry) -> Verdict:
        try:
            with contained(entry.ref.url):
                return self._verdict(entry)
        except (ReceiptError, UnforeseenError) as error:
            return Verdict(entry, broken=str(error))
        except (TransientError, AccessError) as error:
            # Without having looked nothing can be said: asking Prefect would end in a second delivery.
            return Verdict(entry, trouble=str(error))
        except DropflowError as error:
            # Refused for good, to us: the run may know more.
            log.info("%s", error, extra=of(entry.ref))
            return Verdict(entry, waits=True)

    def _verdict(self, entry: Entry) -> Verdict:
        dataset = self._datasets.by_name.get(entry.dataset)
        if dataset is None:
            return Verdict(entry, waits=True)
        found = latest_receipt(self._store, dataset, entry.ref)
        current = self._store.is_current(entry.ref)
        if found is None:
            return Verdict(entry, waits=True) if current else Verdict(entry, gone=GONE)
        outcome = outcome_of(*found)
        if not current:
            if entry.after:
                self._ledger.accept_older([entry])
            return Verdict(entry, outcome)
        if entry.after and outcome.receipt_at <= entry.after:
            return Verdict(entry, older=outcome, waits=True)
        # Bytes that are back after others have taken their place need their output made again.
        return Verdict(entry, outcome) if stands(self._store, found[1]) else Verdict(entry, waits=True)

    def _ask(self, dataset: str, late: list[Verdict]) -> None:
        """No receipt in time: is a run at work? If not, deliver again, or give up."""
        posted = self._ledger.outbox.posted_at({v.entry.event_id for v in late if v.entry.event_id})
        first = min(posted.values(), default=utc_now()) - SLACK
        runs = self._prefect.runs_of(dataset, first)
        waiting: dict[str, list[Entry]] = {}
        again: dict[tuple[str, int], list[Entry]] = {}
        failed: dict[str, list[Entry]] = {}
        for verdict in late:
            entry = verdict.entry
            mine = [run for run in runs if entry.ref.key in run.keys]
            working = next((run for run in mine if run.at_work(self._patience.run)), None)
            if working:
                waiting.setdefault(f"waits for run {working.id} ({working.state})", []).append(entry)
                continue
            since = posted.get(entry.event_id or "", first) - SLACK
            ended = [run for run in mine if run.ended and run.expected >= since]
            last = max(ended, key=lambda run: run.since, default=None)
            if last and verdict.older and last.finished:
                self._ledger.accept_older([entry])
                self.settle([verdict.older])
            elif reason := self._final(entry, last):
                failed.setdefault(reason, []).append(entry)
            else:
                again.setdefault((_why_again(last), entry.deliveries), []).append(entry)
        self._carry_out(dataset, waiting, again, failed)

    def _final(self, entry: Entry, last: Run | None) -> str:
        """Why nothing more is tried; "" while something is."""
        if last and last.state in PERMANENT and len(last.keys) == 1:
            return last.message
        if entry.deliveries < self._patience.deliveries or (last and last.interrupted):
            return ""
        if last:
            return f"{entry.deliveries} deliveries, the last run ended as {last.state}: {last.message}"
        return (
            f"{entry.deliveries} deliveries, and no run came of the last: is the automation "
            f"'on arrival · {entry.dataset}' enabled?"
        )

    def _carry_out(
        self,
        dataset: str,
        waiting: dict[str, list[Entry]],
        again: dict[tuple[str, int], list[Entry]],
        failed: dict[str, list[Entry]],
    ) -> None:
        now = utc_now()
        for reason, entries in waiting.items():
            self._ledger.outbox.wait_on(entries, now + self._patience.receipt, reason)
        for (reason, number), entries in again.items():
            own = of(*(entry.ref for entry in entries), dataset=dataset)
            log.warning("%d objects of %s are delivered again: %s", len(entries), dataset, reason, extra=own)
            wait = BACKOFF[max(0, min(number, len(BACKOFF)) - 1)]
            # Once, when others would be given up; what only waits for the store or a key never is.
            told = number == self._patience.deliveries
            self._ledger.outbox.redeliver(entries, reason, now + timedelta(seconds=wait), told=told)
        for reason, entries in failed.items():
            self._give_up(dataset, entries, reason)

    def _give_up(self, dataset: str, entries: list[Entry], reason: str) -> None:
        began = time.time_ns()
        if number := self._ledger.fail(entries, reason):
            own = of(*(entry.ref for entry in entries), dataset=dataset)
            log.error("%d objects of %s are given up: %s", number, dataset, reason, extra=own)
            for entry in entries:
                _trace(entry, began, {"dataset": dataset, "fate": Fate.FAILED.value})


def _trace(entry: Entry, began: int, about: dict[str, str]) -> None:
    """Its trace ends here. What a sweep of a new ledger finds settled long ago has none."""
    if tracing.is_on() and entry.fate is Fate.DISPATCHED:
        tracing.record("receipt" if "run_id" in about else about["fate"], entry.ref, began, **about)
        since = entry.updated if entry.after else entry.first_seen
        good = about["fate"] == Fate.PROCESSED
        tracing.settled(entry.ref, int(since.timestamp() * 1e9), good=good, **about)


def _why_again(last: Run | None) -> str:
    if last is None:
        return "no run came of the event"
    if last.interrupted:
        # Of several objects, the first line counts them.
        lines = last.message.splitlines()[:2] or [last.state]
        return f"{INTERRUPTED} in run {last.id}: {lines[-1]}"
    return f"run {last.id} ended as {last.state}"
