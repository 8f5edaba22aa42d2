"""What a process of a test does: importable by one that is started anew."""

import time
from pathlib import Path


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)
