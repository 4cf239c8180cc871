"""Sixty nights in virtual time: the real program over a growing list, an endpoint that is scripted, and its promises.

One world is a list of orders of which a share is refused night after night, in front, in the middle or behind, and
sixty nights: new orders, photos that change, an outage in mid-run, nights of a wrong address, a dead or stalling
endpoint or one that refuses all, clocks that are wrong, purges and releases. `python tests/nights.py` plays nine
worlds of 2,000 rows (some minutes); `--short` nine of 120 rows and 24 nights; `--share 50 --place front` one of them.
"""

import argparse
import asyncio
import csv
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from simulation import Labelled, VirtualLoop, rows_of

from batchupload import job, purge, release
from batchupload.model import PHOTO_FIELDS, Cause, NoReply, Phase, PhotoSet, Reply
from batchupload.settings import Settings
from batchupload.site import ThisProcess

SHARES, PLACES = (1, 5, 50), ("front", "middle", "behind")
NIGHTS_RUNNING = 7
PHOTO_SETS = 8
CANARY = 20
ATTEMPTS, PROBES = 4, 12
"""Of one order; orders that may use all of theirs up while the endpoint is away for ten minutes."""
EVENING = datetime(2026, 3, 20, 22, tzinfo=UTC)
TAKEN = Reply(200, '{"code": 200, "msg": "提交成功"}'.encode())
REFUSED = '{{"code": 400, "msg": "订单不存在: {}"}}'
FORGED = Reply(200, '{"code": 400, "msg": "签名错误"}'.encode())
NO_SUCH_PAGE = Reply(404, b"<html>404</html>")
GONE = NoReply(Phase.CONNECT, Cause.REFUSED)
STALLED = NoReply(Phase.BODY, Cause.TIMEOUT)
BAD = {"address": CANARY, "dead": 60, "forged": 4 * CANARY, "stalled": 30}
"""Nights on which nothing can go well → sends after which they must have ended at the latest."""
STALL_SECONDS = 60.0


@dataclass
class Night:
    """What one night is like."""

    kind: str = "sound"
    clock: timedelta = timedelta()
    """How far the clock of this machine is off."""
    before: str = ""
    """What a person does before it: `purge` or `release`."""
    changes: bool = False
    """Whether photos of some orders change before it."""


def calendar(nights: int) -> list[Night]:
    """The nights of every world: the first ten, and then all that may happen, again and again."""
    days = timedelta(days=1)
    special = [
        Night("address"), Night(), Night("dead"), Night(changes=True), Night("outage"), Night(clock=3 * days), Night(),
        Night("forged"), Night(), Night(before="release"), Night("stalled"), Night(clock=-400 * days), Night("forged"),
        Night(changes=True), Night(), Night(), Night(), Night(), Night(), Night(before="purge"),
    ]  # fmt: skip
    plan = [Night() for _ in range(3)]
    while len(plan) < nights:
        plan.extend(special)
    return plan[:nights]


@dataclass
class Order:
    """One order, and what the world knows of it."""

    number: str
    refused: bool
    photos: int
    taken: set[int] = field(default_factory=set)
    """Photos that the endpoint said it took."""
    nights: int = 0
    """Sound nights running on which it was refused with these photos."""
    odd: int = 0
    """Those of them on which the clock was wrong: they may not be counted."""


class Moment(datetime):
    """A clock that the world sets."""

    at = EVENING

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """What the machine's clock shows."""
        return cls.at.astimezone(tz)


@dataclass
class Shop:
    """The endpoint of one night."""

    night: Night
    orders: dict[str, Order]
    sends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def prepare(self, order_id: str, photo_set: PhotoSet) -> Labelled:
        """See `Endpoint`."""
        return Labelled(order_id, photo_set)

    async def send(self, body: Labelled, *_: Any, **__: Any) -> Reply | NoReply:
        """One attempt."""
        order, transfer = self.orders[body.order_id], body.transfer
        self.sends[order.number] += 1
        if order.photos in order.taken:
            self.wrong.append(f"{order.number}: sent again after it had been taken")
        loop = asyncio.get_running_loop()
        if self.night.kind == "dead" or (self.night.kind == "outage" and 1 < loop.time() < 601):
            await asyncio.sleep(0.01)
            return GONE
        transfer.phase = Phase.BODY
        if self.night.kind == "stalled":
            transfer.bytes_sent = transfer.size // 2
            await asyncio.sleep(STALL_SECONDS)
            return STALLED
        await asyncio.sleep(0.3)
        transfer.phase, transfer.bytes_sent = Phase.REPLY, transfer.size
        if self.night.kind == "address":
            return NO_SUCH_PAGE
        if self.night.kind == "forged":
            return FORGED
        if order.refused:
            return Reply(200, REFUSED.format(order.number).encode())
        order.taken.add(order.photos)
        return TAKEN


