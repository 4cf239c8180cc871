"""What the records of an order cost: ledger and report together, in CPU time per order, on this disk.

`python benchmarks/records.py` puts 200,000 orders on record, each with one attempt, from 32 workers at once, and
prints microseconds of CPU per order of the whole process, less those of the same loop without records.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from batchupload.ledger import open_ledger
from batchupload.model import Attempt, Ending, Finding, Loaded, Order, Outcome, PhotoSet, Row, Verdict
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.report import Report
from batchupload.stop import Stop
from batchupload.summary import Tally

WORKERS = 32


async def put_on_record(
    numbers: Iterator[int], manifest: Path, recorder: Recorder | None, endings: list[Ending]
) -> None:
    """The part of a worker that has to do with records; endings are handed on in batches, as the pipeline does."""
    paths = {name: f"photos/{name}.jpg" for name in ("face", "back", "hand")}
    photo_set = PhotoSet((), bytes(48))
    finding = Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200, "200", "提交成功")
    for number in numbers:
        order = Order(Row(manifest, number + 2, f"HT{number:019}", paths, {}))
        started_at = datetime.now(UTC).astimezone()
        attempt = Attempt(started_at, 0.0, 0.3, 0.1, 92000, finding)
        loaded = Loaded(order, photo_set)
        ending = Ending(order.row, Outcome.UPLOADED, Reason.ACCEPTED, "", (attempt,), started_at, 0.3)
        if recorder:
            await recorder.begin([loaded])
            recorder.ended(loaded, attempt)
        else:
            await asyncio.sleep(0)
        endings.append(ending)


async def hand_on(recorder: Recorder | None, endings: list[Ending], workers: "asyncio.Task[None]") -> None:
    """The recorder's part."""
    while not workers.done() or endings:
        batch = endings[:]
        endings.clear()
        if batch and recorder:
            await recorder.record(batch)
        else:
            await asyncio.sleep(0.001)


async def all_of_them(orders: int, folder: Path, *, records: bool) -> None:
    """Put so many orders on record, or only go through the motions."""
    manifest, path = folder / "orders.csv", folder / "report.csv"
    numbers = iter(range(orders))
    endings: list[Ending] = []

    async def work(recorder: Recorder | None) -> None:
        await asyncio.gather(*(put_on_record(numbers, manifest, recorder, endings) for _ in range(WORKERS)))

    if not records:
        workers = asyncio.ensure_future(work(None))
        await hand_on(None, endings, workers)
        return
    with open_ledger(folder / "batchupload.db") as ledger:
        await ledger.start_run(datetime.now(UTC), "http://127.0.0.1/", [manifest], path)
        async with Report(path, [manifest], [], None) as report:
            recorder = Recorder(ledger, report, Tally(), Stop())
            workers = asyncio.ensure_future(work(recorder))
            await hand_on(recorder, endings, workers)
            assert recorder.lost is None


def cpu_of(orders: int, *, records: bool) -> tuple[float, float]:
    """CPU and wall seconds."""
    before, began = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(all_of_them(orders, Path(folder), records=records))
    return time.process_time() - before, time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=200_000)
    orders = parser.parse_args().orders
    bare, _ = cpu_of(orders, records=False)
    whole, wall = cpu_of(orders, records=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{(whole - bare) / orders * 1e6:.0f} µs of CPU per order for ledger and report "
        f"({orders / wall:,.0f} orders/s, peak RSS {peak:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
