"""What the processes do that tests/test_crash_points.py starts and kills."""

import asyncio
import os
import signal
from datetime import timedelta

from dropflow import crashpoints
from dropflow.crashpoints import Point
from dropflow.declarations import load_datasets
from dropflow.ledger import Ledger, outbox
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.prefect_api import connect_prefect
from dropflow.settings import Settings
from dropflow.storage import connect
from listeners import dispatcher as dispatching
from listeners import settler as settling
from listeners.dispatcher import Dispatcher
from listeners.intake import Intake
from listeners.settler import Patience, Settler
from listeners.sweep import Sweep


def die_at(point: Point | None) -> None:
    def observe(reached: Point) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    crashpoints.observe(observe)


def listen(settings: Settings, told: list[ObjectRef], point: Point | None) -> None:
    """One round of a listener: what was told, a sweep, a look, events."""
    die_at(point)
    outbox.LISTENER_LOST_AFTER = settling.LOOK_AGAIN = settling.LOOK_AGAIN_EACH = timedelta(0)
    dispatching.FIRST_LOOK = dispatching.PER_OBJECT = 0
    settling.BACKOFF = (0,)
    ledger, datasets, store = Ledger(settings.ledger), load_datasets(settings.datasets_dir), connect(settings)
    prefect = connect_prefect(settings)
    name = f"listener {os.getpid()}"
    asyncio.run(Intake(ledger, datasets).record(ObjectCreated(ref, "webhook") for ref in told))
    patience = Patience(receipt=timedelta(0), run=timedelta(0), deliveries=100)
    settler = Settler(ledger, datasets, store, prefect, patience=patience)
    Sweep(ledger, datasets, store, settler, listener=name, orphan_seconds=0).once()
    settler.look()
    Dispatcher(ledger, datasets, store, prefect, listener=name, receipt_seconds=0).dispatch()
    settler.close()


def work(settings: Settings, keys: list[str], point: Point | None) -> None:
    """One run."""
    from flows.preparation import Preparation

    die_at(point)
    churn = load_datasets(settings.datasets_dir)["churn"]
    preparation = Preparation(connect(settings), churn, f"run {os.getpid()}", orphan_seconds=-1)
    for key in keys:
        preparation.prepare(key)
