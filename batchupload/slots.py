"""A number of places that can change while they are in use."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Slots:
    """At most `size` at once; who waits gets in by turn."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._surplus = 0
        self.taken = 0
        """How many are in use."""

    def resize(self, size: int) -> None:
        """Allow so many at once; those already in stay."""
        grown, self._size = size - self._size, size
        while grown > 0:
            grown -= 1
            self._give_back()
        self._surplus -= grown

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None, None]:
        """Wait for a place, and hold it."""
        await self._free.acquire()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._give_back()

    def _give_back(self) -> None:
        if self._surplus:
            self._surplus -= 1
        else:
            self._free.release()
