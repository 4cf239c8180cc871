"""A timeout that is put off at each sign of progress."""

import asyncio
import math
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

LOOK_AGAIN = 1.0
"""Seconds after which it is looked again whether a wait of our own is over."""


class Patience:
    """An async context manager that raises `TimeoutError` in its block once the time it was given is over.

    Putting it off costs nothing but an assignment; the timer looks when it comes whether it came too early.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.timeout(None)
        self._held = 0

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._timer = self._loop.call_at(self._due, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def until(self, due: float) -> None:
        """Be over at this time of the loop's clock instead."""
        if due < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._look)
        self._due = due

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """A wait of our own, in which time does not count."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def _look(self) -> None:
        now = self._loop.time()
        if now < self._due:
            due = self._due
        elif self._held:
            due = now + LOOK_AGAIN
        else:
            self._timeout.reschedule(now)
            return
        self._timer = self._loop.call_at(due, self._look)
