"""The ledger: the listener's durable working memory. It may be deleted; a sweep rebuilds it."""

from dropflow.ledger.deadlines import Deadline
from dropflow.ledger.entries import (
    INTERRUPTED,
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
    Untold,
)
from dropflow.ledger.ledger import Ledger
from dropflow.ledger.outbox import Gather

__all__ = [
    "INTERRUPTED",
    "SETTLED",
    "ChannelState",
    "Deadline",
    "Delivery",
    "Entry",
    "Fate",
    "Gather",
    "Ledger",
    "Listening",
    "Notice",
    "Posting",
    "Settlement",
    "Source",
    "SweepReport",
    "Untold",
]
