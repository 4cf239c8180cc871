"""The whole pipeline in virtual time against a scripted endpoint, killed and run again, with its invariants checked.

One world has a manifest, an endpoint that does anything to any send, and several runs of which all but the last die
at a random moment. `python tests/simulation.py --orders 1000000` plays worlds of 1,000 orders until there were that
many; `--seed N --orders 1000` plays world N again.
"""

import argparse
import asyncio
import csv
import os
import random
import selectors
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from simulated_faults import FAULTS, PLAIN, PLAIN_SHARES
from xxhash import xxh3_128_hexdigest

from batchupload.endpoint import Form, MultipartBody
from batchupload.feed import Feed, Manifest
from batchupload.ledger import open_ledger
from batchupload.ledger_file import connect
from batchupload.manifest import open_manifest, read_rows
from batchupload.model import PHOTO_FIELDS, NoReply, Phase, PhotoSet, Reply
from batchupload.pace import Pace
from batchupload.pipeline import Pipeline
from batchupload.readers import Readers
from batchupload.recorder import Recorder
from batchupload.report import Report
from batchupload.settings import Settings
from batchupload.shop_settings import FieldNames
from batchupload.site import ThisProcess
from batchupload.source import ManifestError
from batchupload.stop import Stop
from batchupload.summary import Tally
from batchupload.survey import survey

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
URL = "http://127.0.0.1/"
FORM = Form(FieldNames(), "boundary")
WORKERS = 8
PHOTO_SETS = 6
MAY_BE_THERE = ("an attempt before it may have been accepted", "what became of that is not known")
"""What `detail` says of a refused order that an attempt before the refusal may have brought through."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when there is nothing else to do; work for threads is done on the spot."""

    def __init__(self) -> None:
        self._virtual = 0.0
        super().__init__(_Waiting(self))

    def time(self) -> float:
        return self._virtual

    def pass_time(self, seconds: float) -> None:
        self._virtual += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except (OSError, AssertionError, ManifestError) as error:
            future.set_exception(error)
        return future


