"""The time that listeners agree on, and that files are expected by."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dropflow import clock


@pytest.fixture(autouse=True)
def _own_time_again() -> Iterator[None]:
    yield
    clock.agree_on(datetime.now(UTC))


@pytest.mark.parametrize("minutes", [-10, 10])
def test_another_clock_is_gone_by(minutes: int) -> None:
    theirs = timedelta(minutes=minutes)
    assert abs(clock.agree_on(datetime.now(UTC) + theirs) - theirs) < timedelta(seconds=1)
    assert abs(clock.utc_now() - datetime.now(UTC) - theirs) < timedelta(seconds=1)


def test_what_all_clocks_are_off_by_changes_nothing() -> None:
    assert clock.agree_on(datetime.now(UTC) + clock.LITTLE / 2) == timedelta(0)
