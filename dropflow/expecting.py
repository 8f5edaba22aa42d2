"""By when a file of a dataset is expected, as it declares it under `expect:`."""

import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, model_validator

from dropflow.columns import Strict

_TEXT = re.compile(r"by (?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?: on (?P<days>[A-Za-z,-]+))?")
_DAYS = {"weekdays": "1-5", "weekends": "0,6"}
_AT_LEAST = 13
"""Deadlines looked at for the longest time between two, and eight days: a year's months, a week's days."""


def _cron(text: str) -> str:
    # Of six fields, some take the first for seconds and some the last.
    why = "" if len(text.split()) == 5 else "not five fields; "
    try:
        next(CronSim(text, datetime(2026, 1, 1)))
    except CronSimError as error:
        why = f"{error}; "
    except StopIteration:
        why = "that never comes; "
    if why:
        raise ValueError(f"{why}expected minute hour day month weekday, as in 0 8 * * 1-5")
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, OSError, ValueError) as error:
        raise ValueError("expected a name like Europe/Berlin or UTC") from error
    return name


Cron = Annotated[str, AfterValidator(_cron)]
Timezone = Annotated[str, AfterValidator(_timezone)]


class Expect(Strict):
    """A file is expected between any two deadlines."""

    cron: Cron

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if found := _TEXT.fullmatch(value.strip()):
            days = found["days"] or "*"
            return {"cron": f"{int(found['minute'])} {int(found['hour'])} * * {_DAYS.get(days, days)}"}
        if value.split()[:1] == ["by"]:
            raise ValueError("expected by 08:00, by 08:00 on weekdays, by 08:00 on mon,thu, or a cron line")
        return {"cron": value}

    def deadlines(self, now: datetime, zone: str) -> tuple[datetime, datetime]:
        """The last deadline that has passed, and the one before it."""
        # The next second: looking back leaves the moment itself out.
        upto = now.astimezone(ZoneInfo(zone)).replace(microsecond=0) + timedelta(seconds=1)
        passed = CronSim(self.cron, upto, reverse=True)
        last, before = next(passed), next(passed)
        return last, before

    @property
    def longest(self) -> timedelta:
        """The longest time between two deadlines."""
        begin = datetime(2026, 1, 1)
        moments: list[datetime] = []
        for moment in CronSim(self.cron, begin):
            moments.append(moment)
            if len(moments) >= _AT_LEAST and moment - begin > timedelta(days=8):
                break
        return max(after - before for before, after in pairwise(moments))
