"""Cost as work grows: bursts of one, two, four and eight times the files, through one stack.

    python benchmarks/growth.py                 # 250, 500, 1,000 and 2,000 files of 100 rows

Each size three times, in turns. Seconds from the first PUT until all receipts are there; what is left over a
straight line through the smallest size is the cost of size itself.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from burst import DIFFERENT, Burst, out, through_stack
from rich.table import Table

from dropflow.apply import apply
from dropflow.embedded.stack import Stack
from dropflow.logs import log_to_stderr
from dropflow.samples import churn_csv
from dropflow.settings import load_settings
from dropflow.storage import connect

TIMES = (1, 2, 4, 8)


def show(found: dict[int, list[Burst]]) -> None:
    table = Table("files", "seconds", "CPU seconds a file", "seconds a file, of the smallest's")
    first = None
    for files, bursts in found.items():
        seconds = statistics.median(one.seconds for one in bursts)
        cpu = statistics.median(one.cpu_per_file for one in bursts)
        first = first or seconds / files
        table.add_row(f"{files:,}", f"{seconds:.1f}", f"{cpu:.4f}", f"{seconds / files / first:.2f}")
    out.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=250)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    log_to_stderr("ERROR")
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-growth-"))
    contents = [churn_csv(rows=options.rows, seed=seed) for seed in range(DIFFERENT)]
    found: dict[int, list[Burst]] = {times * options.files: [] for times in TIMES}
    with Stack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        stack.listen()
        store = connect(stack.settings)
        through_stack(store, "churn/warm-", DIFFERENT, contents)
        for number in range(options.rounds):
            for files, bursts in found.items():
                bursts.append(through_stack(store, f"churn/{number}-{files}-", files, contents))
                out.print(f"{files:,} files: {bursts[-1].seconds:.1f} s")
    out.print(f"files of {options.rows:,} rows, load {os.getloadavg()[0]:.1f}")
    show(found)
    shutil.rmtree(data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
