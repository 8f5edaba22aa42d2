"""What the ledger holds, as values."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dropflow.notifying import Kind
from dropflow.objects import ObjectRef


class Fate(StrEnum):
    """Where an object stands."""

    PENDING = "pending"
    """Known, no event claimed for it yet."""
    DISPATCHED = "dispatched"
    """In an event, receipt awaited."""
    PROCESSED = "processed"
    REJECTED = "rejected"
    IGNORED = "ignored"
    """Belongs to no dataset, or was gone before it was prepared."""
    FAILED = "failed"
    """Delivered as often as allowed, without a receipt."""


SETTLED = (Fate.PROCESSED, Fate.REJECTED, Fate.IGNORED, Fate.FAILED)


@dataclass(frozen=True, slots=True)
class Entry:
    """An object and where it stands. Times are UTC."""

    id: int
    ref: ObjectRef
    source: str
    dataset: str
    fate: Fate
    reason: str
    first_seen: datetime
    updated: datetime
    ready_at: datetime | None
    deliveries: int
    event_id: str | None
    due: datetime | None
    force: bool
    receipt_at: datetime | None
    after: datetime | None
    output_bucket: str
    output_key: str
    output_etag: str
    quarantined: int

    @property
    def output(self) -> ObjectRef:
        """Without a key when there is none."""
        return ObjectRef(self.output_bucket, self.output_key, self.output_etag)

    @property
    def reopened(self) -> bool:
        """Seen again after it had a fate: only the store knows whether it is there."""
        return self.reason == SEEN_AGAIN

    @property
    def held(self) -> bool:
        """Ready, but its dataset is paused."""
        return self.fate is Fate.PENDING and self.reason.startswith(PAUSED)


PAUSED = "paused: "
"""How the reason of a held object begins."""


def paused_reason(dataset: str) -> str:
    return f"{PAUSED}dropflow resume {dataset} (or resume the deployment in the Prefect UI)"


INTERRUPTED = "interrupted"
"""How the reason of an object begins whose run could not work: no fault of the object."""
SEEN_AGAIN = "seen again"
"""As `Ledger.record` writes it."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The fate that a receipt gives an object."""

    ref: ObjectRef
    dataset: str
    fate: Fate
    reason: str
    receipt_at: datetime
    output_bucket: str = ""
    output_key: str = ""
    output_etag: str = ""
    quarantined: int = 0
    run_id: str = ""
    report_key: str = ""
    """What the report is made of: a receipt; or a page that an earlier version has stored."""


@dataclass(frozen=True, slots=True)
class Untold:
    """Notices of the same dataset, kind and cause that no message tells of yet. `last`: the newest's id."""

    dataset: str
    kind: Kind
    cause: str
    number: int
    since: datetime
    until: datetime
    last: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of an object, or of a place where none is.

    `seconds`: from its last write to its receipt, if known.
    """

    ref: ObjectRef
    reason: str
    seconds: float | None = None
    run_id: str = ""
    report_key: str = ""


@dataclass(frozen=True, slots=True)
class Posting:
    """One message on its way to one channel."""

    message: str
    channel: str
    tries: int
    content: str


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel takes messages. `waiting` ones are tried again; `error` says why.

    `since`: when the one that waits longest was made.
    """

    channel: str
    sent: datetime | None
    waiting: int
    given_up: int
    error: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Objects that leave together, as one event. Its id is the event's."""

    id: str
    dataset: str
    number: int
    """1 for the first time these objects are delivered."""
    force: bool
    refs: list[ObjectRef]


@dataclass(frozen=True, slots=True)
class Listening:
    """A listener process."""

    id: str
    name: str
    started: datetime
    heartbeat: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """One listener's way of hearing of objects, and whether it works right now."""

    listener: str
    name: str
    live: bool
    since: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep found. `unaccounted`: objects in the bucket without a recorded fate.

    `unswept`: a line for each bucket that could not be swept, with the reason.
    """

    started: datetime
    seconds: float
    objects: int
    receipts: int
    new: int
    settled: int
    reopened: int
    orphans: int
    unaccounted: int
    unswept: str = ""

    @property
    def verified_unaccounted(self) -> int | None:
        """How many objects are unaccounted for; None where a bucket could not be listed."""
        return None if self.unswept else self.unaccounted


def utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def naive(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment else None


def entry(row: Any) -> Entry:
    """A row of `objects`."""
    # Not `dict(row._mapping)`, which goes through Python for each column.
    values: dict[str, Any] = dict(zip(row._fields, row, strict=True))
    for name in ("modified", "first_seen", "updated", "ready_at", "due", "receipt_at", "after"):
        values[name] = utc(values[name])
    place = ("bucket", "key", "etag", "size", "version_id", "modified")
    values["ref"] = ObjectRef(*(values[name] for name in place))
    values["fate"] = Fate(values["fate"])
    return Entry(**{name: values[name] for name in _FIELDS})


_FIELDS = tuple(field.name for field in fields(Entry))
