"""Flood: 30,000 objects dropped while Prefect is down; started again, every one must get its receipt.

    python benchmarks/flood.py

Runs the embedded stack with a trivial recipe and prints what was dropped, how long it took, and the
peak memory (VmHWM) of listener, worker and the largest run.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dropflow.apply import apply
from dropflow.audit import audit
from dropflow.declarations import load_datasets
from dropflow.embedded.stack import Stack
from dropflow.ledger import Ledger
from dropflow.logs import log_to_stderr
from dropflow.settings import load_settings
from dropflow.status import IN_FLIGHT, Status, read_status
from dropflow.storage import connect

DATASET = """\
name: tiny
match: raw/tiny/**/*.csv
columns: {n: {type: number}, t: {type: text}}
steps: [{drop: [t]}]
"""
UPLOADERS = 4
POLL = 5.0
out = Console(highlight=False)


def upload(data_dir: str, first: int, last: int) -> None:
    store = connect(load_settings(Path(data_dir)))
    for number in range(first, last):
        body = f"n,t\n{number},x\n{number + 1},y\n".encode()
        store.put("raw", f"tiny/{number // 1000:03}/{number}.csv", body, "text/csv")


def peak_mib(pid: int) -> float:
    """The process's largest resident memory so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def group(pid: int) -> list[int]:
    """The processes of a group, given by its leader."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == pid:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


class Memory(threading.Thread):
    """Follows the peaks; the largest of the worker's other processes is a run."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.peaks = {"listener": 0.0, "worker": 0.0, "largest run": 0.0}
        self._stack = stack

    def run(self) -> None:
        processes = self._stack.supervisor.processes
        while processes["listener"].running and processes["worker"].running:
            listener, worker = processes["listener"].pid, processes["worker"].pid
            runs = [peak_mib(pid) for pid in group(worker) if pid != worker]
            for name, value in (
                ("listener", peak_mib(listener)),
                ("worker", peak_mib(worker)),
                ("largest run", max(runs, default=0.0)),
            ):
                self.peaks[name] = max(self.peaks[name], value)
            time.sleep(0.5)


def status(stack: Stack) -> Status:
    ledger = Ledger(stack.settings.ledger)
    try:
        return read_status(ledger)
    finally:
        ledger.close()


def wait(stack: Stack, objects: int, what: str, deadline: float) -> float:
    """Until all objects are known and, for "receipts", nothing is in flight; seconds it took."""
    began = time.monotonic()
    while time.monotonic() < deadline:
        now = status(stack)
        in_flight = sum(now.sums[fate.value] for fate in IN_FLIGHT)
        out.print(f"[dim]{time.strftime('%T')}[/] {now.sums['seen']:,} seen, {in_flight:,} in flight")
        if now.sums["seen"] >= objects and (what == "seen" or not in_flight):
            return time.monotonic() - began
        time.sleep(POLL)
    raise TimeoutError(f"not all {what} in time")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--objects", type=int, default=30_000)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    log_to_stderr()
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-flood-"))
    datasets_dir = data_dir / "datasets"
    datasets_dir.mkdir()
    (datasets_dir / "tiny.yaml").write_text(DATASET)
    os.environ["DROPFLOW_DATASETS_DIR"] = str(datasets_dir)
    deadline = time.monotonic() + options.minutes * 60
    table = Table("what", "figure", title="Flood")
    with Stack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        stack.listen()
        memory = Memory(stack)
        memory.start()
        prefect = stack.supervisor.processes.pop("prefect")
        prefect.stop()
        began = time.monotonic()
        share = options.objects // UPLOADERS
        with ProcessPoolExecutor(UPLOADERS) as pool:
            parts = [(n * share, (n + 1) * share) for n in range(UPLOADERS)]
            list(pool.map(upload, [str(data_dir)] * UPLOADERS, *zip(*parts, strict=True)))
        dropped = time.monotonic() - began
        known = wait(stack, options.objects, "seen", deadline)
        stack.supervisor.start(prefect)
        done = wait(stack, options.objects, "receipts", deadline)
        last = status(stack)
        ledger = Ledger(stack.settings.ledger)
        datasets = load_datasets(stack.settings.datasets_dir)
        proof = audit(connect(stack.settings), datasets, ledger)
        ledger.close()
        table.add_row("objects dropped while Prefect was down", f"{options.objects:,} in {dropped:.0f} s")
        table.add_row("all in the ledger after", f"{known:.0f} s more")
        table.add_row("Prefect started: all receipts after", f"{done:.0f} s")
        table.add_row("objects a minute", f"{options.objects / done * 60:,.0f}")
        for name in ("processed", "rejected", "failed", "unaccounted"):
            table.add_row(name, f"{last.unaccounted if name == 'unaccounted' else last.sums[name]:,}")
        table.add_row("events posted", f"{last.events:,}, {last.redelivered:,} of them again")
        table.add_row(
            "receipts, outputs, orphans in the bucket",
            f"{proof.receipts:,}, {proof.outputs:,}, {proof.orphans}",
        )
        table.add_row("unaccounted by the audit", str(proof.unaccounted))
        for name, value in memory.peaks.items():
            table.add_row(f"peak memory, {name}", f"{value:.0f} MiB")
    out.print(table)
    complete = proof.clean and proof.receipts == options.objects
    shutil.rmtree(data_dir)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
