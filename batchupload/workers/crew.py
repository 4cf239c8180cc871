"""A run's workers, as one site: each order is looked at by the one with the least to do, and sent from where it was."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from batchupload.language import _, several
from batchupload.model import Attempt, AwayPhotos, Finding, PhotoSet, Verdict, Wanted
from batchupload.reasons import Reason
from batchupload.site import Found
from batchupload.stop import InterruptedAttemptError, Stop
from batchupload.throttle import Throttle
from batchupload.workers.hand import Hand
from batchupload.workers.words import (
    Bandwidth,
    BreakOff,
    Drop,
    Link,
    LinkLostError,
    Look,
    Looked,
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
        self._where: dict[int, tuple[Hand, Wanted]] = {}
        self._numbers = itertools.count()
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def told(self) -> str:
        """The workers, with the orders that each has in hand, for a person."""
        each = ", ".join(sorted(f"{hand.link.name} {hand.orders}" for hand in self._hands))
        if not each:
            return _("waiting for a worker to join")
        return several(len(self._hands), "{n:,} worker", "{n:,} workers") + f" ({each})"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._tasks.append(self._group.create_task(self._end()))
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
        for _look in range(LOOKS_AT_MOST):
            hand = await self._least_busy()
            if hand is None:
                self._stop.ask(Reason.WORKERS_LOST)
                return [Reason.WORKERS_LOST] * len(several)
            number, keys = next(self._numbers), tuple(next(self._numbers) for _ in several)
            hand.orders += len(several)
            try:
                async with self._stop.interruptible():
                    answer = await hand.ask(number, Look(number, tuple(map(_anywhere, several)), keys))
            except LinkLostError:
                continue
            if not isinstance(answer, Looked) or answer.found is None:
                raise InterruptedAttemptError
            for wanted, one in zip(several, answer.found, strict=True):
                if isinstance(one, AwayPhotos):
                    self._where[one.key] = hand, wanted
                else:
                    hand.orders -= 1
            return [*answer.found]
        return [Reason.WORKER_LOST] * len(several)

    async def send(self, order_id: str, photos: PhotoSet | AwayPhotos) -> Attempt:
        """See `Site`. What was under way at a worker that is lost may have been accepted."""
        if isinstance(photos, PhotoSet):
            raise TypeError("These photos are not at a worker.")
        now, number = asyncio.get_running_loop().time, next(self._numbers)
        started_at, began = datetime.now(UTC).astimezone(), now()
        hand, key = await self._holder(photos)
        verdict = Verdict.RETRY if hand.lost else Verdict.AMBIGUOUS
        attempt = None
        try:
            answer = await hand.ask(number, Send(number, key, order_id))
            if isinstance(answer, Sent) and answer.attempt:
                told, hand.held = answer.attempt, answer.held
                attempt = Attempt(started_at, began, told.seconds, told.uploading, told.bytes_sent, told.finding)
            else:  # it was never there
                verdict = Verdict.RETRY
        except LinkLostError:
            if verdict is Verdict.AMBIGUOUS:
                await self._out_of_the_way(hand)
        hand.orders -= 1
        reason = Reason.STOPPED if self._stop.at_once else Reason.WORKER_LOST
        return attempt or Attempt(started_at, began, now() - began, 0.0, 0, Finding(verdict, reason))

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        """See `Site`."""
        if isinstance(photos, AwayPhotos) and (held := self._where.pop(photos.key, None)):
            hand, _ = held
            hand.orders -= 1
            hand.tell(Drop((photos.key,)))

    async def _holder(self, photos: AwayPhotos) -> tuple[Hand, int]:
        """The worker that has the photos, and its key for them; where it was lost before the send, another one has."""
        hand, wanted = self._where.pop(photos.key)
        if hand.lost:
            hand.orders -= 1
            with suppress(InterruptedAttemptError):
                [found] = await self.look([replace(wanted, before=photos.digest, trusted=photos.digest)])
                if isinstance(found, AwayPhotos):
                    return self._where.pop(found.key)[0], found.key
            hand.orders += 1
        return hand, photos.key

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
        hand = min(self._hands, key=attrgetter("orders"))
        # Behind the others: of those that have as little to do each gets its turn, and its share of the bandwidth.
        self._hands.remove(hand)
        self._hands.append(hand)
        return hand

    async def _work_with(self, hand: Hand) -> None:
        try:
            await hand.run()
        finally:
            self._hands.remove(hand)
        await asyncio.sleep(hand.link.lease)
        hand.gone.set()
        self._sharing -= 1
        self._tell_shares()

    async def _end(self) -> None:
        """At the end of the drain time have the workers say how far they have come, and then wait no more."""
        with suppress(InterruptedAttemptError):
            async with self._stop.interruptible():
                await asyncio.Event().wait()
        for hand in self._hands:
            hand.tell(BreakOff())
        await asyncio.sleep(LAST_WORD_SECONDS)
        for hand in self._hands:
            hand.give_up()

    async def _share(self) -> None:
        """Tell the workers their shares of the bandwidth, anew when the hour strikes."""
        while True:
            self._tell_shares()
            await asyncio.sleep(SHARE_SECONDS)

    def _tell_shares(self) -> None:
        if self._bandwidth and self._hands:
            self._bandwidth.seconds_held = fmean(hand.held for hand in self._hands)
        shares = (self._bandwidth.rate if self._bandwidth else None), self._sharing
        if shares != self._shares:
            self._shares = shares
            for hand in self._hands:
                hand.tell(Bandwidth(shares[0] and shares[0] / max(shares[1], 1)))


def _anywhere(wanted: Wanted) -> Wanted:
    """With a path that means the same in another working folder."""
    return Wanted(wanted.photos, _absolute(str(wanted.folder)), wanted.before, wanted.trusted)


@cache
def _absolute(folder: str) -> Path:
    return Path(folder).absolute()
