"""Is everything there, reachable and in step? What `dropflow doctor` shows: a line a check, and a remedy."""

import os
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

from dropflow.clock import utc_now
from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import (
    AlreadyExistsError,
    DropflowError,
    ObjectMissingError,
    PermanentError,
    SettingsError,
)
from dropflow.ledger import Ledger
from dropflow.objects import printable
from dropflow.prefect_api import PrefectApi, connect_prefect
from dropflow.settings import Settings
from dropflow.status import age
from dropflow.storage import ABSENT, ObjectStore, connect

State = Literal["ok", "warning", "failed", "left out"]
TESTED_PREFECT = "3.8.8"
FOLDER = "_doctor/"
"""Of the objects that are put to see whether that works; they are deleted again."""
NOTIFIED_SECONDS = 10.0
TRIES = 3
"""MinIO's queue is emptied every 3 s: a sweep can come before a notification that is on its way."""
SKEW_WARNED, SKEW_FAILED = 5.0, 60.0
"""Seconds between two clocks. S3 refuses signatures that are 15 minutes off."""
DASK_SECONDS = 5
LOW_DISK, FULL_DISK = 2**30, 2**26
SWEPT_WITHIN = timedelta(minutes=10)
SECTIONS = {"store's clock": "clock", "Prefect's clock": "clock", "messages": "channel"}
"""Of docs/runbooks.md, for checks that are not named as theirs is."""


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and where that is not well, what to do."""

    name: str
    state: State
    found: str
    to_do: str = ""

    @property
    def section(self) -> str:
        """Of docs/runbooks.md: what is checked, without which one."""
        return SECTIONS.get(self.name) or self.name.partition(" ")[0].lower()


Checks = Iterator[Finding]


def examine(settings: Settings) -> Checks:
    """Check after check. What needs something that is not there is left out."""
    datasets = yield from _datasets(settings)
    store = yield from _store(settings, datasets)
    if store and datasets:
        for bucket in datasets.raw_buckets:
            yield _readable(store, bucket)
        for bucket in datasets.output_buckets:
            yield _writable(store, bucket)
    prefect = yield from _prefect(settings)
    if prefect:
        yield _worker(settings, prefect)
        yield _in_step(settings)
    if settings.dask_scheduler:
        yield _dask(settings.dask_scheduler)
    ledger = yield from _ledger(settings)
    if ledger:
        try:
            is_listening = yield from _listener(ledger)
            if is_listening and store and datasets:
                yield _notified(ledger, store, datasets)
            yield from _channels(settings, prefect, ledger)
        except DropflowError as error:
            yield Finding("listener", "failed", str(error), "try again: all was reached a moment ago")
        finally:
            ledger.close()
    yield _disk(settings)


def _datasets(settings: Settings) -> Generator[Finding, None, Datasets | None]:
    try:
        found = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    except DropflowError as error:
        yield Finding("datasets", "failed", str(error), "mend the file; `dropflow check` reads it again")
        return None
    yield Finding("datasets", "ok", f"{', '.join(found.by_name)} in {settings.datasets_dir}")
    return found


def _store(settings: Settings, datasets: Datasets | None) -> Generator[Finding, None, ObjectStore | None]:
    try:
        store = connect(settings)
        began = datetime.now(UTC)
        clocks = [store.clock(bucket) for bucket in (datasets.buckets if datasets else ())]
    except ObjectMissingError as error:
        yield Finding("store", "failed", str(error), "make the bucket; `dropflow up` and `listen` do")
        return None
    except SettingsError as error:
        yield Finding("store", "failed", str(error))
        return None
    except DropflowError as error:
        to_do = "check DROPFLOW_S3_ENDPOINT, DROPFLOW_S3_ACCESS_KEY and DROPFLOW_S3_SECRET_KEY"
        yield Finding("store", "failed", str(error), to_do)
        return None
    ended = datetime.now(UTC)
    taken = (ended - began).total_seconds()
    yield Finding(
        "store", "ok", f"{settings.s3_endpoint} answers in {1000 * taken / max(len(clocks), 1):.0f} ms"
    )
    if clocks:
        yield _clock("store's clock", began, clocks[0], ended)
    return store


def _clock(name: str, began: datetime, theirs: datetime, ended: datetime) -> Finding:
    """An answer that took long, or was tried again, says when it was given, no earlier and no later."""
    # A Date header has whole seconds.
    off = max(0.0, (began - theirs).total_seconds() - 1, (theirs - ended).total_seconds() - 1)
    if off <= SKEW_WARNED:
        return Finding(name, "ok", "agrees with this machine's")
    state: State = "failed" if off > SKEW_FAILED else "warning"
    return Finding(
        name, state, f"is {off:,.0f} s off this machine's", "set both by NTP (timedatectl set-ntp true)"
    )


def _readable(store: ObjectStore, bucket: str) -> Finding:
    name = f"bucket {bucket}"
    try:
        first = next(store.list(bucket), None)
        if first:
            store.stat(bucket, first.key)
    except DropflowError as error:
        return Finding(name, "failed", str(error), "grant s3:ListBucket and s3:GetObject on it")
    return Finding(name, "ok", "can be listed and read" if first else "can be listed; it is empty")


def _writable(store: ObjectStore, bucket: str) -> Finding:
    """Conditional writes are what keeps two runs from making two outputs: a store may ignore them."""
    name, key = f"bucket {bucket}", f"{FOLDER}{uuid4().hex}"
    try:
        first = store.put(bucket, key, b"1", "text/plain", instead_of=ABSENT)
        try:
            _refuses(store, bucket, key, ABSENT)
            _refuses(store, bucket, key, "0" * 32)
            store.put(bucket, key, b"2", "text/plain", instead_of=first.etag)
        finally:
            store.delete(bucket, key)
    except PermanentError as error:
        to_do = (
            "grant s3:GetObject, s3:PutObject and s3:DeleteObject on it; use a store with conditional writes"
        )
        return Finding(name, "failed", str(error), to_do)
    except DropflowError as error:
        return Finding(name, "failed", str(error), "try again: the store was reached a moment ago")
    return Finding(name, "ok", "can be written and deleted; conditional writes hold")


def _refuses(store: ObjectStore, bucket: str, key: str, instead_of: str) -> None:
    try:
        store.put(bucket, key, b"3", "text/plain", instead_of=instead_of)
    except AlreadyExistsError:
        return
    header = "If-None-Match" if instead_of == ABSENT else "If-Match"
    raise PermanentError(f"s3://{bucket}/{key} was overwritten in spite of {header}")


def _prefect(settings: Settings) -> Generator[Finding, None, PrefectApi | None]:
    try:
        prefect = connect_prefect(settings)
        began = datetime.now(UTC)
        version, theirs = prefect.version()
    except SettingsError as error:
        yield Finding("Prefect", "failed", str(error))
        return None
    except DropflowError as error:
        to_do = "check DROPFLOW_PREFECT_API_URL, and that the server runs"
        yield Finding("Prefect", "failed", str(error), to_do)
        return None
    if version == TESTED_PREFECT:
        yield Finding("Prefect", "ok", f"{settings.prefect_api} is version {version}")
    else:
        to_do = f"install prefect=={TESTED_PREFECT} there: others may differ in what they promise"
        yield Finding("Prefect", "warning", f"{settings.prefect_api} is version {version}", to_do)
    yield _clock("Prefect's clock", began, theirs, datetime.now(UTC))
    return prefect


def _worker(settings: Settings, prefect: PrefectApi) -> Finding:
    name, pool = "worker", settings.work_pool
    try:
        online, is_paused = prefect.workers_online(pool)
    except DropflowError as error:
        return Finding(name, "failed", str(error), "`dropflow apply` makes the work pool")
    if is_paused:
        return Finding(name, "failed", f"the work pool {pool} is paused", "resume it in the Prefect UI")
    if not online:
        to_do = "start one with `dropflow worker`"
        return Finding(name, "failed", f"none is online in the work pool {pool}", to_do)
    return Finding(name, "ok", f"{', '.join(printable(one, 60) for one in online)} online in {pool}")


def _dask(scheduler: str) -> Finding:
    from flows.cluster import connected

    try:
        with connected(scheduler, DASK_SECONDS) as client:
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
    except SettingsError:
        return Finding("Dask", "failed", "it is not installed", "pip install dropflow[dask]")
    except DropflowError as error:
        to_do = "start it, or unset DROPFLOW_DASK_SCHEDULER; until then batches wait"
        return Finding("Dask", "failed", str(error), to_do)
    if not workers:
        to_do = "start `dask worker` where Dropflow is installed; until then batches wait"
        return Finding("Dask", "warning", f"{scheduler} has no workers", to_do)
    return Finding("Dask", "ok", f"{scheduler} has {workers} workers")


def _in_step(settings: Settings) -> Finding:
    from dropflow.apply import apply

    name = "deployments and automations"
    try:
        changes = list(apply(settings, dry_run=True))
    except DropflowError as error:
        return Finding(name, "failed", str(error), "`dropflow apply`")
    others = [f"{change.kind} {change.name}" for change in changes if change.action != "unchanged"]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        found = f"{', '.join(others[:3])}{more} differ from the files"
        return Finding(name, "failed", found, "`dropflow apply` (`--diff` shows what would change)")
    return Finding(name, "ok", f"{len(changes)} in step with the files")


def _ledger(settings: Settings) -> Generator[Finding, None, Ledger | None]:
    if settings.ledger_url is None and not (settings.data_dir / "ledger.sqlite").exists():
        found = f"there is none in {settings.data_dir}: the listener's checks are left out"
        yield Finding("ledger", "left out", found, "run `dropflow doctor` where the listener runs")
        return None
    try:
        ledger = Ledger(settings.ledger)
        sweep = ledger.watch.last_sweep()
    except DropflowError as error:
        yield Finding("ledger", "failed", str(error), "check DROPFLOW_LEDGER_URL, or the file's permissions")
        return None
    if not ledger.database.is_sqlite:
        now = datetime.now(UTC)
        yield _clock("ledger's clock", now, utc_now(), now)
    if sweep is None:
        yield Finding("ledger", "warning", "no sweep has ended yet", "wait for it: `dropflow status --watch`")
        return ledger
    ago = utc_now() - sweep.started
    found = f"{sweep.unaccounted:,} unaccounted, last sweep {age(ago)} ago"
    if sweep.unswept:
        to_do = "see the check of the bucket above; the other buckets are swept"
        yield Finding("ledger", "failed", f"not swept: {'; '.join(sweep.unswept.splitlines())}", to_do)
    elif sweep.unaccounted:
        to_do = "`dropflow audit` names them; the next sweep takes them up"
        yield Finding("ledger", "failed", found, to_do)
    elif ago > swept_within(settings.sweep_seconds, sweep.seconds):
        yield Finding("ledger", "failed", found, "the listener's log says why it does not sweep")
    else:
        yield Finding("ledger", "ok", found)
    return ledger


def swept_within(interval: float, seconds: float) -> timedelta:
    """How old a sweep may be that took so many seconds, with this interval: as DropflowSweepOld has it.

    A sweep and the pause after it take five times what one takes, or the interval. One may have failed.
    """
    return SWEPT_WITHIN + timedelta(seconds=2 * interval + 10 * seconds)


def _listener(ledger: Ledger) -> Generator[Finding, None, bool]:
    sources = ledger.watch.sources()
    live = [source.name for source in sources if source.live]
    if not live:
        yield Finding(
            "listener", "failed", "none is running, or none of its sources is live", "`dropflow listen`"
        )
        return False
    for source in sources:
        if not source.live and source.detail != "listener not running":
            to_do = "the other sources and the sweep stand in; the listener's log says more"
            yield Finding("listener", "warning", f"{source.name} is not live: {source.detail}", to_do)
    yield Finding("listener", "ok", f"live: {', '.join(sorted(set(live)))}")
    return True


def _notified(ledger: Ledger, store: ObjectStore, datasets: Datasets) -> Finding:
    """Put an object that no dataset takes, and see by which way the listener hears of it."""
    name, bucket = "notifications", datasets.raw_buckets[0]
    folder = _folder_of_none(datasets, bucket)
    if folder is None:
        return Finding(
            name, "left out", f"every object of {bucket} belongs to a dataset, and would be prepared"
        )
    try:
        for _ in range(TRIES):
            source, seconds = _first_told(ledger, store, bucket, folder)
            if source != "sweep":
                break
    except PermanentError:
        found = f"this machine may not write to {bucket}, as it should be"
        return Finding(name, "left out", found, "drop a file: `dropflow explain KEY` says who first saw it")
    except DropflowError as error:
        return Finding(name, "failed", str(error), "try again")
    if source and source != "sweep":
        return Finding(name, "ok", f"the {source} told of an object after {seconds:.1f} s")
    found = (
        "the sweep found an object of which nothing told"
        if source
        else "nothing told of an object that was put"
    )
    to_do = f"bind {bucket} to the webhook; until then files wait for the sweep"
    return Finding(name, "failed", f"{found} within {NOTIFIED_SECONDS:.0f} s", to_do)


def _folder_of_none(datasets: Datasets, bucket: str) -> str | None:
    """Where the listener looks and no dataset takes what is put."""
    # A folder of a folder: the listener's role may write `_doctor/*` and `*/_doctor/*`.
    above = (prefix if prefix.endswith("/") or not prefix else f"{prefix}/" for prefix in datasets.prefixes)
    folders = (f"{folder}{FOLDER}" for folder in above)
    return next((one for one in folders if not datasets.find(bucket, f"{one}x")[0]), None)


def _first_told(ledger: Ledger, store: ObjectStore, bucket: str, folder: str) -> tuple[str, float]:
    """Who first told of an object that is put now, and after how many seconds; "" when nobody did."""
    key = f"{folder}{uuid4().hex}"
    store.put(bucket, key, b"dropflow doctor", "text/plain")
    began = time.monotonic()
    try:
        return _first_source(ledger, bucket, key), time.monotonic() - began
    finally:
        store.delete(bucket, key)


def _first_source(ledger: Ledger, bucket: str, key: str) -> str:
    deadline = time.monotonic() + NOTIFIED_SECONDS
    while time.monotonic() < deadline:
        if found := ledger.find(bucket, key):
            return found[0].source
        time.sleep(0.1)
    return ""


def _channels(settings: Settings, prefect: PrefectApi | None, ledger: Ledger) -> Checks:
    channels = ledger.notices.channels()
    if not channels and not (settings.notify_urls or (prefect and prefect.channel_urls())):
        to_do = "set DROPFLOW_NOTIFY_URLS, for example to slack://… or mailto://…"
        yield Finding("messages", "warning", "nobody is told of anything", to_do)
    for channel in channels:
        name = f"channel {channel.channel}"
        to_do = "`dropflow notify test` sends a message to every channel"
        if channel.waiting and channel.error:
            yield Finding(name, "failed", f"{channel.waiting:,} messages wait: {channel.error}", to_do)
        elif channel.given_up:
            yield Finding(name, "warning", f"{channel.given_up:,} messages were given up", to_do)
        else:
            told = f"told {age(utc_now() - channel.sent)} ago" if channel.sent else "nothing to tell yet"
            yield Finding(name, "ok", told)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("disk", "failed", f"{folder} cannot be written to", "set DROPFLOW_DATA_DIR")
    found = f"{free / 2**30:,.1f} GiB free at {folder}"
    if free > LOW_DISK:
        return Finding("disk", "ok", found)
    return Finding("disk", "failed" if free < FULL_DISK else "warning", found, "make room")
