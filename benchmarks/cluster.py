"""What more workers bring, and what an order costs the run that leads them; all on this machine, with real processes.

`python benchmarks/cluster.py` starts for each row a sandbox, a Dask scheduler and workers, and runs the program against
them. `scaling` is limited by the sandbox's latency, with as many sends at once for each worker; orders a second are
counted at the sandbox, between a tenth and nine tenths of them. `cost` is the CPU time of the run's own process for an
order, net of its start-up, with orders that cost as little as can be; with 0 workers nothing is away, and what is left
is the price of ledger, report and the rest. `memory` is its peak for so many rows.
"""

import argparse
import asyncio
import csv
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from clusters import cluster

from batchupload import cli, job
from batchupload.model import PHOTO_FIELDS, Attempt, AwayPhotos, Finding, PhotoSet, Verdict, Wanted
from batchupload.reasons import Reason
from batchupload.samples import draw_photo
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.site import Found

ALONE = "alone"
EACH = 8
"""Sends at once for each worker."""
LATENCY = 0.5
ANSWER_SECONDS = 0.1
"""Of the endpoint where the cost is measured."""
SECONDS = 15.0
"""What a run takes, about."""


def make_shop(folder: Path, orders: int) -> None:
    folder.mkdir()
    for name in PHOTO_FIELDS:
        (folder / f"{name}.jpg").write_bytes(draw_photo(name, "x", size=(64, 40)))
    with (folder / "orders.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["order_id", *PHOTO_FIELDS])
        lines.writerows([f"HT{number:08}", *(f"{name}.jpg" for name in PHOTO_FIELDS)] for number in range(orders))


class Nobody:
    """A site that costs nothing: all photos are good, all orders accepted."""

    loaders = 32
    told = ""

    async def look(self, several: Sequence[Wanted]) -> list[Found]:
        await asyncio.sleep(0)
        return [AwayPhotos(0, PHOTO_FIELDS, 6000, bytes(48)) for _ in several]

    async def send(self, *_: object, **__: object) -> Attempt:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(ANSWER_SECONDS)
        accepted = Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200, "200")
        return Attempt(datetime.now(UTC).astimezone(), began, 0.01, 0.005, 6000, accepted)

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        pass


def alone() -> None:
    """The program, but what is away costs nothing."""

    @asynccontextmanager
    async def open_site(*_: object, **__: object) -> AsyncIterator[Nobody]:
        yield Nobody()

    vars(job)["open_site"] = open_site
    cli.main()


async def run(folder: Path, *words: str, start: Sequence[str] = ("-m", "batchupload")) -> tuple[float, int]:
    """The program, to its end; its CPU seconds and its peak of memory in bytes."""
    log = os.open(folder / "run.log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execv(sys.executable, [sys.executable, *start, *words])
    os.close(log)
    _, status, used = await asyncio.to_thread(os.wait4, child, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit((folder / "run.log").read_text())
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


async def rate(server: Sandbox, orders: int) -> float:
    """Orders a second that the sandbox accepts, without beginning and end."""
    moments = {}
    for share in (0.1, 0.9):
        while len(server.accepted) < orders * share:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        moments[share] = len(server.accepted), time.monotonic()
    (first, began), (last, ended) = moments.values()
    return (last - first) / (ended - began)


async def scaling(workers: int, folder: Path) -> float:
    orders = int(workers * EACH / LATENCY * SECONDS)
    make_shop(folder / "shop", orders)
    async with Sandbox(SandboxOptions(latency=LATENCY)) as server, cluster(folder / "cluster", workers) as made:
        words = ["run", "orders.csv", "-q", "--endpoint", server.url, "--canary", "0"]
        words += ["--cluster", made.address, "--concurrency", str(EACH * workers)]
        measuring = asyncio.create_task(rate(server, orders))
        await run(folder / "shop", *words)
        return await measuring


async def cost(orders: int, workers: int, folder: Path) -> float:
    """CPU seconds for an order; without `workers` where nothing is away."""
    taken = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Sandbox(SandboxOptions(latency=ANSWER_SECONDS)))
        words = ["run", "orders.csv", "-q", "--endpoint", server.url, "--canary", "0", "--concurrency", "64"]
        if workers:
            words += ["--cluster", (await stack.enter_async_context(cluster(folder / "cluster", workers))).address]
        start = ("-m", "batchupload") if workers else (__file__, ALONE)
        for number, count in enumerate((10, orders)):
            make_shop(folder / f"shop{number}", count)
            taken.append((await run(folder / f"shop{number}", *words, start=start))[0])
    return (taken[1] - taken[0]) / (orders - 10)


async def memory(orders: int, workers: int, folder: Path) -> tuple[float, int]:
    """CPU seconds for a row, and the peak in bytes; only looked at, not sent."""
    make_shop(folder / "shop", orders)
    async with cluster(folder / "cluster", workers) as made:
        words = ["check", "orders.csv", "-q", "--validate", "off", "--cluster", made.address]
        used, peak = await run(folder / "shop", *words)
    return used / orders, peak


async def main(parts: Sequence[str], orders: int, rows: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "scaling" in parts:
            print("| workers | orders/s | of one |\n| --- | --- | --- |")
            one = 0.0
            for workers in (1, 2, 4):
                place = folder / f"scaling{workers}"
                place.mkdir()
                reached = await scaling(workers, place)
                one = one or reached
                print(f"| {workers} | {reached:.1f} | {reached / one:.2f} × |", flush=True)
        if "cost" in parts:
            for workers in (0, 1, 4):
                place = folder / f"cost{workers}"
                place.mkdir()
                print(f"{await cost(orders, workers, place) * 1e6:.0f} µs for an order, {workers} workers", flush=True)
        if "memory" in parts:
            for count in rows:
                place = folder / f"memory{count}"
                place.mkdir()
                used, peak = await memory(count, 2, place)
                print(f"{peak / 1e6:.0f} MB at most, {used * 1e6:.0f} µs for each of {count:,} rows", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        del sys.argv[1]
        alone()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["scaling", "cost", "memory"])
    parser.add_argument("--orders", type=int, default=5000, help="for cost")
    parser.add_argument("--rows", type=int, nargs="*", default=[50_000, 1_000_000], help="for memory")
    asked = parser.parse_args()
    asyncio.run(main(asked.parts, asked.orders, asked.rows))
