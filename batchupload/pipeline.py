"""The job: rows → orders → photo sets → sends → endings → report, in one TaskGroup."""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence

from batchupload.ending import after_last_attempt, broken_off, not_tried_again, unsent
from batchupload.language import _
from batchupload.loading import Loading
from batchupload.model import Ending, Loaded, Order, Row, Standing
from batchupload.pace import Pace, Turn
from batchupload.readers import Readers
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.retry import RetryPolicy
from batchupload.settings import Settings
from batchupload.site import Site
from batchupload.source import ManifestError
from batchupload.stop import Stop
from batchupload.survey import Survey

IN_HAND = 1000
"""Orders begun and not ended, at most: those at work, and those that wait for their retry (about 2 KB each)."""
ROWS_AT_ONCE = 256
"""Rows read at a time, off the loop."""
QUEUED = 32
"""Orders that wait for the photo stage, and batches of endings that wait for the recorder."""
log = logging.getLogger(__name__)


class Pipeline:
    """One run over the rows, whose photos are read and sent at `site`; without `send` none is sent."""

    def __init__(
        self,
        settings: Settings,
        survey: Survey,
        site: Site,
        readers: Readers,
        pace: Pace,
        stop: Stop,
        recorder: Recorder,
        *,
        send: bool = True,
        force: bool = False,
    ) -> None:
        self._settings = settings
        self._survey = survey
        self._site = site
        self._readers = readers
        self._sends = send
        self._pace = pace
        self._stop = stop
        self._recorder = recorder
        self._loading = Loading(settings, site, recorder, stop, self._elapsed, survey.rows, send=send, force=force)
        self._retry = RetryPolicy(settings.retry)
        self._orders: asyncio.Queue[Order | None] = asyncio.Queue(QUEUED)
        self._loaded: asyncio.Queue[list[Loaded] | None] = asyncio.Queue(1)
        self._ended: asyncio.Queue[tuple[Sequence[Ending], int] | None] = asyncio.Queue(QUEUED)
        self._room = asyncio.Semaphore(IN_HAND)
        self.broken: ManifestError | None = None
        """Why the manifests could not be read to their end, if so."""

    async def run(self, rows: Iterator[Row]) -> None:
        """Bring every row to its ending."""
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._stop.drained(self._settings.timeouts.drain))
            recorder = group.create_task(self._record())
            loaders = [group.create_task(self._load()) for _ in range(self._site.loaders)]
            if self._sends:
                group.create_task(self._dispatch(group))
            await self._feed(rows)
            await self._orders.join()
            for _ in loaders:
                await self._orders.put(None)
            await self._loaded.put(None)
            await self._ended.put(None)
            await recorder
            drain.cancel()

    async def _feed(self, rows: Iterator[Row]) -> None:
        """Rows → orders that are to be sent, and the endings of the others; all of them, unless it must end at once."""
        seen = bytearray(len(self._survey.repeated))
        while not self._stop.impatient and (batch := await self._read(rows)):
            standings = await self._recorder.standings([row.order_id for row in batch if not row.problem])
            endings: list[Ending] = []
            for row in batch:
                place = self._survey.place(row)
                ending = unsent(row, self._survey.relation(place), place is not None and bool(seen[place]))
                if ending is None and place is not None:
                    seen[place] = 1
                order = Order(row, standings.get(row.order_id, Standing()))
                if ending := ending or (self._loading.left(order) if self._stop.cause else None):
                    endings.append(ending)
                else:
                    await self._room.acquire()
                    await self._orders.put(order)
            if endings:
                await self._ended.put((endings, 0))

    async def _read(self, rows: Iterator[Row]) -> list[Row]:
        try:
            return await self._readers.do(lambda: list(itertools.islice(rows, ROWS_AT_ONCE)))
        except (ManifestError, TimeoutError) as error:
            late = _("The manifest could not be read on in time. Check the disk, run again.")
            self.broken = error if isinstance(error, ManifestError) else ManifestError(late)
            return []

    async def _load(self) -> None:
        """Orders → photo sets."""
        while first := await self._orders.get():
            orders = [first]
            most = self._loading.at_once(self._pace.concurrency)
            while len(orders) < most and not self._orders.empty() and (more := self._orders.get_nowait()):
                orders.append(more)
            loaded, endings = await self._loading.load(orders)
            if endings:
                await self._end(endings)
            if loaded:
                await self._loaded.put(loaded)
            del loaded  # nothing here keeps photos while it waits

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        """Photo sets → sends, as many at once as the pace allows, each a task of its own."""
        now = asyncio.get_running_loop().time
        began = now()
        while batch := await self._loaded.get():
            if not batch[0].order.attempts:  # else it waited for its retry
                self._pace.starved(now() - began)
            while batch:
                loaded = batch.pop(0)
                if turn := await self._pace.turn(first=not loaded.order.attempts):
                    group.create_task(self._send(loaded, turn))
                else:
                    self._recorder.never_began(loaded)
                    self._site.drop(loaded.photo_set)
                    await self._end([self._loading.left(loaded.order)])
                del loaded
            began = now()

    async def _send(self, loaded: Loaded, turn: Turn) -> None:
        """One attempt, then the order's ending or, after a while, its way back to the queue."""
        try:
            with self._pace.send(turn):
                step = await self._attempt(loaded, turn)
        except Exception:  # the same boundary as for photos; here the endpoint may have accepted
            row = loaded.order.row
            log.exception(_("An internal fault at line %d of %s"), row.line, row.manifest.name)
            self._stop.ask(Reason.INTERNAL_ERROR)
            step = broken_off(loaded.order, self._elapsed(loaded.order), Reason.INTERNAL_ERROR)
        del loaded
        if isinstance(step, Ending):
            await self._end([step], sends=1)
            return
        self._pace.settled(1)
        if not await self._stop.sleep(step[1]):
            await self._pace.retry_turn()
        await self._orders.put(step[0])
        self._orders.task_done()  # the queue counted it as unfinished until now

    async def _attempt(self, loaded: Loaded, turn: Turn) -> Ending | tuple[Order, float]:
        """One attempt → the ending, or the order and the seconds until its next attempt."""
        order, photos = loaded.order, loaded.photo_set
        limit = self._settings.retry.order_limit - self._elapsed(order)
        attempt = await self._site.send(order.row.order_id, photos, limit)
        self._recorder.ended(loaded, attempt)
        self._pace.learn(turn, attempt)
        order = order.after(attempt, photos.digest)
        elapsed = self._elapsed(order)
        if attempt.finding.reason is Reason.STOPPED:
            return not_tried_again(order, elapsed, self._stop.cause or Reason.STOPPED)
        delay = self._retry.next_delay(order.attempts, elapsed)
        if delay is None:
            return after_last_attempt(order, elapsed, self._retry.exhausted(order.attempts))
        return order, delay

    async def _end(self, endings: Sequence[Ending], *, sends: int = 0) -> None:
        """Hand on endings of orders, the last of `sends`: their places are taken until that is on record."""
        await self._ended.put((endings, sends))
        for _ending in endings:
            self._room.release()
            self._orders.task_done()

    def _elapsed(self, order: Order) -> float:
        """Seconds since the order's first attempt began."""
        return asyncio.get_running_loop().time() - order.attempts[0].began if order.attempts else 0.0

    async def _record(self) -> None:
        """Hand the endings on, as many at once as there are."""
        over = False
        while not over:
            some = [await self._ended.get()]
            while not self._ended.empty():
                some.append(self._ended.get_nowait())
            over = some[-1] is None
            ended = [one for one in some if one]
            await self._recorder.record([ending for endings, _ in ended for ending in endings])
            self._pace.settled(sum(sends for _, sends in ended))
