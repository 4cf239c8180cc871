"""When runs ended and how long they took, as far as the machine's clock can be believed. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def latest_ends(dates: Sequence[datetime], now: datetime) -> list[datetime]:
    """Say by when each run had surely ended, by the dates on record, which are in the order of the runs.

    A date that lies ahead of `now`, or before that of an earlier run, is of a wrong clock. Such a run had ended when
    the next one did whose date is right, or else by now.
    """
    newest, right = datetime.min.replace(tzinfo=UTC), []
    for date in dates:
        right.append(newest <= date <= now)
        newest = date if right[-1] else newest
    surely, found = now, []
    for date, is_right in zip(reversed(dates), reversed(right), strict=True):
        surely = date if is_right else surely
        found.append(surely)
    return found[::-1]


def run_seconds(started_at: str, ended_at: str | None, summary: Mapping[str, Any] | None) -> float | None:
    """How long a run took, in seconds: as it measured itself; else by the clock; None if that was set back meanwhile.

    A run that goes on or died has none.
    """
    if ended_at is None:
        return None
    measured = (summary or {}).get("seconds")
    if isinstance(measured, int | float):
        return float(measured)
    by_clock = (datetime.fromisoformat(ended_at) - datetime.fromisoformat(started_at)).total_seconds()
    return by_clock if by_clock >= 0 else None
