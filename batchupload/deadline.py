"""What a person calls a deadline → seconds from now, by clocks that go on while this machine sleeps."""

import math
import re
import time
from collections.abc import Callable
from datetime import datetime

from batchupload.awake import real_seconds
from batchupload.language import _

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DURATION = re.compile(r"(?=\d)(?:(\d{1,3})h)?(?:(\d{1,4})m)?(?:(\d{1,6})s)?", re.ASCII)
_DAY = 86_400
_STEP = 900
"""Seconds in which the clocks of no zone change twice."""


class Deadline:
    """When a run is to end; the time counts from when this is made."""

    def __init__(self, text: str) -> None:
        seconds = seconds_until(text, datetime.now().astimezone())
        self._end = real_seconds() + seconds
        # If the clock is set back, the run ends after the seconds that there were; if it is set forward, by the clock.
        self._moment = time.time() + seconds if _CLOCK.fullmatch(text.strip()) else math.inf

    def left(self) -> float:
        """Seconds until then; negative once it is over."""
        return min(self._end - real_seconds(), self._moment - time.time())


def local_offset(at: float) -> int:
    """Return the seconds that local time is ahead of UTC at this Unix time."""
    return time.localtime(at).tm_gmtoff


def seconds_until(text: str, now: datetime, offset: Callable[[float], int] = local_offset) -> float:
    """Return the seconds from `now` until the clock next shows `06:00`, or those of a duration such as `2h30m`.

    If a change of clocks repeats that time, the next of both counts; if it leaves that time out, the change itself.
    `offset` gives the zone's offset at a Unix time. Raises `ValueError` that says what is allowed.
    """
    if found := _CLOCK.fullmatch(text.strip()):
        at = now.timestamp()
        return _next(int(found[1]) * 3600 + int(found[2]) * 60, at, offset) - at
    if found := _DURATION.fullmatch(text.strip()):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        if total := hours * 3600 + minutes * 60 + seconds:
            return float(total)
    raise ValueError(_("give a time of day such as 06:00, or a duration such as 2h30m, 90m or 45s"))


def _next(second: int, now: float, offset: Callable[[float], int]) -> int:
    """The first Unix time after `now` at which the clock shows this second of a day, or is set past it."""
    at = math.floor(now)
    while True:
        ahead, end = offset(at), at + _STEP
        due = at + (second - at - ahead) % _DAY
        if due <= now:
            due += _DAY
        if offset(end) == ahead:
            if due <= end:
                return due
            at = end
            continue
        change = _change(at, end, offset)
        if due < change:
            return due
        if (second - change - ahead) % _DAY < offset(change) - ahead:  # left out
            return change
        at = change


def _change(before: int, after: int, offset: Callable[[float], int]) -> int:
    """The first second between these two at which the offset is another."""
    old = offset(before)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if offset(middle) == old else (before, middle)
    return after
