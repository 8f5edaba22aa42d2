"""The listener process: wires sources, ledger, dispatcher and settler together and runs them."""

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import uvicorn

from dropflow import tracing
from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import DropflowError, LedgerError, PermanentError, SettingsError, explained
from dropflow.ledger import Ledger
from dropflow.objects import ObjectRef
from dropflow.prefect_api import connect_prefect, object_created_event
from dropflow.receipts import PREFIX
from dropflow.rotation import TakenUp
from dropflow.settings import Settings
from dropflow.storage import connect
from dropflow.unforeseen import contained
from listeners.canary import make_canary
from listeners.declared import Declared
from listeners.dispatcher import GATHER, Dispatcher
from listeners.expectations import Expectations
from listeners.http import server_config
from listeners.intake import Intake
from listeners.metrics import Metrics
from listeners.notifier import Notifier
from listeners.page import Page, make_page
from listeners.settler import BATCH, Patience, Settler
from listeners.stream import Stream
from listeners.sweep import StoppedError, Sweep
from listeners.webhook import make_app

log = logging.getLogger(__name__)

TICK = 1.0
PAUSE = 0.2
"""Seconds between two rounds of the same work: in a flood each round does more, and costs as much."""
THREADS = 16
HEARTBEAT = 5.0
LEDGER_SILENT = 3 * HEARTBEAT
"""Seconds without a heartbeat in the ledger after which a listener is not ready."""
LONGEST_WAIT = 30.0
LONGEST_STOP = 9.0
"""Seconds from SIGTERM to the end; whatever hangs by then is cut off, which loses nothing."""
FOLLOW_SECONDS = 2.0
"""Between two looks at the datasets folder, and at the files with secrets."""
CLOCK_OFF = 60.0
"""Seconds that are told of."""
SWEEP_SHARE = 5
"""A sweep may take one part in so many of the time."""


