"""A Dask cluster of real processes on loopback, whose parts can be killed, and cut off from their scheduler."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

Process = asyncio.subprocess.Process
START_SECONDS = 60.0


class Wire:
    """A TCP way to `port` that can be cut: all connections break, and new ones are refused until it is mended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._ends: set[asyncio.StreamWriter] = set()
        self._whole = True
        self._open = 0
        self._server: asyncio.Server | None = None
        self.port = 0
        self.passed = bytearray()
        """All that went this way or that."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        if self._server:
            self._server.close()
        async with asyncio.timeout(10):
            while self._open:
                await asyncio.sleep(0.01)

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._whole = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        self._open += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            ends = {writer, far_writer}
            self._ends |= ends
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            self._ends -= ends
        except OSError:
            writer.transport.abort()  # the scheduler has gone
        finally:
            self._open -= 1

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                self.passed += piece
                target.write(piece)
                await target.drain()
        target.transport.abort()


@dataclass
class Cluster:
    """Scheduler and workers; the run goes to the scheduler by one wire, the workers by another."""

    folder: Path
    scheme: str
    words: Sequence[str]
    """Of the command line of each part."""
    wire: Wire
    """From the run to the scheduler."""
    worker_wire: Wire
    workers: list[Process] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.wire.port}"

    async def add(self, *words: str, env: Mapping[str, str] | None = None, nanny: bool = False) -> Process:
        """One more worker; it joins by itself."""
        worker = await part(
            self.folder, "worker", f"{self.scheme}://127.0.0.1:{self.worker_wire.port}", *self.words,
            "--nthreads", "1", "--memory-limit", "0", "--nanny" if nanny else "--no-nanny", "--host", "127.0.0.1",
            "--death-timeout", "30", *words, env=env,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    async def keep(self) -> None:
        """Start each worker again that ends, as systemd would."""
        while True:
            for worker in [worker for worker in self.workers if worker.returncode is not None]:
                self.workers.remove(worker)
                await self.add()
            await asyncio.sleep(0.2)


async def part(folder: Path, kind: str, *words: str, env: Mapping[str, str] | None = None) -> Process:
    log = os.open(folder / f"{kind}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, "--no-dashboard",
            cwd=folder, env={**os.environ, **(env or {})}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)


@asynccontextmanager
async def cluster(
    folder: Path, workers: int = 2, *, scheme: str = "tcp", words: Sequence[str] = ()
) -> AsyncIterator[Cluster]:
    """A cluster in `folder`, all of it gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "scheduler.json"
    async with AsyncExitStack() as stack:
        scheduler = await part(
            folder, "scheduler", "--host", f"{scheme}://127.0.0.1", "--port", "0", "--scheduler-file", str(told), *words
        )
        stack.push_async_callback(kill, [scheduler])
        port = int((await known(told, scheduler))["address"].rpartition(":")[2])
        made = Cluster(
            folder,
            scheme,
            words,
            await stack.enter_async_context(Wire(port)),
            await stack.enter_async_context(Wire(port)),
        )
        stack.push_async_callback(kill, made.workers)
        for _ in range(workers):
            await made.add()
        yield made


async def known(told: Path, scheduler: Process) -> dict[str, str]:
    """What the scheduler says of itself once it listens."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert scheduler.returncode is None, (told.parent / "scheduler.log").read_text()
            with suppress(OSError, ValueError):
                found: dict[str, str] = json.loads(told.read_text())
                return found
            await asyncio.sleep(0.05)


async def kill(processes: Sequence[Process]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with those that a nanny started
        await process.wait()
