"""Inside a program that is swept: what its waits meet. Nothing of it is loaded before the clocks are replaced."""

import asyncio
import datetime
import sys
import time
from pathlib import Path
from typing import Any

PAUSE = 600.0
"""Seconds; longer than each limit."""
SOON = 0.3
"""Seconds after which a wait for what never comes ends."""
DAY = 86_400.0


def meddle(kind: str, at: str, reached: Path) -> None:
    """Have each wait that is `at` (or "all") meet a pause, a clock that is set (`ahead`, `behind`), or a hang."""
    offset = {"monotonic": 0.0, "wall": 0.0}
    monotonic, wall, now = time.monotonic, time.time, datetime.datetime.now
    time.monotonic = lambda: monotonic() + offset["monotonic"]
    time.time = lambda: wall() + offset["wall"]

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            moved = now(tz) + datetime.timedelta(seconds=offset["wall"])
            return cls.fromtimestamp(moved.timestamp(), tz)

    datetime.datetime = Moved  # type: ignore[misc]
    steps = {"pause": ("monotonic", PAUSE), "ahead": ("wall", DAY), "behind": ("wall", -DAY)}
    seen: set[str] = set()

    def strike() -> None:
        if kind in steps:
            clock, step = steps[kind]
            offset[clock] += step

    def met(call: str, depth: int = 2) -> bool:
        """Note the wait; tell whether it is to hang."""
        frame = sys._getframe(depth)
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("batchupload.") or module == "batchupload.patience":
            return False
        wait = f"{module}:{frame.f_code.co_qualname}:{call}"
        mine = at in ("all", wait)
        if wait not in seen:
            seen.add(wait)
            with reached.open("a") as file:
                file.write(f"{wait}\n")
            if mine and call == "wait_until":
                strike()
            elif mine:
                # What waits for an answer is to be on its way.
                loop = asyncio.get_running_loop()
                loop.call_later(0.03, strike) if call == "Patience" else loop.call_soon(strike)
        return mine and kind == "hang"

    replace_waits(met)


def replace_waits(met: Any) -> None:
    """Put what asks `met` in the place of each wait."""
    timeout, wait, sleep = asyncio.timeout, asyncio.wait, asyncio.sleep

    class Hanging:
        def __init__(self, seconds: float | None) -> None:
            self._scope = timeout(min(SOON, seconds or SOON))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._scope, name)

        async def __aenter__(self) -> Any:
            await self._scope.__aenter__()
            try:
                await sleep(3600)
            except asyncio.CancelledError:
                await self._scope.__aexit__(*sys.exc_info())
                raise

        async def __aexit__(self, *error: Any) -> None:
            raise AssertionError

    def new_timeout(seconds: float | None) -> Any:
        return Hanging(seconds) if met("asyncio.timeout") and seconds is not None else timeout(seconds)

    async def new_wait(things: Any, *, timeout: float | None = None, **more: Any) -> Any:
        if met("asyncio.wait") and timeout is not None:
            await sleep(min(SOON, timeout))
            return set(), set(things)
        return await wait(things, timeout=timeout, **more)

    def new_sleep(seconds: float, result: Any = None) -> Any:
        met("asyncio.sleep")
        return sleep(seconds, result)

    asyncio.timeout, asyncio.wait, asyncio.sleep = new_timeout, new_wait, new_sleep  # type: ignore[assignment]
    from batchupload.patience import Patience

    begin = Patience.__init__

    def new_begin(self: Patience, *arguments: Any) -> None:
        met("Patience")
        begin(self, *arguments)

    Patience.__init__ = new_begin  # type: ignore[method-assign,assignment]
    try:
        from batchupload import awake
    except ImportError:
        return
    until = awake.wait_until

    def new_until(done: Any, wait: Any, seconds: float) -> bool:
        return False if met("wait_until") else until(done, wait, seconds)

    awake.wait_until = new_until
