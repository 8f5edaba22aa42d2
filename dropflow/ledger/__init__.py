"""The ledger: the listener's durable working memory. It may be deleted; a sweep rebuilds it."""

from dropflow.ledger.entries import SETTLED, Delivery, Entry, Fate, Listening, Settlement, Source, SweepReport
from dropflow.ledger.ledger import Ledger

__all__ = [
    "SETTLED",
    "Delivery",
    "Entry",
    "Fate",
    "Ledger",
    "Listening",
    "Settlement",
    "Source",
    "SweepReport",
]
