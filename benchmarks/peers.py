"""What one would use instead: `python benchmarks/peers.py NAME URL MANIFEST`; prints how many orders were accepted.

Each sends the three photos of every row as multipart/form-data, 32 at once, and looks for code 200 in the answer;
nothing is validated, retried or written down.
"""

import asyncio
import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

AT_ONCE = 32
FIELDS = ("face", "back", "hand")
Order = tuple[str, dict[str, Path]]


def orders(manifest: Path) -> Iterator[Order]:
    """Order numbers, and the path of each photo."""
    with manifest.open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["order_id"], {field: manifest.parent / row[field] for field in FIELDS}


def curl(url: str, manifest: Path) -> int:
    """One curl process with `--parallel`."""
    with tempfile.NamedTemporaryFile("w", suffix=".curl") as config:
        parts = [
            f'silent\nurl = "{url}"\nform = "order_id={order_id}"\n'
            + "".join(f'form = "{field}=@{path}"\n' for field, path in photos.items())
            for order_id, photos in orders(manifest)
        ]
        if not parts:
            return 0
        config.write("next\n".join(parts))
        config.flush()
        command = ["curl", "--parallel", "--parallel-max", str(AT_ONCE), "-K", config.name]
        return subprocess.run(command, capture_output=True, check=False).stdout.count(b'"code":200')


def plain_aiohttp(url: str, manifest: Path) -> int:
    """aiohttp the usual way: a task for each row, a semaphore, FormData with open files."""
    import aiohttp

    async def send(session: aiohttp.ClientSession, places: asyncio.Semaphore, order: Order) -> bool:
        async with places:
            with ExitStack() as files:
                form = aiohttp.FormData()
                form.add_field("order_id", order[0])
                for field, path in order[1].items():
                    form.add_field(field, files.enter_context(path.open("rb")), filename=f"{field}.jpg")
                async with session.post(url, data=form) as response:
                    return bool((await response.json())["code"] == 200)

    async def run() -> int:
        places = asyncio.Semaphore(AT_ONCE)
        async with aiohttp.ClientSession() as session:
            return sum(await asyncio.gather(*(send(session, places, order) for order in orders(manifest))))

    return asyncio.run(run())


def _opened(photos: dict[str, Path], files: ExitStack) -> dict[str, tuple[str, IO[bytes]]]:
    return {field: (f"{field}.jpg", files.enter_context(path.open("rb"))) for field, path in photos.items()}


def requests_threads(url: str, manifest: Path) -> int:
    """requests in a pool of threads, a session each."""
    import threading

    import requests

    here = threading.local()

    def send(order: Order) -> bool:
        if not hasattr(here, "session"):
            here.session = requests.Session()
        with ExitStack() as files:
            reply = here.session.post(url, data={"order_id": order[0]}, files=_opened(order[1], files))
        return bool(reply.json()["code"] == 200)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(send, orders(manifest)))


def httpx_async(url: str, manifest: Path) -> int:
    """httpx, asynchronous, with a semaphore."""
    import httpx

    async def send(client: httpx.AsyncClient, places: asyncio.Semaphore, order: Order) -> bool:
        async with places:
            with ExitStack() as files:
                reply = await client.post(url, data={"order_id": order[0]}, files=_opened(order[1], files))
            return bool(reply.json()["code"] == 200)

    async def run() -> int:
        places = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=AT_ONCE)) as client:
            return sum(await asyncio.gather(*(send(client, places, order) for order in orders(manifest))))

    return asyncio.run(run())


PEERS: dict[str, Callable[[str, Path], int]] = {
    "curl --parallel": curl,
    "aiohttp, plain": plain_aiohttp,
    "requests, threads": requests_threads,
    "httpx": httpx_async,
}

if __name__ == "__main__":
    print(PEERS[sys.argv[1]](sys.argv[2], Path(sys.argv[3])))
