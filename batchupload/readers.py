"""Photo sets of several orders at a time, read and checked in threads: the photo stage as the event loop sees it."""

import asyncio
import ctypes
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from threading import Condition
from types import TracebackType
from typing import Self, TypeVar

from batchupload.model import Fetched, PhotoSet, Problem, Wanted
from batchupload.photos import FilesExhaustedError, Mend, load_photos
from batchupload.reasons import Reason
from batchupload.shop_settings import PhotoSettings

MOST_READERS = 8
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
REPAIR_MEMORY = 512 << 20
"""Bytes of the pictures that are repaired at a time; one that needs more is repaired alone."""

T = TypeVar("T")
Read = PhotoSet | Problem | Reason
"""A photo set, what is wrong with it, or why it could not be looked at."""


class Readers:
    """Threads for blocking work; each piece of it may take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.count = max(2, min(MOST_READERS, os.cpu_count() or 2))
        self._threads = ThreadPoolExecutor(self.count, "reader")
        self._room = Room(REPAIR_MEMORY)
        self._filters = warnings.catch_warnings()
        keep_freed_memory()

    def __enter__(self) -> Self:
        """Have no decoder warn on the screen of sizes and odd metadata: `max_pixels` decides.

        Once for all threads, since they share the filters.
        """
        self._filters.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin nothing more; a disk that does not answer is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._filters.__exit__(kind, error, trace)

    async def do(self, work: Callable[[], T]) -> T:
        """Do blocking work off the loop. Raises `TimeoutError` where a disk does not answer."""
        async with asyncio.timeout(self._seconds):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def load(self, wanted: Sequence[Wanted], settings: PhotoSettings, fetched: Sequence[Fetched]) -> list[Read]:
        """The photos of each order; some are `fetched` already, or could not be."""
        mend = None
        if settings.repair:
            from batchupload.repair import repair  # here, since most runs need it not

            mend = partial(repair, settings=settings, room=self._room.take)
        try:
            return await self.do(lambda: list(map(_load, wanted, repeat(settings), fetched, repeat(mend))))
        except TimeoutError:
            return [Reason.PHOTO_READ_TIMEOUT] * len(wanted)


class Room:
    """Memory that threads take and give back; who finds too little waits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def take(self, size: int) -> Generator[None, None, None]:
        """Have so many bytes meanwhile; all there is where that is more."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def keep_freed_memory() -> None:
    """Let malloc use the memory of one photo for the next: fresh pages cost more than the reading (mallopt(3)).

    Whichever thread asks: what one has freed, another would not find in a heap of its own.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        library.mallopt(M_ARENA_MAX, 1)


def _load(wanted: Wanted, settings: PhotoSettings, fetched: Fetched, mend: Mend | None) -> Read:
    if isinstance(fetched, Problem):
        return fetched
    try:
        found = load_photos(wanted.photos, wanted.folder, settings, wanted.trusted, fetched, mend)
    except FilesExhaustedError:
        return Reason.FILES_EXHAUSTED
    if isinstance(found, PhotoSet) and wanted.before not in {None, found.digest}:
        return Problem(Reason.PHOTO_CHANGED, "")
    return found
