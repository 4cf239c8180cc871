"""No more than so many units a second, by a timetable: orders, or bytes of all uploads together."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

LOOK_AGAIN = 1.0
"""Seconds after which who waits looks again: the hour may have struck."""
TOO_SHORT = 1e-6
"""Seconds that are not waited: a clock may not be fine enough to tell that they have passed."""
BYTES_CREDIT = 0.1
"""Seconds' worth of bytes that may be saved up: a slice goes every few milliseconds, and who is woken late for one
shall not lose what went unused meanwhile."""


class Limits(Protocol):
    """Says what the limit is at a time of day, as a `Timetable` does."""

    def at(self, moment: datetime, /) -> float | None:
        """Units a second; None for no limit."""


class Throttle:
    """What is taken is a debt that time pays off at the rate in force; nothing goes while there is one.

    A limiter from a library keeps the rate it was made with; here the debt is kept in units, so that a new rate counts
    at once for what already waits. So many seconds' worth of `credit` may be saved up.
    """

    def __init__(
        self, timetable: Limits, now: Callable[[], float], clock: Callable[[], datetime], credit: float = 0.0
    ) -> None:
        self._timetable = timetable
        self._now = now
        self._clock = clock
        self._credit = credit
        self._debt = 0.0
        self._paid = now()
        self._turn = asyncio.Lock()
        self.seconds_held = 0.0
        """How long it has held up what wanted to pass, one after the other."""

    @property
    def held(self) -> bool:
        """Whether it holds something up at this moment."""
        return self._turn.locked()

    @property
    def rate(self) -> float | None:
        """Units a second that are allowed at present; None for no limit."""
        return self._timetable.at(self._clock())

    def wait(self) -> float:
        """Seconds until the next may go, at the present rate."""
        rate, now = self.rate, self._now()
        self._debt = 0.0 if rate is None else max(-rate * self._credit, self._debt - rate * (now - self._paid))
        self._paid = now
        wait = 0.0 if rate is None else self._debt / rate
        return wait if wait > TOO_SHORT else 0.0

    def take(self, units: float) -> None:
        """Go with so many."""
        self._debt += units

    async def passed(self, units: float) -> None:
        """Wait for the turn of so many, and go; in the order in which they came."""
        async with self._turn:
            while (wait := self.wait()) > 0:
                pause = min(wait, LOOK_AGAIN)
                self.seconds_held += pause
                await asyncio.sleep(pause)
            self.take(units)
