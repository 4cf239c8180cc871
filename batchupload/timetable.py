"""What a person writes of a limit (`1M`, `off`, or one for each part of the day) → the limit at a time of day. Pure."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from batchupload.language import _

T = TypeVar("T", bound=float)

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
_BYTES = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([BKMG])(?:i?B)?(?:/s)?", re.ASCII | re.IGNORECASE)
_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Timetable:
    """A limit that changes with the time of day."""

    entries: tuple[tuple[int, float | None], ...]
    """(minute of the day, units a second from then on), by time; None for no limit. Before the day's first entry
    yesterday's last is in force."""

    def at(self, time: datetime) -> float | None:
        """The limit in force at this local time."""
        place = bisect_right(self.entries, time.hour * 60 + time.minute, key=lambda entry: entry[0])
        return self.entries[place - 1][1]


def bytes_per_second(value: object) -> float | None:
    """`512K`, `1.5M`, or `off`; units are powers of 1024. Raises `ValueError` that says what is allowed."""
    if _is_off(value):
        return None
    found = _BYTES.fullmatch(str(value).strip())
    if not found or not float(found[1]):
        raise ValueError(
            _("give bytes a second with their unit, such as 512K or 1.5M, or off, not {value!r}", value=value)
        )
    return float(found[1]) * _UNITS[found[2].upper()]


def orders_per_second(value: object) -> float | None:
    """A number above 0, or `off`. Raises `ValueError` that says what is allowed."""
    if _is_off(value):
        return None
    try:
        number = 0.0 if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number <= 1_000_000:
        raise ValueError(_("give orders a second, such as 5 or 0.5, or off, not {value!r}", value=value))
    return number


def timetable(value: object, limit: Callable[[object], float | None]) -> Timetable | None:
    """Read one limit for all day, a mapping of times to limits, or `08:00,1M 23:00,off` as rclone has it.

    None where there is none all day. Raises `ValueError` that says what is allowed.
    """
    if isinstance(value, str) and "," in value:
        pairs = [entry.partition(",")[::2] for entry in value.split()]
        if len({time for time, _ in pairs}) < len(pairs):
            raise ValueError(_("a time stands twice in {value!r}; keep one", value=value))
        value = dict(pairs)
    if not isinstance(value, Mapping):
        found = limit(value)
        return None if found is None else Timetable(((0, found),))
    entries = sorted((_minute(time), limit(one)) for time, one in value.items())
    if len({minute for minute, _ in entries}) < len(entries):
        raise ValueError(_("a time stands twice; keep one"))
    if all(one is None for _, one in entries):
        return None
    return Timetable(tuple(entries))


def _minute(time: object) -> int:
    if found := _CLOCK.fullmatch(str(time).strip()):
        return int(found[1]) * 60 + int(found[2])
    raise ValueError(_('give times of day such as "08:00", not {time!r}', time=time))


def _is_off(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str) and value.strip().lower() in {"off", "no"})