class World:
    """One list over many nights."""

    def __init__(self, folder: Path, share: int, place: str, rows: int) -> None:
        self.folder, self.place, self.size = folder, place, rows
        self.ledger = folder / "batchupload.db"
        self.chance = random.Random(f"{share} {place}")
        self.made = 0
        self.standing = [self.new(refused=True) for _ in range(max(rows * share // 100, 1))]
        self.good = [self.new(refused=False) for _ in range(rows - len(self.standing))]
        self.per_night = max(rows // 40, 3)
        self.log: list[str] = []
        self.wrong: list[str] = []
        for number, name in product(range(PHOTO_SETS), PHOTO_FIELDS):
            (folder / f"{number}{name}.jpg").write_bytes(b"\xff\xd8\xff" + self.chance.randbytes(60))
        self.settings = Settings.model_validate(
            {
                "endpoint": {"url": "http://127.0.0.1/"},
                "photos": {"validate": "off", "warn": False},
                "ledger": {"path": self.ledger},
                "report": {"page": False},
                "retry": {"quarantine_after": NIGHTS_RUNNING},
            }
        )

    def new(self, *, refused: bool) -> Order:
        """An order that was never there."""
        self.made += 1
        return Order(f"HT{self.made:08}", refused, self.made % (PHOTO_SETS - 1))

    def listed(self) -> list[Order]:
        """The list of the night."""
        at = {"front": 0, "middle": len(self.good) // 2, "behind": len(self.good)}[self.place]
        return [*self.good[:at], *self.standing, *self.good[at:]]

    def play(self, nights: int) -> None:
        """All of them; what does not hold is in `wrong`."""
        for number, night in enumerate(calendar(nights)):
            Moment.at = EVENING + timedelta(days=number) + night.clock
            if number:
                fresh = [self.new(refused=self.chance.random() < 0.1) for _ in range(self.per_night)]
                self.good = [*self.good, *fresh][-self.size + len(self.standing) :]
            self._before(number, night)
            self._play(number, night)

    def _before(self, number: int, night: Night) -> None:
        if night.changes:
            for order in self.chance.sample(self.listed(), self.size // 20):
                order.photos = (order.photos + 1) % PHOTO_SETS
                order.nights = order.odd = 0
                if order.refused and self.chance.random() < 0.5:
                    order.refused = False  # these are good ones
        if night.before == "release":
            released = {one.order_id for one in release.release(self.ledger, None, NIGHTS_RUNNING)}
            for order in self.listed():
                if order.number in released:
                    if order.nights < NIGHTS_RUNNING:
                        self.wrong.append(f"{order.number}: released after {order.nights} nights")
                    order.nights = order.odd = 0
                elif order.nights - order.odd >= NIGHTS_RUNNING:
                    self.wrong.append(f"{order.number}: not set aside after {order.nights} nights")
        if night.before == "purge":
            purge.purge(self.ledger, purge.Wanted(before=EVENING + timedelta(days=number - 12)))
            kept = self._count("SELECT order_id, count(DISTINCT run) FROM attempts JOIN runs ON id = run "
                               "WHERE manifests <> '[]' GROUP BY 1")  # fmt: skip
            for order in self.listed():
                if order.refused and order.nights > kept[order.number]:
                    order.odd += order.nights - kept[order.number]  # what is purged counts no more

    def _play(self, number: int, night: Night) -> None:
        orders = self.listed()
        manifest = self.folder / "orders.csv"
        with manifest.open("w", newline="") as file:
            rows = ([order.number, *(f"{order.photos}{name}.jpg" for name in PHOTO_FIELDS)] for order in orders)
            csv.writer(file).writerows([["order_id", *PHOTO_FIELDS], *rows])
        before = {order.number: set(order.taken) for order in orders}
        attempts = self._total("attempts")
        outcomes = self._total("outcomes")
        shop = Shop(night, {order.number: order for order in orders})
        report = self.folder / f"report{number}.csv"
        summary, seconds = _run(job.Wish((manifest,), report=report, quiet=True), self.settings, shop)
        ends = {row["order_id"]: (row["outcome"], row["reason"]) for row in rows_of(report)}
        report.unlink()
        told = f"night {number + 1} ({night.kind}{', clock wrong' if night.clock else ''})"
        wrong = [*shop.wrong]
        if len(ends) != len(orders):
            wrong.append(f"{len(ends)} of {len(orders)} rows in the report")
        if self._total("attempts") - attempts != sum(shop.sends.values()):
            wrong.append("the ledger grew by other attempts than were made")
        if self._total("outcomes") - outcomes != len(orders):
            wrong.append("the ledger grew by other outcomes than the report has")
        if night.kind in BAD:
            wrong += _bad(night, summary.exit_code, sum(shop.sends.values()), seconds)
            for order in orders if summary.exit_code != 3 else []:  # too few to tell: it may count against them
                refused = ends.get(order.number, ("", ""))[0] == "rejected"
                order.nights += refused
                order.odd += refused
        else:
            wrong += self._sound(night, orders, before, ends, shop.sends)
        self.log.append(f"{told}: {sum(shop.sends.values())} sends, {seconds:.0f} s, exit {summary.exit_code}")
        self.wrong += [f"{told}: {text}" for text in _grouped(wrong)]

    def _sound(
        self,
        night: Night,
        orders: list[Order],
        before: dict[str, set[int]],
        ends: dict[str, tuple[str, str]],
        sends: Counter[str],
    ) -> list[str]:
        """What must hold after a night on which the endpoint was good."""
        wrong = []
        used_up = 0
        for order in orders:
            end, sent = ends.get(order.number, ("", "")), sends[order.number]
            if night.kind == "outage" and end[0] == "failed" and sent == ATTEMPTS and used_up < PROBES:
                used_up += 1  # those that probed it
            elif not order.refused:
                expected = "skipped" if order.photos in before[order.number] else "uploaded"
                if end[0] != expected:
                    wrong.append(f"{order.number}: a good order is {' '.join(end)}, not {expected}")
            elif sent > 1 and night.kind != "outage":
                wrong.append(f"{order.number}: sent {sent} times")
            elif end == ("deferred", "quarantined"):
                if order.nights < NIGHTS_RUNNING:
                    wrong.append(f"{order.number}: set aside before it was due, after {order.nights} nights")
            else:
                if order.nights - order.odd >= NIGHTS_RUNNING:
                    wrong.append(f"{order.number}: not set aside after {order.nights} nights")
                if end[0] != "rejected":
                    wrong.append(f"{order.number}: a refused order is {' '.join(end)}")
                order.nights += 1
                order.odd += bool(night.clock)
        return wrong

    def _total(self, table: str) -> int:
        return sum(self._count(f"SELECT '', count(*) FROM {table}").values()) if self.ledger.exists() else 0

    def _count(self, question: str) -> Counter[str]:
        with closing(sqlite3.connect(self.ledger)) as database:
            return Counter(dict(database.execute(question).fetchall()))


def _bad(night: Night, exit_code: int, sends: int, seconds: float) -> list[str]:
    """What must hold after a night on which nothing can go well."""
    wrong = []
    if exit_code != 3 and sends >= CANARY:  # with fewer it may have been these orders
        wrong.append(f"a bad night ended with {exit_code}")
    if sends > BAD[night.kind]:
        wrong.append(f"a bad night ended only after {sends} sends")
    if seconds > 600:
        wrong.append(f"a bad night ended only after {seconds:.0f} s")
    return wrong


def _grouped(wrong: list[str]) -> list[str]:
    """One line for each kind, with how many there were."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in wrong:
        groups[text.partition(": ")[2] or text].append(text)
    return [f"{several[0]}" + (f" (and {len(several) - 1} more)" if several[1:] else "") for several in groups.values()]


def _run(wish: job.Wish, settings: Settings, shop: Shop) -> tuple[Any, float]:
    """One night of the real program, but for its endpoint, its clock and the time that passes."""

    @asynccontextmanager
    async def site(given: Settings, readers: Any, stop: Any, *_: Any, **__: Any) -> AsyncIterator[ThisProcess]:
        async with ThisProcess(given, readers, shop, stop) as here:  # type: ignore[arg-type]
            yield here

    job.open_site = site  # type: ignore[attr-defined, assignment]
    for module in (job, release):
        module.datetime = Moment  # type: ignore[attr-defined]
    with closing(VirtualLoop()) as loop:
        asyncio.set_event_loop(loop)
        summary = loop.run_until_complete(job.execute(wish, settings, job.plan(wish, settings)))
        return summary, loop.time()


def play(share: int, place: str, rows: int, nights: int) -> tuple[list[str], list[str]]:
    """One world: what happened, and what did not hold."""
    random.seed(f"{share} {place}")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        world = World(Path(folder), share, place, rows)
        world.play(nights)
        return world.log, world.wrong


def main() -> int:
    """Play worlds, tell what did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="120 rows, 24 nights")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--nights", type=int)
    parser.add_argument("--share", type=int, choices=SHARES)
    parser.add_argument("--place", choices=PLACES)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    rows, nights = (
        arguments.rows or (120 if arguments.short else 2000),
        arguments.nights or (24 if arguments.short else 60),
    )
    shares = [arguments.share] if arguments.share else SHARES
    places = [arguments.place] if arguments.place else PLACES
    began, failed = time.monotonic(), 0
    with ProcessPoolExecutor() as pool:
        worlds = [(share, place, rows, nights) for share, place in product(shares, places)]
        for (share, place, *_), (log, wrong) in zip(worlds, pool.map(play, *zip(*worlds, strict=True)), strict=True):
            failed += bool(wrong)
            print(f"{share} % refused, {place}: {len(log)} nights, {len(wrong)} faults", flush=True)
            print(*(f"  {line}" for line in (log if arguments.verbose else [])), *(f"  {w}" for w in wrong), sep="\n")
    print(
        f"{len(worlds)} worlds of {rows} rows and {nights} nights in {time.monotonic() - began:.0f} s, {failed} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
