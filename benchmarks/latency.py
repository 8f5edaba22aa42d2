"""Latency: a quiet stack, one file of 10,000 rows at a time; from the PUT's return to the receipt.

    python benchmarks/latency.py

Each drop is followed by the same preparation in this process, without listener, Prefect and worker: the ratio
is what those cost. Prints medians and 95th percentiles, and what the stack takes while nothing happens.
"""

import argparse
import logging
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from dropflow.apply import apply
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.embedded.stack import Stack
from dropflow.logs import log_to_stderr
from dropflow.receipts import read_receipt
from dropflow.samples import churn_csv
from dropflow.settings import load_settings
from dropflow.storage import ObjectStore, connect
from flows.preparation import Preparation

POLL = 0.02
GAP = (1.5, 3.5)
"""Seconds between two drops: more than any interval at which something polls."""
WARM_UP = 2
IDLE_SECONDS, MOST_SHOWN = 30, 8
out = Console(highlight=False)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def through_the_stack(store: ObjectStore, dataset: Dataset, key: str, content: bytes) -> float:
    ref = store.put(dataset.bucket, key, content, "text/csv")

    def wait() -> None:
        while read_receipt(store, dataset, ref) is None:
            time.sleep(POLL)

    return timed(wait)


def in_process(store: ObjectStore, dataset: Dataset, key: str) -> float:
    """The same object once more, without Prefect."""
    preparation = Preparation(store, dataset, "", force=True, log=logging.getLogger("bare"))
    return timed(lambda: preparation.prepare(key))


def show(measured: dict[str, list[float]]) -> None:
    table = Table("seconds", "median", "95 %", "least", "most")
    for name, seconds in measured.items():
        ordered = sorted(seconds)
        percentile = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        figures = (statistics.median(ordered), percentile, ordered[0], ordered[-1])
        table.add_row(name, *(f"{one:.2f}" for one in figures))
    out.print(table)
    stack, bare = (statistics.median(seconds) for seconds in measured.values())
    out.print(f"ratio of medians: {stack / bare:.1f}")


def show_idle() -> None:
    """CPU and memory (PSS: shared pages counted once) of all processes but this one."""
    processes = psutil.Process().children(recursive=True)
    before = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    began = time.monotonic()
    time.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - began
    table = Table("process", "CPU, % of a core", "PSS, MiB")
    rows = []
    for process in processes:
        try:
            used = 100 * (sum(process.cpu_times()[:2]) - before[process.pid]) / seconds
            rows.append((used, process.memory_full_info().pss / 2**20, " ".join(process.cmdline()[:6])))
        except psutil.Error:
            continue
    for used, pss, command in sorted(rows, reverse=True)[:MOST_SHOWN]:
        table.add_row(command[-40:], f"{used:.1f}", f"{pss:.0f}")
    table.add_row("all", f"{sum(row[0] for row in rows):.1f}", f"{sum(row[1] for row in rows):.0f}")
    out.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    options = parser.parse_args()
    log_to_stderr("ERROR")
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-latency-"))
    draw = random.Random(1)
    with Stack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        stack.listen()
        store, churn = connect(stack.settings), load_datasets(stack.settings.datasets_dir)["churn"]
        measured: dict[str, list[float]] = {"drop to receipt": [], "in process": []}
        for number in range(WARM_UP + options.files):
            time.sleep(draw.uniform(*GAP))
            key = f"churn/{number}.csv"
            measured["drop to receipt"].append(
                through_the_stack(store, churn, key, churn_csv(rows=10_000, seed=number))
            )
            measured["in process"].append(in_process(store, churn, key))
        out.print(f"{options.files} files, load {os.getloadavg()[0]:.1f}")
        show({name: seconds[WARM_UP:] for name, seconds in measured.items()})
        show_idle()
    shutil.rmtree(data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
