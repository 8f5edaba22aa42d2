"""The ledger: the listener's durable working memory. It may be deleted; a sweep rebuilds it."""

from dropflow.ledger.entries import (
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
    "SETTLED",
    "ChannelState",
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
