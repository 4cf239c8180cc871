"""The job: rows → orders → photo sets → sends → endings → report, in one TaskGroup."""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence

from batchupload.attempt import make_attempt
from batchupload.ending import after_last_attempt, already_uploaded, not_tried_again, unsent, unusable
from batchupload.endpoint import Endpoint
from batchupload.manifest import ManifestError
from batchupload.model import Ending, Loaded, Order, Outcome, PhotoSet, Problem, Row, Standing
from batchupload.pace import Pace, Turn
from batchupload.readers import Found, Readers
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
ORDERS_AT_ONCE = 16
"""Orders whose photos are read at a time, at most."""
BYTES_AT_ONCE = 2 << 20
"""Bytes of the photos that are read at a time, about: fewer orders where they are large."""

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
        self._retry = RetryPolicy(settings.retry)
        self._orders: asyncio.Queue[Order | None] = asyncio.Queue(2 * ORDERS_AT_ONCE)
        self._loaded: asyncio.Queue[list[Loaded] | None] = asyncio.Queue(1)
        self._endings: asyncio.Queue[tuple[Ending, bool] | None] = asyncio.Queue(ROWS_AT_ONCE)
        self._room = asyncio.Semaphore(IN_HAND)
        self._readers = Readers(settings.timeouts.photos)
        self._set_size = BYTES_AT_ONCE
        self.broken: ManifestError | None = None
        """Why the manifests could not be read to their end, if so."""

    async def run(self, rows: Iterator[Row]) -> None:
        """Bring every row to its ending."""
        try:
            async with asyncio.TaskGroup() as group:
                drain = group.create_task(self._stop.drained(self._settings.timeouts.drain))
                recorder = group.create_task(self._record())
                loaders = [group.create_task(self._load()) for _ in range(self._readers.count)]
                if self._endpoint:
                    group.create_task(self._dispatch(group, self._endpoint))
                await self._feed(rows)
                await self._orders.join()
                for _ in loaders:
                    await self._orders.put(None)
                if self._endpoint:
                    await self._loaded.put(None)
                await self._endings.put(None)
                await recorder
                drain.cancel()
        finally:
            self._readers.close()

    async def _feed(self, rows: Iterator[Row]) -> None:
        """Rows → orders to be sent, and the endings of those that are not."""
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
                    await self._endings.put((ending, False))
                else:
                    await self._room.acquire()
                    await self._orders.put(order)

    async def _read(self, rows: Iterator[Row]) -> list[Row]:
        try:
            return await self._readers.do(lambda: list(itertools.islice(rows, ROWS_AT_ONCE)))
        except ManifestError as error:
            self.broken = error
        except TimeoutError:
            self.broken = ManifestError("The manifest could not be read on in time. Check the disk, run again.")
        return []

    async def _load(self) -> None:
        """Orders → their photo sets, several at a time; each is on record before it may be sent."""
        while first := await self._orders.get():
            if loaded := await self._load_some([first, *self._more_orders()]):
                await self._loaded.put(loaded)
            del loaded  # nothing here keeps photos while it waits

    def _more_orders(self) -> Iterator[Order]:
        """What may be read along with an order: no more than sends that may be under way, nor much memory."""
        most = min(ORDERS_AT_ONCE, BYTES_AT_ONCE // self._set_size, self._pace.concurrency if self._endpoint else 1000)
        while most > 1 and not self._orders.empty() and (order := self._orders.get_nowait()):
            most -= 1
            yield order

    async def _load_some(self, orders: Sequence[Order]) -> list[Loaded]:
        """Those that are to be sent; the others get their endings."""
        loaded: list[Loaded] = []
        try:
            steps = await self._read_photos(orders)
            loaded = [step for step in steps if isinstance(step, Loaded)]
            endings = [step for step in steps if isinstance(step, Ending)]
            if loaded and not await self._recorder.begin(loaded):
                endings += [self._left(one.order) for one in loaded]
                loaded = []
        except Exception:  # a boundary: whatever is wrong in here, each row gets its ending, and the run stops
            log.exception("An internal fault near line %d of %s", orders[0].row.line, orders[0].row.manifest.name)
            endings = [self._faulty(order) for order in orders]
            loaded = []
        for ending in endings:
            await self._end(ending)
        return loaded

    async def _read_photos(self, orders: Sequence[Order]) -> Sequence[Ending | Loaded]:
        if self._stop.cause:
            return [self._left(order) for order in orders]
        try:
            async with self._stop.interruptible():
                found = await self._readers.load(orders, self._settings.photos)
        except InterruptedAttemptError:
            return [self._left(order) for order in orders]
        self._set_size = max((one.size for one in found if isinstance(one, PhotoSet)), default=self._set_size)
        return [self._looked_at(order, one) for order, one in zip(orders, found, strict=True)]

    def _looked_at(self, order: Order, found: Found) -> Ending | Loaded:
        if isinstance(found, Reason):
            return not_tried_again(order, self._elapsed(order), found)
        if isinstance(found, Problem):
            return unusable(order, self._elapsed(order), found)
        if self._endpoint is None:
            return Ending(order.row, Outcome.DEFERRED, Reason.NOT_SENT)
        if not order.attempts and found.digest == order.standing.uploaded and not self._force:
            return already_uploaded(order)
        return Loaded(order, found)

    async def _dispatch(self, group: asyncio.TaskGroup, endpoint: Endpoint) -> None:
        """Photo sets → sends, as many at once as the pace allows."""
        while batch := await self._loaded.get():
            while batch:
                loaded = batch.pop(0)
                if turn := await self._pace.turn(first=not loaded.order.attempts):
                    group.create_task(self._send(loaded, turn, endpoint))
                else:
                    self._recorder.never_began(loaded)
                    await self._end(self._left(loaded.order))
                del loaded

    async def _send(self, loaded: Loaded, turn: Turn, endpoint: Endpoint) -> None:
        """One attempt, then the order's ending or, after a while, its way back to the queue."""
        order = loaded.order
        try:
            with self._pace.send(turn):
                step = await self._attempt(loaded, turn, endpoint)
        except Exception:  # the same boundary
            log.exception("An internal fault at line %d of %s", order.row.line, order.row.manifest.name)
            step = self._faulty(order)
        del loaded
        if isinstance(step, Ending):
            await self._end(step, sent=True)
            return
        self._pace.settled(1)
        order, delay = step
        if not await self._stop.sleep(delay):
            await self._pace.retry_turn()
        await self._orders.put(order)
        self._orders.task_done()  # the queue counted it as unfinished until now

    async def _attempt(self, loaded: Loaded, turn: Turn, endpoint: Endpoint) -> Ending | tuple[Order, float]:
        """One attempt → the ending, or the order and the seconds until its next attempt."""
        order, photo_set = loaded.order, loaded.photo_set
        limit = self._settings.retry.order_limit - self._elapsed(order)
        attempt = await make_attempt(endpoint, order.row.order_id, photo_set, self._settings, self._stop, limit)
        self._recorder.ended(loaded, attempt)
        self._pace.learn(turn, attempt)
        order = order.after(attempt, photo_set.digest)
        elapsed = self._elapsed(order)
        if attempt.finding.reason is Reason.STOPPED:
            return not_tried_again(order, elapsed, self._stop.cause or Reason.STOPPED)
        delay = self._retry.next_delay(order.attempts, elapsed)
        if delay is None:
            return after_last_attempt(order, elapsed, self._retry.exhausted(order.attempts))
        return order, delay

    def _faulty(self, order: Order) -> Ending:
        self._stop.ask(Reason.INTERNAL_ERROR)
        return not_tried_again(order, self._elapsed(order), Reason.INTERNAL_ERROR)

    def _left(self, order: Order) -> Ending:
        """The ending of an order that the end of the run finds here."""
        return not_tried_again(order, self._elapsed(order), self._stop.cause or Reason.STOPPED)

    async def _end(self, ending: Ending, *, sent: bool = False) -> None:
        """`sent` where it ends a send, whose place is taken until that is on record."""
        await self._endings.put((ending, sent))
        self._room.release()
        self._orders.task_done()

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
            if ends := [end for end in batch if end]:
                await self._recorder.record([ending for ending, _ in ends])
                self._pace.settled(sum(sent for _, sent in ends))