class _Waiting(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing is under way and nothing is waited for: the run hangs")
        self._loop.pass_time(max(timeout, 0.0))
        return super().select(0)


class Labelled(MultipartBody):
    """A body that says whose it is, so that the endpoint need not read it."""

    def __init__(self, order_id: str, photo_set: PhotoSet) -> None:
        super().__init__(order_id, photo_set, FORM)
        self.order_id = order_id
        self.digest = photo_set.digest


@dataclass
class ScriptedEndpoint:
    """Does what the seed says, and writes down every send as it comes, where no crash can take it away."""

    chance: random.Random
    log: int
    run: int
    plain: float | None
    """Weight of an answer without fault, beside those of the faults; None for no fault at all."""
    dies_after: int
    """Events until the run dies with the next; negative for never."""

    def prepare(self, order_id: str, photo_set: PhotoSet) -> Labelled:
        return Labelled(order_id, photo_set)

    async def send(self, body: Labelled) -> Reply | NoReply:
        order_id, digest = body.order_id, body.digest
        weights = [self.plain or 1, *(fault.weight if self.plain else 0 for fault in FAULTS)]
        fault = self.chance.choices((PLAIN, *FAULTS), weights)[0]
        seconds = fault.seconds * self.chance.uniform(0.1, 1.0)
        self.write("send", order_id, digest)
        await asyncio.sleep(seconds * self.chance.random())
        body.transfer.phase = fault.answer.phase if isinstance(fault.answer, NoReply) else Phase.REPLY
        body.transfer.bytes_sent = body.transfer.size if fault.whole else body.transfer.size // 2
        if fault.accepts and fault.later:
            asyncio.get_running_loop().call_later(fault.later, self.write, "take", order_id, digest)
        elif fault.accepts:
            self.write("take", order_id, digest)
        await asyncio.sleep(seconds * self.chance.random())
        if fault.says:
            self.write("say", order_id, digest)
        return fault.answer

    def write(self, what: str, order_id: str, digest: bytes) -> None:
        os.write(self.log, f"{self.run} {what} {order_id} {digest.hex()}\n".encode())
        self.dies_after -= 1
        if self.dies_after == 0:
            os._exit(9)


class World:
    """One manifest, its photos, its ledger, and what the endpoint saw."""

    def __init__(self, folder: Path, seed: int, orders: int) -> None:
        self.folder = folder
        self.chance = random.Random(f"world {seed}")
        self.manifest = folder / "manifest.csv"
        self.plain = self.chance.choice(PLAIN_SHARES)
        self.settings = Settings.model_validate(
            {
                "endpoint": {"url": URL},
                "photos": {"validate": "off"},
                # Many faults at all orders are no reason to end: here the endpoint is never taken to be down.
                "pace": {"concurrency": WORKERS, "probe_after_failures": 1000, "canary": 0},
                "retry": {"attempts": self.chance.choice((4, 8)), "budget": 10},
            }
        )
        for number in range(PHOTO_SETS):
            self.draw(number)
        rows = [
            [f"HT{seed:06}{n:08}", *(f"{n % PHOTO_SETS}{name}.jpg" for name in PHOTO_FIELDS)] for n in range(orders)
        ]
        rows += self.chance.sample(rows, orders // 50)  # duplicates
        rows += [[row[0], row[2], row[1], row[3]] for row in self.chance.sample(rows, orders // 50)]  # conflicts
        rows += [["HT", "a"], ["", "a", "b", "c"], [f"HT{seed:06}99999999", "0face.jpg", "gone.jpg", "0hand.jpg"]]
        self.chance.shuffle(rows)
        with self.manifest.open("w", newline="") as file:
            csv.writer(file).writerows([["order_id", *PHOTO_FIELDS], *rows])
        self.rows = len(rows)

    def draw(self, number: int) -> None:
        """Photos of one set, other than before."""
        for name in PHOTO_FIELDS:
            (self.folder / f"{number}{name}.jpg").write_bytes(b"\xff\xd8\xff" + self.chance.randbytes(60))

    def run(self, number: int, *, dies: bool, plain: float | None) -> bool:
        """One run, in a process of its own; tell whether it came to its end."""
        chance = random.Random(self.chance.random())
        # Half of them at any time, about a third of a second for each order of each worker; half as something happens.
        dies_at = chance.uniform(0, 0.5 * self.rows / WORKERS) if dies and chance.random() < 0.5 else None
        dies_after = chance.randrange(2 * self.rows) if dies and dies_at is None else -1
        child = os.fork()
        if child == 0:
            try:
                random.seed(chance.random())  # for the jitter of retries
                loop = VirtualLoop()
                asyncio.set_event_loop(loop)
                loop.run_until_complete(self._run(number, chance, dies_at, dies_after, plain))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in {0, 9}, f"run {number} ended with {code}"
        return code == 0

    async def _run(
        self, number: int, chance: random.Random, dies_at: float | None, dies_after: int, plain: float | None
    ) -> None:
        if dies_at is not None:
            asyncio.get_running_loop().call_at(dies_at, os._exit, 9)
        log = os.open(self.folder / "endpoint.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        await self.carry_out(number, ScriptedEndpoint(chance, log, number, plain, dies_after))

    async def carry_out(self, number: int, endpoint: Any) -> None:
        """One run, in this process."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        layout = open_manifest(self.manifest, settings.manifest)
        stop, tally = Stop(), Tally()
        path = self.folder / f"report{number}.csv"
        with open_ledger(self.folder / "batchupload.db") as ledger:
            async with Report(path, [self.manifest], [], None) as report:
                await ledger.start_run(datetime.now().astimezone(), URL, [self.manifest], path)
                pace = Pace(settings.pace, settings.retry, stop, loop.time)
                recorder = Recorder(ledger, report, tally, stop)
                found = survey(read_rows(layout, settings.manifest), None)
                with Readers(settings.timeouts.photos) as readers:
                    site = ThisProcess(settings, readers, endpoint, stop)
                    pipeline = Pipeline(settings, found, site, pace, stop, recorder)
                    await pipeline.run(Feed([Manifest(read_rows(layout, settings.manifest), found.known[layout.path])]))
                assert stop.cause is None, stop.cause
            await ledger.end_run(datetime.now().astimezone(), '{"exit_code": 0}')

    def check(self, number: int, ended: bool, died: set[int]) -> None:
        """Hold what ledger and report of a run say against what the endpoint saw."""
        world = [line.split() for line in (self.folder / "endpoint.log").read_text().splitlines()]
        rows = rows_of(self.folder / f"report{number}.csv")
        lines = [row["line"] for row in rows]
        assert len(set(lines)) == len(lines), "I1: a row twice"
        assert not ended or len(lines) == self.rows, f"I1: {len(lines)} of {self.rows} rows"
        taken, said, last = set(), set(), dict[str, str]()
        for run, what, order_id, digest in world:
            if what == "take":
                taken.add((order_id, digest))
                last[order_id] = digest
            elif what == "say":
                said.add((run, order_id))
        ledger = self._attempts()
        for row in rows:
            order_id, outcome = row["order_id"], row["outcome"]
            digest = self._digest(row)
            if outcome == "uploaded":
                assert (str(number), order_id) in said, f"I2: {order_id} was not said to be accepted"
            if outcome == "skipped":
                assert last.get(order_id) == digest, f"{order_id} skipped, but these photos are not there"
            noted = outcome == "rejected" and any(note in row["detail"] for note in MAY_BE_THERE)
            if outcome in {"failed", "rejected"} or (outcome == "deferred" and ledger.get(order_id)):
                assert noted or (order_id, digest) not in taken, f"I3: {order_id} {outcome}, but it was accepted"
        sends: dict[str, list[tuple[int, str]]] = defaultdict(list)
        heard: dict[str, tuple[str, int]] = {}
        extra: Counter[int] = Counter()
        for run, what, order_id, digest in world:
            known_digest, since = heard.get(order_id, ("", 0))
            if what == "send":
                sends[order_id].append((int(run), digest))
                if known_digest == digest:
                    assert since in died, f"I4: {order_id} was sent again in run {run} after its answer in run {since}"
                    assert int(run) > since, f"I4: {order_id} was sent again within run {run}"
                    extra[since] += 1
                    del heard[order_id]
            elif what == "say":
                heard[order_id] = (digest, int(run))
            elif known_digest != digest:
                heard.pop(order_id, None)
        for order_id, found in sends.items():
            known = [(run, digest) for run, digest, _ in ledger[order_id]]
            for one in {run for run, _ in found}:
                ours = [digest for of, digest in known if of == one]
                theirs = [digest for of, digest in found if of == one]
                assert ours[: len(theirs)] == theirs, f"I5: {order_id}: the ledger has not what was sent"
        if ended:
            open_ends = [order_id for order_id, found in ledger.items() if found[-1][0] == number and not found[-1][2]]
            assert not open_ends, f"attempts without an end: {open_ends[:3]}"
        photos = [photo.read_bytes() for photo in self.folder.glob("*.jpg")]
        for path in {*self.folder.iterdir()} - {*self.folder.glob("*.jpg")}:
            content = path.read_bytes()
            assert not any(photo[3:] in content for photo in photos), f"I6: a photo is in {path.name}"

    def _attempts(self) -> dict[str, list[tuple[int, str, str | None]]]:
        found: dict[str, list[tuple[int, str, str | None]]] = defaultdict(list)
        database = connect(self.folder / "batchupload.db", readonly=True)
        try:
            for order_id, run, digest, verdict in database.execute(
                "SELECT order_id, run, lower(hex(photos)), verdict FROM attempts ORDER BY order_id, run, number"
            ):
                found[order_id].append((run, digest, verdict))
        finally:
            database.close()
        return found

    def _digest(self, row: Mapping[str, str]) -> str:
        paths = [self.folder / row[name] for name in PHOTO_FIELDS]
        return (
            "".join(xxh3_128_hexdigest(path.read_bytes()) for path in paths) if all(p.is_file() for p in paths) else ""
        )


def rows_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def play(seed: int, orders: int) -> Counter[str]:
    """One world to its end; AssertionError names what does not hold."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        world = World(Path(folder), seed, orders)
        died: set[int] = set()
        crashes = world.chance.randrange(4)
        number = 0
        counts: Counter[str] = Counter(orders=orders)
        while True:
            number += 1
            last = len(died) == crashes
            ended = world.run(number, dies=not last, plain=world.plain)
            if not ended:
                died.add(number)
            world.check(number, ended, died)
            if ended:
                break
            if world.chance.random() < 0.3:
                world.draw(world.chance.randrange(PHOTO_SETS))  # somebody changes photos between two runs
        counts["crashes"] += len(died)
        number += 1
        assert world.run(number, dies=False, plain=None)
        world.check(number, True, died)
        counts.update(row["outcome"] for row in rows_of(world.folder / f"report{number}.csv"))
        log = (world.folder / "endpoint.log").read_text()
        counts["sends"] += log.count(" send ")
        counts["faults"] += log.count(" send ") - log.count(" say ")
        return counts


def _played(seed: int, orders: int) -> tuple[int, Counter[str], str]:
    try:
        return seed, play(seed, orders), ""
    except AssertionError as error:
        return seed, Counter(), str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--seed", type=int, help="play this world only")
    parser.add_argument("--first", type=int, default=1, help="the first world")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.seed is not None:
        print(dict(play(arguments.seed, min(arguments.orders, 1000))))
        return 0
    counts: Counter[str] = Counter()
    failed = 0
    with ProcessPoolExecutor() as pool:
        worlds = range(arguments.first, arguments.first + -(-arguments.orders // 1000))
        for seed, found, wrong in pool.map(_played, worlds, [min(arguments.orders, 1000)] * len(worlds)):
            counts.update(found)
            if wrong:
                failed += 1
                print(
                    f"world {seed}: {wrong}\n  again: python tests/simulation.py --seed {seed} --orders 1000",
                    flush=True,
                )
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s, {failed} worlds failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
