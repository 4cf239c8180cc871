"""Runs on a cluster of real processes in which something is lost at a random moment; what must hold is checked.

`python tests/cluster_losses.py killed --runs 20` kills a worker, `frozen` stops one for a while so that it is
lost and comes back, `cut-run` cuts the run off its scheduler,
`cut-workers` the workers (which end by themselves then, and are started again), `coordinator` kills the run and starts
it again.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clusters import Cluster, Process, cluster
from conftest import command, environment, read_report

from batchupload.model import PHOTO_FIELDS
from batchupload.samples import draw_photo
from batchupload.sandbox import Sandbox, SandboxOptions

WAYS = ("killed", "frozen", "cut-run", "cut-workers", "coordinator")
CONCURRENCY = 8
LATENCY = 0.1
SURE_SECONDS = 1.0
"""What the endpoint answered so long before a loss is not in flight any more."""


@dataclass(frozen=True)
class Seen:
    """What one run with a loss came to."""

    seconds: float
    again: int
    """Orders sent more than once."""
    highest: int
    """Sends at a time."""


def make_shop(folder: Path, orders: int) -> None:
    folder.mkdir(parents=True)
    for name in PHOTO_FIELDS:
        (folder / f"{name}.jpg").write_bytes(draw_photo(name, "x", size=(64, 40)))
    with (folder / "orders.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["order_id", *PHOTO_FIELDS]]
            + [[f"HT{number:08}", *(f"{name}.jpg" for name in PHOTO_FIELDS)] for number in range(orders)]
        )


async def run_with_loss(folder: Path, way: str, orders: int, chance: random.Random) -> Seen:
    """One run; raises `AssertionError` where a promise is broken."""
    make_shop(folder / "shop", orders)
    async with (
        Sandbox(SandboxOptions(latency=LATENCY)) as server,
        cluster(folder / "cluster") as workers,
        asyncio.TaskGroup() as group,
    ):
        keeper = group.create_task(workers.keep())
        began = time.monotonic()
        words = ["run", "orders.csv", "--endpoint", server.url, "--cluster", workers.address, "--report", "report.csv"]
        words = command(*words, "--concurrency", str(CONCURRENCY), "-q", "--json")
        run = await start(words, folder / "shop")
        moment = int(orders * chance.uniform(0.1, 0.7))
        await reached(server, moment, run)
        sure = set(server.accepted)
        await asyncio.sleep(SURE_SECONDS)
        if way == "coordinator":
            run.send_signal(signal.SIGKILL)
            await run.wait()
            run = await start(words, folder / "shop")
        else:
            await lose(way, workers, chance)
        async with asyncio.timeout(120):
            out, told = await run.communicate()
        seconds = time.monotonic() - began
        keeper.cancel()
    stats = server.stats()
    sends = {order: each["sends"] for order, each in stats["orders"].items()}  # type: ignore[attr-defined]
    reports = [row for path in sorted((folder / "shop").glob("report*.csv")) for row in read_report(path)]
    final = read_report(folder / "shop" / "report.csv")
    context = f"{way}, after {moment} orders: {told.decode()[-2000:]}"
    assert run.returncode == 0, f"exit {run.returncode}; {context} {out.decode()}"
    assert sorted(row["order_id"] for row in final) == sorted(f"HT{number:08}" for number in range(orders)), context
    wanted = {"uploaded", "skipped"} if way == "coordinator" else {"uploaded"}
    assert {row["outcome"] for row in final} <= wanted, (Counter(row["outcome"] for row in reports), context)
    assert all(each["accepted"] for each in stats["orders"].values()), context  # type: ignore[attr-defined]
    again = {order for order, count in sends.items() if count > 1}
    assert not again & sure, f"{sorted(again & sure)} were done before the loss; {context}"
    assert len(again) <= CONCURRENCY, f"{len(again)} orders sent again; {context}"
    highest = int(stats["max_concurrent"])  # type: ignore[call-overload]
    assert highest <= CONCURRENCY, f"{highest} at once; {context}"
    return Seen(seconds, len(again), highest)


async def start(words: list[str], folder: Path) -> Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*words, cwd=folder, env=environment(), stdout=pipe, stderr=pipe)


async def reached(server: Sandbox, orders: int, run: Process) -> None:
    async with asyncio.timeout(90):
        while len(server.accepted) < orders:
            if run.returncode is not None:
                out, told = await run.communicate()
                raise AssertionError(f"exit {run.returncode}: {told.decode()} {out.decode()}")
            await asyncio.sleep(0.02)


async def lose(way: str, workers: Cluster, chance: random.Random) -> None:
    worker = chance.choice(workers.workers).pid
    if way == "killed":
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        return
    if way == "frozen":
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(1.0, 14.0))
        os.kill(worker, signal.SIGCONT)
        return
    wire = workers.wire if way == "cut-run" else workers.worker_wire
    wire.cut()
    await asyncio.sleep(chance.uniform(0.1, 4.0))
    wire.mend()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    seen = []
    for number in range(asked.runs):
        with tempfile.TemporaryDirectory() as folder:
            seen.append(
                await run_with_loss(Path(folder), asked.way, asked.orders, random.Random(f"{asked.seed} {number}"))
            )
        print(
            json.dumps({"run": number, "seconds": round(seen[-1].seconds, 1), "again": seen[-1].again}), file=sys.stderr
        )
    again = sum(one.again for one in seen)
    print(
        f"{len(seen)} runs of {asked.orders} orders, {asked.way}: every row reported once, {again} orders sent again, "
        f"at most {max(one.again for one in seen)} in a run; never more than {max(one.highest for one in seen)} at once"
    )


if __name__ == "__main__":
    asyncio.run(main())
