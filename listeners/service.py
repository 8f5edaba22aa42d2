"""The listener process: wires sources, ledger and dispatcher together and runs them."""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from dropflow.datasets import load_datasets
from dropflow.errors import SettingsError
from dropflow.ledger import Fate, Ledger
from dropflow.prefect_api import connect_prefect
from dropflow.settings import Settings
from dropflow.storage import connect
from listeners.dispatcher import Dispatcher
from listeners.intake import Intake
from listeners.stream import Stream
from listeners.sweep import Sweep
from listeners.webhook import make_app

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT. Raises SettingsError or DatasetError when it cannot start."""
    datasets = load_datasets(settings.datasets_dir)
    store = connect(settings)
    prefect = connect_prefect(settings.prefect_api)
    for bucket in datasets.buckets:
        store.ensure_bucket(bucket)
    ledger = Ledger(settings.ledger_url)
    # Datasets and permissions may have changed since: what did not end well is looked at again.
    ledger.reopen(Fate.IGNORED, Fate.FAILED, Fate.REJECTED)
    intake = Intake(ledger, datasets)
    sweep = Sweep(store, datasets.raw_buckets, intake, settings.sweep_seconds)
    dispatcher = Dispatcher(ledger, datasets, store, prefect, intake)
    loops: list[Coroutine[Any, Any, None]] = [dispatcher.run(), sweep.run()]
    if settings.listen_stream:
        loops += [Stream(settings, b, intake, sweep.ask).run() for b in datasets.raw_buckets]
    if settings.webhook_port:
        loops.append(_serve_webhook(settings, intake))
    tasks = [asyncio.create_task(loop) for loop in loops]
    stopped = asyncio.create_task(_until_stopped())
    done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    ledger.close()
    for task in done & set(tasks):
        # A loop that ends by itself is a defect: let the supervisor see it and start us again.
        task.result()
        raise RuntimeError(f"the listener's {task.get_coro()} ended")


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the service."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_webhook(settings: Settings, intake: Intake) -> None:
    assert settings.webhook_port
    if settings.webhook_token is None:
        raise SettingsError("DROPFLOW_WEBHOOK_PORT needs a DROPFLOW_WEBHOOK_TOKEN of 16 characters or more")
    config = uvicorn.Config(
        make_app(intake, settings.webhook_token),
        host=settings.webhook_host,
        port=settings.webhook_port,
        log_level="warning",
        lifespan="off",
        timeout_keep_alive=30,
    )
    await _Server(config).serve()
