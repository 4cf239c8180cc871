"""A whole run in virtual time at a site that does what a test says; all the rest of it is the real one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from conftest import Report as Rows
from conftest import read_report, settings_for
from simulation import VirtualLoop
from xxhash import xxh3_128_digest

from batchupload.feed import Feed, Manifest
from batchupload.ledger import open_ledger
from batchupload.loading import Loading
from batchupload.model import Attempt, AwayPhotos, Ending, Finding, Loaded, Order, Photo, PhotoSet, Row, Verdict, Wanted
from batchupload.pace import Pace, Turn
from batchupload.pipeline import Pipeline
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.report import Report
from batchupload.settings import PaceSettings, RetrySettings, Settings
from batchupload.site import Found
from batchupload.stop import Stop
from batchupload.summary import Tally
from batchupload.survey import survey

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
URL = "http://127.0.0.1:9/"
ACCEPTED = Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200, "200")
REFUSED = Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200, "400", "订单不存在")
BUSY = Finding(Verdict.RETRY, Reason.UNAVAILABLE, 503)
LOST = Finding(Verdict.AMBIGUOUS, Reason.REPLY_LOST)
ASTRAY = Finding(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS, 404)
UPLOADED = ("uploaded", "accepted")
GO_ON = {"canary": 0, "probe_after_failures": 100_000, "concurrency": 4}
"""No first orders, and no endpoint that is down."""


class Loop(VirtualLoop):
    """Time passes a little with each step, too: what looks again after less than a clock can tell comes to its end."""

    late = 0.0
    """Seconds after which what a thread does at present is done."""

    def time(self) -> float:
        return round(super().time(), 6)

    def pass_time(self, seconds: float) -> None:
        super().pass_time(max(seconds, 1e-8))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        self.late = 0.0
        done = super().run_in_executor(executor, func, *args)
        if not self.late:
            return done
        promised = self.create_future()

        def fulfil() -> None:
            if not promised.cancelled():
                promised.set_result(done.result())

        self.call_later(self.late, fulfil)
        return promised


def slow(listed: Sequence[Row], waits: Mapping[int, float]) -> Iterator[Row]:
    """These rows, of which some take so many seconds: the place of the row → seconds."""
    for place, one in enumerate(listed):
        if place in waits:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            loop.late += waits[place]
        yield one


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """Do this where time passes only when nothing else is to be done, and whatever waits for ever fails."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


def moment() -> float:
    """The time to a millisecond, for a test to compare."""
    return round(now(), 3)


def attempt(
    finding: Finding, seconds: float = 0.3, uploading: float = 0.1, size: int = 10, began: float = 0.0
) -> Attempt:
    return Attempt(datetime.now(UTC), began, seconds, uploading, size, finding)


def row(order_id: str, line: int = 2, manifest: Path = Path("orders.csv"), **changes: Any) -> Row:
    """A row whose photos are named after its order."""
    return Row(manifest, line, order_id, {"face": order_id}, {}, **changes)


def rows(count: int, first: int = 0, manifest: Path = Path("orders.csv")) -> list[Row]:
    return [row(f"HT{number:06}", number + 2, manifest) for number in range(first, first + count)]


def photo_set(order_id: str) -> PhotoSet:
    content = order_id.encode()
    return PhotoSet((Photo("face", content, "image/jpeg"),), xxh3_128_digest(content))


def accepts(order_id: str, number: int) -> Finding:
    return ACCEPTED


