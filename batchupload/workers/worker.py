"""A worker: reads, checks and sends photos for a run that decides elsewhere."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

from batchupload import __version__
from batchupload.awake import real_seconds
from batchupload.endpoint import Endpoint
from batchupload.language import _, speak
from batchupload.logs import event
from batchupload.model import Attempt, AwayPhotos, Finding, PhotoSet, Problem, Verdict, Wanted
from batchupload.readers import Readers
from batchupload.reasons import Reason
from batchupload.row_faults import text_of
from batchupload.site import Found, Site, ThisProcess
from batchupload.stop import InterruptedAttemptError, Stop
from batchupload.throttle import BYTES_CREDIT, Throttle
from batchupload.workers.words import (
    LEASE_SECONDS,
    Answer,
    Ask,
    Bandwidth,
    Begin,
    BreakOff,
    Drop,
    Look,
    Looked,
    Place,
    Ready,
    Send,
    Sent,
)

TAKE_SECONDS = 1.0
"""How long an answer is waited for at a time."""
LOOK_SECONDS = 0.25
"""How often it is seen whether the lease is over."""

log = logging.getLogger(__name__)


class Allotted:
    """A limit that is told from elsewhere, where a timetable would be."""

    def __init__(self) -> None:
        self.rate: float | None = None

    def at(self, moment: datetime) -> float | None:
        """The limit now, whatever the hour: the run has the timetable."""
        del moment
        return self.rate


class Worker:
    """One worker's work for one run. `work` goes on until it is cancelled; `TimeoutError` once its lease is over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asks: asyncio.Queue[Ask] = asyncio.Queue()  # what it holds is bounded by what the run has under way
        self._answers: list[Answer] = []
        self._news = asyncio.Event()
        self._stop = Stop()
        self._held: dict[int, PhotoSet] = {}
        self._allotted = Allotted()
        self._bandwidth = Throttle(self._allotted, self._loop.time, datetime.now, BYTES_CREDIT)
        self._heard = real_seconds()

    def give(self, asks: Sequence[Ask]) -> None:
        """Take these in. Raises `TimeoutError` if the lease is over: the run has given them to others."""
        self._check_lease()
        self._heard = real_seconds()
        for ask in asks:
            self._asks.put_nowait(ask)

    async def take(self) -> list[Answer]:
        """The answers there are; waits a while where there are none."""
        if not self._answers:
            try:
                async with asyncio.timeout(TAKE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return []
        answers, self._answers = self._answers, []
        self._news.clear()
        return answers

    async def work(self) -> None:
        """Do what is asked, all of it side by side."""
        async with AsyncExitStack() as stack:
            site = await self._begin(stack)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            while True:
                match await self._asks.get():
                    case Look() as look:
                        group.create_task(self._look(site, look))
                    case Send() as send:
                        group.create_task(self._send(site, send))
                    case Drop(keys):
                        for key in keys:
                            self._held.pop(key, None)
                    case BreakOff():
                        self._stop.ask(Reason.STOPPED)
                        self._stop.now()
                    case Bandwidth(rate):
                        self._allotted.rate = rate

    async def keep_lease(self) -> None:
        """Raise `TimeoutError` once the lease is over."""
        while True:
            self._check_lease()
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self, stack: AsyncExitStack) -> Site:
        begin = await self._asks.get()
        if not isinstance(begin, Begin):
            raise TypeError("A worker's first word must be Begin.")
        speak(begin.language)  # what is wrong with a photo stands in the report
        settings = begin.settings
        problem = ""
        if begin.version != __version__:
            problem = _("it has batchupload {its}, the run has {ours}", its=__version__, ours=begin.version)
        readers = stack.enter_context(Readers(settings.timeouts.photos))
        for place in begin.places:
            if not problem and not await _is_there(readers, place):
                problem = _(
                    "it can't read the photos below {folder}: have them there as they are here", folder=place.folder
                )
            if place.photo:
                readers.know(place.folder, place.photo)
        endpoint = None
        if begin.send:
            endpoint = await stack.enter_async_context(Endpoint(settings.endpoint, settings.timeouts, self._bandwidth))
        site = await stack.enter_async_context(ThisProcess(settings, readers, endpoint, self._stop))
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._say(Ready(__version__, name, datetime.now(UTC).astimezone(), problem))
        return site

    async def _look(self, site: Site, ask: Look) -> None:
        try:
            found = await self._found(site, ask.wanted)
        except InterruptedAttemptError:
            self._say(Looked(ask.number, None))
            return
        told: list[AwayPhotos | Problem | Reason] = []
        for key, one in zip(ask.keys, found, strict=True):
            if isinstance(one, PhotoSet):
                self._held[key] = one
                told.append(AwayPhotos(key, one.fields, one.size, one.digest, one.notes))
            elif not isinstance(one, AwayPhotos):
                told.append(one)
        self._say(Looked(ask.number, tuple(told)))

    async def _found(self, site: Site, wanted: Sequence[Wanted]) -> list[Found]:
        """What is found of each order. A fault at one is that order's, and this worker goes on."""
        try:
            return await site.look(wanted)
        except InterruptedAttemptError:
            raise
        except Exception as error:
            if len(wanted) > 1:
                return [found for one in wanted for found in await self._found(site, [one])]
            log.exception(_("An internal fault with the photos of an order"), extra=event("internal_fault"))
            return [Problem(Reason.INTERNAL_ERROR, text_of(error))]

    async def _send(self, site: Site, ask: Send) -> None:
        photos = self._held.pop(ask.key, None)
        started_at, began = datetime.now(UTC).astimezone(), self._loop.time()
        try:
            attempt = await site.send(ask.order_id, photos) if photos else None
        except Exception as error:
            log.exception(_("An internal fault while an order was sent"), extra=event("internal_fault"))
            finding = Finding(Verdict.AMBIGUOUS, Reason.INTERNAL_ERROR, message=text_of(error))
            attempt = Attempt(started_at, began, self._loop.time() - began, 0.0, 0, finding)
        self._say(Sent(ask.number, attempt, self._bandwidth.seconds_held))

    def _say(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._news.set()

    def _check_lease(self) -> None:
        # The run goes on while this process or machine stands still: here such time counts, unlike in other waits.
        if real_seconds() - self._heard > LEASE_SECONDS:
            raise TimeoutError


async def _is_there(readers: Readers, place: Place) -> bool:
    try:
        return await readers.do(partial(os.access, place.folder / place.photo, os.R_OK))
    except TimeoutError:
        return False
