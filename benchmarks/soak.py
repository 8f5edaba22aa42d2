"""Soak: an hour of files at half of the rate the stack can bear, and whether anything grows meanwhile.

    python benchmarks/soak.py                          # an hour, after three bursts that find the rate
    python benchmarks/soak.py --minutes 10 --rate 120  # files a minute, without these

Files of 10,000 rows come at random moments, so many a minute in the mean. Every half minute memory (PSS) and
file descriptors of each part are read. A line for every twelfth of the hour shows the time from the PUT's
return to the recorded fate, beside the same preparation in this process: what the machine takes for it just
then. At the end the last quarter is compared with the second, the buckets with the ledger.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from burst import DIFFERENT, through_stack
from latency import in_process, out
from rich.table import Table

from dropflow.apply import apply
from dropflow.audit import audit
from dropflow.declarations import load_datasets
from dropflow.embedded.stack import Stack
from dropflow.ledger import SETTLED, Ledger
from dropflow.logs import log_to_stderr
from dropflow.samples import churn_csv
from dropflow.settings import load_settings
from dropflow.storage import ObjectStore, connect

ROWS = 10_000
WINDOWS, SAMPLE_SECONDS, BARE_TIMES = 12, 30, 3
BURST_FILES, BURSTS = 200, 3
REST_SECONDS = 300
PUTTING = 8
BARE_KEY = "churn/in-process.csv"
PSS, FILES = "MiB PSS", "file descriptors"


@dataclass
class Window:
    """A twelfth of the time: seconds from PUT to fate by file, and the samples of each part of the stack."""

    latencies: list[float] = field(default_factory=list)
    bare: float = 0.0
    samples: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def ratio(self) -> float:
        return statistics.median(self.latencies) / self.bare

    def of_all(self, what: str) -> float:
        return sum(statistics.median(found) for (_, kind), found in self.samples.items() if kind == what)

    @property
    def line(self) -> str:
        ordered = sorted(self.latencies)
        percentile = ordered[len(ordered) * 95 // 100]
        return (
            f"PUT to fate {statistics.median(ordered):.2f} s, 95 % {percentile:.2f} s, "
            f"in process {self.bare:.2f} s; {self.of_all(PSS):,.0f} {PSS}, {self.of_all(FILES):.0f} {FILES}"
        )


class Drops:
    """Puts files at random moments, `rate` a minute in the mean, and knows which have no fate yet."""

    def __init__(self, store: ObjectStore, ledger: Ledger, rate: float) -> None:
        self.number = 0
        self._store, self._ledger = store, ledger
        self._gap = 60 / rate
        self._draw = random.Random(1)
        self._contents = [churn_csv(rows=ROWS, seed=seed) for seed in range(DIFFERENT)]
        self._waiting: dict[str, datetime] = {}

    def until(self, end: float) -> None:
        """Raises what a PUT has raised."""
        puts: list[Future[None]] = []
        moment = time.monotonic()
        with ThreadPoolExecutor(PUTTING) as pool:
            while (moment := moment + self._draw.expovariate(1 / self._gap)) < end:
                time.sleep(max(0.0, moment - time.monotonic()))
                puts.append(pool.submit(self._drop, self.number))
                self.number += 1
        for put in puts:
            put.result()

    def _drop(self, number: int) -> None:
        key = f"churn/soak/{number:06}.csv"
        self._store.put("raw", key, self._contents[number % DIFFERENT], "text/csv")
        self._waiting[key] = datetime.now(UTC)

    def settled(self) -> list[float]:
        """Seconds from PUT to fate, of each file that has got one since the last call."""
        entries = self._ledger.lookup("raw", list(self._waiting)).values()
        done = [(entry.ref.key, entry.updated) for entry in entries if entry.fate in SETTLED]
        return [(moment - self._waiting.pop(key)).total_seconds() for key, moment in done]

    def rest(self) -> int:
        """How many have no fate even after some minutes."""
        end = time.monotonic() + REST_SECONDS
        while self._waiting and time.monotonic() < end:
            time.sleep(1)
            self.settled()
        return len(self._waiting)


def soak(stack: Stack, drops: Drops, minutes: float, bare: Callable[[], float]) -> list[Window]:
    windows = []
    began = time.monotonic()
    for number in range(WINDOWS):
        window = Window()
        end = began + 60 * minutes * (number + 1) / WINDOWS
        while time.monotonic() < end:
            drops.until(min(end, time.monotonic() + SAMPLE_SECONDS))
            window.latencies += drops.settled()
            sample(stack, window)
        window.bare = statistics.median(bare() for _ in range(BARE_TIMES))
        windows.append(window)
        out.print(f"{minutes * (number + 1) / WINDOWS:5.1f} min, {drops.number:6,} files: {window.line}")
    return windows


def sample(stack: Stack, window: Window) -> None:
    for name, process in stack.supervisor.processes.items():
        leader = psutil.Process(process.pid)
        group = [leader, *leader.children(recursive=True)]
        pss = sum(_measured(group, lambda one: one.memory_full_info().pss / 2**20))
        window.samples[name, PSS].append(pss)
        window.samples[name, FILES].append(sum(_measured(group, lambda one: one.num_fds())))


def _measured(processes: list[psutil.Process], measure: Callable[[psutil.Process], float]) -> Iterator[float]:
    for process in processes:
        try:
            yield measure(process)
        except psutil.Error:
            continue  # a run that has just ended


def show(windows: list[Window]) -> None:
    """The last quarter beside the second one."""
    quarter = len(windows) // 4
    early, late = windows[quarter : 2 * quarter], windows[-quarter:]
    table = Table("median", "second quarter", "last quarter", "ratio")

    def row(name: str, measure: Callable[[Window], list[float]], form: str) -> None:
        first, last = (statistics.median(x for one in some for x in measure(one)) for some in (early, late))
        table.add_row(name, format(first, form), format(last, form), f"{last / first:.2f}")

    row("seconds from PUT to fate", lambda one: one.latencies, ".2f")
    row("seconds in process", lambda one: [one.bare], ".2f")
    row("ratio of these", lambda one: [one.ratio], ".1f")
    for part in sorted(windows[0].samples):
        row(" ".join(part), lambda one: one.samples[part], ".0f")  # noqa: B023
    for what in (PSS, FILES):
        row(f"all {what}", lambda one: [one.of_all(what)], ".0f")  # noqa: B023
    out.print(table)


def highest_rate(store: ObjectStore) -> float:
    """Files a minute, in bursts."""
    contents = [churn_csv(rows=ROWS, seed=seed) for seed in range(DIFFERENT)]
    through_stack(store, "churn/warm-", DIFFERENT, contents)
    bursts = [through_stack(store, f"churn/{number}-", BURST_FILES, contents) for number in range(BURSTS)]
    return statistics.median(one.per_minute for one in bursts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, help="files a minute; default: half of what bursts reach")
    options = parser.parse_args()
    log_to_stderr("ERROR")
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-soak-"))
    with Stack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        stack.listen()
        datasets = load_datasets(stack.settings.datasets_dir)
        store, ledger = connect(stack.settings), Ledger(stack.settings.ledger)
        rate = options.rate or highest_rate(store) / 2
        out.print(f"{rate:.0f} files of {ROWS:,} rows a minute, for {options.minutes:g} minutes")
        drops = Drops(store, ledger, rate)
        store.put("raw", BARE_KEY, churn_csv(rows=ROWS, seed=0), "text/csv")
        windows = soak(stack, drops, options.minutes, lambda: in_process(store, datasets["churn"], BARE_KEY))
        show(windows)
        waiting, found = drops.rest(), audit(store, datasets, ledger, stack.settings.orphan_seconds)
        out.print(
            f"{found.objects:,} objects: without a fate {waiting}, unaccounted {found.unaccounted}, "
            f"without output {found.without_output}, orphans {found.orphans}; load {os.getloadavg()[0]:.1f}"
        )
        ledger.close()
    shutil.rmtree(data_dir)
    return 0 if found.clean and not waiting else 1


if __name__ == "__main__":
    sys.exit(main())