@dataclass
class ScriptedSite:
    """Looks and sends as told, and keeps what it did, with the time."""

    answers: Callable[[str, int], Finding] = accepts
    """Order and the number of its attempt → what it meets; what this raises is a fault inside the send."""
    finds: Callable[[str], Found] = photo_set
    looks: Callable[[Sequence[str]], Awaitable[None]] | None = None
    """Awaited before the photos of these orders are there."""
    seconds: float = 1.0
    """Of a send."""
    loaders: int = 2
    told: str = ""
    looked: list[list[str]] = field(default_factory=list)
    sent: list[tuple[float, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    most: int = 0
    """Sends under way, at the most."""
    under_way: int = 0

    async def look(self, several: Sequence[Wanted]) -> list[Found]:
        orders = [wanted.photos["face"] for wanted in several]
        self.looked.append(orders)
        if self.looks:
            await self.looks(orders)
        return [self.finds(order_id) for order_id in orders]

    async def send(self, order_id: str, photos: PhotoSet | AwayPhotos) -> Attempt:
        self.sent.append((began := now(), order_id))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            finding = self.answers(order_id, self.times(order_id))
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        return attempt(finding, now() - began, self.seconds / 2, photos.size, began)

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        assert isinstance(photos, PhotoSet)
        self.dropped.append(photos.photos[0].content.decode())

    def times(self, order_id: str) -> int:
        """So often it was sent."""
        return sum(sent == order_id for _, sent in self.sent)

    @property
    def orders(self) -> list[str]:
        """Those sent, in their order."""
        return [order_id for _, order_id in self.sent]


@dataclass
class Run:
    """One run that a test plays, with what it leaves."""

    folder: Path
    site: ScriptedSite
    settings: Settings
    stop: Stop = field(default_factory=Stop)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    """That it took."""
    report: Rows = field(default_factory=list)

    @property
    def outcomes(self) -> dict[str, tuple[str, str]]:
        return {row["order_id"]: (row["outcome"], row["reason"]) for row in self.report}


def settings_of(**changes: Mapping[str, Any]) -> Settings:
    """As `settings_for` has it, with waits that are worth looking at; `changes` are by section."""
    wanted: dict[str, dict[str, Any]] = {"retry": {"base": 1.0, "cap": 30.0}, "pace": {}, "photos": {"warn": False}}
    for section, values in changes.items():
        wanted.setdefault(section, {}).update(values)
    return settings_for(URL, **wanted)


def play(
    folder: Path,
    listed: Sequence[Row],
    site: ScriptedSite | None = None,
    *,
    reads: Iterator[Row] | None = None,
    meanwhile: Callable[[Run], Awaitable[None]] | None = None,
    send: bool = True,
    force: bool = False,
    recorder: Callable[..., Recorder] = Recorder,
    **changes: Mapping[str, Any],
) -> Run:
    """One run over these rows, `meanwhile` beside it; with `reads` they come from there, and none goes first.

    A second run in the same folder has the ledger of the first.
    """
    folder.mkdir(exist_ok=True)
    run = Run(folder, site or ScriptedSite(), settings_of(**changes))
    found = survey(listed, None)
    known = next(iter(found.known.values()), None)
    before = None if reads else Feed([Manifest(iter(listed))])
    names = sorted({one.manifest for one in listed}) or [Path("orders.csv")]

    async def whole() -> None:
        number = len([*folder.glob("report*.csv")])
        path = folder / f"report{number}.csv"
        settings, stop = run.settings, run.stop
        with open_ledger(folder / "batchupload.db") as ledger:
            async with Report(path, names, [], None) as report:
                await ledger.start_run(datetime.now().astimezone(), URL, names, path)
                pace = Pace(settings.pace, settings.retry, stop, now)
                records = recorder(ledger, report, run.tally, stop)
                pipeline = Pipeline(
                    settings, found, run.site, pace, stop, records, send=send, force=force
                )  # fmt: skip
                beside = asyncio.ensure_future(meanwhile(run)) if meanwhile else None
                await pipeline.run(Feed([Manifest(reads or iter(listed), known)]), before)
                run.seconds = now()
                if beside:
                    await beside
            await ledger.end_run(datetime.now().astimezone(), '{"exit_code": 0}')
        run.report = read_report(path)

    virtually(whole())
    return run


class Clock:
    """A clock that tests wind."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


PLAIN, PROBE = Turn(probe=False), Turn(probe=True)


def gate_of(clock: Callable[[], float] | None = None, **changes: Any) -> tuple[Pace, Stop]:
    stop = Stop()
    settings = PaceSettings.model_validate({"concurrency": 8, "canary": 0, **changes})
    return Pace(settings, RetrySettings(), stop, clock or Clock()), stop


def learns(gate: Pace, finding: Finding, times: int = 1, turn: Turn = PLAIN, **about: Any) -> None:
    for _ in range(times):
        gate.learn(turn, attempt(finding, **about))


async def take(gate: Pace, count: int, *, first: bool = True) -> list[Turn]:
    return [turn for _ in range(count) if (turn := await gate.turn(first=first))]


def of(run: Run, order_id: str) -> Mapping[str, str]:
    [found] = [row for row in run.report if row["order_id"] == order_id]
    return found


class Begun:
    """A recorder that takes note of what may begin."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may = True
        self.breaks = ""
        """The order at which it raises."""

    async def begin(self, several: Sequence[Loaded]) -> bool:
        ids = [one.order.row.order_id for one in several]
        self.asked.append(ids)
        if self.breaks in ids:
            raise LookupError("odd")
        return self.may


class PhotoStage:
    """A photo stage at a site that does what a test says."""

    def __init__(self, *, send: bool = True, force: bool = False, seconds: float = 2.5, **changes: Any) -> None:
        self.site, self.begun, self.stop = ScriptedSite(), Begun(), Stop()
        self.again: list[str] = []
        recorder: Any = self.begun

        def elapsed(order: Order) -> float:
            return seconds if order.row else 0.0

        self.loading = Loading(
            settings_of(**changes),
            self.site,
            recorder,
            self.stop,
            lambda order: seconds * bool(order.row),
            100,
            send=send,
            force=force,
        )

    async def load(self, *several: Order | str) -> tuple[list[str], dict[str, tuple[str, str, str]]]:
        """Orders to send, and the outcome, reason and detail of each of the others."""
        orders = [Order(row(one)) if isinstance(one, str) else one for one in several]
        loaded, endings, again = await self.loading.load(orders)
        self.again = [one.row.order_id for one in again]
        return [one.order.row.order_id for one in loaded], {one.row.order_id: told(one) for one in endings}


def told(ending: Ending) -> tuple[str, str, str]:
    return ending.outcome, ending.reason, ending.detail
