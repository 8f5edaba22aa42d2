"""What the datasets folder declares by now: a listener takes it up without being started again."""

import logging
from pathlib import Path

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import DatasetError
from dropflow.prefect_api import PrefectApi

log = logging.getLogger(__name__)

Stamps = dict[str, tuple[int, int]]


class Declared:
    """Looks whether the folder's datasets are others than those that were `taken`."""

    def __init__(self, folder: Path, taken: Datasets, prefect: PrefectApi) -> None:
        self._folder, self._taken, self._prefect = folder, taken, prefect
        self._found = taken
        self._seen: Stamps = {}

    def others(self) -> Datasets | None:
        """Those that can be taken up: all are valid, and new ones have been applied.

        Raises TransientError or PermanentError when Prefect cannot say so.
        """
        stamps = _stamps(self._folder)
        is_new, self._seen = stamps != self._seen, stamps
        if is_new:
            self._found = self._read()
        if self._found is self._taken:
            return None
        # Without a deployment nothing would prepare their objects, which would be given up in the end.
        missing = self._found.by_name.keys() - self._taken.by_name.keys() - self._prefect.deployed()
        if missing and is_new:
            log.info("%s: taken up once `dropflow apply` has been there", ", ".join(sorted(missing)))
        return None if missing else self._found

    def _read(self) -> Datasets:
        """What the folder declares; what was taken, where that is the same or a file is wrong."""
        try:
            found = load_datasets(self._folder, self._taken.prefixes)
        except DatasetError as error:
            log.warning("datasets stay as they were: %s", error)
            return self._taken
        return self._taken if found == self._taken else found


def _stamps(folder: Path) -> Stamps:
    found = {}
    for path in folder.glob("*.yaml"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # removed meanwhile: the next look sees it
        found[path.name] = (stat.st_mtime_ns, stat.st_size)
    return found
