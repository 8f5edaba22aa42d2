"""A large CSV: prepared part by part, and by pandas and scikit-learn in memory, in turns.

    python benchmarks/large.py                  # 512 MiB, three times each
    python benchmarks/large.py --mib 2048

Time and peak memory of a process of its own each, imports left out of the time. The recipe is the sample
dataset's `churn`. The script in memory (bare.py) validates and reports nothing; nor does polars, which takes
part where it is installed: pip install polars.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dropflow.samples import churn_csv
from dropflow.settings import PROJECT

CHUNK, ROWS = 2**18, 200_000
out = Console(highlight=False)


def write(path: Path, size: int) -> None:
    """At least so many bytes: the same rows again and again, as many files would be joined."""
    header, _, rows = churn_csv(rows=ROWS, seed=1).partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        while file.tell() < size:
            file.write(rows)


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def part_by_part(path: Path) -> int:
    from dropflow.declarations import load_datasets
    from flows.outofcore import OutOfCore

    churn = load_datasets(PROJECT / "datasets")["churn"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        began = time.monotonic()
        OutOfCore(churn, Path(folder)).prepare(chunks(path), path.stat().st_size)
        print(time.monotonic() - began)
    return 0


def in_memory(path: Path) -> int:
    from bare import transform

    began = time.monotonic()
    path.with_suffix(".parquet").write_bytes(transform(path.read_bytes()))
    print(time.monotonic() - began)
    return 0


def polars_streaming(path: Path) -> int:
    """Much the same table by polars' streaming engine."""
    import polars as pl  # type: ignore[import-not-found]
    from bare import NUMBERS

    began = time.monotonic()
    table = pl.scan_csv(path).drop("RowNumber", "CustomerId", "Surname")
    learnt = table.select(pl.col("Age").median(), pl.col("Gender").mode().first()).collect(engine="streaming")
    table = table.with_columns(pl.col(name).fill_null(learnt[name][0]) for name in learnt.columns)
    means = table.select(pl.col(NUMBERS).mean()).collect(engine="streaming")
    scales = table.select(pl.col(NUMBERS).std(ddof=0)).collect(engine="streaming")
    (
        table.with_columns((pl.col(name) - means[name][0]) / scales[name][0] for name in NUMBERS)
        .with_columns(
            (pl.col("Geography") == name).cast(pl.Float64).alias(f"Geography_{name}")
            for name in ("France", "Germany", "Spain")
        )
        .with_columns((pl.col("Gender") == "Male").cast(pl.Float64))
        .drop("Geography")
        .sink_parquet(path.with_suffix(".polars"), compression="snappy")
    )
    print(time.monotonic() - began)
    return 0


WAYS = {"part by part": part_by_part, "pandas in memory": in_memory}
if find_spec("polars"):
    WAYS["polars streaming"] = polars_streaming


def measured(way: str, path: Path) -> tuple[float, float]:
    """Seconds, and MiB of memory at most."""
    process = subprocess.Popen([sys.executable, __file__, "--way", way, "--file", str(path)], stdout=-1)
    assert process.stdout
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{way}: ended with {status}")
    return float(told), usage.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return WAYS[options.way](options.file)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="dropflow-large-") as folder:
        path = Path(folder) / "churn.csv"
        write(path, options.mib * 2**20)
        out.print(f"{path.stat().st_size / 2**20:,.0f} MiB, load {os.getloadavg()[0]:.1f}")
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(measured(way, path))
                out.print(f"{way}: {found[way][-1][0]:.1f} s, {found[way][-1][1]:,.0f} MiB")
    table = Table("median", "seconds", "peak memory, MiB", "seconds of part by part are")
    medians = {
        way: [statistics.median(one[figure] for one in found[way]) for figure in (0, 1)] for way in WAYS
    }
    mine = next(iter(medians.values()))
    for way, (seconds, memory) in medians.items():
        table.add_row(way, f"{seconds:.1f}", f"{memory:,.0f}", f"{mine[0] / seconds:.2f} times")
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
