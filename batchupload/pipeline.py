"""The job: rows → orders → photo sets → sends → endings → report, in one TaskGroup."""

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from batchupload.ending import after_last_attempt, not_tried_again, unsent
from batchupload.feed import Feed
from batchupload.loading import Loading
from batchupload.model import Ending, Loaded, Order, Row, Standing
from batchupload.nights import is_known
from batchupload.pace import Pace, Turn
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.retry import RetryPolicy
from batchupload.row_faults import text_of
from batchupload.settings import Settings
from batchupload.site import Site
from batchupload.stop import Stop
from batchupload.survey import Survey

IN_HAND = 1000
"""Orders begun and not ended, at most: those at work, and those that wait for their retry (about 2 KB each)."""
QUEUED = 32
"""Orders that wait for the photo stage, and batches of endings that wait for the recorder."""
PASS_OVER_SECONDS = 1.0
"""How long a photo folder may keep `QUEUED` orders waiting before those of others pass by."""
LOOK_AHEAD = 20_000
"""Rows among which the orders that go first are chosen, at least: reading them twice takes about a second."""
LOOK_AHEAD_SECONDS = 2.0
"""The longest that a manifest which stalls is waited for while these are chosen."""
AHEAD_SECONDS = 30.0
"""The longest that the others wait for these: some may stall, and then the others go on beside them."""

_Place = tuple[Path, int, str]
"""Manifest, line and order, so that no other row that came to this line is taken for it."""


