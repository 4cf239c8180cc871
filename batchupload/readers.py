"""Photo sets of several orders at a time, read and checked in threads: the photo stage as the event loop sees it."""

import asyncio
import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import TypeVar

from batchupload.model import Order, PhotoSet, Problem
from batchupload.photos import FilesExhaustedError, load_photos
from batchupload.reasons import Reason
from batchupload.settings import PhotoSettings
from batchupload.sources.sources import Fetched

MOST_READERS = 8
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

T = TypeVar("T")
Found = PhotoSet | Problem | Reason
"""A photo set, what is wrong with it, or why it could not be looked at."""


class Readers:
    """Threads for blocking work; each piece of it may take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.count = max(2, min(MOST_READERS, os.cpu_count() or 2))
        self._threads = ThreadPoolExecutor(self.count, "reader")
        keep_freed_memory()

    def close(self) -> None:
        """Begin nothing more; a disk that does not answer is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def do(self, work: Callable[[], T]) -> T:
        """Do blocking work off the loop. Raises `TimeoutError` where a disk does not answer."""
        async with asyncio.timeout(self._seconds):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def load(self, orders: Sequence[Order], settings: PhotoSettings, fetched: Sequence[Fetched]) -> list[Found]:
        """The photos of each order, for its next attempt; some are `fetched` already, or could not be."""
        try:
            return await self.do(lambda: list(map(_load, orders, repeat(settings), fetched)))
        except TimeoutError:
            return [Reason.PHOTO_READ_TIMEOUT] * len(orders)


def keep_freed_memory() -> None:
    """Let malloc use the memory of one photo for the next: fresh pages cost more than the reading (mallopt(3))."""
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _load(order: Order, settings: PhotoSettings, fetched: Fetched) -> Found:
    if isinstance(fetched, Problem):
        return fetched
    row, trusted = order.row, order.digest or order.standing.uploaded
    try:
        found = load_photos(row.photos, row.manifest.parent, settings, trusted, fetched)
    except FilesExhaustedError:
        return Reason.FILES_EXHAUSTED
    if isinstance(found, PhotoSet) and order.digest not in {None, found.digest}:
        return Problem(Reason.PHOTO_CHANGED, "")
    return found
