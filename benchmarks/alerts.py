"""Alerts: a burst of 500 files, 7 of them bad; how many messages, and how long after each receipt.

    python benchmarks/alerts.py

Runs the embedded stack and a mail server, and prints each message with the seconds from the first receipt it
tells of to its arrival.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from dropflow.apply import apply
from dropflow.demo import smtp_server
from dropflow.embedded.stack import Stack
from dropflow.ledger import Fate, Ledger
from dropflow.ledger.tables import messages, notices, sends
from dropflow.logs import log_to_stderr
from dropflow.samples import churn_csv
from dropflow.settings import Settings, load_settings
from dropflow.storage import connect

out = Console(highlight=False)
GOOD = churn_csv(rows=100, seed=1)
BAD = [
    GOOD.replace(b"Balance", b"Saldo", 1),
    re.sub(rb"(?m)^(1,(?:[^,]*,){6})\d+", rb"\1-1", churn_csv(rows=10, seed=1)),
    b"",
]


def drop(settings: Settings, files: int, bad: int) -> None:
    store = connect(settings)
    for number in range(files):
        content = BAD[number % len(BAD)] if number % (files // bad) == 0 and number else GOOD
        store.put("raw", f"churn/{number}.csv", content, "text/csv")


def wait(ledger: Ledger, files: int) -> None:
    """Until every file has its fate, and everything is told."""
    while True:
        counts = ledger.counts().get("churn", {})
        done = counts.get(Fate.PROCESSED, 0) + counts.get(Fate.REJECTED, 0)
        if done == files and not ledger.notices.untold():
            return
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--bad", type=int, default=7)
    options = parser.parse_args()
    log_to_stderr("ERROR")
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-alerts-"))
    with smtp_server() as (_, url):
        (data_dir / ".env").write_text(f"DROPFLOW_NOTIFY_URLS={url.get_secret_value()}\n")
        settings = load_settings(data_dir, env_file=data_dir / ".env")
        with Stack(settings, report=out.print) as stack:
            list(apply(stack.settings))
            stack.listen()
            began = time.monotonic()
            drop(stack.settings, options.files, options.bad)
            ledger = Ledger(stack.settings.ledger)
            wait(ledger, options.files)
            out.print(f"{options.files} files in {time.monotonic() - began:.0f} s")
            time.sleep(5)
            _show(ledger)
            ledger.close()
    shutil.rmtree(data_dir)
    return 0


def _show(ledger: Ledger) -> None:
    told = sa.select(
        messages.c.kind, sa.func.count(), sa.func.min(notices.c.at), sa.func.min(sends.c.sent)
    ).join_from(messages, notices, notices.c.message == messages.c.id)
    told = told.join(sends, sends.c.message == messages.c.id).group_by(messages.c.id).order_by(messages.c.at)
    table = Table("message", "files", "seconds from the first receipt to the mail server")
    with ledger.database.read() as db:
        for kind, number, first, sent in db.execute(told):
            table.add_row(kind, str(number), f"{(sent - first).total_seconds():.1f}" if sent else "not sent")
    out.print(table)


if __name__ == "__main__":
    sys.exit(main())
