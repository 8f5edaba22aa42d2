"""What a sweep takes: memory from 20,000 to 200,000 objects, and seconds beside a bare listing.

    .venv/bin/python benchmarks/sweep.py          # both tables
    .venv/bin/python benchmarks/sweep.py memory   # a store whose listings are generated
    .venv/bin/python benchmarks/sweep.py seconds  # an embedded SeaweedFS with 20,000 objects

Memory: each sweep in a new process, over a ledger in SQLite; shown is how far VmHWM rises above VmRSS from
right before the sweep. Seconds: sweeps and listings of the same buckets alternate, medians are shown.
"""

import logging
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import free_port
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.errors import TransientError
from dropflow.ledger import Ledger, SweepReport
from dropflow.objects import ObjectRef
from dropflow.prefect_api import connect_prefect
from dropflow.receipts import PREFIX, Receipt, receipt_key
from dropflow.settings import PROJECT, Settings, load_settings
from dropflow.storage import ObjectStore, connect
from listeners.settler import Settler
from listeners.sweep import Sweep

SMALL, LARGE = 20_000, 200_000
ROUNDS = 5
UPLOADS_AT_ONCE = 16
FINGERPRINT = "f" * 16
WRITTEN = datetime(2026, 11, 1, tzinfo=UTC)
NOWHERE = "http://127.0.0.1:9/api"

_spawn = multiprocessing.get_context("spawn")


def churn() -> Dataset:
    return load_datasets(PROJECT / "datasets")["churn"]


def raw_object(number: int) -> ObjectRef:
    return ObjectRef("raw", f"churn/{number:07}.csv", f"{number:032x}", 1000, modified=WRITTEN)


def receipt_of(dataset: Dataset, raw: ObjectRef, output_etag: str = "") -> Receipt:
    """Of an output where one is named, else of a rejection."""
    output = {
        "output_bucket": dataset.output_bucket,
        "output_key": dataset.output_key(raw.key),
        "output_etag": output_etag,
    }
    return Receipt(
        dataset=dataset.name,
        bucket=raw.bucket,
        key=raw.key,
        etag=raw.etag,
        fingerprint=FINGERPRINT,
        fate="processed" if output_etag else "rejected",
        reason="" if output_etag else "row 3, Age: 'x' is no number",
        written_at=WRITTEN,
        **(output if output_etag else {}),
    )


@contextmanager
def sweeping(store: ObjectStore, ledger_file: Path) -> Iterator[Callable[[], SweepReport | None]]:
    """Sweeps of one listener process."""
    ledger, datasets = Ledger(f"sqlite:///{ledger_file}"), Datasets({"churn": churn()})
    settler = Settler(ledger, datasets, store, connect_prefect(Settings(prefect_api_url=NOWHERE)))
    sweep = Sweep(ledger, datasets, store, settler, listener="benchmark")
    try:
        yield sweep.once
    finally:
        sweep.close()
        settler.close()
        ledger.close()


# Memory


class GeneratedStore:
    """`number` objects; with receipts, as many of these and of outputs. Nothing is held."""

    def __init__(self, number: int, *, receipts: bool) -> None:
        self._numbers = range(number)
        self._receipts = receipts
        self._dataset = churn()

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectRef]:
        if bucket == "raw":
            yield from map(raw_object, self._numbers)
        elif self._receipts:
            one = prefix.rpartition("/")[2].removesuffix(".")
            make = self._receipt if prefix.startswith(PREFIX) else self._output
            yield from map(make, [int(one, 16)] if one else self._numbers)

    def get(self, _bucket: str, key: str) -> tuple[ObjectRef, bytes]:
        number = int(key.rpartition("/")[2].partition(".")[0], 16)
        there = receipt_of(self._dataset, raw_object(number), self._output(number).etag)
        return self._receipt(number), there.model_dump_json().encode()

    def _receipt(self, number: int) -> ObjectRef:
        key = receipt_key(self._dataset, raw_object(number), FINGERPRINT)
        return ObjectRef(self._dataset.output_bucket, key, f"{number:032x}", 300, modified=WRITTEN)

    def _output(self, number: int) -> ObjectRef:
        key = self._dataset.output_key(raw_object(number).key)
        return ObjectRef(self._dataset.output_bucket, key, f"{number:031x}a", 900, modified=WRITTEN)