@dataclass(slots=True)
class Lane:
    """The orders of one photo folder, so that one that hangs holds up no others."""

    waiting: deque[Order] = field(default_factory=deque)
    loaders: int = 0
    """Tasks that load its photos."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    slow: bool = False
    """Whether others pass by until it moves."""


class Pipeline:
    """One run over the rows, whose photos are read and sent at `site`; without `send` none is sent."""

    def __init__(
        self,
        settings: Settings,
        survey: Survey,
        site: Site,
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
        self._sends = send
        self._force = force
        self._pace = pace
        self._stop = stop
        self._recorder = recorder
        self._loading = Loading(settings, site, recorder, stop, self._elapsed, survey.rows, send=send, force=force)
        self._retry = RetryPolicy(settings.retry)
        self._orders: asyncio.Queue[Order | None] = asyncio.Queue(QUEUED)
        self._loaded: asyncio.Queue[list[Loaded] | None] = asyncio.Queue(1)
        self._ended: asyncio.Queue[tuple[Sequence[Ending], int] | None] = asyncio.Queue(QUEUED)
        self._room = asyncio.Semaphore(IN_HAND)
        self._in_hand = 0
        self._ahead: set[_Place] = set()
        """Rows of the orders that go first and were not sent yet."""
        self._none_ahead = asyncio.Event()
        self._lanes: dict[Path, Lane] = {}

    async def run(self, rows: Feed, ahead: Feed | None = None) -> None:
        """Bring every row to its ending. `ahead` reads the same rows, of which some are to go first."""
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._stop.drained(self._settings.timeouts.drain))
            recorder = group.create_task(self._record())
            group.create_task(self._route(group))
            if self._sends:
                group.create_task(self._dispatch(group))
            untried = await self._never_tried(ahead) if ahead and self._sends else None
            # Open before the first send, so that a manifest that is replaced in mid-run is read to its end.
            held = [] if self._stop.impatient else await rows.read(self._waits)
            first = await self._send_first(untried) if untried is not None else frozenset()
            await self._feed(held, rows, first)
            await self._orders.join()
            await self._orders.put(None)
            await self._loaded.put(None)
            await self._ended.put(None)
            await recorder
            drain.cancel()

    async def _never_tried(self, rows: Feed) -> list[Order]:
        """As many orders as the canary has, each of those never tried as likely as any other."""
        most, seen, read = self._settings.pace.canary, 0, 0
        chance = random.Random(0)  # the same list gives the same orders
        chosen: list[Order] = []
        while most and self._stop.cause is None and (read < LOOK_AHEAD or seen < most):
            if not (batch := await rows.read(lambda seconds: seconds < LOOK_AHEAD_SECONDS)):
                break
            read += len(batch)
            # An order that stands more than once is left to the place where its first row comes.
            batch = [row for row in batch if not row.problem and self._survey.place(row) is None]
            standings = await self._standings(batch)
            for row in batch:
                order = Order(row, standings.get(row.order_id, Standing()))
                if order.standing != Standing() and not self._force:
                    continue
                seen += 1
                if len(chosen) < most:
                    chosen.append(order)
                elif (place := chance.randrange(seen)) < most:
                    chosen[place] = order
        rows.close()
        return chosen

    async def _send_first(self, orders: Sequence[Order]) -> frozenset[_Place]:
        """Have these orders sent, and tell their rows.

        They show whether something is wrong with this run; those in front may have been refused night after night.
        """
        first = frozenset(_place(order.row) for order in orders)
        self._ahead.update(first)
        for order in orders:
            await self._take(order)
        if first:
            with suppress(TimeoutError):
                async with asyncio.timeout(AHEAD_SECONDS):
                    await self._none_ahead.wait()
        else:
            self._pace.no_more_untried()
        return first

    def _no_more_ahead(self, row: Row) -> None:
        """Know that this order was sent, or came to its end without."""
        if self._ahead:
            self._ahead.discard(_place(row))
            if not self._ahead:
                self._pace.no_more_untried()
                self._none_ahead.set()

    async def _take(self, order: Order) -> None:
        await self._room.acquire()
        self._in_hand += 1
        await self._orders.put(order)

    async def _feed(self, held: Sequence[Row], rows: Feed, first: frozenset[_Place]) -> None:
        """Rows → orders that are to be sent, and the endings of the others; all that were read, if it must end at once.

        `held` are the first rows; those of orders that went `first` are under way already.
        """
        seen = bytearray(len(self._survey.repeated))
        batch = held
        while batch:  # also if a second signal came meanwhile: these rows are read
            standings = await self._standings(batch)
            endings: list[Ending] = []
            for row in batch:
                if _place(row) in first:
                    continue
                try:
                    step = self._fed(row, standings.get(row.order_id, Standing()), seen)
                except Exception as error:  # noqa: BLE001 - a boundary: a fault at one row is that row's
                    step = self._loading.fault(Order(row), text_of(error))
                if isinstance(step, Ending):
                    endings.append(step)
                else:
                    await self._take(step)
            if endings:
                await self._ended.put((endings, 0))
            batch = [] if self._stop.impatient else await rows.read(self._waits)

    def _fed(self, row: Row, standing: Standing, seen: bytearray) -> Order | Ending:
        place = self._survey.place(row)
        ending = unsent(row, self._survey.relation(place), place is not None and bool(seen[place]))
        if ending is None and place is not None:
            seen[place] = 1
        order = Order(row, standing)
        return ending or (self._loading.left(order) if self._stop.cause else order)

    async def _standings(self, batch: Sequence[Row]) -> Mapping[str, Standing]:
        return await self._recorder.standings([row.order_id for row in batch if not row.problem])

    def _waits(self, seconds: float) -> bool:
        """Whether a manifest that stalls for so long is still waited for: it costs nothing while others are at work."""
        return not self._stop.at_once and (self._in_hand > 0 or seconds < self._settings.timeouts.photos)

    async def _route(self, group: asyncio.TaskGroup) -> None:
        """Orders → the lanes of their photo folders."""
        while order := await self._orders.get():
            lane = self._lanes.setdefault(self._settings.photos.root or order.row.manifest.parent, Lane())
            if order.attempts:  # it has waited for its turn before
                lane.waiting.appendleft(order)
            else:
                lane.waiting.append(order)
            if lane.loaders < self._site.loaders:
                lane.loaders += 1
                group.create_task(self._load(group, lane))
            while len(lane.waiting) >= QUEUED and not lane.slow:
                lane.moved.clear()
                try:
                    async with asyncio.timeout(PASS_OVER_SECONDS):
                        await lane.moved.wait()
                except TimeoutError:
                    lane.slow = True

    async def _load(self, group: asyncio.TaskGroup, lane: Lane) -> None:
        """Orders of one photo folder → photo sets, until none is left."""
        while lane.waiting:
            most = self._loading.at_once(self._pace.concurrency)
            orders = [lane.waiting.popleft() for _ in range(min(most, len(lane.waiting)))]
            lane.slow = False
            lane.moved.set()
            loaded, endings, again = await self._loading.load(orders)
            if endings:
                await self._end(endings)
            for order in again:
                group.create_task(self._look_again(order))
            if loaded:
                await self._loaded.put(loaded)
            del loaded  # nothing here keeps photos while it waits
        lane.loaders -= 1

    async def _look_again(self, order: Order) -> None:
        """Have the photos of an order looked for once more, after a moment."""
        await self._orders.put(await self._loading.look_again(order))
        self._orders.task_done()

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
        except Exception as error:  # noqa: BLE001 - the same boundary as for photos; here the endpoint may have accepted
            step = self._loading.fault(loaded.order, text_of(error), sending=True)
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
        if (waited := self._elapsed(order)) >= self._settings.retry.order_limit:  # at the gate, or before it
            self._recorder.never_began(loaded)
            self._site.drop(photos)
            return after_last_attempt(order, waited, exhausted=False)
        # An attempt that begins has its own time: one that the order's cuts short would be ambiguous by our doing.
        attempt = await self._site.send(order.row.order_id, photos)
        self._recorder.ended(loaded, attempt)
        self._pace.learn(turn, attempt, known=is_known(order.standing, photos.digest, attempt.finding))
        self._no_more_ahead(order.row)
        order = order.after(attempt, photos.digest)
        elapsed = self._elapsed(order)
        if attempt.finding.reason is Reason.INTERNAL_ERROR:  # at a worker
            return self._loading.fault(order, attempt.finding.message, sending=True)
        if attempt.finding.reason is Reason.STOPPED:
            return not_tried_again(order, elapsed, self._stop.cause or Reason.STOPPED, self._stop.detail)
        delay = self._retry.next_delay(order.attempts, elapsed)
        if delay is None:
            return after_last_attempt(order, elapsed, self._retry.exhausted(order.attempts))
        return order, delay

    async def _end(self, endings: Sequence[Ending], *, sends: int = 0) -> None:
        """Hand on endings of orders, the last of `sends`: their places are taken until that is on record."""
        await self._ended.put((endings, sends))
        for ending in endings:
            self._no_more_ahead(ending.row)
            self._room.release()
            self._in_hand -= 1
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


def _place(row: Row) -> _Place:
    return row.manifest, row.line, row.order_id
