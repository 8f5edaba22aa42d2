"""The ledger: the listener's durable working memory. It may be deleted; a sweep rebuilds it."""

from dropflow.ledger.deadlines import Deadline
from dropflow.ledger.entries import (
    CANARY,
    LATE,
    MISSING,
    SETTLED,
    ChannelState,
    Delivery,
    Entry,
    Fate,
    Listening,
    Notice,
    Posting,
    Settlement,
    Source,
    SweepReport,
)
from dropflow.ledger.ledger import Ledger

__all__ = [
    "CANARY",
    "LATE",
    "MISSING",
    "SETTLED",
    "ChannelState",
    "Deadline",
    "Delivery",
    "Entry",
    "Fate",
    "Ledger",
    "Listening",
    "Notice",
    "Posting",
    "Settlement",
    "Source",
    "SweepReport",
]