def _status(field: str) -> float:
    """MiB, as Linux counts this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _peaks(number: int, ledger_file: Path, sweeps: int, receipts: bool) -> list[tuple[float, float]]:
    """MiB above the start, and seconds, of each of some sweeps in this process."""
    logging.disable()
    store = cast(ObjectStore, GeneratedStore(number, receipts=receipts))
    found = []
    with sweeping(store, ledger_file) as once:
        before = _status("VmRSS")
        for _ in range(sweeps):
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
            started = time.perf_counter()
            report = once()
            if report is None or report.objects != number or report.unaccounted or report.orphans:
                raise RuntimeError(f"not what was to be swept: {report}")
            found.append((_status("VmHWM") - before, time.perf_counter() - started))
    return found


def peaks(number: int) -> dict[str, tuple[float, float]]:
    """MiB and seconds of each kind of sweep, every kind in a process of its own."""

    def apart(*arguments: Any) -> list[tuple[float, float]]:
        with _spawn.Pool(1) as pool:
            return pool.apply(_peaks, (number, *arguments))

    with tempfile.TemporaryDirectory() as folder:
        (new,) = apart(Path(folder, "new.sqlite"), 1, False)  # noqa: FBT003
        (rebuilt,) = apart(Path(folder, "ledger.sqlite"), 1, True)  # noqa: FBT003
        steady, orphans = apart(Path(folder, "ledger.sqlite"), 2, True)  # noqa: FBT003
    return {
        "all new": new,
        "all have receipts, ledger empty": rebuilt,
        "all settled": steady,
        "again, same process, with orphan check": orphans,
    }


def memory() -> None:
    small, large = peaks(SMALL), peaks(LARGE)
    print(f"memory above the start of the sweep, MiB: {SMALL:,} objects, {LARGE:,} objects, growth")
    for kind, (mib, seconds) in small.items():
        more, longer = large[kind]
        print(
            f"  {kind:<40} {mib:6.1f} {more:6.1f} {more - mib:+6.1f}   ({seconds:.1f} s, {longer:.1f} s:"
            f" {longer / seconds:.1f} x)"
        )


# Seconds


@dataclass(frozen=True)
class Filled:
    """A running store with SMALL objects, each with a receipt."""

    store: ObjectStore

    def fill(self) -> None:
        dataset = churn()
        for bucket in (dataset.bucket, dataset.output_bucket):
            self.store.ensure_bucket(bucket)
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            list(pool.map(self._drop, [dataset] * SMALL, range(SMALL)))

    def _drop(self, dataset: Dataset, number: int) -> None:
        raw = self.store.put("raw", raw_object(number).key, b"%07d" % number, "text/csv")
        receipt = receipt_of(dataset, raw)
        body = receipt.model_dump_json().encode()
        self.store.put(
            dataset.output_bucket, receipt_key(dataset, raw, FINGERPRINT), body, "application/json"
        )

    def list_all(self) -> None:
        """The listings that every sweep needs, and nothing else."""
        for bucket, prefix in (("raw", ""), ("processed", PREFIX), ("processed", "churn/")):
            for _ in self.store.list(bucket, prefix):
                pass


@contextmanager
def seaweed(folder: Path) -> Iterator[ObjectStore]:
    """An embedded SeaweedFS as `dropflow up` starts it, its notifications going nowhere."""
    access = StoreAccess(free_port(), secrets.token_hex(10), secrets.token_hex(20))
    nowhere = Webhook(NOWHERE, "none", [])
    command, environment = seaweedfs(folder / "store", access, [free_port() for _ in range(4)], nowhere)
    settings = load_settings(
        s3_endpoint=access.endpoint, s3_access_key=access.access_key, s3_secret_key=access.secret_key
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _when_ready(connect(settings))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _when_ready(store: ObjectStore) -> ObjectStore:
    deadline = time.monotonic() + 60
    while True:
        try:
            store.ensure_bucket("raw")
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return store


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and the part of them that this process computed."""
    started, computed = time.perf_counter(), time.process_time()
    step()
    seconds = time.perf_counter() - started
    return seconds, (time.process_time() - computed) / seconds


def seconds() -> None:
    with tempfile.TemporaryDirectory() as name, seaweed(Path(name)) as store:
        filled = Filled(store)
        print(f"putting {SMALL:,} objects and receipts", file=sys.stderr)
        filled.fill()
        found: dict[str, list[tuple[float, float]]] = {}
        with sweeping(store, Path(name, "kept.sqlite")) as once:
            rebuilding = timed(once)
            found["second sweep, with a first orphan check"] = [timed(once)]
            for number in range(ROUNDS):
                found.setdefault("bare listing", []).append(timed(filled.list_all))
                found.setdefault("sweep, all settled", []).append(timed(once))
                print(f"round {number + 1} of {ROUNDS}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        found["first sweep, reads all receipts"] = [rebuilding]
    listing = median(took for took, _ in found["bare listing"])
    print(f"seconds for {SMALL:,} objects and {SMALL:,} receipts in SeaweedFS; {ROUNDS} rounds")
    for what, rounds in found.items():
        took = median(took for took, _ in rounds)
        print(
            f"  {what:<40} {took:7.2f} s   {took / listing:6.2f} x bare listing"
            f"   computing {median(part for _, part in rounds):4.0%} of it   (n={len(rounds)})"
        )


def main() -> None:
    wanted = sys.argv[1:] or ["memory", "seconds"]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    for table in wanted:
        {"memory": memory, "seconds": seconds}[table]()
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
