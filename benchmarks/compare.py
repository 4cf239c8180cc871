"""batchupload beside what one would use instead: the same photos, the same endpoint, in turns; prints ratios.

`python benchmarks/compare.py` needs a C compiler and curl; requests and httpx take part where they are installed. The
endpoint (`sink.c`) has the second core to itself, the client is free to use both. Every round runs each client once in
a new order; rates are net of start-up, which is measured by runs over an empty manifest. Medians of the rounds.
"""

import argparse
import compileall
import csv
import importlib.util
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from peers import AT_ONCE, FIELDS, PEERS

import batchupload
from batchupload.samples import draw_photo

HERE = Path(__file__).parent
OURS = {
    "batchupload": ("--concurrency", str(AT_ONCE)),
    "batchupload, auto": (),
}
"""With everything on, at the concurrency of the others, and as it comes."""
SIZES = {"30 KB": (30_000, 4000, 300), "300 KB": (300_000, 1000, 90), "1.8 MB": (1_800_000, 300, 36)}
"""Bytes of a photo, orders, and different photos, which the orders share."""


@dataclass(frozen=True)
class Run:
    """One run of one client."""

    wall: float
    cpu: float
    peak_mb: float
    """Never less than this process's own, which the system counts in."""
    first_byte: float
    """Seconds from the start of the process to its first request."""


def build(folder: Path) -> dict[str, Path]:
    """Photos and manifests; the empty one is for the cost of starting."""
    manifests = {}
    for name, (size, count, pool) in SIZES.items():
        place = folder / name
        place.mkdir()
        for number in range(pool):
            content = draw_photo(FIELDS[number % 3], str(number), target_bytes=size)
            (place / f"{number}.jpg").write_bytes(content)
        with (place / "orders.csv").open("w", newline="") as file:
            rows = ([f"HT{n:09}", *(f"{(3 * n + k) % pool}.jpg" for k in range(3))] for n in range(count))
            csv.writer(file).writerows([["order_id", *FIELDS], *rows])
        manifests[name] = place / "orders.csv"
    empty = folder / "empty.csv"
    empty.write_text("order_id,face,back,hand\n")
    return {**manifests, "": empty}


def command(client: str, url: str, manifest: Path) -> list[str]:
    """As one would type it."""
    if client not in OURS:
        return [sys.executable, str(HERE / "peers.py"), client, url, str(manifest)]
    return [
        sys.executable, "-m", "batchupload", "run", str(manifest), "--endpoint", url, *OURS[client],
        "--validate", "header", "--report", "report.csv", "-q", "--json",
    ]  # fmt: skip


def measure(client: str, port: int, manifest: Path, orders: int) -> Run:
    """Run it in a folder of its own. Raises `SystemExit` where not all orders came and were accepted."""
    stats(port)
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        words = command(client, f"http://127.0.0.1:{port}/upload", manifest)
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    accepted = json.loads(said)["outcomes"]["uploaded"] if client in OURS else int(said)
    seen = stats(port)
    if not accepted == seen["requests"] == orders:
        raise SystemExit(f"{client}: {accepted} accepted and {seen['requests']:.0f} seen of {orders}")
    return Run(wall, cpu, used.ru_maxrss * 1024 / 1e6, seen["first"] - began if orders else 0.0)


def stats(port: int) -> dict[str, float]:
    """What the sink has seen since the last time."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=5) as reply:
        found: dict[str, float] = json.load(reply)
    return found


def table(name: str, orders: int, runs: dict[tuple[str, str], list[Run]], clients: list[str]) -> str:
    """Ratios at one size."""

    def median(client: str, size: str, what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in runs[client, size]))

    rates = {c: orders / max(median(c, name, "wall") - median(c, "", "wall"), 1e-9) for c in clients}
    lines = []
    for client in sorted(clients, key=lambda c: -rates[c]):
        cpu = (median(client, name, "cpu") - median(client, "", "cpu")) / orders * 1e6
        lines.append(
            f"| {name} | {client} | {rates[client]:,.0f} | {rates[client] / rates['curl --parallel']:.2f} × "
            f"| {rates[client] / rates['aiohttp, plain']:.2f} × | {cpu:,.0f} µs "
            f"| {median(client, name, 'peak_mb'):.0f} MB | {median(client, name, 'first_byte'):.2f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    clients = [*OURS, *(name for name in PEERS if name.split(",")[0] in {"curl --parallel", "aiohttp"})]
    clients += [name for name in PEERS if name not in clients and importlib.util.find_spec(name.split(",")[0])]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(batchupload.__file__).parent, quiet=1)  # as an installation has it
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifests = build(folder)
        subprocess.run(["cc", "-O2", "-o", folder / "sink", HERE / "sink.c"], check=True)
        sink = subprocess.Popen([folder / "sink"], stdout=subprocess.PIPE, text=True)
        try:
            if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(sink.pid, {1})
            assert sink.stdout
            port = int(sink.stdout.readline())
            for number in range(rounds):
                jobs = [(client, size) for client in clients for size in manifests]
                random.Random(number).shuffle(jobs)
                for client, size in jobs:
                    orders = SIZES[size][1] if size else 0
                    runs[client, size].append(measure(client, port, manifests[size], orders))
                print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        finally:
            sink.kill()
            sink.wait()
    columns = ("photo", "client", "orders/s", "of curl", "of plain aiohttp", "CPU per order", "peak", "to first byte")
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for size, (_, orders, _) in SIZES.items():
        print(table(size, orders, runs, clients))


if __name__ == "__main__":
    main()
