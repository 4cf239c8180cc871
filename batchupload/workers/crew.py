"""A run's workers, as one site: each order is looked at by the one with the least to do, and sent from where it was."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from types import TracebackType
from typing import Self

from batchupload.logs import event
from batchupload.model import Attempt, AwayPhotos, Finding, PhotoSet, Verdict, Wanted
from batchupload.reasons import Reason
from batchupload.site import Found
from batchupload.stop import InterruptedAttemptError, Stop
from batchupload.throttle import Throttle
from batchupload.workers.words import (
    Answer,
    Ask,
    Bandwidth,
    BreakOff,
    Drop,
    Link,
    LinkLostError,
    Look,
    Looked,
    Ready,
    Send,
    Sent,
)

LAST_WORD_SECONDS = 5.0
"""After the drain time: how long the workers have to say how far they had come."""
LOOKS, MOST_LOOKS = 2, 32
"""Looks under way for each worker, one is read while the other is sent, and at most."""
LOOKS_AT_MOST = 3
"""Workers that an order may lose before it is left."""
LOOK_AGAIN = 0.25
"""Seconds after which a run without any worker looks for one again."""
SHARE_SECONDS = 1.0
"""How often it is seen whether the shares of the bandwidth have changed."""

log = logging.getLogger(__name__)


class Hand:
    """One worker, as the run sees it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.lost = False
        self.gone = asyncio.Event()
        """Set once it certainly sends no more."""
        self.orders = 0
        """Those that it looks at, holds or sends."""
        self._outbox: list[Ask] = []
        self._outgoing = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Looked | Sent]] = {}

    def tell(self, ask: Ask) -> None:
        """Say something that has no answer."""
        self._outbox.append(ask)
        self._outgoing.set()

    def ask(self, number: int, ask: Ask) -> "asyncio.Future[Looked | Sent]":
        """Ask for something; the future has the answer, or raises `LinkLostError`."""
        future: asyncio.Future[Looked | Sent] = asyncio.get_running_loop().create_future()
        if self.lost:
            future.set_exception(LinkLostError(self.link.name))
            return future
        self._asked[number] = future
        self.tell(ask)
        return future

    async def run(self) -> None:
        """Carry words to and fro until the link is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._give())
                group.create_task(self._take())
        except* LinkLostError as lost:
            log.warning("Worker %s is lost: %s", self.link.name, lost.exceptions[0], extra=event("worker_lost"))
        finally:
            self.lost = True
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(LinkLostError(self.link.name))
                    future.exception()  # who asked may have gone

    async def _give(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            asks, self._outbox = self._outbox, []
            await self.link.give(asks)

    async def _take(self) -> None:
        while True:
            for answer in await self.link.take():
                self._hear(answer)

    def _hear(self, answer: Answer) -> None:
        if isinstance(answer, Ready):
            return
        future = self._asked.pop(answer.number, None)
        if future and not future.done():
            future.set_result(answer)


class Crew:
    """A `Site` whose work is done by workers, which come and go. An async context manager."""

    def __init__(self, stop: Stop, workers: int, patience: float, bandwidth: Throttle | None = None) -> None:
        self.loaders = min(LOOKS * workers, MOST_LOOKS)
        self._stop = stop
        self._patience = patience
        """Seconds for which a run without any worker waits for one."""
        self._bandwidth = bandwidth
        self._hands: list[Hand] = []
        self._sharing = 0
        """Workers that may be sending, among them those that were lost a moment ago."""
        self._shares: tuple[float | None, int] = None, 0
        self._where: dict[int, Hand] = {}
        self._numbers = itertools.count()
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def told(self) -> str:
        """The workers, with what each has to do, for a person."""
        return ", ".join(f"{hand.link.name} {hand.orders}" for hand in self._hands)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        if self._bandwidth:
            self._tasks.append(self._group.create_task(self._share()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def join(self, link: Link) -> None:
        """Have one more worker, which has said that it is ready."""
        hand = Hand(link)
        self._hands.append(hand)
        self._sharing += 1
        self._tell_shares()
        self._tasks.append(self._group.create_task(self._work_with(hand)))

    async def look(self, several: Sequence[Wanted]) -> list[Found]:
        """See `Site`. Where a worker is lost another one looks: nothing was sent yet."""
        for _ in range(LOOKS_AT_MOST):
            hand = await self._least_busy()
            if hand is None:
                self._stop.ask(Reason.WORKERS_LOST)
                return [Reason.WORKERS_LOST] * len(several)
            number, keys = next(self._numbers), tuple(next(self._numbers) for _ in several)
            hand.orders += len(several)
            try:
                async with self._stop.interruptible():
                    answer = await hand.ask(number, Look(number, tuple(several), keys))
            except LinkLostError:
                continue
            if not isinstance(answer, Looked) or answer.found is None:
                raise InterruptedAttemptError
            for one in answer.found:
                if isinstance(one, AwayPhotos):
                    self._where[one.key] = hand
                else:
                    hand.orders -= 1
            return [*answer.found]
        return [Reason.WORKER_LOST] * len(several)

    async def send(self, order_id: str, photos: PhotoSet | AwayPhotos, limit: float, *, reuse: bool) -> Attempt:
        """See `Site`. What was under way at a worker that is lost may have been accepted."""
        if isinstance(photos, PhotoSet):
            raise TypeError("These photos are not at a worker.")
        now, hand, number = asyncio.get_running_loop().time, self._where.pop(photos.key), next(self._numbers)
        started_at, began = datetime.now(UTC).astimezone(), now()
        verdict = Verdict.RETRY if hand.lost else Verdict.AMBIGUOUS
        attempt = None
        try:
            answer = await self._answer(hand, Send(number, photos.key, order_id, limit, reuse))
            if isinstance(answer, Sent) and answer.attempt:
                attempt = replace(answer.attempt, started_at=started_at, began=began)
            else:  # it was never there
                verdict = Verdict.RETRY
        except LinkLostError:
            await self._out_of_the_way(hand)
        hand.orders -= 1
        reason = Reason.STOPPED if self._stop.at_once else Reason.WORKER_LOST
        return attempt or Attempt(started_at, began, now() - began, 0.0, 0, Finding(verdict, reason))

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        """See `Site`."""
        if isinstance(photos, AwayPhotos) and (hand := self._where.pop(photos.key, None)):
            hand.orders -= 1
            hand.tell(Drop((photos.key,)))

    async def _answer(self, hand: Hand, send: Send) -> Looked | Sent:
        """What became of a send; at the end of the drain time how far it had come. Raises `LinkLostError`."""
        future = hand.ask(send.number, send)
        try:
            async with self._stop.interruptible():
                return await asyncio.shield(future)
        except InterruptedAttemptError:
            hand.tell(BreakOff())
        try:
            async with asyncio.timeout(LAST_WORD_SECONDS):
                return await future
        except TimeoutError:
            raise LinkLostError(hand.link.name) from None

    async def _out_of_the_way(self, hand: Hand) -> None:
        """Wait until a worker that was lost certainly sends no more, so that others may in its place."""
        with suppress(InterruptedAttemptError):
            async with self._stop.interruptible():
                await hand.gone.wait()

    async def _least_busy(self) -> Hand | None:
        """The worker with the least to do; None where none is there, and none comes."""
        waited = 0.0
        while not self._hands:
            if waited >= self._patience or await self._stop.sleep(LOOK_AGAIN):
                return None
            waited += LOOK_AGAIN
        return min(self._hands, key=attrgetter("orders"))

    async def _work_with(self, hand: Hand) -> None:
        try:
            await hand.run()
        finally:
            self._hands.remove(hand)
        await asyncio.sleep(hand.link.lease)
        hand.gone.set()
        self._sharing -= 1
        self._tell_shares()

    async def _share(self) -> None:
        """Tell the workers their shares of the bandwidth, anew when the hour strikes."""
        while True:
            self._tell_shares()
            await asyncio.sleep(SHARE_SECONDS)

    def _tell_shares(self) -> None:
        shares = (self._bandwidth.rate if self._bandwidth else None), self._sharing
        if shares != self._shares:
            self._shares = shares
            for hand in self._hands:
                hand.tell(Bandwidth(shares[0] and shares[0] / max(shares[1], 1)))
