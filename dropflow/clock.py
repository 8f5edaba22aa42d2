"""What time it is: this machine's, or where several listeners share a ledger, that of its database.

They must not wait for each other because a clock is off: what one has put off until then, another takes up.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LITTLE = timedelta(seconds=1)
"""By so much clocks differ everywhere."""
_ahead = timedelta(0)


def utc_now() -> datetime:
    return datetime.now(UTC) + _ahead


def ahead_of_us(date: str | None) -> timedelta:
    """How far a server's clock is ahead, by the `Date` of an answer that just came; 0 without."""
    return parsedate_to_datetime(date) - utc_now() if date else timedelta(0)


def agree_on(theirs: datetime) -> timedelta:
    """Go by another clock, which says so now; returns how far it is ahead of this machine's."""
    global _ahead  # noqa: PLW0603 - a process has one ledger, and one time
    ahead = theirs - datetime.now(UTC)
    _ahead = ahead if abs(ahead) > LITTLE else timedelta(0)
    return _ahead
