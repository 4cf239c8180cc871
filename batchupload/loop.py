"""The event loop of every command: its clock stands still while this machine sleeps, and it knows how long it idled."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from batchupload.awake import SLICE_SECONDS, AwakeClock

T = TypeVar("T")
TICK_SECONDS = 0.01
"""Between two looks while the clock stands still."""


class _Selector(selectors.DefaultSelector):
    """As the system's own, but it comes back each slice, so that the clock is read; adds up how long it waited."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = AwakeClock()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout is not None and timeout <= 0:  # only a look: there is work to go on with
            return super().select(timeout)
        slice_ = SLICE_SECONDS if timeout is None else min(timeout, SLICE_SECONDS)
        began = self.clock()
        try:
            return super().select(max(slice_, TICK_SECONDS) if self.clock.stands else slice_)
        finally:
            self.waited += self.clock() - began


class TellingLoop(asyncio.SelectorEventLoop):
    """As asyncio's own, with an `AwakeClock`: timeouts, sleeps and all that asks the loop for the time go by it."""

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)

    def time(self) -> float:
        """Seconds for which this process ran."""
        return self._waiting.clock()

    @property
    def idle(self) -> float:
        """Seconds for which there was nothing to do but to wait, since it was made."""
        return self._waiting.waited


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` on a loop of this kind.

    Not by `asyncio.run`, which at its end waits for threads, and so for as long as a name server or a disk likes.
    """
    return asyncio.Runner(loop_factory=TellingLoop).run(work)


def idle_seconds(loop: asyncio.AbstractEventLoop) -> float:
    """A clock that goes on while the loop is idle; for a loop that doesn't tell, as if it always were."""
    return loop.idle if isinstance(loop, TellingLoop) else loop.time()
