"""A file prepared in a process of its own, of which the memory it takes can be told."""

import resource
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from command_line import processes
from memory_store import MemoryStore

from dropflow.datasets import Dataset
from flows.preparation import Preparation

SECONDS = 250
MOST_BYTES = 12 * 2**30
KEY = "h/a.csv"


@dataclass
class Alone:
    """Prepares a file, and tells result, message and the MiB it took beyond the file."""

    folder: Path
    spare: int = MOST_BYTES
    """Bytes that it may take beyond what it has when it begins."""

    def __call__(self, dataset: Dataset, content: bytes) -> tuple[str, str, int]:
        # Not through the pipe, whose copies would hide what is taken later.
        raw = self.folder / "raw"
        raw.write_bytes(content)
        ours, theirs = Pipe(duplex=False)
        process = processes.Process(target=_prepare, args=(dataset, raw, theirs, self.spare))
        process.start()
        theirs.close()
        try:
            assert ours.poll(SECONDS), f"nothing in {SECONDS} s"
            told: tuple[str, str, int] = ours.recv()
            return told
        finally:
            process.kill()
            process.join()


def _prepare(dataset: Dataset, raw: Path, pipe: Connection, spare: int) -> None:
    store = MemoryStore()
    store.put("raw", KEY, raw.read_bytes(), "text/csv")
    most = min(MOST_BYTES, psutil.Process().memory_info().vms + spare)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = _peak_kib()
    done = Preparation(store, dataset, "run").prepare(KEY)  # type: ignore[arg-type]
    pipe.send((done.result, done.message, (_peak_kib() - before) // 1024))


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
