"""The workers of a run as one site: who does what, what each may send, what becomes of it where one is lost."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchupload.model import PHOTO_FIELDS, Attempt, AwayPhotos, Finding, Verdict, Wanted
from batchupload.reasons import Reason
from batchupload.stop import Stop
from batchupload.throttle import Throttle
from batchupload.timetable import bytes_per_second, timetable
from batchupload.workers.crew import Crew
from batchupload.workers.words import Answer, Ask, Bandwidth, LinkLostError, Look, Looked, Send, Sent

WANTED = Wanted({name: f"{name}.jpg" for name in PHOTO_FIELDS}, Path("/photos"))
ACCEPTED = Attempt(datetime.now(UTC), 0.0, 0.1, 0.1, 100, Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200, "200"))


class Played:
    """A link to a worker that accepts all, until it is `lost`; a silent one answers no send."""

    def __init__(self, name: str, *, lease: float = 0.0, silent: bool = False) -> None:
        self.name, self.lease, self.silent = name, lease, silent
        self.heard: list[Ask] = []
        self.lost = asyncio.Event()
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def give(self, asks: Sequence[Ask]) -> None:
        self.heard += asks
        for ask in asks:
            match ask:
                case Look(number, wanted, keys):
                    found = tuple(AwayPhotos(key, PHOTO_FIELDS, 100, b"d") for _, key in zip(wanted, keys, strict=True))
                    self._answers.put_nowait(Looked(number, found))
                case Send(number) if not self.silent:
                    self._answers.put_nowait(Sent(number, ACCEPTED))

    async def take(self) -> Sequence[Answer]:
        losing, answering = asyncio.create_task(self.lost.wait()), asyncio.create_task(self._answers.get())
        await asyncio.wait({losing, answering}, return_when=asyncio.FIRST_COMPLETED)
        losing.cancel()
        if not answering.done():
            answering.cancel()
            raise LinkLostError("played")
        return [answering.result()]

    @property
    def shares(self) -> list[float | None]:
        return [ask.rate for ask in self.heard if isinstance(ask, Bandwidth)]

    @property
    def sends(self) -> int:
        return sum(isinstance(ask, Send) for ask in self.heard)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def all_of(rate: str) -> Throttle:
    limits = timetable(rate, bytes_per_second)
    assert limits
    return Throttle(limits, asyncio.get_running_loop().time, datetime.now)


async def test_the_bandwidth_is_shared_out_and_again_as_workers_come_and_go() -> None:
    first, second = Played("first"), Played("second", lease=0.2)
    async with Crew(Stop(), 2, 1.0, all_of("1K")) as crew:
        crew.join(first)
        crew.join(second)
        await until(lambda: first.shares == [1024, 512] or first.shares == [512])
        assert second.shares == [512]
        second.lost.set()
        await until(lambda: crew.told.startswith("1 worker "))
        assert first.shares[-1] == 512  # it may be sending still
        await until(lambda: first.shares[-1] == 1024)


async def test_orders_of_a_lost_worker_that_were_not_sent_are_sent_by_another_and_nothing_is_lost() -> None:
    lost, other = Played("lost"), Played("other")
    async with Crew(Stop(), 2, 1.0) as crew:
        crew.join(lost)
        [photos] = await crew.look([WANTED])
        assert isinstance(photos, AwayPhotos)
        crew.join(other)
        lost.lost.set()
        await until(lambda: crew.told.startswith("1 worker "))
        attempt = await crew.send("HT1", photos)
    assert attempt.finding.verdict is Verdict.ACCEPTED
    assert (lost.sends, other.sends) == (0, 1)


async def test_a_send_of_a_lost_worker_is_ambiguous_and_keeps_its_place_while_it_may_go_on() -> None:
    lost = Played("lost", lease=0.3, silent=True)
    async with Crew(Stop(), 1, 5.0) as crew:
        crew.join(lost)
        [photos] = await crew.look([WANTED])
        assert isinstance(photos, AwayPhotos)
        sending = asyncio.create_task(crew.send("HT1", photos))
        await until(lambda: lost.sends == 1)
        lost.lost.set()
        await until(lambda: crew.told.startswith("waiting"))
        assert not sending.done()
        attempt = await sending
    assert attempt.finding == Finding(Verdict.AMBIGUOUS, Reason.WORKER_LOST)


async def test_a_worker_that_joins_late_is_waited_for_and_used() -> None:
    late = Played("late")
    async with Crew(Stop(), 1, 10.0) as crew:
        looking = asyncio.create_task(crew.look([WANTED]))
        await asyncio.sleep(0)
        crew.join(late)
        assert isinstance((await looking)[0], AwayPhotos)


@pytest.mark.parametrize("folder", [Path("photos"), Path()])
async def test_a_worker_is_told_where_the_photos_are_wherever_it_runs(folder: Path) -> None:
    worker = Played("worker")
    async with Crew(Stop(), 1, 1.0) as crew:
        crew.join(worker)
        await crew.look([Wanted(WANTED.photos, folder)])
    assert [ask.wanted[0].folder for ask in worker.heard if isinstance(ask, Look)] == [folder.absolute()]
