"""An event loop that tells how long it had nothing to do, by which a run knows whether this machine was its bound."""

import asyncio
import selectors
import time
from typing import Any


class _Selector(selectors.DefaultSelector):
    """As the system's own; adds up for how long it waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout is not None and timeout <= 0:  # only a look: there is work to go on with
            return super().select(timeout)
        began = time.perf_counter()
        try:
            return super().select(timeout)
        finally:
            self.waited += time.perf_counter() - began


class TellingLoop(asyncio.SelectorEventLoop):
    """As asyncio's own."""

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)

    @property
    def idle(self) -> float:
        """Seconds for which there was nothing to do but to wait, since it was made."""
        return self._waiting.waited


def idle_seconds(loop: asyncio.AbstractEventLoop) -> float:
    """A clock that goes on while the loop is idle; for a loop that doesn't tell, as if it always were."""
    return loop.idle if isinstance(loop, TellingLoop) else loop.time()