async def serve(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT. Raises SettingsError or DatasetError when it cannot start."""
    # asyncio's own pool has one thread a core and four: a store that hangs would take them all.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "listener"))
    stopped = asyncio.create_task(_until_stopped())
    datasets: Datasets | None = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    # What is there now stays: Python's collector took 0.1 s to go through it, once or twice in every sweep.
    gc.freeze()
    while datasets:
        datasets = await Listener(settings, datasets).run(stopped)


class Listener:
    """Everything of one listener process, as long as its datasets and secrets stay what they are."""

    def __init__(self, settings: Settings, datasets: Datasets) -> None:
        self._settings = settings
        self._id = uuid4().hex
        self._name = f"{socket.gethostname()} {os.getpid()}"
        self._datasets = datasets
        self._store = connect(settings)
        self._prefect = connect_prefect(settings)
        self._ledger = Ledger(settings.ledger)
        self._metrics = Metrics(self._ledger, sweep_seconds=settings.sweep_seconds)
        self._intake = Intake(self._ledger, self._datasets)
        self._dispatcher = Dispatcher(
            self._ledger,
            self._datasets,
            self._store,
            self._prefect,
            listener=self._id,
            runs_per_dataset=settings.runs_per_dataset,
            receipt_seconds=settings.receipt_seconds,
            gather=GATHER._replace(machines=settings.worker_machines),
        )
        self._dispatcher.posted = self._metrics.posted
        self._settler = Settler(
            self._ledger,
            self._datasets,
            self._store,
            self._prefect,
            patience=Patience(
                receipt=timedelta(seconds=settings.receipt_seconds),
                run=timedelta(minutes=settings.run_minutes),
                deliveries=settings.deliveries,
            ),
            settled=self._metrics.settled,
        )
        self._sweep = Sweep(
            self._ledger,
            self._datasets,
            self._store,
            self._settler,
            listener=self._id,
            orphan_seconds=settings.orphan_seconds,
            arrived=self._wake,
            orphan_found=self._clean_up,
        )
        self._canary = make_canary(settings, self._datasets, self._store, self._ledger, listener=self._id)
        self._notifier = Notifier(
            self._ledger,
            self._datasets,
            self._store,
            lambda: settings.notify_urls or self._prefect.channel_urls(),
            holder=self._id,
            run_url=settings.run_url,
            again=lambda dataset: settings.prefect_ui + self._prefect.run_form(dataset),
            runbooks=settings.runbooks_url,
        )
        self._declared = Declared(settings.datasets_dir, self._datasets, self._prefect)
        # The store's keys and the channels' URLs are read whenever they are used.
        self._secrets = TakenUp(settings, "prefect_auth", "ledger_url", "webhook_token", "page_token")
        self._expectations = Expectations(self._ledger, self._datasets, self._store, self._prefect)
        self._sweep_asked = asyncio.Event()
        self._swept = False
        self._unswept = ""
        self._clock_told = False
        self._beaten = time.monotonic()

    async def run(self, stopped: asyncio.Task[None]) -> Datasets | None:
        """Until `stopped` is done: None; or until another listener has to go on, with these datasets.

        Raises what a loop raises.
        """
        self._loop = asyncio.get_running_loop()
        outdated = asyncio.create_task(self._outdated())
        tasks = [asyncio.create_task(loop) for loop in self._loops()]
        try:
            done, _ = await asyncio.wait({stopped, outdated, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            cut_off = _cut_off_after(LONGEST_STOP)
            self._sweep.close()
            for task in (outdated, *tasks):
                task.cancel()
            await asyncio.gather(outdated, *tasks, return_exceptions=True)
            for task in done & set(tasks):
                # A loop that ends by itself is a defect: let the supervisor see it and start us again.
                task.result()
                raise RuntimeError(f"the listener's {task.get_coro()} ended")
            await asyncio.to_thread(self._ledger.watch.leave, self._id)
        finally:
            self._close()
        if stopped.done():
            return None  # threads that hang would keep the process from its end: the cut-off stays
        cut_off.cancel()
        return outdated.result()

    async def _outdated(self) -> Datasets:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            if replaced := await asyncio.to_thread(self._secrets.replaced):
                log.info("%s: replaced, and taken up", ", ".join(replaced))
                return self._datasets
            try:
                with contained("datasets"):
                    found = await asyncio.to_thread(self._declared.others)
                if found:
                    log.info("other datasets are declared: taking them up")
                    return found
            except DropflowError as error:
                log.warning("whether new datasets have been applied: %s", error)

    def _close(self) -> None:
        self._sweep.close()
        self._settler.close()
        self._notifier.close()
        self._ledger.close()
        tracing.flush()

    def _loops(self) -> Iterator[Any]:
        yield self._beat()
        yield _for_ever("dispatching", self._dispatch)
        yield _for_ever("reading receipts", self._read_receipts)
        yield _for_ever("looking after objects", self._look)
        yield _for_ever("making messages", self._notify)
        yield _for_ever("files that are expected", self._expect)
        yield self._sweep_for_ever()
        if self._settings.listen_stream:
            for bucket in self._datasets.raw_buckets:
                for prefix in self._datasets.prefixes:
                    yield self._stream(bucket, prefix)
            for bucket in self._datasets.output_buckets:
                yield self._stream(bucket, PREFIX)
        if self._settings.webhook_port:
            yield self._serve_http()
        if self._canary:
            yield self._canary.run()

    async def _beat(self) -> None:
        prepared = False
        while True:
            if self._ledger.gone:
                raise LedgerError("the ledger was deleted or replaced: starting anew, the sweep rebuilds it")
            try:
                with contained("heartbeat"):
                    await asyncio.to_thread(self._ledger.watch.beat, self._id, self._name)
                    self._beaten = time.monotonic()
                    if not prepared:
                        # Datasets may have changed while we were not there.
                        await asyncio.to_thread(self._ledger.rematch)
                        await asyncio.to_thread(self._ledger.orphaned, list(self._datasets.by_name))
                        prepared = True
                        self._intake.arrived.set()
            except DropflowError as error:
                log.warning("heartbeat: %s", error)
            await asyncio.sleep(HEARTBEAT)

    async def _dispatch(self) -> None:
        await _set_or_after(self._intake.arrived, PAUSE if self._dispatcher.gathers else TICK)
        self._intake.arrived.clear()
        if await asyncio.to_thread(self._dispatcher.dispatch) or self._dispatcher.gathers:
            await asyncio.sleep(PAUSE)

    async def _read_receipts(self) -> None:
        await _set_or_after(self._intake.told, TICK)
        self._intake.told.clear()
        told = self._intake.receipts
        while told:
            some = [told.popleft() for _ in range(min(BATCH, len(told)))]
            if await asyncio.to_thread(self._settler.read, some):
                # A run may have ended: what has gathered can leave.
                self._intake.arrived.set()
            await asyncio.sleep(PAUSE)

    async def _look(self) -> None:
        while await asyncio.to_thread(self._settler.look) >= BATCH:
            self._intake.arrived.set()
        await asyncio.sleep(TICK)

    async def _notify(self) -> None:
        waiting = await asyncio.to_thread(self._notifier.compose)
        await asyncio.to_thread(self._notifier.deliver)
        # In a flood, looking must not take the ledger's time.
        await asyncio.sleep(TICK * (1 + waiting / 1000))

    async def _expect(self) -> None:
        await asyncio.to_thread(self._expectations.look)
        await asyncio.sleep(HEARTBEAT)

    async def _sweep_for_ever(self) -> None:
        to_make = set(self._datasets.buckets)
        while True:
            self._sweep_asked.clear()
            wait = self._settings.sweep_seconds
            try:
                with contained("the sweep"):
                    await asyncio.to_thread(self._make_buckets, to_make)
                    report = await asyncio.to_thread(self._sweep.once)
                    self._swept = True
                    if report:
                        self._tell_unswept(report.unswept)
                        wait = max(wait, (SWEEP_SHARE - 1) * report.seconds)
                    await asyncio.to_thread(self._dispatcher.release_marked)
                    await asyncio.to_thread(self._check_clock)
            except StoppedError:
                return await asyncio.Event().wait()  # type: ignore[return-value] # until we are cancelled
            except DropflowError as error:
                log.warning("sweep: %s; the next one is in %.0f s", error, wait)
            await _set_or_after(self._sweep_asked, wait)

    def _make_buckets(self, to_make: set[str]) -> None:
        """Make those that are not there, and take them from the set. The sweep tells of the others."""
        for bucket in sorted(to_make):
            with suppress(DropflowError), contained(f"bucket {bucket}"):
                self._store.ensure_bucket(bucket)
                to_make.remove(bucket)

    def _tell_unswept(self, unswept: str) -> None:
        """Once, not in every sweep."""
        if unswept != self._unswept:
            for line in unswept.splitlines():
                log.warning("not swept: %s", line)
        self._unswept = unswept

    def _check_clock(self) -> None:
        """Say once that the store's clock and ours differ: it dates files, we expect and look after them."""
        clocks = map(self._clock, self._datasets.raw_buckets)
        if (clock := next(filter(None, clocks), None)) is None:
            return
        off = (clock - datetime.now(UTC)).total_seconds()
        if abs(off) > CLOCK_OFF and not self._clock_told:
            log.warning("this machine's clock is %.0f s off the store's: set both by NTP", abs(off))
        self._clock_told = abs(off) > CLOCK_OFF

    def _clock(self, bucket: str) -> datetime | None:
        """The store's time, by a bucket that it lets us look at."""
        try:
            return self._store.clock(bucket)
        except PermanentError:
            return None

    def _stream(self, bucket: str, prefix: str) -> Any:
        name = f"stream {bucket}" + (f"/{prefix}" if prefix else "")

        async def report(live: bool, why: str) -> None:
            await self._report(name, live, why)
            if live and prefix != PREFIX:
                self._metrics.reconnects.labels(bucket).inc()
                # What happened while nobody listened was never announced.
                self._sweep_asked.set()

        return Stream(self._settings, bucket, self._intake, report=report, prefix=prefix).run()

    async def _report(self, name: str, live: bool, why: str = "") -> None:
        try:
            await asyncio.to_thread(self._ledger.watch.report, self._id, name, live, why)
        except DropflowError as error:
            log.warning("%s: %s", name, error)

    async def _serve_http(self) -> None:
        port = self._settings.webhook_port
        assert port
        if self._settings.webhook_token is None:
            raise SettingsError(
                "DROPFLOW_WEBHOOK_PORT needs a DROPFLOW_WEBHOOK_TOKEN of 16 characters or more"
            )
        app = make_app(self._intake, self._settings.webhook_token, self._metrics, self._why_not_ready)
        page = Page(self._settings, self._datasets, self._ledger, self._store, self._prefect, self._intake)
        server = _Server(server_config(make_page(page, others=app), self._settings.webhook_host, port))
        await self._report("webhook", live=True)
        try:
            await server.serve()
        finally:
            if server.started:
                # Cancelled, it would keep the port from whoever comes next.
                await server.shutdown()

    def _why_not_ready(self) -> str:
        silent = time.monotonic() - self._beaten
        if silent > LEDGER_SILENT:
            return f"the ledger has taken no heartbeat for {silent:.0f} s"
        return "" if self._swept else "the first sweep has not ended yet"

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._intake.arrived.set)

    def _clean_up(self, dataset: Dataset, ref: ObjectRef) -> None:
        """A run for the key finds its orphan, and removes it."""
        if dataset.name in self._dispatcher.paused:
            return  # the sweep after the pause finds it again
        try:
            self._prefect.post_events([object_created_event(dataset.name, [ref])])
        except DropflowError as error:
            log.warning("%s; the next sweep finds the orphan again", error)


async def _for_ever(name: str, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await _patiently(name, step)


async def _patiently(name: str, step: Callable[[], Awaitable[None]]) -> None:
    """Do it once, trying as often as it takes; after each error wait longer."""
    wait = TICK
    while True:
        try:
            with contained(name):
                return await step()
        except DropflowError as error:
            log.warning("%s: %s; going on in %.0f s", name, error, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def _set_or_after(event: asyncio.Event, seconds: float) -> None:
    # Not wait_for, which in Python 3.11 loses a cancellation that comes together with the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


def _cut_off_after(seconds: float) -> threading.Timer:
    def cut_off() -> None:
        log.warning("not stopped after %.0f s: ending at once", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    return timer


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the service, and the end of the process."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises SettingsError where uvicorn, which has logged why, would end the process."""
        try:
            await super().startup(sockets)
        except SystemExit as error:
            place = f"DROPFLOW_WEBHOOK_PORT: {self.config.host} port {self.config.port}"
            why = error.__context__
            raise SettingsError(f"{place}: {explained(why) if isinstance(why, OSError) else why}") from error

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
