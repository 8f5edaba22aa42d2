"""Bursts: many files at once through the stack, and through a bare script of two processes in turns.

    python benchmarks/burst.py                       # 200 files of 10,000 rows, five times each
    python benchmarks/burst.py --files 2000 --rows 100

From the first PUT until all outputs are there (for the stack: all receipts). While one works the other is
stopped. CPU is that of every process, the store's included. Prints medians and their ratio.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from dropflow.apply import apply
from dropflow.embedded.stack import Stack
from dropflow.logs import log_to_stderr
from dropflow.receipts import PREFIX
from dropflow.samples import churn_csv
from dropflow.settings import Settings, load_settings
from dropflow.storage import ObjectStore, connect

PUTTING, DIFFERENT = 8, 20
POLL = 0.2
SETTLE = 5
"""Seconds before each burst, for what the last one has left to do."""
out = Console(highlight=False)


@dataclass(frozen=True)
class Burst:
    """How one burst went. `cpu`: seconds of all processes."""

    files: int
    seconds: float
    cpu: float

    @property
    def per_minute(self) -> float:
        return 60 * self.files / self.seconds

    @property
    def cpu_per_file(self) -> float:
        return self.cpu / self.files


def cpu(processes: Iterable[psutil.Process]) -> float:
    """Seconds that these have used, those of their children that have ended included."""
    used = 0.0
    for process in processes:
        try:
            used += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return used


def tree() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def burst(
    store: ObjectStore, bucket: str, prefix: str, files: int, contents: list[bytes], done: Callable[[], int]
) -> Burst:
    """Put so many files whose keys begin like that, wait until all are done."""
    time.sleep(SETTLE)
    before, began = cpu(tree()), time.monotonic()
    with ThreadPoolExecutor(PUTTING) as pool:
        puts = (
            pool.submit(store.put, bucket, f"{prefix}{file}.csv", contents[file % len(contents)], "text/csv")
            for file in range(files)
        )
        for put in list(puts):
            put.result()
    while done() < files:
        time.sleep(POLL)
    return Burst(files, time.monotonic() - began, cpu(tree()) - before)


def through_bare(
    settings: Settings, store: ObjectStore, number: int, files: int, contents: list[bytes]
) -> Burst:
    """In buckets of its own: the script lists all that is there, again and again."""
    source, target = (f"bare-{what}-{number + 1}" for what in ("raw", "processed"))
    for bucket in (source, target):
        store.ensure_bucket(bucket)
    key, secret = settings.s3_access_key, settings.s3_secret_key
    assert key
    assert secret
    assert settings.s3_endpoint
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": key.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value(),
    }
    script = Path(__file__).with_name("bare.py")
    arguments = [sys.executable, str(script), settings.s3_endpoint, source, target]
    process = subprocess.Popen(arguments, env=environment)

    try:
        return burst(store, source, "churn/", files, contents, lambda: number_of(store, target, "churn/"))
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
        process.wait()


def through_stack(store: ObjectStore, prefix: str, files: int, contents: list[bytes]) -> Burst:
    def done() -> int:
        # Listing outputs costs the store little; receipts, each in a folder of its own, cost it much.
        if number_of(store, "processed", prefix) < files:
            return 0
        return number_of(store, "processed", f"{PREFIX}churn/{prefix}")

    return burst(store, "raw", prefix, files, contents, done)


def number_of(store: ObjectStore, bucket: str, prefix: str) -> int:
    """Objects of this burst alone: what earlier ones have left is not listed again and again."""
    return sum(1 for _ in store.list(bucket, prefix))


def all_but_the_store(stack: Stack) -> list[psutil.Process]:
    found = [psutil.Process(one.pid) for name, one in stack.supervisor.processes.items() if name != "store"]
    return [each for one in found for each in (one, *one.children(recursive=True))]


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for one in processes:
        # A run's may just have ended.
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def show(stack: list[Burst], bare: list[Burst]) -> None:
    table = Table("median", "files a minute", "CPU seconds a file")
    rates, costs = [], []
    for name, bursts in (("stack", stack), ("bare script", bare)):
        rates.append(statistics.median(one.per_minute for one in bursts))
        costs.append(statistics.median(one.cpu_per_file for one in bursts))
        table.add_row(name, f"{rates[-1]:.0f}", f"{costs[-1]:.3f}")
    table.add_row("ratio", f"{rates[0] / rates[1]:.2f}", f"{costs[0] / costs[1]:.2f}")
    out.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    log_to_stderr("ERROR")
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-burst-"))
    contents = [churn_csv(rows=options.rows, seed=seed) for seed in range(DIFFERENT)]
    stacks, bares = [], []
    with Stack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        stack.listen()
        store = connect(stack.settings)
        for number in range(-1, options.rounds):
            files = options.files if number >= 0 else DIFFERENT
            prefix = f"churn/{number}-"
            stacks.append(through_stack(store, prefix, files, contents))
            time.sleep(SETTLE)
            stopped = all_but_the_store(stack)
            signal_all(stopped, signal.SIGSTOP)
            bares.append(through_bare(stack.settings, store, number, files, contents))
            signal_all(stopped, signal.SIGCONT)
            for name, one_burst in (("stack", stacks[-1]), ("bare", bares[-1])):
                out.print(f"{name}: {one_burst.per_minute:.0f} files/min, {one_burst.cpu_per_file:.3f} CPU s")
        out.print(f"{options.files} files of {options.rows:,} rows, load {os.getloadavg()[0]:.1f}")
        show(stacks[1:], bares[1:])
    shutil.rmtree(data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
