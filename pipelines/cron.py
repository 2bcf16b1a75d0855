"""Cron: the times that a line of a crontab means, by the clock of a time zone."""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


@dataclass(frozen=True)
class Cron:
    """Times that come again.

    Attributes:
        text: minute, hour, day of the month, month, day of the week (0 is Sunday). Where both days
            are given, either will do. A time that the clock leaps over comes when it has landed,
            and one that it shows twice comes once, unless hours or minutes are ``*``.
        zone: whose clock, such as ``Europe/Berlin``.
    """

    text: str
    zone: str

    def __post_init__(self) -> None:
        if len(self.text.split()) != 5:
            raise ValueError(
                "cron must have five fields (minute, hour, day, month, weekday), such as "
                f"'0 3 * * *' for 03:00 daily, got {self.text!r}"
            )
        try:
            CronSim(self.text, datetime.now())
        except CronSimError as error:
            raise ValueError(f"cron has a {str(error).lower()}: {self.text!r}") from error
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"a time zone is a name such as Europe/Berlin or UTC, got {self.zone!r}"
            ) from error

    def when(self, seconds: float) -> datetime:
        """Give a moment in seconds since 1970 by this clock."""
        return datetime.fromtimestamp(seconds, ZoneInfo(self.zone))

    def next_time(self, now: float) -> datetime:
        """Give the first time after a moment in seconds since 1970."""
        return next(CronSim(self.text, self.when(now)))

    def last_time(self, now: float) -> datetime:
        """Give the last time before a moment in seconds since 1970, or at it."""
        after = self.when(int(now)) + timedelta(seconds=1)
        return next(CronSim(self.text, after, reverse=True))


def local_zone() -> str:
    """Name this machine's time zone; UTC where it does not say."""
    linked = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    return os.environ.get("TZ", "").lstrip(":") or linked or "UTC"
