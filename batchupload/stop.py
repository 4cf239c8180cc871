"""Why and when a run ends early: first no new sends, then, at the end of the drain time, none at all."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from batchupload.reasons import Reason

LOOK_AGAIN = 1.0
"""Seconds after which it is looked again how long the end of a run would take."""


class InterruptedAttemptError(Exception):
    """The drain time is over: what was under way ends here."""


class Stop:
    """The one place that knows whether a run is to end; the first cause stays."""

    def __init__(self) -> None:
        self.cause: Reason | None = None
        """Why the run ends early, or None."""
        self.detail = ""
        """What was seen that led to it."""
        self.signal: int | None = None
        """The first signal that came, or None."""
        self.at_once = False
        """Whether the drain time is over."""
        self.impatient = False
        """Whether a second signal came: what is left is left, even in the report."""
        self._asked = asyncio.Event()
        self._wake: list[Callable[[], None]] = []
        self._scopes: set[asyncio.Timeout] = set()

    def ask(self, cause: Reason, detail: str = "") -> None:
        """Begin no more sends; those under way go on."""
        if self.cause is None:
            self.cause = cause
            self.detail = detail
            self._asked.set()
            for wake in self._wake:
                wake()

    def wakes(self, wake: Callable[[], None]) -> None:
        """Call this when the run is to end."""
        self._wake.append(wake)

    def now(self) -> None:
        """Interrupt what is under way."""
        self.at_once = True
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(0)

    async def sleep(self, seconds: float) -> bool:
        """Wait this long, or until the run is to end; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return False
        return True

    async def drained(self, seconds: float) -> None:
        """Wait until the run is to end, and once the drain time is over, interrupt what is left."""
        await self._asked.wait()
        await asyncio.sleep(seconds)
        self.now()

    async def at_deadline(self, left: Callable[[], float], drain: float, writing: Callable[[], float]) -> None:
        """Stop early enough to end when no seconds are `left`, by a clock that goes on while this machine sleeps.

        Reserve `drain` seconds for what is under way, or `writing()` seconds to record the rows that are left,
        whichever is longer.
        """
        seconds = max(0.0, left())
        while (early := left() - max(min(drain, seconds / 2), min(writing(), seconds))) > 0:
            if await self.sleep(min(early, LOOK_AGAIN)):
                return
        # If this machine slept beyond the deadline, the answers that came meanwhile are still to be read.
        rest = left() if left() > 0 else LOOK_AGAIN
        self.ask(Reason.DEADLINE)
        await asyncio.sleep(min(drain, rest))
        self.now()

    @asynccontextmanager
    async def interruptible(self) -> AsyncGenerator[None, None]:
        """A scope that the end of the drain time breaks with `InterruptedAttemptError`."""
        scope = asyncio.timeout(0 if self.at_once else None)
        self._scopes.add(scope)
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise InterruptedAttemptError from None
        finally:
            self._scopes.discard(scope)
