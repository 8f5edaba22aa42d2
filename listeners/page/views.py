"""What the page shows, as plain data. Keys and reasons are whatever somebody has uploaded."""

from datetime import datetime
from hashlib import sha256
from typing import Any

from dropflow.datasets import Dataset, Datasets
from dropflow.errors import SettingsError
from dropflow.explain import Story
from dropflow.ledger import SETTLED, Entry, Fate, SweepReport
from dropflow.ledger.pages import Page, Place, Wanted
from dropflow.objects import ObjectRef, printable

MOST_ROWS = 100
LONGEST_SEARCH = 1024
LONGEST_KEY, LONGEST_REASON, LONGEST_LINE = 300, 400, 1200
LONGEST_KEY_BYTES = 1024
"""Of any key, in S3."""


def token(entry: Entry) -> str:
    """Names an entry: a ledger that was rebuilt may give its number to another object."""
    return f"{entry.id}-{_digest(entry.ref)}"


def number(text: str) -> int:
    """The number in an entry's token. Raises ValueError."""
    found, dash, _ = text.partition("-")
    if not (dash and found.isascii() and found.isdigit() and len(found) < 19):
        raise ValueError("expected the token of an object")
    return int(found)


def _digest(ref: ObjectRef) -> str:
    return sha256(ref.identity.encode(errors="replace")).hexdigest()[:16]


def place_text(place: Place) -> str:
    return f"{place.updated.isoformat()}_{place.id}"


def place(text: str) -> Place | None:
    """The inverse of `place_text`; None for "". Raises ValueError."""
    if not text:
        return None
    updated, _, row = text.partition("_")
    moment = datetime.fromisoformat(updated)
    if moment.tzinfo is None or not (row.isascii() and row.isdigit() and len(row) < 19):
        raise ValueError("expected the place of a page")
    return Place(moment, int(row))


def wanted(search: str, dataset: str | None, fate: str) -> Wanted:
    """What a query asks for; "-" is no dataset. Raises ValueError."""
    text = search.strip()[:LONGEST_SEARCH].replace("\0", "")
    if text.startswith("s3://"):
        text = text.removeprefix("s3://").partition("/")[2]
    name = {"": None, None: None, "-": ""}.get(dataset, dataset)
    return Wanted(text, name, Fate(fate) if fate else None)


def listing(found: Page, counts: dict[str, dict[Fate, int]], sweep: SweepReport | None) -> dict[str, Any]:
    """The answer that is polled. It holds nothing that changes by itself, or it would never be the same."""
    return {
        "counts": {name: {fate.value: n for fate, n in by.items()} for name, by in sorted(counts.items())},
        "unaccounted": sweep.verified_unaccounted if sweep else None,
        "objects": [row(entry) for entry in found.entries],
        "next": place_text(found.after) if found.after else None,
    }


def row(entry: Entry) -> dict[str, Any]:
    done = entry.fate is Fate.PROCESSED
    return {
        "id": token(entry),
        "bucket": entry.ref.bucket,
        "key": printable(entry.ref.key, LONGEST_KEY),
        "etag": printable(entry.ref.etag, 80),
        "size": entry.ref.size,
        "dataset": entry.dataset,
        "fate": entry.fate.value,
        "reason": printable(entry.reason, LONGEST_REASON),
        "updated": entry.updated,
        "first_seen": entry.first_seen,
        "run": bool(entry.dataset) and entry.fate not in (Fate.PENDING, Fate.IGNORED),
        "report": done,
        "output": done and bool(entry.output_key),
        "quarantine": entry.quarantined if done else 0,
        "again": entry.fate in SETTLED and bool(entry.dataset),
    }


def setup(datasets: Datasets, upload_bytes: int) -> dict[str, Any]:
    """What the page asks for once."""
    return {
        "datasets": [
            {"name": d.name, "bucket": d.bucket, "prefix": d.prefix, "match": d.match}
            for d in datasets.by_name.values()
        ],
        "upload_bytes": upload_bytes,
    }


def story(told: Story) -> dict[str, Any]:
    return {
        "object": printable(told.object, LONGEST_LINE),
        "fate": told.fate,
        "story": [{"at": at, "what": printable(what, LONGEST_LINE)} for at, what in told.lines],
        "now": [printable(line, LONGEST_LINE) for line in told.now],
        "next": printable(told.next, LONGEST_LINE),
    }


def upload_key(datasets: Datasets, dataset: Dataset, key: str) -> str:
    """The key, if an object of that name would belong to the dataset. Raises SettingsError."""
    shown = printable(f"{dataset.bucket}/{key}", LONGEST_KEY)
    if "\\" in key or {"", ".", ".."} & set(key.split("/")):
        # Stores refuse or rewrite such keys, and then nobody finds the object under its own name.
        raise SettingsError(f"{shown} has a backslash or an empty, . or .. part: choose another name")
    if len(key.encode(errors="replace")) > LONGEST_KEY_BYTES or not key.isprintable():
        raise SettingsError(f"{shown} is too long, or has control characters: choose another name")
    found, why = datasets.find(dataset.bucket, key)
    if found is None or found.name != dataset.name:
        why = f"belongs to {found.name}" if found else why
        raise SettingsError(
            f"{shown} would not belong to {dataset.name}, which takes {dataset.match}: "
            f"{printable(why, LONGEST_REASON)}"
        )
    return key
