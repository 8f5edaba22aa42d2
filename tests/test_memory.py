"""Ten times the objects do not take more memory: a sweep and its `Seen` hold a page at a time."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from dropflow.datasets import Dataset, Datasets
from dropflow.ledger import Ledger
from dropflow.objects import ObjectRef
from dropflow.prefect_api import connect_prefect
from dropflow.receipts import PREFIX, receipt_key
from dropflow.settings import Settings
from dropflow.storage import ObjectStore
from listeners.settler import Settler
from listeners.sweep import Sweep

MIB = 2**20
FEW, MANY = 2_000, 10_000


class GeneratedStore:
    """So many raw objects, receipts (where asked for) and outputs, none of them held in memory."""

    def __init__(self, dataset: Dataset, number: int, *, receipts: bool) -> None:
        self._dataset = dataset
        self._number = number
        self._receipts = receipts

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectRef]:
        for number in range(self._number):
            raw = ObjectRef("raw", f"churn/{number:07}.csv", f"{number:032x}", 9)
            if bucket == "raw":
                yield raw
            elif not prefix.startswith(PREFIX):
                yield ObjectRef(bucket, self._dataset.output_key(raw.key), raw.etag, 9)
            elif self._receipts:
                yield ObjectRef(bucket, receipt_key(self._dataset, raw, "f" * 16), raw.etag, 9)


class NothingToRead(Sweep):
    """A sweep that finds receipts, and leaves them unread: reading them would take the time of a test."""

    def _outcome(self, *_: object) -> None:
        return None


def peak_of_sweep(folder: Path, dataset: Dataset, number: int, *, receipts: bool) -> int:
    """Bytes that Python held at most during a first sweep."""
    store = cast(ObjectStore, GeneratedStore(dataset, number, receipts=receipts))
    folder.mkdir(exist_ok=True)
    ledger = Ledger(f"sqlite:///{folder}/{number}.sqlite")
    datasets = Datasets({dataset.name: dataset})
    settler = Settler(
        ledger, datasets, store, connect_prefect(Settings(prefect_api_url="http://127.0.0.1:9/api"))
    )
    sweep = NothingToRead(ledger, datasets, store, settler, listener="test")
    tracemalloc.start()
    try:
        report = sweep.once()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        sweep.close()
        settler.close()
        ledger.close()
    assert report
    assert report.objects == report.new == number
    assert report.receipts == (number if receipts else 0)
    return peak


@pytest.mark.parametrize("receipts", [False, True])
def test_a_sweep_holds_no_more_of_a_larger_bucket(tmp_path: Path, churn: Dataset, receipts: bool) -> None:
    peak_of_sweep(tmp_path, churn, 1, receipts=receipts)  # what is imported and compiled only once
    few = peak_of_sweep(tmp_path, churn, FEW, receipts=receipts)
    # What waits for Python's collector adds to a peak, half a MiB or one: of two the smaller was held.
    many = min(
        peak_of_sweep(folder, churn, MANY, receipts=receipts)
        for folder in (tmp_path / "once", tmp_path / "again")
    )
    assert many - few < MIB, f"{few / MIB:.1f} MiB grew to {many / MIB:.1f} MiB"


_FILL = """
import sys
from pathlib import Path
from dropflow.seen import Seen

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

before = status("VmRSS")
with Seen() as seen:
    for start in range(0, int(sys.argv[1]), 1000):
        seen.update(f"raw/churn/{number}.csv" for number in range(start, start + 1000))
    assert "raw/churn/0.csv" in seen and "raw/churn/x.csv" not in seen
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_seen_holds_no_more_of_more_strings() -> None:
    """Its memory is SQLite's, which tracemalloc does not see: a process of its own tells its peak."""

    def kib(number: int) -> int:
        command = [sys.executable, "-c", _FILL, str(number)]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)

    few, many = kib(100_000), kib(400_000)  # as Python objects 300,000 more would take 20 MiB
    assert many - few < 2 * 1024, f"{few} KiB grew to {many} KiB"
