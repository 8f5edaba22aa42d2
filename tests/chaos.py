"""Chaos: files are dropped while every process is killed again and again; then nothing may be missing.

    make chaos SEED=1

Four writers drop small files (new, overwritten, bad, with hostile keys) into the embedded stack while
listener, Prefect server, worker and store are killed with SIGKILL at random moments, the ledger is
deleted and the webhook is refused. At the end every object must have its fate, every version that was
prepared exactly one receipt, every output must equal a direct computation, and no output be orphaned.
The moments depend on the machine; who writes what, and who is killed in which order, on the seed.
"""

import argparse
import io
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from breakers import disable_breaker
from rich.console import Console
from rich.table import Table

from dropflow.apply import apply
from dropflow.audit import audit
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, free_port
from dropflow.embedded.stack import Stack
from dropflow.errors import DropflowError, TransientError
from dropflow.ledger import Fate, Ledger
from dropflow.logs import log_to_stderr
from dropflow.objects import ObjectRef
from dropflow.receipts import PREFIX, Receipt
from dropflow.samples import churn_csv
from dropflow.settings import load_settings
from dropflow.status import IN_FLIGHT, read_status
from dropflow.storage import ObjectStore, connect

WRITERS = 4
KILLED = ("listener", "prefect", "worker", "store")
KILLS_EACH = 3
REFUSED_SECONDS = 20.0
SETTLE_SECONDS = 330.0
SETTINGS = {"SWEEP_SECONDS": "8", "RECEIPT_SECONDS": "10", "ORPHAN_SECONDS": "20", "RUN_MINUTES": "2"}
HOSTILE = ("fäil+name a&b", "a%20b", "ünïcode 数据", "{{ 7*7 }} <img src=x>", "quote ' \" ; , =", "tab\there")
SCALED = ["CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "EstimatedSalary"]
out = Console(highlight=False)


@dataclass
class Drops:
    """What the writers have put: every version of every key, the last one being the present one."""

    versions: dict[str, list[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(list))
    lock: threading.Lock = field(default_factory=threading.Lock)
    acknowledged: int = 0

    def keep(self, ref: ObjectRef, content: bytes) -> None:
        with self.lock:
            self.versions[ref.key].append((ref.etag, content))
            self.acknowledged += 1


class Proxy:
    """Stands between the store and the listener's webhook, and refuses connections when told."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = free_port()
        self._server: socket.socket | None = None
        self.open()

    def open(self) -> None:
        self._server = socket.create_server((LOOPBACK, self.port), backlog=128)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def refuse(self) -> None:
        assert self._server
        # Closing alone leaves a thread in accept() holding the port open.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError), socket.create_connection((LOOPBACK, self._target)) as server:
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(30)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class ChaosStack(Stack):
    """The embedded stack whose store calls the webhook through a proxy."""

    proxy: Proxy

    def _webhook_url(self) -> str:
        assert self.settings.webhook_port
        self.proxy = Proxy(self.settings.webhook_port)
        return f"http://{LOOPBACK}:{self.proxy.port}/notifications"


def contents(choice: random.Random) -> bytes:
    """A small file, one in ten of them bad."""
    good = churn_csv(rows=choice.randint(20, 60), seed=choice.randrange(2**31))
    if choice.random() >= 0.1:
        return good
    header, *rows = good.splitlines(keepends=True)
    return choice.choice(
        [
            b"",
            header,
            good.replace(b"Age", b"Alter", 1),
            good + b"not,a,row\n" + bytes(choice.randbytes(8)),
            header + rows[0].replace(b"France", b"Atlantis").replace(b"Spain", b"Atlantis") + b"x,y\n",
        ]
    )


def write(store: ObjectStore, drops: Drops, writer: int, number: int, seconds: float, seed: int) -> None:
    """Put `number` versions; one in five overwrites a key. Put again until the store has acknowledged."""
    choice = random.Random(f"{seed}-{writer}")
    keys: list[str] = []
    deadline = time.monotonic() + seconds
    for left in range(number, 0, -1):
        if keys and choice.random() < 0.2:
            key = choice.choice(keys)
        else:
            key = f"churn/{writer}/{choice.choice(HOSTILE) if choice.random() < 0.1 else 'file'}-{len(keys)}.csv"
            keys.append(key)
        content = contents(choice)
        while True:
            try:
                drops.keep(store.put("raw", key, content, "text/csv"), content)
                break
            except TransientError:
                time.sleep(0.2)
        time.sleep(max(0.0, choice.uniform(0.2, 1.8) * (deadline - time.monotonic()) / left))


@dataclass
class Killer:
    """Kills in a random order at random moments of the writing, and keeps count."""

    stack: ChaosStack
    choice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    events: tuple[int, int] = (0, 0)
    """Posted and redelivered, by the ledgers that were deleted."""

    def run(self, seconds: float) -> None:
        acts = [*KILLED] * KILLS_EACH + ["ledger", "webhook"]
        self.choice.shuffle(acts)
        moments = sorted(self.choice.uniform(0.03, 0.97) * seconds for _ in acts)
        began = time.monotonic()
        for act, moment in zip(acts, moments, strict=True):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            self._act(act)

    def _act(self, act: str) -> None:
        out.print(f"[dim]{time.strftime('%T')}[/] {act}", soft_wrap=True)
        self.kills[act] += 1
        if act == "ledger":
            self._delete_ledger()
        elif act == "webhook":
            self.stack.proxy.refuse()
            threading.Timer(REFUSED_SECONDS, self.stack.proxy.open).start()
        else:
            self._kill(act)

    def _kill(self, name: str) -> None:
        process = self.stack.supervisor.processes[name]
        while not process.running:
            time.sleep(0.1)  # it is being restarted from the last time
        # The whole group: a worker's runs die with it.
        os.killpg(process.pid, signal.SIGKILL)

    def _delete_ledger(self) -> None:
        folder = self.stack.settings.data_dir
        ledger = Ledger(self.stack.settings.ledger)
        self.events = ledger.outbox.counts()
        ledger.close()
        for path in folder.glob("ledger.sqlite*"):
            path.unlink(missing_ok=True)


def settle(stack: ChaosStack, drops: Drops, seconds: float) -> tuple[bool, float]:
    """Wait until nothing is in flight and a sweep after the last write has found everything accounted for."""
    began = time.monotonic()
    wrote = pd.Timestamp.now("UTC")
    while time.monotonic() - began < seconds:
        try:
            ledger = Ledger(stack.settings.ledger)
            status = read_status(ledger)
            ledger.close()
        except DropflowError as error:
            out.print(f"status: {error}")
            time.sleep(1)
            continue
        in_flight = sum(status.sums[fate.value] for fate in IN_FLIGHT)
        swept = status.sweep is not None and status.sweep.started > wrote and status.sweep.orphans == 0
        if not in_flight and swept and status.unaccounted == 0:
            return True, time.monotonic() - began
        out.print(f"[dim]{time.strftime('%T')}[/] {in_flight} in flight of {status.sums['seen']}")
        time.sleep(5)
    return False, time.monotonic() - began


def direct(content: bytes) -> pd.DataFrame:
    """The prepared frame, computed with plain pandas."""
    header, *rows = content.splitlines(keepends=True)
    # One seed in some has bytes at random that are text: few enough rows to be set aside.
    raw = pd.read_csv(io.BytesIO(b"".join([header, *(row for row in rows if row[:1].isdigit())])))
    result = raw[SCALED].copy()
    result["Age"] = result["Age"].fillna(raw["Age"].median())
    spread = result.std(ddof=0).replace(0, 1)
    result = (result - result.mean()) / spread
    gender = raw["Gender"].fillna(raw["Gender"].mode()[0])
    result["Gender"] = (gender == "Male").astype(float)
    for country in ("France", "Germany", "Spain"):
        result[f"Geography_{country}"] = (raw["Geography"] == country).astype(float)
    untouched = ["HasCrCard", "IsActiveMember", "Exited"]
    return result.join(raw[untouched])


def problems(stack: ChaosStack, drops: Drops) -> Iterator[str]:
    """Everything that is not as it must be, found from the buckets and what the writers know."""
    datasets, store = load_datasets(stack.settings.datasets_dir), connect(stack.settings)
    ledger = Ledger(stack.settings.ledger)
    proof = audit(store, datasets, ledger)
    if not proof.clean:
        yield f"audit: {proof}"
    receipts: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
    for own in store.list("processed", PREFIX):
        receipt = Receipt.model_validate_json(store.get("processed", own.key)[1])
        receipts[receipt.key, receipt.etag].append(receipt)
    outputs = {ref.key: ref.etag for ref in store.list("processed", "churn/")}
    yield from _check_receipts(drops, receipts, outputs)
    raw = {ref.key: ref.etag for ref in store.list("raw")}
    for key, versions in drops.versions.items():
        etag, content = versions[-1]
        if raw.get(key) != etag:
            yield f"the store lost the last version of {key!r}"
        found = receipts.get((key, etag))
        if not found:
            yield f"{key!r} {etag} has no receipt"
            continue
        entry = next((e for e in ledger.find("raw", key) if e.ref.etag == etag), None)
        if entry is None or entry.fate != Fate(found[0].fate):
            yield f"{key!r} is {entry.fate if entry else 'unknown'} in the ledger, {found[0].fate} by receipt"
        output_key = datasets["churn"].output_key(key)
        yield from _check_output(store, outputs, output_key, found[0], content)
    ledger.close()


def _check_receipts(
    drops: Drops, receipts: dict[tuple[str, str], list[Receipt]], outputs: dict[str, str]
) -> Iterator[str]:
    """One receipt per version that was prepared, and a receipt for every output."""
    written = {(key, etag) for key, versions in drops.versions.items() for etag, _ in versions}
    for (key, etag), found in receipts.items():
        if len(found) != 1:
            yield f"{key!r} {etag} has {len(found)} receipts"
        if (key, etag) not in written:
            yield f"{key!r} {etag} has a receipt, but was never written"
    told = {(r.output_key, r.output_etag) for found in receipts.values() for r in found if r.output_key}
    for output in outputs.items():
        if output not in told:
            yield f"the output {output[0]!r} is an orphan"


def _check_output(
    store: ObjectStore, outputs: dict[str, str], output_key: str, receipt: Receipt, content: bytes
) -> Iterator[str]:
    if receipt.fate == "rejected":
        return
    if outputs.get(output_key) != receipt.output_etag:
        yield f"the output {output_key!r} is not the one of the receipt"
        return
    result = pd.read_parquet(io.BytesIO(store.get("processed", output_key)[1]))
    expected = direct(content)
    if set(result.columns) != set(expected.columns):
        yield f"the output {output_key!r} has other columns"
    elif not np.allclose(result[expected.columns].to_numpy(float), expected.to_numpy(float), atol=1e-9):
        yield f"the output {output_key!r} differs from the direct computation"


def table(stack: ChaosStack, drops: Drops, killer: Killer, seconds: dict[str, float], wrong: int) -> Table:
    ledger = Ledger(stack.settings.ledger)
    status = read_status(ledger)
    ledger.close()
    result = Table("what", "count", title="Chaos")
    for name in (*KILLED, "ledger", "webhook"):
        word = {"ledger": "ledger deleted", "webhook": "webhook refused 20 s"}.get(name, f"{name} killed")
        result.add_row(word, str(killer.kills[name]))
    latest = {versions[-1][0] for versions in drops.versions.values()}
    result.add_row("versions written", f"{drops.acknowledged:,}")
    result.add_row("objects in the bucket", f"{len(drops.versions):,}")
    for fate in Fate:
        result.add_row(f"  {fate.value}", f"{status.sums[fate.value]:,}")
    result.add_row("different contents at the end", f"{len(latest):,}")
    result.add_row("events posted", f"{status.events + killer.events[0]:,}")
    result.add_row("  of them redeliveries", f"{status.redelivered + killer.events[1]:,}")
    result.add_row("unaccounted", str(status.unaccounted))
    for name, value in seconds.items():
        result.add_row(f"seconds {name}", f"{value:.0f}")
    result.add_row("problems", str(wrong))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=180, help="how long the writers take")
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    options = parser.parse_args()
    log_to_stderr()
    os.environ |= {f"DROPFLOW_{name}": value for name, value in SETTINGS.items()}
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-chaos-"))
    began = time.monotonic()
    with ChaosStack(load_settings(data_dir, env_file=data_dir / ".env"), report=out.print) as stack:
        list(apply(stack.settings))
        disable_breaker(stack.settings, "churn")
        stack.listen()
        drops, killer = Drops(), Killer(stack, random.Random(options.seed))
        store = connect(stack.settings)
        seconds = {"to start": time.monotonic() - began}
        threads = [
            threading.Thread(
                target=write,
                args=(store, drops, n, options.objects // WRITERS, options.seconds, options.seed),
            )
            for n in range(WRITERS)
        ]
        threads.append(threading.Thread(target=killer.run, args=(options.seconds,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds["of writing and killing"] = time.monotonic() - began - seconds["to start"]
        settled, seconds["until settled"] = settle(stack, drops, SETTLE_SECONDS)
        wrong = [] if settled else ["not settled in time"]
        wrong += problems(stack, drops)
        seconds["in all"] = time.monotonic() - began
        out.print(table(stack, drops, killer, seconds, len(wrong)))
    for problem in wrong[:30]:
        out.print(f"[red]{problem}[/]", soft_wrap=True)
    if options.keep or wrong:
        out.print(f"kept: {data_dir}")
    else:
        shutil.rmtree(data_dir)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
