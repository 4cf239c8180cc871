"""One worker as the run sees it: what it is asked, and what it answers."""

import asyncio
import logging
from contextlib import suppress

from batchupload.language import _
from batchupload.logs import event
from batchupload.workers.words import Answer, Ask, Link, LinkLostError, Looked, Ready, Sent

KEEP_SECONDS = 2.0
"""How often a worker hears something, if only that there is nothing: else its lease would be over."""

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
        self.held = 0.0
        """Seconds for which its share of the bandwidth has held it up."""
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
            told = _("Worker {name} is lost: {why}.", name=self.link.name, why=lost.exceptions[0])
            log.warning(told, extra=event("worker_lost"))
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Wait for no answer any more."""
        self.lost = True
        for future in self._asked.values():
            if not future.done():
                future.set_exception(LinkLostError(self.link.name))
                future.exception()  # who asked may have gone

    async def _give(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_SECONDS):
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
