"""Empty ledgers, of which only the first is migrated: the others are copies."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dropflow.ledger import Ledger


def new_ledger(file: Path) -> Ledger:
    file.write_bytes(_migrated())
    return Ledger(f"sqlite:///{file}")


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder, "ledger.sqlite")
        Ledger(f"sqlite:///{file}").close()
        return file.read_bytes()
