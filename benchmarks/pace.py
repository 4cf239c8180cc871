"""What `concurrency: auto` makes of four kinds of endpoint, against the best fixed concurrency found by a sweep.

`python benchmarks/pace.py` starts each endpoint on loopback in a process of its own, runs the program against it with
fixed concurrencies and with auto, and prints a table: the share of the best fixed throughput, the median time of an
answer against that without load, and the share of sends that met a 503 or a timeout. It takes about ten minutes.
"""

import argparse
import asyncio
import csv
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchupload.samples import draw_photo

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"code":200}'


@dataclass(frozen=True)
class Kind:
    """One kind of endpoint."""

    name: str
    workers: int = 1000
    """Requests worked on at once; the others wait."""
    seconds: float = 0.005
    """For each request."""
    halves_after: float = 0.0
    """Seconds after which half of the workers go; 0 for never."""
    bytes_per_second: float = 0.0
    """Of the link in front of it, shared by all connections; 0 for no limit."""
    photo: int = 20_000
    """Bytes of one photo."""
    orders: int = 0
    """Of an auto run; a sweep takes a quarter for each concurrency."""
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """The fixed concurrencies; what is far below the capacity would only take long."""


KINDS = (
    Kind("4 workers, 300 ms", workers=4, seconds=0.3, orders=400, sweep=(2, 4, 6, 8, 16)),
    Kind("32 workers, 80 ms", workers=32, seconds=0.08, orders=8000, sweep=(16, 24, 32, 48, 64)),
    Kind(
        "24 workers, 100 ms, half of them gone in mid-run",
        workers=24,
        seconds=0.1,
        halves_after=10.0,
        orders=4000,
        sweep=(12, 16, 24, 32, 64),
    ),
    Kind("a link of 6 MB/s", bytes_per_second=6e6, photo=150_000, orders=400, sweep=(1, 2, 4, 8, 16)),
)


class Standin:
    """The endpoint: reads what comes, lets it wait for a worker, and accepts."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._workers = asyncio.Semaphore(kind.workers)
        self._link_free_at = 0.0
        self._first = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if self._first and self._kind.halves_after:
                    asyncio.get_running_loop().call_later(self._kind.halves_after, self._halve)
                self._first = False
                rest = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                while rest:
                    piece = await reader.read(min(rest, 16384))
                    rest -= len(piece) or rest
                    await self._carry(len(piece))
                async with self._workers:
                    await asyncio.sleep(self._kind.seconds)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _carry(self, size: int) -> None:
        """Take the time that the link takes; pieces of all connections go one behind the other."""
        if self._kind.bytes_per_second:
            now = asyncio.get_running_loop().time()
            self._link_free_at = max(self._link_free_at, now) + size / self._kind.bytes_per_second
            await asyncio.sleep(self._link_free_at - now)

    def _halve(self) -> None:
        self._away = [asyncio.ensure_future(self._workers.acquire()) for _ in range(self._kind.workers // 2)]


def stand_in(kind: Kind, port: Any) -> None:
    """Serve one kind of endpoint until killed."""

    async def serve() -> None:
        listener = socket.socket()
        # What the system takes in ahead would hide the link.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(Standin(kind).serve, sock=listener, limit=65536)
        port.send(listener.getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@dataclass(frozen=True)
class Result:
    """One run."""

    rate: float
    """Orders/s."""
    median: float
    """Seconds of an answer."""
    overload: float
    """Share of sends that met a 503 or a timeout."""


def run(kind: Kind, concurrency: str, orders: int) -> Result:
    """The program against an endpoint of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=stand_in, args=(kind, there), daemon=True)
    process.start()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            manifest = write_manifest(folder, orders, kind.photo)
            command = [
                sys.executable, "-m", "batchupload", "run", str(manifest), "--concurrency", concurrency, "--validate",
                "header", "--endpoint", f"http://127.0.0.1:{here.recv()}/", "--report", "report.csv", "-q", "--json",
            ]  # fmt: skip
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
            told = json.loads(done.stdout)
            with (folder / "report.csv").open(encoding="utf-8-sig", newline="") as file:
                times = [int(row["duration_ms"]) / 1000 for row in csv.DictReader(file) if row["attempts"] == "1"]
    finally:
        process.kill()
    if told["outcomes"]["uploaded"] != orders:
        raise SystemExit(f"{kind.name}: not all were uploaded: {told}")
    return Result(told["sent_orders"] / told["seconds"], statistics.median(times), (told["attempts"] - orders) / orders)


def write_manifest(folder: Path, orders: int, photo: int) -> Path:
    """Photos that all orders share, and a manifest."""
    for field in ("face", "back", "hand"):
        (folder / f"{field}.jpg").write_bytes(draw_photo(field, "any", target_bytes=photo))
    lines = [f"HT{number:019},face.jpg,back.jpg,hand.jpg" for number in range(orders)]
    manifest = folder / "orders.csv"
    manifest.write_text("\n".join(["order_id,face,back,hand", *lines, ""]))
    return manifest


def measure(kind: Kind, sweep: Sequence[int]) -> str:
    """One row of the table."""
    unloaded = run(kind, "1", 30).median
    auto = run(kind, "auto", kind.orders)
    fixed = {n: run(kind, str(n), kind.orders if kind.halves_after else max(60, kind.orders // 4)) for n in sweep}
    best = max(fixed, key=lambda n: fixed[n].rate)
    return (
        f"| {kind.name} | {best} | {fixed[best].rate:.1f} | {auto.rate:.1f} | {auto.rate / fixed[best].rate:.0%} "
        f"| {auto.median * 1000:.0f} ms = {auto.median / unloaded:.2f} × | {auto.overload:.1%} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, help="only the N-th kind, from 1")
    parser.add_argument("--sweep", type=int, nargs="*", help="other fixed concurrencies")
    chosen = parser.parse_args()
    columns = (
        "endpoint",
        "best fixed",
        "orders/s",
        "auto",
        "share",
        "median answer, of the unloaded",
        "503s, timeouts",
    )
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|", flush=True)
    began = time.monotonic()
    for kind in KINDS if chosen.only is None else KINDS[chosen.only - 1 : chosen.only]:
        print(measure(kind, chosen.sweep or kind.sweep), flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
