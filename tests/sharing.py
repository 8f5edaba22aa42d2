"""What the processes do that tests/test_preparers.py starts."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd

from dropflow import tracing
from dropflow.declarations import load_datasets
from dropflow.settings import PROJECT, Settings
from dropflow.storage import connect
from flows.preparation import Work
from flows.preparers import Preparers

LETHAL = 777_777.0


def with_processes(frame: pd.DataFrame) -> pd.DataFrame:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(pd.DataFrame.copy, frame).result()


def prepare(frame: pd.DataFrame) -> pd.DataFrame:
    """A dataset's own function, which one value kills."""
    if (frame["EstimatedSalary"] == LETHAL).any():
        os.kill(os.getpid(), signal.SIGSEGV)
    return frame


def shared(settings: Settings, number: int, work: Work, keys: list[str], answers: Any) -> None:
    """In a process of its own, which is forked while it has no threads."""
    assert settings.s3_endpoint
    assert settings.s3_access_key
    assert settings.s3_secret_key
    os.environ["DROPFLOW_S3_ENDPOINT"] = settings.s3_endpoint
    os.environ["DROPFLOW_S3_ACCESS_KEY"] = settings.s3_access_key.get_secret_value()
    os.environ["DROPFLOW_S3_SECRET_KEY"] = settings.s3_secret_key.get_secret_value()
    mine = Preparers(number)
    reference = work.preparation(connect(settings)).reference
    answers.send(list(mine.prepare(work, keys, one_teaches=not reference.is_settled())))
    mine.end()


def traced(environment: dict[str, str], settings: Settings, number: int, keys: list[str]) -> None:
    """As a run does: in a forked process, whose preparers are forked from it."""
    os.environ.update(environment)
    churn = load_datasets(PROJECT / "datasets")["churn"]
    *others, last = keys
    try:
        ours, theirs = multiprocessing.Pipe()
        shared(settings, number, Work(churn, "run"), others, theirs)
        assert len(ours.recv()) == len(others)
        Work(churn, "run").preparation(connect(settings)).prepare(last)
    finally:
        tracing.flush()
