"""Deliver objects again: choose them by key, dataset, fate or time."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from itertools import groupby

from dropflow.datasets import Datasets
from dropflow.errors import SettingsError
from dropflow.globs import Glob
from dropflow.ledger import SETTLED, Entry, Fate, Ledger

BATCH = 500


def choose(
    ledger: Ledger,
    datasets: Datasets,
    patterns: Collection[str],
    *,
    dataset: str | None = None,
    fates: Collection[Fate] = (),
    quarantined: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Entry]:
    """The newest version of each key that is asked for. Raises SettingsError when nothing is.

    A pattern is a key, s3://bucket/key, or a glob of either. What is in flight is left alone.
    """
    if not (patterns or dataset or fates or quarantined or since or until):
        raise SettingsError(
            "what is to be replayed? Give keys or globs, --dataset, --failed, --rejected, --quarantined or "
            "--since"
        )
    if dataset:
        datasets[dataset]  # an unknown one is named
    places = [f"{bucket}/{key}" for p in patterns for bucket, key in _places(p, datasets)]
    wanted = {place: Glob(place) for place in places}
    found = ledger.search(dataset=dataset, fates=fates, quarantined=quarantined, since=since, until=until)
    matching = (entry for entry in found if entry.dataset and (not wanted or _matches(entry, wanted)))
    for _, versions in groupby(matching, key=lambda entry: (entry.ref.bucket, entry.ref.key)):
        *_, newest = versions
        if newest.fate in SETTLED:
            yield newest


def replay(ledger: Ledger, entries: Collection[Entry], *, force: bool) -> None:
    """Make them pending again, however often they were delivered."""
    chosen = list(entries)
    for start in range(0, len(chosen), BATCH):
        ledger.replay(chosen[start : start + BATCH], force=force)


def _places(pattern: str, datasets: Datasets) -> list[tuple[str, str]]:
    """Bucket and key, or key glob, of a pattern: without s3:// it may be in any raw bucket."""
    if pattern.startswith("s3://"):
        bucket, _, key = pattern.removeprefix("s3://").partition("/")
        return [(bucket, key)]
    found = [(bucket, pattern) for bucket in datasets.raw_buckets]
    bucket, slash, key = pattern.partition("/")
    return [*found, (bucket, key)] if slash and bucket in datasets.raw_buckets else found


def _matches(entry: Entry, wanted: Mapping[str, Glob]) -> bool:
    path = f"{entry.ref.bucket}/{entry.ref.key}"
    # Literally first: keys may hold any of the characters that globs are made of.
    return path in wanted or any(glob.matches(path) for glob in wanted.values())
