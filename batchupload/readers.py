"""Photo sets of several orders at a time, read and checked in threads: the photo stage as the event loop sees it."""

import asyncio
import ctypes
import logging
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition
from types import TracebackType
from typing import Self, TypeVar

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import Fetched, PhotoSet, Problem, Wanted, is_address
from batchupload.photo_places import PhotoPlaces
from batchupload.photos import FilesExhaustedError, Means, Mend, load_photos
from batchupload.reasons import Reason
from batchupload.row_faults import text_of
from batchupload.shop_settings import PhotoSettings
from batchupload.threads import Threads

MOST_READERS = 8
MOST_DECODING = 4
"""Decoders that were given up and still run: each takes a core, and so many are no accident."""
LOOKS = 8
"""How often it is looked, in the time that an order may take, how far a thread has come."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
PICTURE_MEMORY = 512 << 20
"""Bytes of the large pictures that are decoded or repaired at a time; one that needs more is alone with it."""

NOT_THERE = frozenset({Reason.PHOTO_MISSING, Reason.PHOTO_UNREADABLE})
"""What is said of a photo that can't be read, if it is not the disk's fault."""
NO_PLACE = frozenset({Reason.PHOTO_DISK_ERROR, Reason.PHOTO_OUTSIDE_ROOT})
"""What says nothing of where photos are."""

T = TypeVar("T")
Read = PhotoSet | Problem | Reason
"""A photo set, what is wrong with it, or why it could not be looked at."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """What a thread does, step by step: written by it, and read by the loop."""

    steps: int = 0
    """Changes with each sign of progress."""
    waits: bool = False
    """Whether it waits for its turn, which is no work."""
    decoding: str = ""
    """The field whose photo is being decoded; empty while it reads."""
    done: list[Read] = field(default_factory=list)
    given_up: bool = False
    """Whether nobody waits for it any more."""
    room: int = 0
    """Bytes of memory that it has taken."""

    def decodes(self, name: str) -> None:
        """Say that the decoder begins with the photo of this field; of none while files are read."""
        self.decoding = name
        self.steps += 1


class OverranError(Exception):
    """Work took longer than it may, and was given up."""


class Folder:
    """The photos below one folder: how many are read there at a time, and how many threads hang in it."""

    def __init__(self, root: Path, count: int) -> None:
        self.slots = asyncio.Semaphore(count)
        self.most_hanging = count
        self.hanging = 0
        """Threads that were given up while they read, and that did not come back yet."""
        self.places = PhotoPlaces(root)


class Readers:
    """Threads for blocking work; each piece of it may take so many `seconds`, not counted while it waits for a thread.

    Each photo folder has as many as there are cores, so that one that hangs costs the others nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.count = max(2, min(MOST_READERS, os.cpu_count() or 2))
        self.decoding = 0
        """Decoders that were given up, and that did not come back yet."""
        self._threads = Threads("reader")
        self._room = Room(PICTURE_MEMORY)
        self._folders: dict[Path, Folder] = {}
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
        self._threads.shutdown()
        self._filters.__exit__(kind, error, trace)

    def start(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Begin blocking work off the loop, in a thread that is free or a new one; who asks keeps it bounded."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def do(self, work: Callable[[], T]) -> T:
        """Do blocking work off the loop. Raises `TimeoutError` if a disk does not answer."""
        async with asyncio.timeout(self._seconds):
            return await self.start(work)

    def know(self, folder: Path, photo: str) -> None:
        """Know that this photo was there before anything was read."""
        self._folder(folder).places.found([photo])

    async def load(self, wanted: Sequence[Wanted], settings: PhotoSettings, fetched: Sequence[Fetched]) -> list[Read]:
        """The photos of each order; some are `fetched` already, or could not be. All are below one folder.

        An order that overruns its time is given up with its thread, and the others go on in another.
        """
        folder = self._folder(settings.root or wanted[0].folder)
        read: list[Read] = []
        async with folder.slots:
            while left := wanted[len(read) :]:
                if self.decoding >= MOST_DECODING or folder.hanging >= folder.most_hanging:
                    lost = self.decoding >= MOST_DECODING
                    read += [Reason.READERS_LOST if lost else Reason.PHOTO_READ_TIMEOUT] * len(left)
                    break
                work = Work()
                means = self._means(work, settings)
                call = partial(_load_all, work, left, settings, fetched[len(read) :], means, folder.places)
                try:
                    await self._watched(work, self.start(call), folder)
                    read += work.done
                except OverranError:
                    read += work.done
                    read.append(
                        Problem(Reason.PHOTO_DECODE_TIMEOUT, work.decoding, work.decoding)
                        if work.decoding
                        else Reason.PHOTO_READ_TIMEOUT
                    )
        return read

    async def _watched(self, work: Work, thread: "asyncio.Future[None]", folder: Folder) -> None:
        """Wait for the thread as long as it makes progress. Raises `OverranError`."""
        now = asyncio.get_running_loop().time
        steps, since = work.steps, now()
        try:
            while not thread.done():
                if work.steps != steps or work.waits:
                    steps, since = work.steps, now()
                if steps and now() - since >= self._seconds:
                    raise OverranError
                await asyncio.wait({thread}, timeout=self._seconds / LOOKS)
        finally:
            if not thread.done():
                self._give_up(work, thread, folder)
        thread.result()

    def _give_up(self, work: Work, thread: "asyncio.Future[None]", folder: Folder) -> None:
        """Wait for this thread no more, and count it as hanging until it comes back."""
        self._room.give_back(work)
        work.done = list(work.done)  # what it still adds is nobody's
        decodes = bool(work.decoding)
        self.decoding += decodes
        folder.hanging += not decodes

        def is_back(thread: "asyncio.Future[None]") -> None:
            self.decoding -= decodes
            folder.hanging -= not decodes
            thread.exception()  # nobody asks

        thread.add_done_callback(is_back)

    def _means(self, work: Work, settings: PhotoSettings) -> Means:
        room = partial(self._room.take, work=work)
        mend: Mend | None = None
        if settings.repair:
            from batchupload.repair import repair  # here, since most runs need it not

            mend = partial(repair, settings=settings, room=room)
        return Means(mend, room, work.decodes)

    def _folder(self, root: Path) -> Folder:
        if root not in self._folders:
            self._folders[root] = Folder(root, self.count)
        return self._folders[root]


class Room:
    """Memory that threads take and give back; who finds too little waits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def take(self, size: int, work: Work | None = None) -> Generator[None, None, None]:
        """Have so many bytes meanwhile; all there is where that is more. For `work` the wait does not count.

        Raises `OverranError` if that was given up meanwhile.
        """
        work = work or Work()
        size = min(size, self._size)
        with self._changed:
            work.waits = True
            self._changed.wait_for(lambda: work.given_up or self._taken + size <= self._size)
            if work.given_up:
                raise OverranError
            self._taken += size
            work.room += size
            work.steps += 1
            work.waits = False
        try:
            yield
        finally:
            with self._changed:
                if not work.given_up:  # else it was given back
                    self._taken -= size
                    work.room -= size
                self._changed.notify_all()

    def give_back(self, work: Work) -> None:
        """Have the memory of work that is given up: what it really takes is bounded by how often that may be."""
        with self._changed:
            work.given_up = True
            self._taken -= work.room
            work.room = 0
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


def _load_all(
    work: Work, wanted: Sequence[Wanted], settings: PhotoSettings, fetched: Sequence[Fetched], means: Means,
    places: PhotoPlaces,
) -> None:  # fmt: skip
    for one, photos in zip(wanted, fetched, strict=True):
        work.decodes("")
        try:
            found = _load(one, settings, photos, means, places)
        except Exception as error:
            log.exception(_("An internal fault with the photos of an order"), extra=event("internal_fault"))
            found = Problem(Reason.INTERNAL_ERROR, text_of(error))
        if work.given_up:
            return
        work.done.append(found)


def _load(wanted: Wanted, settings: PhotoSettings, fetched: Fetched, means: Means, places: PhotoPlaces) -> Read:
    if isinstance(fetched, Problem):
        return fetched
    try:
        found = load_photos(wanted.photos, wanted.folder, settings, wanted.trusted, fetched, means)
    except FilesExhaustedError:
        return Reason.FILES_EXHAUSTED
    files = [path for path in wanted.photos.values() if path and not is_address(path)]
    if isinstance(found, PhotoSet):
        places.found(files)
        return found if wanted.before in {None, found.digest} else Problem(Reason.PHOTO_CHANGED, "")
    path = wanted.photos.get(found.field, "")
    if path in files and found.reason not in NOT_THERE | NO_PLACE:
        places.found(files[: files.index(path) + 1])
    if path in files and found.reason in NOT_THERE and places.is_gone(path, files, again=wanted.again):
        return Problem(Reason.PHOTO_FOLDER_GONE, _("{field}: {path}", field=found.field, path=path), found.field)
    return found
