"""The job: rows → queue → workers → endings → report, in one TaskGroup."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batchupload.attempt import make_attempt
from batchupload.ending import after_last_attempt, already_uploaded, not_tried_again, unsent, unusable
from batchupload.endpoint import Endpoint
from batchupload.manifest import ManifestError
from batchupload.model import Attempt, Ending, Order, Outcome, PhotoSet, Problem, Row, Standing
from batchupload.pace import AHEAD, Pace
from batchupload.photos import FilesExhaustedError, load_photos
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.retry import RetryPolicy
from batchupload.settings import Settings
from batchupload.stop import InterruptedAttemptError, Stop
from batchupload.survey import Survey, order_key

IN_HAND = 1000
"""Orders begun and not ended, at most: those at work, and those that wait for their retry (about 2 KB each)."""
ROWS_AT_ONCE = 256
"""Rows read at a time, off the loop."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Pipeline:
    """One run over the rows. `endpoint` is None where nothing is to be sent."""

    def __init__(
        self,
        settings: Settings,
        survey: Survey,
        endpoint: Endpoint | None,
        pace: Pace,
        stop: Stop,
        recorder: Recorder,
        *,
        force: bool = False,
    ) -> None:
        self._settings = settings
        self._survey = survey
        self._endpoint = endpoint
        self._pace = pace
        self._stop = stop
        self._recorder = recorder
        self._force = force
        self._workers = settings.pace.bounds[1] + AHEAD
        self._retry = RetryPolicy(settings.retry)
        self._queue: asyncio.Queue[Order | None] = asyncio.Queue(2 * self._workers)
        self._endings: asyncio.Queue[Ending | None] = asyncio.Queue(ROWS_AT_ONCE)
        self._room = asyncio.Semaphore(IN_HAND)
        self._readers = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2)), "photos")
        self.broken: ManifestError | None = None
        """Why the manifests could not be read to their end, if so."""

    async def run(self, rows: Iterator[Row]) -> None:
        """Bring every row to its ending."""
        try:
            async with asyncio.TaskGroup() as group:
                drain = group.create_task(self._stop.drained(self._settings.timeouts.drain))
                recorder = group.create_task(self._record())
                for _ in range(self._workers):
                    group.create_task(self._work(group))
                await self._feed(rows)
                await self._queue.join()
                for _ in range(self._workers):
                    await self._queue.put(None)
                await self._endings.put(None)
                await recorder
                drain.cancel()
        finally:
            self._readers.shutdown(wait=False, cancel_futures=True)

    async def _feed(self, rows: Iterator[Row]) -> None:
        seen: set[int] = set()
        while batch := await self._read(rows):
            standings = await self._recorder.standings([row.order_id for row in batch if not row.problem])
            for row in batch:
                ending = unsent(row, self._survey.relation(row), order_key(row) in seen)
                if ending is None and order_key(row) in self._survey.repeated:
                    seen.add(order_key(row))
                order = Order(row, standings.get(row.order_id, Standing()))
                if ending is None and self._stop.cause:
                    ending = not_tried_again(order, 0.0, self._stop.cause)
                if ending:
                    await self._endings.put(ending)
                else:
                    await self._room.acquire()
                    await self._queue.put(order)

    async def _read(self, rows: Iterator[Row]) -> list[Row]:
        try:
            return await self._off_loop(lambda: list(itertools.islice(rows, ROWS_AT_ONCE)))
        except ManifestError as error:
            self.broken = error
        except TimeoutError:
            self.broken = ManifestError("The manifest could not be read on in time. Check the disk, run again.")
        return []

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while order := await self._queue.get():
            try:
                async with self._pace.order():
                    step = await self._step(order)
            except Exception:  # a boundary: whatever is wrong in here, the row gets its ending, and the run stops
                log.exception("An internal fault at line %d of %s", order.row.line, order.row.manifest.name)
                self._stop.ask(Reason.INTERNAL_ERROR)
                step = self._left(order, Reason.INTERNAL_ERROR)
            if isinstance(step, Ending):
                await self._endings.put(step)
                self._room.release()
                self._queue.task_done()
            else:
                group.create_task(self._come_back(*step))

    async def _come_back(self, order: Order, delay: float) -> None:
        """Wait for the order's next attempt; the queue counts it as unfinished meanwhile."""
        if not await self._stop.sleep(delay):
            await self._pace.retry_turn()
        await self._queue.put(order)
        self._queue.task_done()

    async def _step(self, order: Order) -> Ending | tuple[Order, float]:
        """One attempt, with what goes before it → the ending, or the order and the seconds until its next attempt."""
        if self._stop.cause:
            return self._left(order, self._stop.cause)
        try:
            photo_set = await self._load(order)
        except InterruptedAttemptError:
            return self._left(order, self._stop.cause or Reason.STOPPED)
        except TimeoutError:
            return self._left(order, Reason.PHOTO_READ_TIMEOUT)
        except FilesExhaustedError:
            return self._left(order, Reason.FILES_EXHAUSTED)
        if isinstance(photo_set, Problem):
            return unusable(order, self._elapsed(order), photo_set)
        if self._endpoint is None:
            return Ending(order.row, Outcome.DEFERRED, Reason.NOT_SENT)
        if not order.attempts and photo_set.digest == order.standing.uploaded and not self._force:
            return already_uploaded(order)
        attempt = await self._send(order, photo_set, self._endpoint)
        if attempt is None:
            return self._left(order, self._stop.cause or Reason.STOPPED)
        order = order.after(attempt, photo_set.digest)
        elapsed = self._elapsed(order)
        if attempt.finding.reason is Reason.STOPPED:
            return not_tried_again(order, elapsed, self._stop.cause or Reason.STOPPED)
        delay = self._retry.next_delay(order.attempts, elapsed)
        if delay is None:
            return after_last_attempt(order, elapsed, self._retry.exhausted(order.attempts))
        return order, delay

    async def _send(self, order: Order, photo_set: PhotoSet, endpoint: Endpoint) -> Attempt | None:
        """One attempt, on record before its first byte leaves; None where it must not begin."""
        async with self._pace.send():
            turn = await self._pace.turn(first=not order.attempts)
            if turn is None or not await self._recorder.begin(order, photo_set.digest):
                return None
            limit = self._settings.retry.order_limit - self._elapsed(order)
            attempt = await make_attempt(endpoint, order.row.order_id, photo_set, self._settings, self._stop, limit)
            self._recorder.ended(order, attempt)
            self._pace.learn(turn, attempt.finding)
            self._pace.learn_time(attempt)
            return attempt

    async def _load(self, order: Order) -> PhotoSet | Problem:
        row, settings, trusted = order.row, self._settings.photos, order.digest or order.standing.uploaded
        async with self._stop.interruptible():
            found = await self._off_loop(lambda: load_photos(row.photos, row.manifest.parent, settings, trusted))
        if isinstance(found, PhotoSet) and order.digest not in {None, found.digest}:
            return Problem(Reason.PHOTO_CHANGED, "")
        return found

    async def _off_loop(self, work: Callable[[], T]) -> T:
        """Do the blocking `work` in a thread. Raises `TimeoutError` where a disk does not answer."""
        async with asyncio.timeout(self._settings.timeouts.photos):
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _left(self, order: Order, reason: Reason) -> Ending:
        return not_tried_again(order, self._elapsed(order), reason)

    def _elapsed(self, order: Order) -> float:
        return asyncio.get_running_loop().time() - order.attempts[0].began if order.attempts else 0.0

    async def _record(self) -> None:
        """Hand the endings on, as many at once as there are."""
        ended = False
        while not ended:
            batch = [await self._endings.get()]
            while not self._endings.empty():
                batch.append(self._endings.get_nowait())
            ended = batch[-1] is None
            if endings := [ending for ending in batch if ending]:
                await self._recorder.record(endings)
